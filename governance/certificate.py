"""Certificates: one signed statement for each request, bound to its batch by a Merkle proof.

``seal_bundle`` commits to the files of a batch and to its requests (salted, so that a certificate
tells nothing about others), writes the root into the ledger, and then issues certificates. A
certificate is an in-toto Statement v1 in a DSSE envelope; ``docs/evidence-format.md`` describes it.

Issuing refuses what the verifier would refuse: it is verified before it is published.
"""

from __future__ import annotations

import base64
import secrets
import tempfile
from pathlib import Path
from typing import Any

from governance.digests import canonical_json, digest_file, read_json, write_atomic
from governance.errors import ReleaseBlockedError
from governance.ledger import Ledger, read_entries
from governance.merkle import inclusion_proof, merkle_root
from governance.signing import PUBLIC_NAME, Signer, key_id
from governance.verifier import (
    BUNDLE_OF_PREDICATE,
    CLAIM_OF_LANE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    file_leaf,
    pre_authentication_encoding,
    request_leaf,
    stated_manifest,
    stated_records,
    verify_certificate,
)

BUNDLE_FILES = (
    "plan.json",
    "erasure.json",
    "evidence.json",
    "evidence-replay.json",
    "members.json",
    "remains.json",
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
    signer: Signer,
    ledger: Ledger,
    ledger_path: Path,
) -> dict[str, Any]:
    """Seal a batch and issue a certificate for each of its requests.

    Args:
        batch_dir: Folder of the batch with plan, erasure, evidence, members and result.
        requests: ``request_id, outcome, claim, lane, received_at, due_at, answered_at`` of each.
        signer: Signs certificates, as it does the ledger.
        ledger: Ledger that gets the root.
        ledger_path: Its file, to find the entry of an earlier, interrupted sealing.

    Returns:
        ``{"root", "ledger_entry", "certificates"}``.

    Raises:
        ReleaseBlockedError: Verdict, controls, claim or outcome do not allow a certificate, or the
            verifier refuses one that was made.
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
    leaves, stated = _leaves(bundle), _stated(batch_dir)
    cache: dict[str, Any] = {}
    for index, (request, salt) in enumerate(zip(requests, salts, strict=True)):
        statement = _statement(
            request,
            evidence,
            evidence_file,
            stated=stated,
            bundle=bundle,
            bundle_digest=bundle_digest,
            salt=salt,
            proof=inclusion_proof(leaves, len(bundle["files"]) + index),
            entry=entry,
        )
        envelope = canonical_json(_envelope(statement, signer)) + b"\n"
        _require_verified(envelope, request["request_id"], batch_dir, ledger_path, signer, cache)
        write_atomic(batch_dir / "certificates" / f"{request['request_id']}.json", envelope)
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
        "schema": BUNDLE_OF_PREDICATE[PREDICATE_TYPE],
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
    stated: dict[str, Any],
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
            **stated,
            "batch_id": bundle["batch_id"],
            "what_was_tested": _tested(evidence),
            "tests": {
                "evidence_file": evidence_file,
                "verdict": evidence["verdict"],
                "weights_digest": weights,
                "controls": evidence.get("controls", {}),
                "conditions": [c["name"] for c in evidence.get("conditions", [])],
                "n_records": evidence["n_forget"],
            },
            "what_it_does_not_show": NOT_SHOWN[request["claim"]],
            "bundle_root": bundle["root"],
            "bundle_digest": bundle_digest,
            "salt": salt,
            "proof": [list(step) for step in proof],
            "ledger_entry": {"seq": entry["seq"], "digest": entry["digest"]},
        },
    }


def _stated(batch_dir: Path) -> dict[str, Any]:
    """Return what each certificate of a batch says of tables and models."""
    members = read_json(batch_dir / "members.json")
    erasure, plan = read_json(batch_dir / "erasure.json"), read_json(batch_dir / "plan.json")
    return {
        "records": stated_records(erasure, members, plan),
        "model": stated_manifest(members["child"]),
        "parent": stated_manifest(members["parent"]),
    }


def _tested(evidence: dict[str, Any]) -> list[str]:
    """Return what was tested, in words."""
    n = evidence["n_forget"]
    if n == 0:
        return ["None of the records is in the training manifest of the model; none was tested."]
    n_models = evidence["pools"]["retrained"]["n"]
    lines = [f"{n} records, against {n_models} models that were trained without them:"]
    lines += [f"{c['text']} (p = {c['adjusted_p']:.2g})" for c in evidence["conditions"]]
    told = "is" if evidence["controls"]["original_fails"] else "is not"
    lines.append(f"Control: the same test {told} able to tell the original model apart.")
    return lines


def _require_verified(
    envelope: bytes,
    request_id: str,
    batch_dir: Path,
    ledger_path: Path,
    signer: Signer,
    cache: dict[str, Any],
) -> None:
    """Verify a certificate before anyone gets it."""
    with tempfile.TemporaryDirectory() as name:
        certificate, key = Path(name) / "certificate.json", Path(name) / PUBLIC_NAME
        certificate.write_bytes(envelope)
        key.write_bytes(signer.public_pem)
        result = verify_certificate(
            certificate,
            public_key_path=key,
            bundle_dir=batch_dir,
            ledger_path=ledger_path,
            request_id=request_id,
            cache=cache,
        )
    if not result.ok:
        message = f"request {request_id}: no certificate, the verifier refuses it: {result.problem}"
        raise ReleaseBlockedError(message)


def _envelope(statement: dict[str, Any], signer: Signer) -> dict[str, Any]:
    payload = canonical_json(statement)
    signature = signer.sign(pre_authentication_encoding(payload))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"keyid": key_id(signer.public_pem), "sig": base64.b64encode(signature).decode()}
        ],
    }


def _sealing_entry(ledger_path: Path, root: str) -> dict[str, Any] | None:
    for entry in read_entries(ledger_path):
        if entry["kind"] == "bundle_sealed" and entry["body"].get("bundle_root") == root:
            return entry
    return None
