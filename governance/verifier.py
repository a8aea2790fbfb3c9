"""Stand-alone verifier of erasure certificates: the standard library and ``cryptography`` only.

    python -m governance.verifier CERTIFICATE... --public-key KEY --bundle FOLDER --ledger FILE
        --model WEIGHTS --head DIGEST --request ID --proof FILE --json

An auditor runs it offline on their own machine; a copy of this one file is enough, so it is one
file and longer than others. ``docs/verify.md`` says what each check means and what none shows.
Checked, in this order:

``signature``   the DSSE envelope, by the given key or one that the ledger chains to it;
``statement``   types and fields, and that it is about the request that was asked for;
``inclusion``   the request is under the root of the sealed bundle;
``bundle``      every file of the bundle has its digest;
``evidence``    claim, verdict, conditions and controls, computed again from the stated numbers;
``records``     rows of the tables and records of the model: A1 = A0 - B0, B1 = 0, C1 = C0;
``ledger``      an unbroken, signed chain that tells the steps of the batch in their order, and
                holds the head that was noted elsewhere;
``model``       the weight file is the certified model, byte for byte;
``proof``       a record is under the manifest before, and not under the one after.

Lines that were cut off the end of a ledger leave a whole chain: only a head that was noted outside
of it (the report and MLflow's parameters repeat it) shows them. A run says what it did not check.

Exit code 0: all checks hold. 1: one failed; the line says which. 2: something could not be read.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://ready2unlearn.dev/erasure/v2"
"""What certificates say today; those of version 1 are verified for ever."""
PREDICATE_TYPE_1 = "https://ready2unlearn.dev/erasure/v1"
BUNDLE_OF_PREDICATE = {PREDICATE_TYPE_1: "r2u-bundle/1", PREDICATE_TYPE: "r2u-bundle/2"}
GENESIS = "sha256:" + "0" * 64
ROTATION = "key_rotated"
LEDGER_FIELDS = ("seq", "at", "kind", "body", "previous", "digest", "signature")
CLAIM_OF_LANE = {"approximate": "approximate", "replay": "exact", "retrain": "exact"}
REQUEST_FIELDS = (
    "request_id",
    "outcome",
    "claim",
    "lane",
    "received_at",
    "due_at",
    "answered_at",
)
_PREDICATE_1 = frozenset(
    {
        *REQUEST_FIELDS,
        "batch_id",
        "tests",
        "what_it_does_not_show",
        "bundle_root",
        "bundle_digest",
        "salt",
        "proof",
        "ledger_entry",
    }
)
PREDICATE_FIELDS = {
    PREDICATE_TYPE_1: _PREDICATE_1,
    PREDICATE_TYPE: _PREDICATE_1 | {"what_was_tested", "records", "model", "parent"},
}

SINGLE_CONDITIONS = ("shift", "spread", "likelihood", "retain_accuracy", "test_accuracy")
POOL_CONDITIONS = ("pool_shift", "pool_spread", "pool_likelihood")
EVIDENCE_SCHEMAS = ("r2u-evidence/2", "r2u-evidence/3")
"""Both hold the same conditions and controls; 3 has power controls that are harder to pass (2 let
pass a model that forgot one half) and metrics that decide nothing."""

POWER_FACTOR = 0.01
"""The original, and a pool that forgot one half, must fail at a hundredth of the level."""
EXACT_ERROR_FACTOR = 0.1
"""An exact claim rests on how the model was made; its test alarms at a tenth of the level."""
MAX_ERROR_LEVEL = 0.2
CONTROL_LEVEL = 0.01
"""Second retrains are rejected too often when chance alone would do so less than this often."""

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        checks = [{"check": c, "ok": passed, "detail": detail} for c, passed, detail in self.checks]
        return {"ok": self.ok, "checks": checks, "not_checked": self.not_checked}


@dataclass(frozen=True)
class Chain:
    """A ledger whose numbering, links, digests and signatures hold.

    Attributes:
        entries: All entries, in order.
        digests: Digest of each entry.
        keys: First entry that each key signs, and its PEM, in order.
    """

    entries: list[dict[str, Any]]
    digests: dict[str, int]
    keys: list[tuple[int, bytes]]

    @property
    def head(self) -> str:
        """Digest of the last entry."""
        return str(self.entries[-1]["digest"]) if self.entries else GENESIS

    def key_at(self, seq: int) -> int:
        """Return the index of the key that signs an entry."""
        return max(index for index, (first, _) in enumerate(self.keys) if first <= seq)


def verify_certificate(
    path: Path,
    *,
    public_key_path: Path,
    bundle_dir: Path | None = None,
    ledger_path: Path | None = None,
    model_path: Path | None = None,
    expected_head: str | None = None,
    request_id: str | None = None,
    proof_path: Path | None = None,
    cache: dict[str, Any] | None = None,
) -> VerificationResult:
    """Verify a certificate; stops at the first check that fails.

    Args:
        path: Certificate, a DSSE envelope.
        public_key_path: Ed25519 public key as PEM, obtained apart from the certificate.
        bundle_dir: Folder of the batch with ``bundle.json``; default: the certificate's parent's.
        ledger_path: Ledger file; default: where the workspace keeps it.
        model_path: Weight file; default: where the workspace keeps the promoted model, if there.
        expected_head: ``sha256:<hex>`` of a ledger head that was noted elsewhere.
        request_id: The request it has to be about; default: the one its file is named after.
        proof_path: Proof about a record, made by ``r2u prove``.
        cache: Keeps the ledger and weight digests between certificates of one run, in which the
            files must not change.

    Returns:
        The outcome; a file that is missing or malformed is a failed check, not an exception.
    """
    folder = bundle_dir or path.resolve().parent.parent
    ledger = ledger_path or folder.resolve().parent.parent / "ledger.jsonl"
    result = VerificationResult()
    state: dict[str, Any] = {
        "expected_head": expected_head,
        "request_id": request_id or path.stem,
        "not_checked": result.not_checked,
        "cache": {} if cache is None else cache,
    }
    steps: list[tuple[str, Callable[[], str]]] = [
        ("signature", lambda: _check_signature(path, public_key_path, ledger, state)),
        ("statement", lambda: _check_statement(state)),
        ("inclusion", lambda: _check_inclusion(state)),
        ("bundle", lambda: _check_bundle(folder, state)),
        ("evidence", lambda: _check_evidence(folder, state)),
        ("records", lambda: _check_records(folder, state)),
        ("ledger", lambda: _check_ledger(ledger, folder, state)),
        ("model", lambda: _check_model(folder, model_path, state)),
        ("proof", lambda: _check_proof(folder, proof_path, state)),
    ]
    for name, step in steps:
        try:
            detail = step()
        except CheckFailedError as error:
            result.checks.append((name, False, str(error)))
            result.ok = False
            break
        except FileNotFoundError as error:
            missing = Path(str(error.filename)).name
            result.checks.append((name, False, f"expected the file {missing}, got none"))
            result.ok = False
            break
        except _MALFORMED as error:
            detail = f"expected a well-formed file, got {type(error).__name__}"
            result.checks.append((name, False, detail))
            result.ok = False
            break
        if detail:
            result.checks.append((name, True, detail))
    return result


_MALFORMED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    UnsupportedAlgorithm,
)


def read_chain(path: Path, trusted_pem: bytes, *, torn: bool = False) -> Chain:
    """Read a ledger, and check it under a key that is trusted.

    The trusted key may be any that the ledger knew: an entry of kind ``key_rotated``, signed by the
    old key, holds the new key and its signature over the head before. So an old key leads to the
    new ones, and a new one vouches for all that was there when it came.

    Args:
        path: Ledger file.
        trusted_pem: Public key.
        torn: Leave out a last line without its end, as a crash or a running append makes it.

    Raises:
        CheckFailedError: The chain is broken, or the key is not one of its keys.
        OSError: The file cannot be read.
    """
    trusted_pem = normal_pem(trusted_pem)
    lines = path.read_bytes().split(b"\n")
    if lines[-1] != b"" and not torn:
        _fail("the last line is torn; a crash leaves that, and the next entry sets it aside")
    entries = [_load(line) for line in lines[:-1]]
    first = next((e["body"]["old_key"].encode() for e in entries if e["kind"] == ROTATION), None)
    keys = [(0, trusted_pem if first is None else first)]
    key = public_key(keys[0][1])
    previous, digests = GENESIS, {}
    for number, (line, entry) in enumerate(zip(lines, entries, strict=False)):
        problem = entry_problem(line, entry, number=number, previous=previous, key=key)
        if problem is not None:
            _fail(f"line {number + 1}: {problem}")
        if entry["kind"] == ROTATION:
            if entry["body"]["old_key"].encode() != keys[-1][1]:
                _fail(f"line {number + 1}: a key was introduced by a key that was not in use")
            key = _introduced_key(entry, previous, number)
            keys.append((number + 1, entry["body"]["new_key"].encode()))
        previous = entry["digest"]
        digests[previous] = number
    if trusted_pem not in [pem for _, pem in keys]:
        _fail("the ledger was signed by another key, and no entry leads from it to the given one")
    return Chain(entries, digests, keys)


def entry_problem(
    line: bytes, entry: dict[str, Any], *, number: int, previous: str, key: Ed25519PublicKey
) -> str | None:
    """Return what is wrong with one line of a ledger, None when nothing is."""
    if set(entry) != set(LEDGER_FIELDS) or canonical(entry) != line:
        return "expected a ledger entry in canonical form"
    if entry["seq"] != number or entry["previous"] != previous:
        return "entries were removed, repeated or reordered"
    signed = {name: entry[name] for name in LEDGER_FIELDS[:5]}
    if sha256(canonical(signed)) != entry["digest"]:
        return "content does not match its digest"
    signature = bytes.fromhex(entry["signature"])
    if signature.hex() != entry["signature"]:
        return "the signature is not in canonical form"
    try:
        key.verify(signature, entry["digest"].encode())
    except InvalidSignature:
        return "the signature does not hold"
    return None


def rotation_message(previous: str, new_pem: str) -> bytes:
    """Return what a new key signs to vouch for the ledger up to the entry that introduces it."""
    return b"r2u-key-rotation/1\n" + previous.encode() + b"\n" + new_pem.encode()


def public_key(pem: bytes) -> Ed25519PublicKey:
    """Return the key of a PEM.

    Raises:
        CheckFailedError: It is no Ed25519 public key.
    """
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        _fail("expected an Ed25519 public key")
        raise AssertionError
    return key


def normal_pem(pem: bytes) -> bytes:
    """Return a public key as PEM in its one spelling: a copy may have other line ends.

    Raises:
        CheckFailedError: It is no Ed25519 public key.
    """
    return public_key(pem).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def verify_inclusion(leaf: bytes, proof: Sequence[Sequence[str]], root: str) -> bool:
    """Return whether a leaf is under the root of an RFC 6962 tree.

    Args:
        leaf: 32 bytes.
        proof: Siblings from the leaf to the root as ``('left' | 'right', hex)``.
        root: ``sha256:<hex>``.
    """
    value = leaf
    for side, sibling in proof:
        other = bytes.fromhex(sibling)
        if side not in {"left", "right"}:
            return False
        value = merkle_node(other, value) if side == "left" else merkle_node(value, other)
    return "sha256:" + value.hex() == root


def stands_at(leaf: bytes, index: int, proof: Sequence[Sequence[str]], root: str, n: int) -> bool:
    """Return whether a leaf is at an index of a tree of n: the sides of its proof tell the place.

    The sides alone do not tell the size of the tree; the root of a manifest is bound together with
    its number of records.
    """
    sides, position, size = [], index, n
    if type(index) is not int or type(n) is not int or not 0 <= index < n:
        return False
    while size > 1:
        if position ^ 1 < size:
            sides.append("left" if position & 1 else "right")
        position, size = position // 2, (size + 1) // 2
    return [side for side, _ in proof] == sides and verify_inclusion(leaf, proof, root)


def verify_absence(leaf: bytes, proof: dict[str, Any], *, root: str, n_leaves: int) -> bool:
    """Return whether two neighbours show that no leaf of a sorted tree has this value.

    Args:
        leaf: Value that should not be there.
        proof: ``left`` and ``right``, each None or ``{"index", "leaf", "proof"}``.
        root: Root of the tree.
        n_leaves: Number of leaves that the manifest states.
    """
    left, right = proof["left"], proof["right"]
    if left is None and right is None:
        return n_leaves == 0 and root == sha256(b"")
    for side in (left, right):
        if side is not None and not stands_at(
            bytes.fromhex(side["leaf"]), side["index"], side["proof"], root, n_leaves
        ):
            return False
    if left is None:
        return bool(right["index"] == 0 and leaf < bytes.fromhex(right["leaf"]))
    if right is None:
        return bool(left["index"] == n_leaves - 1 and bytes.fromhex(left["leaf"]) < leaf)
    inside = bytes.fromhex(left["leaf"]) < leaf < bytes.fromhex(right["leaf"])
    return bool(inside and right["index"] == left["index"] + 1)


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


def sha256(data: bytes) -> str:
    """Return ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _check_signature(path: Path, public_key_path: Path, ledger: Path, state: dict[str, Any]) -> str:
    data = path.read_bytes()
    envelope = _load(data)
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
    trusted = state["trusted"] = normal_pem(public_key_path.read_bytes())
    pem = _key_of(signature["keyid"], trusted, ledger, state)
    try:
        public_key(pem).verify(raw, pre_authentication_encoding(payload))
    except InvalidSignature:
        _fail("the signature does not hold: the certificate was changed")
    statement = _load(payload)
    if canonical(statement) != payload:
        _fail("the statement is not in canonical form")
    if canonical(envelope) + b"\n" != data:
        _fail("the envelope is not in canonical form")
    state.update(pem=pem, statement=statement, predicate=statement.get("predicate", {}))
    how = "" if pem == trusted else ", by a key that the ledger chains to the given one"
    return f"Ed25519 signature holds{how}"


def _key_of(keyid: str, trusted: bytes, ledger: Path, state: dict[str, Any]) -> bytes:
    """Return the key with this id: the trusted one, or one that the ledger chains to it."""
    if keyid == sha256(trusted):
        return trusted
    try:
        known = [pem for _, pem in _chain(ledger, state).keys]
    except (CheckFailedError, *_MALFORMED) as error:
        _fail(f"the certificate was signed by another key, and the ledger does not help: {error}")
    found = [pem for pem in known if sha256(pem) == keyid]
    if not found:
        _fail("the certificate was signed by another key")
    return found[0]


def _check_statement(state: dict[str, Any]) -> str:
    statement, predicate = state["statement"], state["predicate"]
    if set(statement) != {"_type", "subject", "predicateType", "predicate"}:
        _fail("unknown or missing fields in the statement")
    kind = statement["predicateType"]
    if statement["_type"] != STATEMENT_TYPE or kind not in PREDICATE_FIELDS:
        _fail("expected an erasure statement of version 1 or 2")
    if set(predicate) != PREDICATE_FIELDS[kind]:
        _fail("unknown or missing fields in the predicate")
    if predicate["request_id"] != state["request_id"]:
        _fail(f"expected request {state['request_id']}, got a certificate of another request")
    if predicate["outcome"] != "forgotten":
        _fail("only a forgotten request has a certificate")
    if CLAIM_OF_LANE.get(predicate["lane"]) != predicate["claim"]:
        _fail("the claim does not follow from the lane")
    if kind == PREDICATE_TYPE_1:
        state["not_checked"].append(
            "a statement of version 1: it holds no numbers to compute the conditions and controls "
            "from again, and no manifests to compare; the stated outcomes are checked"
        )
    return f"request {predicate['request_id']}: {predicate['claim']}, by lane {predicate['lane']}"


def _check_inclusion(state: dict[str, Any]) -> str:
    predicate = state["predicate"]
    leaf = request_leaf(predicate["salt"], {name: predicate[name] for name in REQUEST_FIELDS})
    if not verify_inclusion(leaf, predicate["proof"], predicate["bundle_root"]):
        _fail("the request is not in the sealed bundle")
    return "request is under the bundle's root"


def _check_bundle(folder: Path, state: dict[str, Any]) -> str:
    data = (folder / "bundle.json").read_bytes()
    predicate = state["predicate"]
    if sha256(data) != predicate["bundle_digest"]:
        _fail("bundle.json was changed, or the certificate belongs to another bundle")
    bundle = _load(data)
    if set(bundle) != {"schema", "batch_id", "files", "request_leaves", "root"}:
        _fail("unknown or missing fields in bundle.json")
    if bundle["schema"] != BUNDLE_OF_PREDICATE[state["statement"]["predicateType"]]:
        _fail("bundle.json has another version than the certificate")
    if bundle["batch_id"] != predicate["batch_id"] or bundle["root"] != predicate["bundle_root"]:
        _fail("the certificate belongs to another bundle")
    leaves = [file_leaf(name, digest) for name, digest in sorted(bundle["files"].items())]
    leaves += [bytes.fromhex(leaf) for leaf in bundle["request_leaves"]]
    if _root(leaves) != bundle["root"]:
        _fail("bundle.json does not match its root")
    for name, digest in bundle["files"].items():
        if "/" in name or "\\" in name or name.startswith("."):
            _fail("a file of the bundle lies outside of its folder")
        if sha256((folder / name).read_bytes()) != digest:
            _fail(f"{name} was changed after it was sealed")
    if canonical(bundle) + b"\n" != data:
        _fail("bundle.json is not in canonical form")
    state["bundle"] = bundle
    return f"{len(bundle['files'])} files have their digests"


def _check_evidence(folder: Path, state: dict[str, Any]) -> str:
    predicate, tests = state["predicate"], state["predicate"]["tests"]
    evidence = _load(_sealed(folder, tests["evidence_file"], state))
    plan = _load(_sealed(folder, "plan.json", state))
    state.update(evidence=evidence, plan=plan)
    if predicate["request_id"] not in plan["requests"]:
        _fail("the plan does not name the request")
    if evidence["verdict"] != "accept" or tests["verdict"] != "accept":
        _fail("the verdict of the evidence is not 'accept'")
    if evidence["claim"] != predicate["claim"] or evidence["lane"] != predicate["lane"]:
        _fail("claim or lane differ from the evidence")
    weights = evidence["lineage"]["weights_digest"]
    subject = [{"name": "model", "digest": {"sha256": weights.removeprefix("sha256:")}}]
    if state["statement"]["subject"] != subject or tests["weights_digest"] != weights:
        _fail("the certified model is not the tested one")
    if tests["controls"] != evidence.get("controls", {}):
        _fail("the controls of the certificate are not those of the evidence")
    if state["statement"]["predicateType"] == PREDICATE_TYPE_1:
        return _check_stated_outcomes(evidence, predicate["claim"])
    return _check_thresholds(evidence, plan, predicate)


def _check_stated_outcomes(evidence: dict[str, Any], claim: str) -> str:
    """Check what evidence of version 1 states: its p-values are rounded, its controls bare."""
    conditions, controls = evidence.get("conditions", []), evidence.get("controls", {})
    if any(c["passed"] is not True or c["adjusted_p"] <= evidence["alpha"] for c in conditions):
        _fail("a tested condition is not met")
    names = ("original_fails", "second_retrain_passes", "random_fails")
    all_hold = all(controls.get(name) is True for name in names)
    if claim == "approximate" and not (conditions and all_hold):
        _fail("an approximate claim needs conditions and controls that all hold")
    if evidence["n_forget"] and controls.get("second_retrain_passes") is not True:
        _fail("the control with retrained models does not hold")
    return f"verdict accept, {len(conditions)} conditions met"


def _check_thresholds(
    evidence: dict[str, Any], plan: dict[str, Any], predicate: dict[str, Any]
) -> str:
    """Compute conditions and controls again from the stated numbers."""
    _check_plan(evidence, plan)
    lineage, n_forget = evidence["lineage"], evidence["n_forget"]
    if n_forget == 0:
        same = lineage["weights_digest"] == plan["parent_weights_digest"]
        if plan["n_trained_records"] or predicate["lane"] != "replay" or not same:
            _fail("no record was tested, and the model is not the one that never knew any")
        return "the model never saw the records; nothing had to be tested"
    _check_parent(lineage, plan)
    exact = predicate["claim"] == "exact"
    numbers = evidence["control_numbers"]
    level = _probability(numbers["error_level"])
    if not 0 < level <= MAX_ERROR_LEVEL:
        _fail(f"expected an error level of at most {MAX_ERROR_LEVEL}, got {level}")
    if evidence["alpha"] != level * (EXACT_ERROR_FACTOR if exact else 1.0):
        _fail("the level of the conditions does not follow from the error level")
    _check_conditions(evidence, exact=exact)
    controls = _recomputed_controls(numbers, evidence["pools"], evidence["schema"])
    if controls != evidence["controls"]:
        _fail("a control does not follow from its numbers")
    needed = controls if not exact else {n: controls[n] for n in controls if n != "original_fails"}
    if not all(needed.values()):
        void = ", ".join(name for name, holds in needed.items() if not holds)
        _fail(f"a control of the forgetting test does not hold: {void}")
    if sum(evidence["statuses"].values()) != n_forget:
        _fail("the records of the evidence do not add up")
    if evidence["schema"] != "r2u-evidence/2" and len(evidence["records"]) != n_forget:
        _fail("the evidence has not one line for each record")
    return (
        f"verdict accept: {len(evidence['conditions'])} conditions and "
        f"{len(controls)} controls follow from their numbers"
    )


def _check_plan(evidence: dict[str, Any], plan: dict[str, Any]) -> None:
    if evidence["schema"] not in EVIDENCE_SCHEMAS:
        _fail("expected evidence of version 2 or 3")
    if plan["plan_digest"] != sha256(
        canonical({name: value for name, value in plan.items() if name != "plan_digest"})
    ):
        _fail("the plan does not match its digest")


def _check_parent(lineage: dict[str, Any], plan: dict[str, Any]) -> None:
    if lineage["weights_digest"] == plan["parent_weights_digest"]:
        _fail("the certified model is the one that knew the records: nothing was changed")
    for name in ("weights_digest", "manifest_root"):
        if lineage[f"parent_{name}"] != plan[f"parent_{name}"]:
            _fail("the evidence is about another original model than the plan")


def _check_conditions(evidence: dict[str, Any], *, exact: bool) -> None:
    conditions = evidence["conditions"]
    names = [condition["name"] for condition in conditions]
    wanted = {*SINGLE_CONDITIONS, *(() if exact else POOL_CONDITIONS)}
    if len(set(names)) != len(names) or not wanted <= set(names):
        _fail("a condition of the forgetting test is missing or stands twice")
    p_values = [_probability(condition["p_value"]) for condition in conditions]
    for condition, adjusted in zip(conditions, holm(p_values), strict=True):
        if condition["adjusted_p"] != adjusted:
            _fail(f"condition {condition['name']}: the adjusted p-value does not follow")
        if condition["passed"] is not (adjusted > evidence["alpha"]):
            _fail(f"condition {condition['name']}: the outcome does not follow from its p-value")
        if not condition["passed"]:
            _fail(f"a tested condition is not met: {condition['name']}")


def _recomputed_controls(
    numbers: dict[str, Any], pools: dict[str, Any], schema: str
) -> dict[str, bool]:
    level = numbers["error_level"]
    rejected, n = numbers["second_retrain_rejected"], numbers["second_retrain_models"]
    if n != pools["second_retrain"]["n"] or not 0 <= rejected <= n:
        _fail("the second retrains of the control are not those of the pool")
    terms = (math.comb(n, k) * level**k * (1 - level) ** (n - k) for k in range(rejected, n + 1))
    original, apart = (
        _probability(numbers[name]) for name in ("original_adjusted_p", "original_pool_p")
    )
    if schema == "r2u-evidence/2":
        has_power = original <= level and apart < level
    else:
        if numbers["power_level"] != level * POWER_FACTOR:
            _fail("the level of the power control does not follow from the error level")
        half = _probability(numbers["half_adjusted_p"])
        has_power = max(original, apart, half) <= numbers["power_level"]
    return {
        "original_fails": has_power,
        "second_retrain_passes": math.fsum(terms) > CONTROL_LEVEL,
        "random_fails": _probability(numbers["random_adjusted_p"]) <= level,
    }


def _probability(value: Any) -> float:
    if type(value) not in {int, float} or not 0 <= value <= 1:
        _fail("expected a probability between 0 and 1")
    return float(value)


def _check_records(folder: Path, state: dict[str, Any]) -> str:
    erasure = _load(_sealed(folder, "erasure.json", state))
    state["erasure"] = erasure
    for table, counts in erasure["tables"].items():
        if _count(counts["after"]) != _count(counts["before"]) - _count(counts["erased"]):
            _fail(f"rows of table {table} do not add up")
        if counts["untouched_digest_before"] != counts["untouched_digest_after"]:
            _fail(f"other rows of table {table} were changed")
        if counts.get("superseded"):
            state["not_checked"].append(
                f"table {table} was loaded anew while it was erased: none of the asked rows is in "
                "it, the rows that had to stay cannot be compared"
            )
    if state["statement"]["predicateType"] == PREDICATE_TYPE_1:
        return f"rows of {len(erasure['tables'])} tables add up"
    for table in ("raw", "classified"):
        if erasure["tables"][table]["asked"] != state["plan"]["n_records"]:
            _fail(f"table {table}: other rows were asked for than planned")
        _check_all_erased(table, erasure["tables"][table])
    members = _load(_sealed(folder, "members.json", state))
    state["members"] = members
    _check_difference(members["difference"], state["plan"], state["evidence"])
    _check_manifests(members, state)
    if state["predicate"]["records"] != stated_records(erasure, members, state["plan"]):
        _fail("the counts of the certificate are not those of the bundle")
    difference = members["difference"]
    return (
        f"rows of {len(erasure['tables'])} tables add up; the model's records are the "
        f"{difference['parent']} of its parent less {difference['asked']}{_told_drift(state)}"
    )


def _check_all_erased(table: str, counts: dict[str, Any]) -> None:
    """Fewer erased rows than asked are explained by a load that took them away, by nothing else."""
    if _count(counts["erased"]) < _count(counts["asked"]) and not counts.get("superseded"):
        _fail(f"table {table}: fewer rows were erased than asked for")


def _told_drift(state: dict[str, Any]) -> str:
    """Name what loads changed in the model's other records; nobody can check why they did."""
    plan = state["plan"]
    changed, gone = plan["drift"]["changed"], plan["drift"]["gone"]
    if not plan["n_trained_records"] or not changed + gone:
        return ""
    drift = f"{changed} other records of the model were changed and {gone} lost by loads before"
    state["not_checked"].append(f"{drift} the erasure, as the plan says: what the loads did")
    return f"; {drift} the erasure"


def _check_difference(
    difference: dict[str, Any], plan: dict[str, Any], evidence: dict[str, Any]
) -> None:
    """A1 = A0 - B0, B1 = 0, C1 = C0, but for what the plan noted before anything was erased."""
    for value in difference.values():
        _count(value)
    asked = plan["n_trained_records"] + (plan.get("n_unfinished_records") or 0)
    if difference["asked"] != (asked if plan["n_trained_records"] else 0):
        _fail("other records were asked of the model than planned")
    # Rows of an unfinished batch before this one are gone: they leave the model untested.
    if evidence["n_forget"] != plan["n_trained_records"]:
        _fail("other records were tested than left the model")
    if difference["asked_left"]:
        _fail(f"{difference['asked_left']} of the erased records are in the certified model")
    drift = plan["drift"] if plan["n_trained_records"] else {"changed": 0, "gone": 0}
    changed, gone = _count(drift["changed"]), _count(drift["gone"])
    if difference["added"] != changed or difference["missing"] != changed + gone:
        _fail("other records of the model than the erased ones were added, lost or changed")
    if difference["child"] != difference["parent"] - difference["asked"] - gone:
        _fail("the records of the model do not add up")


def _check_manifests(members: dict[str, Any], state: dict[str, Any]) -> None:
    plan, lineage, predicate = state["plan"], state["evidence"]["lineage"], state["predicate"]
    parent, child = members["parent"], members["child"]
    if parent["root"] != plan["parent_manifest_root"] or child["root"] != lineage["manifest_root"]:
        _fail("the manifests are those of other models")
    difference = members["difference"]
    if (parent["n_records"], child["n_records"]) != (difference["parent"], difference["child"]):
        _fail("the manifests have other counts than the set difference")
    for manifest, stated in ((parent, predicate["parent"]), (child, predicate["model"])):
        if stated != stated_manifest(manifest):
            _fail("the manifests are not those of the certificate")
        if sum(segment["n_records"] for segment in manifest["segments"]) != manifest["n_records"]:
            _fail("the segments of a manifest do not add up")
    if members["batch_id"] != predicate["batch_id"]:
        _fail("the set difference is that of another batch")
    if predicate["lane"] != "retrain" and plan["n_trained_records"]:
        _check_checkpoints(parent, child, state)


def _check_checkpoints(
    parent: dict[str, Any], child: dict[str, Any], state: dict[str, Any]
) -> None:
    """Weights handed on are those that the parent committed to; a replay began with some of them.

    A model that was run again has own ones for later slices; one that was changed has none.
    """
    replayed = state["predicate"]["lane"] == "replay"
    if "checkpoints" not in child:
        if replayed:
            state["not_checked"].append(
                "the weights that the exact model was trained again from: its manifest, of "
                "version 3, does not name them"
            )
        return
    before, after = parent.get("checkpoints", {}), child["checkpoints"]
    handed_on = set(after)
    if replayed:
        first = state["plan"]["first_segment"]
        handed_on = {number for number in after if int(number) <= first} | {str(first)}
    if not handed_on <= set(after) or any(after[n] != before.get(n) for n in handed_on):
        _fail("the manifests do not name the same weights before the records")


def stated_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a certificate says of a manifest."""
    return {
        "model_key": manifest["model_key"],
        "manifest_root": manifest["root"],
        "manifest_digest": sha256(canonical(manifest)),
        "n_records": manifest["n_records"],
    }


def stated_records(
    erasure: dict[str, Any], members: dict[str, Any], plan: dict[str, Any]
) -> dict[str, Any]:
    """Return the counts that a certificate states: rows of the tables, records of the model."""
    tables = {
        table: {name: counts[name] for name in ("before", "erased", "after")}
        for table, counts in erasure["tables"].items()
    }
    return {"tables": tables, "model": members["difference"], "drift": plan["drift"]}


def _check_ledger(path: Path, folder: Path, state: dict[str, Any]) -> str:
    chain = _chain(path, state)
    predicate = state["predicate"]
    wanted = predicate["ledger_entry"]
    seq = chain.digests.get(wanted["digest"])
    entry = None if seq is None or seq != wanted["seq"] else chain.entries[seq]
    if seq is None or entry is None or entry["kind"] != "bundle_sealed":
        _fail("the ledger does not hold the entry that sealed the bundle")
        raise AssertionError
    if entry["body"].get("bundle_root") != predicate["bundle_root"]:
        _fail("the ledger does not hold the entry that sealed the bundle")
    pems = [pem for _, pem in chain.keys]
    if pems.index(state["pem"]) < chain.key_at(seq):
        _fail("the certificate was signed by a key that was no longer in use")
    if state["statement"]["predicateType"] != PREDICATE_TYPE_1:
        _check_steps(chain.entries[: seq + 1], folder, state)
    n = len(chain.entries)
    head = state["expected_head"]
    if head is None:
        state["not_checked"].append(
            "no ledger head given: lines cut off the end would not show; give one that was noted "
            "elsewhere (--head)"
        )
        return f"{n} entries are an unbroken chain"
    if head not in chain.digests:
        _fail(
            f"expected the head {head} in the chain, got {n} entries without it: lines "
            "were cut off the end, or this is another ledger"
        )
    return f"{n} entries are an unbroken chain, the expected head among them"


def _check_steps(entries: Iterable[dict[str, Any]], folder: Path, state: dict[str, Any]) -> None:
    """Check that the ledger tells the batch, each step after the one before: write, then destroy.

    A step that was interrupted stands twice; one that fits, in its place, is enough.
    """
    predicate, plan, lineage = state["predicate"], state["plan"], state["evidence"]["lineage"]
    batch = predicate["batch_id"]
    steps: list[tuple[str, dict[str, Any]]] = [
        ("batch_planned", {"plan_digest": plan["plan_digest"], "n_records": plan["n_records"]}),
        ("erasure_started", {"plan_digest": plan["plan_digest"], "n_records": plan["n_records"]}),
        ("rows_erased", {"tables": state["erasure"]["tables"]}),
    ]
    if state["evidence"]["n_forget"]:
        file = predicate["tests"]["evidence_file"]
        digest = state["bundle"]["files"][file]
        steps.append(("evidence_recorded", {"evidence_digest": digest, "verdict": "accept"}))
        made = {name: lineage[name] for name in ("weights_digest", "manifest_root")}
        steps.append(("model_unlearned", {**made, "claim": predicate["claim"]}))
    steps.append(("bundle_sealed", {"bundle_digest": predicate["bundle_digest"]}))
    waiting = list(steps)
    for entry in entries:
        kind, content = waiting[0]
        body = entry["body"]
        fits = all(body.get(name) == value for name, value in content.items())
        if entry["kind"] == kind and body.get("batch_id") == batch and fits:
            waiting.pop(0)
        if not waiting:
            return
    _fail(f"the ledger does not tell the step {waiting[0][0]} of the batch in its place")


def _chain(path: Path, state: dict[str, Any]) -> Chain:
    """Return the checked ledger, read once for all certificates of a run."""
    key = f"chain\n{path}\n{sha256(state['trusted'])}"
    if key not in state["cache"]:
        state["cache"][key] = read_chain(path, state["trusted"])
    chain: Chain = state["cache"][key]
    return chain


def _introduced_key(entry: dict[str, Any], previous: str, number: int) -> Ed25519PublicKey:
    body = entry["body"]
    if set(body) != {"old_key", "new_key", "possession"}:
        _fail(f"line {number + 1}: unknown or missing fields in the introduction of a key")
    key = public_key(body["new_key"].encode())
    try:
        key.verify(bytes.fromhex(body["possession"]), rotation_message(previous, body["new_key"]))
    except InvalidSignature:
        _fail(f"line {number + 1}: the new key did not sign its introduction")
    return key


def _check_model(folder: Path, given: Path | None, state: dict[str, Any]) -> str:
    """Compare the weight file; an empty detail means that there was none to compare."""
    path = given or _model_in_workspace(folder, state)
    if path is None or (given is None and not path.is_file()):
        state["not_checked"].append(
            "model file not given, and not in its place (a later batch withdraws it): the "
            "certificate names the weights by their digest; give the file in use (--model)"
        )
        return ""
    key = f"weights\n{path}"
    if key not in state["cache"]:
        state["cache"][key] = weights_digest(path)
    digest = state["cache"][key]
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


def _check_proof(folder: Path, path: Path | None, state: dict[str, Any]) -> str:
    """Check a record's proof against the manifests of the sealed bundle."""
    if path is None:
        return ""
    if "members" not in state:
        _fail("a certificate of version 1 seals no manifests that a proof could be held against")
    proof = _load(path.read_bytes())
    problem = proof_problem(proof)
    if problem is not None:
        _fail(problem)
    before, after = state["members"]["parent"], state["members"]["child"]
    shown = {(s["kind"], s["manifest_root"], s["n_records"]) for s in proof["statements"]}
    if ("inclusion", before["root"], before["n_records"]) not in shown:
        _fail("the proof does not show the record in the model before")
    if ("absence", after["root"], after["n_records"]) not in shown:
        _fail("the proof does not show that the record is not in the model after")
    return "the record's commitment is under the manifest before, and not under the one after"


def proof_problem(proof: dict[str, Any]) -> str | None:
    """Return what is wrong with a proof document (``r2u-proof/1``), None when it holds."""
    if proof["schema"] != "r2u-proof/1" or not proof["statements"]:
        return "expected a proof of version 1 with at least one statement"
    leaf = bytes.fromhex(proof["leaf"])
    if len(leaf) != 32:
        return "expected a commitment of 32 bytes"
    for statement in proof["statements"]:
        root, n, shown = statement["manifest_root"], statement["n_records"], statement["proof"]
        if statement["kind"] == "inclusion":
            holds = stands_at(leaf, statement["index"], shown, root, n)
        elif statement["kind"] == "absence":
            holds = verify_absence(leaf, shown, root=root, n_leaves=n)
        else:
            holds = False
        if not holds:
            return f"the {statement['kind']} in model {statement['model_key']} is not proven"
    return None


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


def _sealed(folder: Path, name: str, state: dict[str, Any]) -> bytes:
    if name not in state["bundle"]["files"]:
        _fail(f"{name} is not part of the bundle")
    return (folder / name).read_bytes()


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        _fail("expected a number of records")
    return int(value)


def _load(data: bytes) -> Any:
    return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _fail("a key stands twice")
    return found


def _no_constant(name: str) -> float:
    _fail(f"expected a finite number, got {name}")
    raise AssertionError


def _fail(message: str) -> None:
    raise CheckFailedError(message)


def find_certificates(paths: Iterable[Path]) -> list[Path]:
    """Return certificate files: a file as it is, of a folder or a pattern all of them, sorted."""
    found: list[Path] = []
    matches = (sorted(map(Path, glob(str(path)))) or [path] for path in paths)
    for path in (match for group in matches for match in group):
        if path.is_dir():
            below = path.glob("*.json") if path.name == "certificates" else []
            found += sorted({*below, *path.rglob("certificates/*.json")})
        else:
            found.append(path)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Verify certificates from the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="verifier", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "certificate", type=Path, nargs="+", help="certificates, or folders of them"
    )
    parser.add_argument("--public-key", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--model", type=Path, help="weight file that is in use")
    parser.add_argument("--head", help="ledger head that was noted elsewhere, sha256:<hex>")
    parser.add_argument("--request", help="request that the certificate has to be about")
    parser.add_argument("--proof", type=Path, help="proof about a record, made by r2u prove")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    options = parser.parse_args(arguments)
    certificates = find_certificates(options.certificate)
    given = (options.public_key, options.ledger, options.model, options.proof)
    for path in (*certificates, *given):
        if path is not None and not path.is_file():
            sys.stderr.write(f"expected a file at {path}, got none\n")
            return 2
    if not certificates:
        sys.stderr.write("expected at least one certificate, got a folder without any\n")
        return 2
    if options.head is not None and not _DIGEST.fullmatch(options.head):
        sys.stderr.write("expected --head as sha256: and 64 hex digits in small letters\n")
        return 2
    if len(certificates) > 1 and (options.request or options.proof):
        sys.stderr.write("expected one certificate with --request or --proof, got several\n")
        return 2
    cache: dict[str, Any] = {}
    results = {
        path: verify_certificate(
            path,
            public_key_path=options.public_key,
            bundle_dir=options.bundle,
            ledger_path=options.ledger,
            model_path=options.model,
            expected_head=options.head,
            request_id=options.request,
            proof_path=options.proof,
            cache=cache,
        )
        for path in certificates
    }
    if options.json:
        listed = [{"certificate": str(p), **result.to_dict()} for p, result in results.items()]
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
    else:
        _print(results)
    return 0 if all(result.ok for result in results.values()) else 1


def _print(results: dict[Path, VerificationResult]) -> None:
    several = len(results) > 1
    for line in dict.fromkeys(line for r in results.values() for line in r.not_checked):
        sys.stdout.write(f"not checked: {line}\n")
    for path, result in results.items():
        name = f" {path}:" if several else ""
        if result.ok:
            sys.stdout.write(f"ok:{name} {len(result.checks)} checks hold\n")
        else:
            sys.stdout.write(f"FAILED{name} {result.problem}\n")


if __name__ == "__main__":
    sys.exit(main())
