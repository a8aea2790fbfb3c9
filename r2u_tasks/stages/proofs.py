"""Stage ``proofs``: what an operator can show about one record, or about the members of a batch.

Reads only. A proof holds the record's salted commitment and hashes of neighbours; the id is turned
into a pseudonym at once and stands in no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from governance.digests import read_json
from governance.errors import DataError
from governance.manifest import leaf_of, read_leaves, set_difference
from governance.merkle import absence_proof, find_leaf, inclusion_proof
from governance.storage import read_table, table_exists
from governance.suppression import pseudonym
from governance.verifier import CheckFailedError, proof_problem
from governance.workspace import Workspace
from r2u_tasks.stages.commitment import require_members
from r2u_tasks.stages.context import JSON, open_context

PROOF_SCHEMA = "r2u-proof/1"


@dataclass(frozen=True, slots=True)
class _Model:
    key: str
    members: Path
    manifest: dict[str, Any]


def prove_record(*, record_id: str, dataset: str, root_uri: str) -> JSON:
    """Prove in which models a record is, and in which it is not.

    Args:
        record_id: Id in clear.
        dataset: Declaration.
        root_uri: Workspace.

    Returns:
        A proof (``r2u-proof/1``) with a statement for each model, oldest first, about the
        commitment that the newest model holding the record has; ``held_by`` names every model that
        holds the record's pseudonym, under whatever commitment.

    Raises:
        DataError: No model ever held the record, or members are damaged.
    """
    context = open_context(dataset, root_uri)
    names = [pseudonym(key, "record", record_id) for key in context.key_ring.keys]
    models = _models(context.workspace)
    for model in models:
        require_members(model.members.parent)
    held = {m.key: leaf for m in models if (leaf := leaf_of(m.members, names)) is not None}
    if not held:
        message = (
            f"proof: expected a record that one of {len(models)} models was trained on, got one "
            "that none was; there is no commitment that could be shown"
        )
        raise DataError(message)
    leaf = list(held.values())[-1]
    return {
        "schema": PROOF_SCHEMA,
        "leaf": leaf.hex(),
        "statements": [_statement(model, leaf) for model in models],
        "held_by": list(held),
    }


def check_proof(*, proof: Path, root_uri: str) -> str:
    """Check a proof against the manifests of the workspace.

    Returns:
        What it shows, in one line.

    Raises:
        DataError: It does not hold, or is about other models.
    """
    models = {m.key: m.manifest for m in _models(Workspace(Path(root_uri).resolve()))}
    document = read_json(proof)
    try:
        problem = proof_problem(document)
    except (CheckFailedError, LookupError, TypeError, ValueError) as error:
        problem = f"expected a proof, got {type(error).__name__}"
    if problem is not None:
        message = f"proof {proof.name}: {problem}"
        raise DataError(message)
    for statement in document["statements"]:
        manifest = models.get(statement["model_key"], {})
        stated = (statement["manifest_root"], statement["n_records"])
        if stated != (manifest.get("root"), manifest.get("n_records")):
            message = (
                f"proof {proof.name}: expected the manifest of model {statement['model_key']}, got "
                "another root or number of records"
            )
            raise DataError(message)
    kinds = [statement["kind"] for statement in document["statements"]]
    return f"in {kinds.count('inclusion')} models, not in {kinds.count('absence')}"


def check_members(*, batch_dir: Path) -> JSON:
    """Count the set difference of a closed batch again, from the members of both models.

    Returns:
        ``ok`` and a ``detail`` in one line; ``ok`` None when a members file is gone.
    """
    root = batch_dir.resolve().parent.parent
    if not (batch_dir / "members.json").exists():
        return {"ok": None, "detail": "a batch of version 1 has no set difference"}
    sealed = read_json(batch_dir / "members.json")
    keys = (sealed["parent"]["model_key"], sealed["child"]["model_key"])
    folders = [Workspace(root).model(key) for key in keys]
    missing = [folder.name for folder in folders if not (folder / "members.parquet").exists()]
    if missing:
        return {"ok": None, "detail": f"the members of {missing[0]} are not here"}
    try:
        for folder, manifest in zip(folders, (sealed["parent"], sealed["child"]), strict=True):
            if read_json(folder / "manifest.json") != manifest:
                return {"ok": False, "detail": f"manifest.json of {folder.name} is another one"}
            require_members(folder)
        asked = _erased_until(
            Workspace(root), batch_dir.name, with_earlier=folders[0] != folders[1]
        )
        parent, child = (folder / "members.parquet" for folder in folders)
        found = set_difference(parent, child, asked)
    except DataError as error:
        return {"ok": False, "detail": str(error)}
    except (ValueError, LookupError) as error:
        kind = type(error).__name__
        return {"ok": False, "detail": f"expected manifests and members, got {kind}"}
    if found.to_dict() != sealed["difference"]:
        return {"ok": False, "detail": "counting again gives another set difference"}
    return {
        "ok": True,
        "detail": f"{found.parent} records less {found.asked} asked ones are the {found.child} "
        "of the certified model, counted again",
    }


def _erased_until(workspace: Workspace, batch_id: str, *, with_earlier: bool) -> list[str]:
    """Return the pseudonyms of records that a batch erased, or that were erased before it."""
    if not table_exists(workspace.tombstones):
        return []
    table = read_table(workspace.tombstones)
    table = table.filter(pc.equal(table["kind"], "record"))
    own = table.filter(pc.equal(table["batch_id"], batch_id))
    if with_earlier and own.num_rows:
        own = table.filter(pc.less_equal(table["erased_at"], pc.max(own["erased_at"])))
    return list(own["key"].to_pylist())


def _models(workspace: Workspace) -> list[_Model]:
    found = [
        _Model(path.parent.name, path.parent / "members.parquet", read_json(path))
        for path in workspace.models.glob("*/manifest.json")
        if (path.parent / "members.parquet").exists()  # a purge may have taken them
    ]
    return sorted(found, key=lambda model: (model.manifest["created_at"], model.key))


def _statement(model: _Model, leaf: bytes) -> JSON:
    leaves = read_leaves(model.members)
    place, there = find_leaf(leaves, leaf)
    shown: JSON = (
        {"kind": "inclusion", "index": place, "proof": inclusion_proof(leaves, place)}
        if there
        else {"kind": "absence", "proof": absence_proof(leaves, leaf)}
    )
    return {
        "model_key": model.key,
        "manifest_root": model.manifest["root"],
        "n_records": model.manifest["n_records"],
        **shown,
    }
