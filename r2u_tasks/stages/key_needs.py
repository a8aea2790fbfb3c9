"""What still needs a pseudonym key: what is compared, and cannot be made anew under another one.

Answers about the past (which models knew a person, proofs about a record) end for what is under a
dropped key alone; that is what dropping it is for, and no need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from governance.carrying import Alone, find_alone
from governance.classification.overrides import load_overrides
from governance.deletion_queue import State
from governance.errors import DataError
from governance.manifest import members_key_id
from governance.source_erasure import is_ours
from governance.storage import scan_table, table_exists
from r2u_tasks.stages.context import StageContext

Needs = dict[str, Counter[str]]
"""Id of a key -> what needs it -> how many."""


def find_needs(context: StageContext) -> Needs:
    """Return what needs each key, also of keys that the ring has not got."""
    found: Needs = {}
    for key_id, what, n in (
        *_requests(context),
        *_tombstones(context),
        *_models(context),
        *_overrides(context),
        *_scores(context),
    ):
        found.setdefault(context.key_ring.id_of(key_id), Counter())[what] += n
    return found


def in_words(needs: Counter[str]) -> str:
    """Return what needs a key in one line."""
    return ", ".join(f"{n} {what}" for what, n in sorted(needs.items()))


def _requests(context: StageContext) -> Iterator[tuple[str, str, int]]:
    for key_id, n in context.queue.key_ids().items():
        yield key_id, "open requests", n
    for target in context.queue.keeping().targets:
        if target.request.state == State.CLOSED:
            yield target.request.key_id, "answered exemptions", 1


def _tombstones(context: StageContext) -> Iterator[tuple[str, str, int]]:
    for one in find_alone(context.workspace.tombstones, context.key_ring):
        if not _cannot_come_back(context, one):
            yield one.key_id, "tombstones under no other key", one.n


def _cannot_come_back(context: StageContext, one: Alone) -> bool:
    """Say whether what was erased is gone from the source and from all backups; unknown is no."""
    days = context.declaration.deletion.backups_expire_days
    if days is None or not is_ours(context.declaration, context.workspace):
        return False
    return one.erased_at + timedelta(days=days) < datetime.now(UTC)


def _models(context: StageContext) -> Iterator[tuple[str, str, int]]:
    for folder in sorted(context.workspace.models.glob("*")):
        members = folder / "members.parquet"
        finished = (folder / "model.json").exists()
        has_weights = any(folder.glob("weights.safetensors")) or (folder / "checkpoints").exists()
        if not folder.is_dir() or (finished and not has_weights):
            continue
        if not finished and not members.exists():  # whatever ring its training has read
            for key_id in context.key_ring.ids:
                yield key_id, "models in the making", 1
            continue
        try:
            yield members_key_id(members), "models with weights", 1
        except DataError:
            continue  # it counts as tainted, under whatever key


def _overrides(context: StageContext) -> Iterator[tuple[str, str, int]]:
    found = load_overrides(context.workspace.overrides, now=datetime.now(UTC), policy_digest="")
    for override in found.active:
        if override.n_keys:
            yield override.key_id, "overrides in force", 1


def _scores(context: StageContext) -> Iterator[tuple[str, str, int]]:
    path = context.workspace.memorisation
    if not table_exists(path):
        return
    counts: Counter[str] = Counter()
    for batch in scan_table(path):
        if "key_id" in batch.schema.names:
            for entry in batch.column("key_id").value_counts().to_pylist():
                counts[entry["values"] or ""] += entry["counts"]
        else:  # of a training before keys had names
            counts[""] += batch.num_rows
    for key_id, n in counts.items():
        yield key_id, "memorisation scores", n
