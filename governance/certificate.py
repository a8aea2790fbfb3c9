"""Certificates: one signed statement for each request, bound to its batch by a Merkle proof.

``seal_bundle`` commits to the files of a batch and to its requests (salted, so that a certificate
tells nothing about others), writes the root into the ledger, and then issues certificates. A
certificate is an in-toto Statement v1 in a DSSE envelope; ``docs/evidence-format.md`` describes it.

Issuing refuses what the verifier would refuse: it is verified before it is published.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.digests import canonical_json, digest_file, read_json, write_atomic
from governance.errors import ReleaseBlockedError
from governance.ledger import Ledger, read_entries
from governance.merkle import inclusion_proof, merkle_root
from governance.signing import public_pem
from governance.verifier import (
    CLAIM_OF_LANE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    file_leaf,
    pre_authentication_encoding,
    request_leaf,
)

BUNDLE_FILES = (
    "plan.json",
    "erasure.json",
    "evidence.json",
    "evidence-replay.json",
    "result-model.json",
)

NOT_SHOWN = {
    "approximate": (
        "The model was changed so that, by the tests named, it is not told apart from models that "
        "were trained without the records. This is a statistical finding, not a proof of absence."
    ),
    "exact": (
        "The model was made without the records. This says nothing about copies of the data or of "
        "older models outside the controller's systems, or about backups before they expire."
    ),
}


def seal_bundle(
    batch_dir: Path,
    requests: list[dict[str, Any]],
    *,
    signing_key: Ed25519PrivateKey,
    ledger: Ledger,
    ledger_path: Path,
) -> dict[str, Any]:
    """Seal a batch and issue a certificate for each of its requests.

    Args:
        batch_dir: Folder of the batch with plan, erasure, evidence and result.
        requests: ``request_id, outcome, claim, lane, received_at, due_at, answered_at`` of each.
        signing_key: Key of certificates and ledger.
        ledger: Ledger that gets the root.
        ledger_path: Its file, to find the entry of an earlier, interrupted sealing.

    Returns:
        ``{"root", "ledger_entry", "certificates"}``.

    Raises:
        ReleaseBlockedError: Verdict, controls, claim or outcome do not allow a certificate.
    """
    evidence_file, evidence = _accepted_evidence(batch_dir)
    for request in requests:
        _require_certifiable(request, evidence)
    path = batch_dir / "bundle.json"
    salts_path = batch_dir / "private" / "request-salts.json"
    if not (path.exists() and salts_path.exists()):
        salts = [secrets.token_hex(16) for _ in requests]
        write_atomic(salts_path, canonical_json(salts), mode=0o600)
        write_atomic(path, canonical_json(_bundle(batch_dir, requests, salts)) + b"\n")
    bundle, salts = read_json(path), read_json(salts_path)
    bundle_digest = digest_file(path)
    entry = _sealing_entry(ledger_path, bundle["root"]) or ledger.append(
        "bundle_sealed",
        {
            "batch_id": batch_dir.name,
            "bundle_root": bundle["root"],
            "bundle_digest": bundle_digest,
            "n_requests": len(requests),
        },
    )
    leaves = _leaves(bundle)
    for index, (request, salt) in enumerate(zip(requests, salts, strict=True)):
        statement = _statement(
            request,
            evidence,
            evidence_file,
            bundle=bundle,
            bundle_digest=bundle_digest,
            salt=salt,
            proof=inclusion_proof(leaves, len(bundle["files"]) + index),
            entry=entry,
        )
        target = batch_dir / "certificates" / f"{request['request_id']}.json"
        write_atomic(target, canonical_json(_envelope(statement, signing_key)) + b"\n")
    return {
        "root": bundle["root"],
        "ledger_entry": {"seq": entry["seq"], "digest": entry["digest"]},
        "certificates": len(requests),
    }


def _accepted_evidence(batch_dir: Path) -> tuple[str, dict[str, Any]]:
    """Return the evidence of the lane that was accepted: the exact one where both exist."""
    for name in ("evidence-replay.json", "evidence.json"):
        if (batch_dir / name).exists():
            return name, read_json(batch_dir / name)
    message = f"batch {batch_dir.name}: expected evidence, got none; no certificate is issued"
    raise ReleaseBlockedError(message)


def _require_certifiable(request: dict[str, Any], evidence: dict[str, Any]) -> None:
    problems = []
    if evidence["verdict"] != "accept":
        problems.append(f"the verdict is {evidence['verdict']}")
    if request["outcome"] != "forgotten":
        problems.append(f"the outcome is {request['outcome']}")
    if CLAIM_OF_LANE.get(request["lane"]) != request["claim"]:
        problems.append(f"lane {request['lane']} does not give claim {request['claim']}")
    if (request["lane"], request["claim"]) != (evidence["lane"], evidence["claim"]):
        problems.append("lane or claim differ from the evidence")
    controls = evidence.get("controls", {})
    if request["claim"] == "approximate" and not (controls and all(controls.values())):
        problems.append("a control of the forgetting test is void")
    if problems:
        message = f"request {request['request_id']}: no certificate: {'; '.join(problems)}"
        raise ReleaseBlockedError(message)


def _bundle(batch_dir: Path, requests: list[dict[str, Any]], salts: list[str]) -> dict[str, Any]:
    files = {
        name: digest_file(batch_dir / name) for name in BUNDLE_FILES if (batch_dir / name).exists()
    }
    pairs = zip(requests, salts, strict=True)
    leaves = [request_leaf(salt, request).hex() for request, salt in pairs]
    bundle = {
        "schema": "r2u-bundle/1",
        "batch_id": batch_dir.name,
        "files": files,
        "request_leaves": leaves,
    }
    return {**bundle, "root": merkle_root(_leaves(bundle))}


def _leaves(bundle: dict[str, Any]) -> list[bytes]:
    files = [file_leaf(name, digest) for name, digest in sorted(bundle["files"].items())]
    return files + [bytes.fromhex(leaf) for leaf in bundle["request_leaves"]]


def _statement(
    request: dict[str, Any],
    evidence: dict[str, Any],
    evidence_file: str,
    *,
    bundle: dict[str, Any],
    bundle_digest: str,
    salt: str,
    proof: list[tuple[str, str]],
    entry: dict[str, Any],
) -> dict[str, Any]:
    weights = evidence["lineage"]["weights_digest"]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "model", "digest": {"sha256": weights.removeprefix("sha256:")}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            **request,
            "batch_id": bundle["batch_id"],
            "tests": {
                "evidence_file": evidence_file,
                "verdict": evidence["verdict"],
                "weights_digest": weights,
                "controls": evidence.get("controls", {}),
                "n_conditions": len(evidence.get("conditions", [])),
            },
            "what_it_does_not_show": NOT_SHOWN[request["claim"]],
            "bundle_root": bundle["root"],
            "bundle_digest": bundle_digest,
            "salt": salt,
            "proof": [list(step) for step in proof],
            "ledger_entry": {"seq": entry["seq"], "digest": entry["digest"]},
        },
    }


def _envelope(statement: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    payload = canonical_json(statement)
    signature = key.sign(pre_authentication_encoding(payload))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": "sha256:" + hashlib.sha256(public_pem(key)).hexdigest(),
                "sig": base64.b64encode(signature).decode(),
            }
        ],
    }


def _sealing_entry(ledger_path: Path, root: str) -> dict[str, Any] | None:
    for entry in read_entries(ledger_path):
        if entry["kind"] == "bundle_sealed" and entry["body"].get("bundle_root") == root:
            return entry
    return None
