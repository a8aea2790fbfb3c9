"""The tables, as far as queries need them: names and types.

Constraints, indexes and triggers stand in the migrations, once; a test holds the two together.
Times are UTC in ISO 8601 with six decimals, so that text order is time order in both databases.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("n_events", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("claim", sa.Text),
    sa.Column("subject_key", sa.Text),
    sa.Column("record_keys", sa.Text, nullable=False),
    sa.Column("selector", sa.Text),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("earlier", sa.Text),
    sa.Column("target_key", sa.Text, nullable=False),
    sa.Column("live_target", sa.Text),
    sa.Column("datasets", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("risk", sa.Double, nullable=False),
    sa.Column("regime", sa.Text, nullable=False),
    sa.Column("regime_version", sa.Integer, nullable=False),
    sa.Column("ground", sa.Text),
    sa.Column("received_at", sa.Text, nullable=False),
    sa.Column("clock_start", sa.Text, nullable=False),
    sa.Column("due_at", sa.Text, nullable=False),
    sa.Column("extended_at", sa.Text),
    sa.Column("paused_since", sa.Text),
    sa.Column("paused_s", sa.Integer, nullable=False),
    sa.Column("closed_at", sa.Text),
    sa.Column("hold_ground", sa.Text),
    sa.Column("duplicate_of", sa.Text),
    sa.Column("batch_id", sa.Text),
    sa.Column("erasure_at", sa.Text),
    sa.Column("not_before", sa.Text),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("from_state", sa.Text),
    sa.Column("to_state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("details", sa.Text),
    sa.Column("batch_id", sa.Text),
)

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("reservation_id", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("ground", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("placed_at", sa.Text, nullable=False),
    sa.Column("released_at", sa.Text),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("dataset", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("claim", sa.Text),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("batch_id", sa.Text),
)

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("started_at", sa.Text, primary_key=True),
    sa.Column("ended_at", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("batch_id", sa.Text, primary_key=True),
    sa.Column("run_key", sa.Text, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Text, nullable=False),
    sa.Column("returned", sa.Integer, nullable=False),
    sa.Column("n_requests", sa.Integer, nullable=False),
    sa.Column("snapshot_digest", sa.Text, nullable=False),
)

batch_items = sa.Table(
    "batch_items",
    metadata,
    sa.Column("batch_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("counts", sa.Text, nullable=False),
)
