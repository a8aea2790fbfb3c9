"""Writing into the ledger from a step that may be run again."""

from __future__ import annotations

from governance.digests import digest_json
from governance.ledger import read_entries
from r2u_tasks.stages.context import JSON, StageContext


def note_once(context: StageContext, kind: str, *bodies: JSON) -> None:
    """Write entries into the ledger, but for those that a killed run of the step wrote."""
    entries = read_entries(context.workspace.ledger)
    written = {digest_json(entry["body"]) for entry in entries if entry["kind"] == kind}
    for body in bodies:
        if digest_json(body) not in written:
            context.ledger.append(kind, body)
