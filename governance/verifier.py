"""Stand-alone verifier of erasure certificates: the standard library and ``cryptography`` only.

    python -m governance.verifier CERTIFICATE --public-key KEY --bundle FOLDER --ledger FILE

An auditor runs it offline on their own machine. Checked, in this order: the signature of the DSSE
envelope; the type and the fields of the statement; that the request is under the root of the sealed
bundle; that every file of the bundle has its digest; that claim, verdict, controls and conditions
allow a certificate; that the ledger is an unbroken, signed chain which holds the sealing entry.

Exit code 0: all checks hold. 1: one failed; the line says which. 2: something could not be read.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://ready2unlearn.dev/erasure/v1"
GENESIS = "sha256:" + "0" * 64
CLAIM_OF_LANE = {"approximate": "approximate", "replay": "exact", "retrain": "exact"}
PREDICATE_FIELDS = frozenset(
    {
        "request_id",
        "batch_id",
        "outcome",
        "claim",
        "lane",
        "received_at",
        "due_at",
        "answered_at",
        "tests",
        "what_it_does_not_show",
        "bundle_root",
        "bundle_digest",
        "salt",
        "proof",
        "ledger_entry",
    }
)


class CheckFailedError(Exception):
    """A check of a certificate failed."""


@dataclass
class VerificationResult:
    """Outcome of a verification: every check with its detail."""

    ok: bool = True
    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """Return what failed, in one line."""
        failed = [f"{name}: {detail}" for name, passed, detail in self.checks if not passed]
        return failed[0] if failed else None


def verify_certificate(
    path: Path,
    *,
    public_key_path: Path,
    bundle_dir: Path | None = None,
    ledger_path: Path | None = None,
) -> VerificationResult:
    """Verify a certificate; stops at the first check that fails.

    Args:
        path: Certificate, a DSSE envelope.
        public_key_path: Ed25519 public key as PEM, obtained apart from the certificate.
        bundle_dir: Folder of the batch with ``bundle.json``; default: the certificate's parent's.
        ledger_path: Ledger file; default: where the workspace keeps it.
    """
    folder = bundle_dir or path.resolve().parent.parent
    ledger = ledger_path or folder.parent.parent / "ledger.jsonl"
    result = VerificationResult()
    state: dict[str, Any] = {}
    steps: list[tuple[str, Callable[[], str]]] = [
        ("signature", lambda: _check_signature(path, public_key_path, state)),
        ("statement", lambda: _check_statement(path, state)),
        ("inclusion", lambda: _check_inclusion(state)),
        ("bundle", lambda: _check_bundle(folder, state)),
        ("evidence", lambda: _check_evidence(folder, state)),
        ("ledger", lambda: _check_ledger(ledger, state)),
    ]
    for name, step in steps:
        try:
            result.checks.append((name, True, step()))
        except CheckFailedError as error:
            result.checks.append((name, False, str(error)))
            result.ok = False
            break
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            detail = f"expected a well-formed file, got {type(error).__name__}"
            result.checks.append((name, False, detail))
            result.ok = False
            break
    return result


def canonical(value: object) -> bytes:
    """Return canonical JSON bytes."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def pre_authentication_encoding(payload: bytes) -> bytes:
    """Return the bytes that a DSSE signature is over (DSSE 1.0, PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def request_leaf(salt: str, request: dict[str, Any]) -> bytes:
    """Return the salted commitment to one request of a batch."""
    return hashlib.sha256(b"\x00" + bytes.fromhex(salt) + canonical(request)).digest()


def file_leaf(name: str, digest: str) -> bytes:
    """Return the commitment to one file of a bundle."""
    return hashlib.sha256(b"\x00" + canonical({"file": name, "digest": digest})).digest()


def merkle_node(left: bytes, right: bytes) -> bytes:
    """Return the parent of two nodes (RFC 6962)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def _check_signature(path: Path, public_key_path: Path, state: dict[str, Any]) -> str:
    envelope = _load(path.read_bytes())
    if set(envelope) != {"payloadType", "payload", "signatures"}:
        _fail("expected a DSSE envelope, got other fields")
    if envelope["payloadType"] != PAYLOAD_TYPE or len(envelope["signatures"]) != 1:
        _fail("expected one signature over an in-toto statement")
    payload = base64.b64decode(envelope["payload"], validate=True)
    if base64.b64encode(payload).decode() != envelope["payload"]:
        _fail("the payload is not in canonical Base64")
    signature = envelope["signatures"][0]
    raw = base64.b64decode(signature["sig"], validate=True)
    if set(signature) != {"keyid", "sig"} or base64.b64encode(raw).decode() != signature["sig"]:
        _fail("the signature is not in canonical form")
    pem = public_key_path.read_bytes()
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        _fail("expected an Ed25519 public key")
        raise AssertionError
    if signature["keyid"] != "sha256:" + hashlib.sha256(pem).hexdigest():
        _fail("the certificate was signed by another key")
    try:
        key.verify(raw, pre_authentication_encoding(payload))
    except InvalidSignature:
        _fail("the signature does not hold: the certificate was changed")
    statement = _load(payload)
    if canonical(statement) != payload:
        _fail("the statement is not in canonical form")
    if canonical(envelope) + b"\n" != path.read_bytes():
        _fail("the envelope is not in canonical form")
    state.update(key=key, statement=statement, predicate=statement.get("predicate", {}))
    return "Ed25519 signature holds"


def _check_statement(path: Path, state: dict[str, Any]) -> str:
    statement, predicate = state["statement"], state["predicate"]
    if set(statement) != {"_type", "subject", "predicateType", "predicate"}:
        _fail("unknown or missing fields in the statement")
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
        _fail("expected an erasure statement of version 1")
    if set(predicate) != PREDICATE_FIELDS:
        _fail("unknown or missing fields in the predicate")
    if path.stem != predicate["request_id"]:
        _fail("the file is named after another request")
    if predicate["outcome"] != "forgotten":
        _fail("only a forgotten request has a certificate")
    if CLAIM_OF_LANE.get(predicate["lane"]) != predicate["claim"]:
        _fail("the claim does not follow from the lane")
    return f"request {predicate['request_id']}: {predicate['claim']}, by lane {predicate['lane']}"


def _check_inclusion(state: dict[str, Any]) -> str:
    predicate = state["predicate"]
    names = ("request_id", "outcome", "claim", "lane", "received_at", "due_at", "answered_at")
    value = request_leaf(predicate["salt"], {name: predicate[name] for name in names})
    for side, sibling in predicate["proof"]:
        other = bytes.fromhex(sibling)
        if side not in {"left", "right"}:
            _fail("the proof is malformed")
        value = merkle_node(other, value) if side == "left" else merkle_node(value, other)
    if "sha256:" + value.hex() != predicate["bundle_root"]:
        _fail("the request is not in the sealed bundle")
    return "request is under the bundle's root"


def _check_bundle(folder: Path, state: dict[str, Any]) -> str:
    data = (folder / "bundle.json").read_bytes()
    if "sha256:" + hashlib.sha256(data).hexdigest() != state["predicate"]["bundle_digest"]:
        _fail("bundle.json was changed, or the certificate belongs to another bundle")
    bundle = _load(data)
    if set(bundle) != {"schema", "batch_id", "files", "request_leaves", "root"}:
        _fail("unknown or missing fields in bundle.json")
    predicate = state["predicate"]
    if bundle["batch_id"] != predicate["batch_id"] or bundle["root"] != predicate["bundle_root"]:
        _fail("the certificate belongs to another bundle")
    leaves = [file_leaf(name, digest) for name, digest in sorted(bundle["files"].items())]
    leaves += [bytes.fromhex(leaf) for leaf in bundle["request_leaves"]]
    if _root(leaves) != bundle["root"]:
        _fail("bundle.json does not match its root")
    for name, digest in bundle["files"].items():
        if "/" in name or name.startswith("."):
            _fail("a file of the bundle lies outside of its folder")
        if "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            _fail(f"{name} was changed after it was sealed")
    if canonical(bundle) + b"\n" != data:
        _fail("bundle.json is not in canonical form")
    state["bundle"] = bundle
    return f"{len(bundle['files'])} files have their digests"


def _check_evidence(folder: Path, state: dict[str, Any]) -> str:  # noqa: C901 - a list of rules
    predicate, tests = state["predicate"], state["predicate"]["tests"]
    name = tests["evidence_file"]
    if name not in state["bundle"]["files"]:
        _fail("the evidence is not part of the bundle")
    evidence = _load((folder / name).read_bytes())
    plan = _load((folder / "plan.json").read_bytes())
    erasure = _load((folder / "erasure.json").read_bytes())
    if predicate["request_id"] not in plan["requests"]:
        _fail("the plan does not name the request")
    if evidence["verdict"] != "accept" or tests["verdict"] != "accept":
        _fail("the verdict of the evidence is not 'accept'")
    if evidence["claim"] != predicate["claim"] or evidence["lane"] != predicate["lane"]:
        _fail("claim or lane differ from the evidence")
    conditions, controls = evidence.get("conditions", []), evidence.get("controls", {})
    if any(not c["passed"] or c["adjusted_p"] <= evidence["alpha"] for c in conditions):
        _fail("a tested condition is not met")
    if predicate["claim"] == "approximate" and not (conditions and _all_hold(controls)):
        _fail("an approximate claim needs conditions and controls that all hold")
    if evidence["n_forget"] and not controls.get("second_retrain_passes"):
        _fail("the control with retrained models does not hold")
    for table, counts in erasure["tables"].items():
        if counts["after"] != counts["before"] - counts["erased"]:
            _fail(f"rows of table {table} do not add up")
        if counts["untouched_digest_before"] != counts["untouched_digest_after"]:
            _fail(f"other rows of table {table} were changed")
    if (
        state["statement"]["subject"]
        != [
            {"name": "model", "digest": {"sha256": tests["weights_digest"].removeprefix("sha256:")}}
        ]
        or tests["weights_digest"] != evidence["lineage"]["weights_digest"]
    ):
        _fail("the certified model is not the tested one")
    return f"verdict accept, {len(conditions)} conditions met"


def _all_hold(controls: dict[str, bool]) -> bool:
    names = ("original_fails", "second_retrain_passes", "random_fails")
    return all(controls.get(name) is True for name in names)


def _check_ledger(path: Path, state: dict[str, Any]) -> str:
    wanted, found, previous = state["predicate"]["ledger_entry"], False, GENESIS
    lines = path.read_bytes().split(b"\n")
    if lines[-1] != b"":
        _fail("the last line is torn")
    for number, line in enumerate(lines[:-1]):
        entry = _load(line)
        signed = {n: entry[n] for n in ("seq", "at", "kind", "body", "previous")}
        digest = "sha256:" + hashlib.sha256(canonical(signed)).hexdigest()
        if entry["seq"] != number or entry["previous"] != previous or canonical(entry) != line:
            _fail(f"line {number + 1}: removed, repeated, reordered or changed entries")
        if entry["digest"] != digest or len(entry) != 7:
            _fail(f"line {number + 1}: content does not match its digest")
        signature = bytes.fromhex(entry["signature"])
        if signature.hex() != entry["signature"]:
            _fail(f"line {number + 1}: the signature is not in canonical form")
        try:
            state["key"].verify(signature, digest.encode())
        except InvalidSignature:
            _fail(f"line {number + 1}: the signature does not hold")
        previous = digest
        sealed = entry["kind"] == "bundle_sealed"
        same = entry["body"].get("bundle_root") == state["predicate"]["bundle_root"]
        found = found or (sealed and same and wanted == {"seq": number, "digest": digest})
    if not found:
        _fail("the ledger does not hold the entry that sealed the bundle")
    return f"{len(lines) - 1} entries are an unbroken chain"


def _root(leaves: list[bytes]) -> str:
    level = leaves
    while len(level) > 1:
        paired = [merkle_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
    return "sha256:" + level[0].hex()


def _load(data: bytes) -> Any:
    return json.loads(data, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _fail("a key stands twice")
    return found


def _fail(message: str) -> None:
    raise CheckFailedError(message)


def main(arguments: list[str] | None = None) -> int:
    """Verify one certificate from the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="verifier", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("certificate", type=Path)
    parser.add_argument("--public-key", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--ledger", type=Path)
    options = parser.parse_args(arguments)
    for path in (options.certificate, options.public_key):
        if not path.is_file():
            sys.stderr.write(f"expected a file at {path}, got none\n")
            return 2
    result = verify_certificate(
        options.certificate,
        public_key_path=options.public_key,
        bundle_dir=options.bundle,
        ledger_path=options.ledger,
    )
    if result.ok:
        sys.stdout.write(f"ok: {len(result.checks)} checks hold\n")
        return 0
    sys.stdout.write(f"FAILED {result.problem}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
