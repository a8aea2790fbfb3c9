"""Stand-alone verifier of erasure certificates: the standard library and ``cryptography`` only.

    python -m governance.verifier CERTIFICATE --public-key KEY --bundle FOLDER --ledger FILE
        --model WEIGHTS --head DIGEST

An auditor runs it offline on their own machine; a copy of this one file is enough. Checked, in this
order: the signature of the DSSE envelope; the type and the fields of the statement; that the
request is under the root of the sealed bundle; that every file of the bundle has its digest; that
claim, verdict, controls and conditions allow a certificate; that the ledger is an unbroken, signed
chain which holds the sealing entry, and the head that was noted elsewhere; that the weight file is
the certified model, byte for byte.

Lines that were cut off the end of a ledger leave a whole chain: only a head that was noted outside
of it (the report and MLflow's parameters repeat it) shows them. A run says what it did not check.

Exit code 0: all checks hold. 1: one failed; the line says which. 2: something could not be read.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
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

TENSOR_TYPES = {
    "BOOL": ("torch.bool", 1),
    "U8": ("torch.uint8", 1),
    "I8": ("torch.int8", 1),
    "F8_E4M3": ("torch.float8_e4m3fn", 1),
    "F8_E5M2": ("torch.float8_e5m2", 1),
    "U16": ("torch.uint16", 2),
    "I16": ("torch.int16", 2),
    "F16": ("torch.float16", 2),
    "BF16": ("torch.bfloat16", 2),
    "U32": ("torch.uint32", 4),
    "I32": ("torch.int32", 4),
    "F32": ("torch.float32", 4),
    "U64": ("torch.uint64", 8),
    "I64": ("torch.int64", 8),
    "F64": ("torch.float64", 8),
    "C64": ("torch.complex64", 8),
}
"""Types of a safetensors file: their name in a weights digest and their bytes per value."""
_MAX_HEADER_BYTES = 100_000_000
_BLOCK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class CheckFailedError(Exception):
    """A check of a certificate failed."""


@dataclass
class VerificationResult:
    """Outcome of a verification.

    Attributes:
        ok: Every check that was made holds.
        checks: Name, outcome and detail of each.
        not_checked: What was not looked at, and what to give so that it is; one line each.
    """

    ok: bool = True
    checks: list[tuple[str, bool, str]] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

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
    model_path: Path | None = None,
    expected_head: str | None = None,
) -> VerificationResult:
    """Verify a certificate; stops at the first check that fails.

    Args:
        path: Certificate, a DSSE envelope.
        public_key_path: Ed25519 public key as PEM, obtained apart from the certificate.
        bundle_dir: Folder of the batch with ``bundle.json``; default: the certificate's parent's.
        ledger_path: Ledger file; default: where the workspace keeps it.
        model_path: Weight file; default: where the workspace keeps the promoted model, if there.
        expected_head: ``sha256:<hex>`` of a ledger head that was noted elsewhere.

    Returns:
        The outcome; a file that is missing or malformed is a failed check, not an exception.
    """
    folder = bundle_dir or path.resolve().parent.parent
    ledger = ledger_path or folder.resolve().parent.parent / "ledger.jsonl"
    result = VerificationResult()
    state: dict[str, Any] = {"expected_head": expected_head}
    steps: list[tuple[str, Callable[[], str]]] = [
        ("signature", lambda: _check_signature(path, public_key_path, state)),
        ("statement", lambda: _check_statement(path, state)),
        ("inclusion", lambda: _check_inclusion(state)),
        ("bundle", lambda: _check_bundle(folder, state)),
        ("evidence", lambda: _check_evidence(folder, state)),
        ("ledger", lambda: _check_ledger(ledger, state)),
        ("model", lambda: _check_model(folder, model_path, state)),
    ]
    for name, step in steps:
        try:
            detail = step()
        except CheckFailedError as error:
            result.checks.append((name, False, str(error)))
            result.ok = False
            break
        except _MALFORMED as error:
            detail = f"expected a well-formed file, got {type(error).__name__}"
            result.checks.append((name, False, detail))
            result.ok = False
            break
        if detail:
            result.checks.append((name, True, detail))
    result.not_checked = state.get("not_checked", [])
    return result


_MALFORMED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    UnsupportedAlgorithm,
)


def weights_digest(path: Path) -> str:
    """Return the digest of the tensors in a safetensors file: names, types, shapes and bytes.

    The digest says nothing of how the file spells them, so a file is refused unless it is the one
    spelling that the writer makes: no other byte can change without the digest.

    Raises:
        CheckFailedError: The file is no safetensors file, or spelt in another way.
        OSError: It cannot be read.
    """
    state = hashlib.sha256()
    with path.open("rb") as file:
        start, tensors = _read_header(file, path.stat().st_size)
        for name, (kind, shape, offset, size) in sorted(tensors.items()):
            state.update(f"{name}\x00{kind}\x00{tuple(shape)}\x00".encode())
            file.seek(start + offset)
            left = size
            while left:
                block = file.read(min(left, _BLOCK_BYTES))
                if not block:
                    _fail("the weight file was shortened while it was read")
                state.update(block)
                left -= len(block)
    return "sha256:" + state.hexdigest()


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
    heads: set[str] = set()
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
        heads.add(digest)
        sealed = entry["kind"] == "bundle_sealed"
        same = entry["body"].get("bundle_root") == state["predicate"]["bundle_root"]
        found = found or (sealed and same and wanted == {"seq": number, "digest": digest})
    if not found:
        _fail("the ledger does not hold the entry that sealed the bundle")
    head = state["expected_head"]
    if head is None:
        state.setdefault("not_checked", []).append(
            "no ledger head given: lines cut off the end would not show; give one that was noted "
            "elsewhere (--head)"
        )
        return f"{len(lines) - 1} entries are an unbroken chain"
    if head not in heads:
        _fail(
            f"expected the head {head} in the chain, got {len(heads)} entries without it: lines "
            "were cut off the end, or this is another ledger"
        )
    return f"{len(lines) - 1} entries are an unbroken chain, the expected head among them"


def _check_model(folder: Path, given: Path | None, state: dict[str, Any]) -> str:
    """Compare the weight file; an empty detail means that there was none to compare."""
    path = given or _model_in_workspace(folder, state)
    if path is None or (given is None and not path.is_file()):
        state.setdefault("not_checked", []).append(
            "model file not given: the certificate names the weights by their digest only; give "
            "the file that is in use (--model)"
        )
        return ""
    digest = weights_digest(path)
    certified = "sha256:" + state["statement"]["subject"][0]["digest"]["sha256"]
    if digest != certified:
        _fail(
            f"expected the certified weights {certified}, got {digest}: the file was changed "
            "or is another model"
        )
    return f"{path.name} is the certified model"


def _model_in_workspace(folder: Path, state: dict[str, Any]) -> Path | None:
    if "result-model.json" not in state["bundle"]["files"]:
        return None
    key = _load((folder / "result-model.json").read_bytes()).get("model_key")
    if not isinstance(key, str) or not key or "/" in key or key.startswith("."):
        return None
    return folder.resolve().parent.parent / "models" / key / "weights.safetensors"


_Tensor = tuple[str, list[int], int, int]
"""Type, shape, offset and size in bytes of one tensor."""


def _read_header(file: BinaryIO, file_bytes: int) -> tuple[int, dict[str, _Tensor]]:
    """Return where the data start and the tensors: 8 bytes of length, JSON, spaces, data."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(file_bytes, _MAX_HEADER_BYTES):
        _fail("expected a safetensors file, got a header that is longer than the file")
    raw = file.read(length)
    header = _load(raw)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    if raw != text + b" " * (-len(text) % 8):
        _fail("expected a safetensors header as its library writes it, got another spelling")
    kinds = list(dict.fromkeys(entry["dtype"] for entry in header.values()))

    def place(name: str) -> tuple[int, int, str]:
        kind = header[name]["dtype"]
        return -TENSOR_TYPES[kind][1], kinds.index(kind), name

    if list(header) != sorted(header, key=place):
        _fail("expected tensors in the order of the library, wide types first, got another")
    tensors: dict[str, _Tensor] = {}
    end = 0
    for name, entry in header.items():
        kind, width = TENSOR_TYPES[entry["dtype"]]
        size = width
        for extent in entry["shape"]:
            if type(extent) is not int or extent < 0:
                _fail("expected whole numbers as the shape of a tensor")
            size *= extent
        if len(entry) != 3 or entry["data_offsets"] != [end, end + size]:
            _fail("expected tensors one after the other, got a gap, an overlap or other fields")
        tensors[name] = (kind, entry["shape"], end, size)
        end += size
    if 8 + length + end != file_bytes:
        _fail("expected the file to end with its last tensor, got missing or further bytes")
    return 8 + length, tensors


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
    parser.add_argument("--model", type=Path, help="weight file that is in use")
    parser.add_argument("--head", help="ledger head that was noted elsewhere, sha256:<hex>")
    options = parser.parse_args(arguments)
    for path in (options.certificate, options.public_key, options.ledger, options.model):
        if path is not None and not path.is_file():
            sys.stderr.write(f"expected a file at {path}, got none\n")
            return 2
    if options.head is not None and not _DIGEST.fullmatch(options.head):
        sys.stderr.write("expected --head as sha256: and 64 hex digits in small letters\n")
        return 2
    result = verify_certificate(
        options.certificate,
        public_key_path=options.public_key,
        bundle_dir=options.bundle,
        ledger_path=options.ledger,
        model_path=options.model,
        expected_head=options.head,
    )
    for line in result.not_checked:
        sys.stdout.write(f"not checked: {line}\n")
    if result.ok:
        sys.stdout.write(f"ok: {len(result.checks)} checks hold\n")
        return 0
    sys.stdout.write(f"FAILED {result.problem}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
