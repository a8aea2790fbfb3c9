"""What remains after a purge, where, and until when: the honest end of every erasure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from governance.source_erasure import is_ours
from r2u_tasks.stages.context import JSON, StageContext
from r2u_tasks.stages.unlearn.steps import now


def list_remains(
    context: StageContext, batch_id: str, told: Sequence[JSON], owed: Sequence[str]
) -> list[JSON]:
    """Return ``what, where, until, why`` of everything that a purge cannot take.

    Args:
        context: Dataset and workspace.
        batch_id: The batch.
        told: Notices to recipients.
        owed: What MLflow does not know yet.
    """
    return [
        _backups(context),
        *_source(context),
        *(_recipient(notice) for notice in told),
        *_waiting_files(context),
        *(_entry("entry in MLflow", "tracking server", "it answers", text) for text in owed),
        _entry(
            "pseudonyms of the erased records and subjects",
            "tombstones, queue, members and erased.parquet",
            "the pseudonym key is destroyed",
            "keyed digests, which keep the records from coming back; they name nobody without the "
            "key",
        ),
        _entry(
            "blocks of deleted files",
            "the disk",
            "they are written over",
            "deleting a file frees its blocks; encrypt the disk where that matters",
        ),
        _entry(
            "copies outside of this workspace",
            "logs of the orchestrator, snapshots, exports",
            "their own retention ends",
            f"batch {batch_id} reaches what lies under the workspace; the orchestrator is given "
            "ids and counts only",
        ),
    ]


def _backups(context: StageContext) -> JSON:
    days = context.declaration.deletion.backups_expire_days
    if days is None:
        why = "no expiry is declared (deletion.backups_expire_days)"
        return _entry("backups", "wherever they are kept", "unknown", why)
    until = (now() + timedelta(days=days)).date().isoformat()
    return _entry("backups", "wherever they are kept", until, f"they expire after {days} days")


def _source(context: StageContext) -> list[JSON]:
    declaration = context.declaration
    if is_ours(declaration, context.workspace):
        return []
    why = (
        "it is not ours to change (source.erase); its erased rows are dropped at every load. "
        "Erase them there too"
    )
    name = declaration.source_path.name
    return [_entry("rows of the source", name, "its owner erases them", why)]


def _recipient(notice: JSON) -> JSON:
    what = f"{notice['gets']} passed on to {notice['recipient']}"
    why = "told, no answer yet"
    return _entry(what, notice["recipient"], f"answer due {notice['due_at'][:10]}", why)


def _waiting_files(context: StageContext) -> list[JSON]:
    inbox = context.workspace.inbox
    n_files = sum(path.is_file() for path in inbox.rglob("*")) if inbox.exists() else 0
    if not n_files:
        return []
    why = "requests that were not read yet; they are not searched"
    return [_entry(f"{n_files} request files", "inbox/", "the next intake", why)]


def _entry(what: str, where: str, until: str, why: str) -> JSON:
    return {"what": what, "where": where, "until": until, "why": why}
