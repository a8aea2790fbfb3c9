"""The queue as it was before it had migrations.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_LEGAL = """
    approved>closed approved>data_erased approved>held approved>needs_person approved>queued
    data_erased>model_unlearned data_erased>needs_person duplicate>closed duplicate>queued
    held>closed held>queued leased>closed leased>held leased>needs_person leased>planned
    leased>queued model_unlearned>needs_person model_unlearned>verified_forgotten
    needs_person>closed needs_person>model_unlearned needs_person>queued planned>approved
    planned>closed planned>held planned>needs_person planned>queued propagated>closed
    propagated>needs_person queued>closed queued>duplicate queued>held queued>leased
    unverified>closed unverified>duplicate unverified>held unverified>queued
    verified_forgotten>needs_person verified_forgotten>propagated
"""


def upgrade() -> None:
    """Create the tables, and on SQLite the triggers."""
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(100), primary_key=True),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("outcome", sa.String(24)),
        sa.Column("claim", sa.String(24)),
        sa.Column("subject_key", sa.String(64)),
        sa.Column("record_keys", sa.Text, nullable=False),
        sa.Column("selector", sa.Text),
        sa.Column("target_key", sa.String(64), nullable=False),
        sa.Column("regime", sa.String(24), nullable=False),
        sa.Column("received_at", sa.String(40), nullable=False),
        sa.Column("clock_start", sa.String(40), nullable=False),
        sa.Column("due_at", sa.String(40), nullable=False),
        sa.Column("closed_at", sa.String(40)),
        sa.Column("hold_ground", sa.String(100)),
        sa.Column("duplicate_of", sa.String(100), sa.ForeignKey("requests.request_id")),
        sa.Column("batch_id", sa.String(80)),
        sa.CheckConstraint(
            "(state = 'closed') = (outcome IS NOT NULL)", name="only_closed_has_an_outcome"
        ),
        sa.CheckConstraint(
            "(state = 'duplicate') <= (duplicate_of IS NOT NULL)", name="duplicate_has_a_primary"
        ),
        sa.CheckConstraint(
            "(state = 'held') <= (hold_ground IS NOT NULL)", name="hold_has_a_ground"
        ),
        sa.Index("by_due", "state", "due_at"),
        sa.Index("by_target", "target_key"),
        sa.Index("by_batch", "batch_id"),
    )
    op.create_table(
        "events",
        sa.Column("event_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String(100), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("from_state", sa.String(24)),
        sa.Column("to_state", sa.String(24), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("details", sa.Text),
        sa.Index("by_request", "request_id"),
    )
    op.create_table(
        "leases",
        sa.Column("batch_id", sa.String(80), primary_key=True),
        sa.Column("run_key", sa.String(300), nullable=False, unique=True),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.String(40), nullable=False),
        sa.Column("returned", sa.Boolean, nullable=False),
    )
    op.create_table(
        "files",
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("counts", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        _guard_sqlite()


def _guard_sqlite() -> None:
    allowed = ", ".join(f"'{pair}'" for pair in _LEGAL.split())
    for statement in (
        "CREATE TRIGGER legal_transition BEFORE UPDATE OF state ON requests WHEN OLD.state <> "
        f"NEW.state AND OLD.state || '>' || NEW.state NOT IN ({allowed}) "
        "BEGIN SELECT RAISE(ABORT, 'illegal transition'); END",
        "CREATE TRIGGER events_stay BEFORE DELETE ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
        "CREATE TRIGGER events_unchanged BEFORE UPDATE ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
        "CREATE TRIGGER requests_stay BEFORE DELETE ON requests "
        "BEGIN SELECT RAISE(ABORT, 'requests are never deleted'); END",
    ):
        op.execute(statement)
