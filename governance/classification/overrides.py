"""What persons decided about records: who, why, since when, until when.

Overrides live in a place of their own, ``overrides/``, that no rerun of a classification writes to.
Each line of ``overrides.jsonl`` is one decision or one withdrawal; lines are only ever added.
A classification takes a copy of them, so that what is said while it runs waits for the next one.
Subjects and records are pseudonyms, kept in a file beside it; a stratum is a set of column values;
a review answer names the risk group that the person saw, under the policy that they saw.

* an override ends at its expiry; what has ended is reported and never applied;
* an answer to a review is *superseded* by another policy: shown, and without effect;
* ``high`` beats ``low``; neither beats ``set: high`` or a missing required value (``decisions``).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from governance.classification.conditions import Knowledge
from governance.classification.decisions import HIGH, LOW, OVERRIDE
from governance.digests import digest_json, write_atomic
from governance.errors import DataError, RequestError
from governance.suppression import pseudonym_digests

_NAME = "overrides.jsonl"
_MAX_KEYS = 5_000_000
_KEY = pa.binary(32)
DIRECT = "direct"
"""Instead of an id in the name of a level that persons gave to subjects, records or strata."""

KINDS = ("subject", "records", "stratum", "review")


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """A person's decision about some records.

    Attributes:
        override_id: Short digest of the content.
        kind: ``subject``, ``records``, ``stratum`` or ``review``.
        level: ``high`` or ``low``.
        who: Who decided.
        why: Their reason.
        made_at: When.
        expires_at: From when on it has no effect.
        values: Column -> value of a stratum.
        pattern: Rules of a reviewed risk group.
        policy_digest: Policy under which the group was reviewed.
        n_keys: Number of subjects or records, whose pseudonyms lie in ``<override_id>.parquet``.
        key_id: Name of the key of these pseudonyms; empty: from before keys had names.
    """

    override_id: str
    kind: str
    level: str
    who: str
    why: str
    made_at: datetime
    expires_at: datetime
    values: dict[str, str] | None = None
    pattern: tuple[str, ...] | None = None
    policy_digest: str | None = None
    n_keys: int = 0
    key_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            **asdict(self),
            "made_at": self.made_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "pattern": list(self.pattern) if self.pattern is not None else None,
        }

    @property
    def rule(self) -> str:
        """Name under which it stands among the deciding rules."""
        return f"{OVERRIDE}{self.level}:{self.override_id}"


@dataclass(frozen=True, slots=True)
class Overrides:
    """Overrides in force at one moment, and those that are not.

    Attributes:
        active: In force.
        expired: Ended by their expiry, not withdrawn.
        keys: Override id -> pseudonyms, 32 bytes each.
        policy_digest: Policy of this run.
        superseded: Answers to a review under another policy; they have no effect under this one.
        answers: Rules of a reviewed group -> names of the answers that persons gave for it.
    """

    active: tuple[Override, ...] = ()
    expired: tuple[Override, ...] = ()
    keys: dict[str, pa.Array] | None = None
    policy_digest: str = ""
    superseded: tuple[Override, ...] = ()
    answers: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def with_review_answers(self, pattern: tuple[str, ...]) -> tuple[str, ...]:
        """Return a pattern with the answers that persons gave for its rules.

        What persons said about single records of the group is not part of what was reviewed, so
        that the answer outlives another override and its expiry.
        """
        return tuple(sorted({*pattern, *self.answers.get(_rules_of(pattern), ())}))


def match_overrides(
    rows: pa.Table, overrides: Overrides, knowledge: Knowledge
) -> dict[str, np.ndarray]:
    """Return where persons said high and low, by one name for each level.

    One name for all overrides of a level keeps memory and patterns small, however many there are;
    ``find_applied`` tells which ones hold for a record.
    """
    hits: dict[str, np.ndarray] = {}
    columns = {"subject": knowledge.subject_id, "records": knowledge.record_id}
    pseudonyms: dict[str, list[pa.Array]] = {}
    for level in (HIGH, LOW):
        mine = [o for o in overrides.active if o.level == level and o.kind != "review"]
        if not mine:
            continue
        hit = np.zeros(rows.num_rows, dtype=bool)
        for kind, column in columns.items():
            keys = [(overrides.keys or {})[o.override_id] for o in mine if o.kind == kind]
            if not keys:
                continue
            if kind not in pseudonyms:
                pseudonyms[kind] = _pseudonyms(rows[column], kind, knowledge)
            wanted = pa.concat_arrays(keys)
            for ours in pseudonyms[kind]:
                hit |= pc.is_in(ours, value_set=wanted).to_numpy(zero_copy_only=False)
        for names, values in _strata(mine).items():
            hit |= _in_strata(rows, names, values)
        hits[f"{OVERRIDE}{level}:{DIRECT}"] = hit
    return hits


def find_applied(row: pa.Table, overrides: Overrides, knowledge: Knowledge) -> dict[str, list[str]]:
    """Return level -> ids of the overrides, other than review answers, that hold for one row."""
    found: dict[str, list[str]] = {HIGH: [], LOW: []}
    columns = {"subject": knowledge.subject_id, "records": knowledge.record_id}
    for override in overrides.active:
        if override.kind in columns:
            ours = _pseudonyms(row[columns[override.kind]], override.kind, knowledge)
            keys = (overrides.keys or {})[override.override_id]
            holds = any(pc.is_in(one, value_set=keys)[0].as_py() for one in ours)
        else:
            strata = _strata([override] if override.kind == "stratum" else [])
            holds = any(_in_strata(row, names, wanted)[0] for names, wanted in strata.items())
        if holds:
            found[override.level].append(override.override_id)
    return found


def find_strata(rows: pa.Table, overrides: Overrides) -> set[str]:
    """Return the ids of the overrides of a stratum that hold for at least one of the rows."""
    mine = [override for override in overrides.active if override.kind == "stratum"]
    present: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for names, wanted in _strata(mine).items():
        goal, code = _stratum_codes(rows, names, wanted)
        hits = np.isin(goal, code).tolist()
        present |= {(names, values) for values, hit in zip(wanted, hits, strict=True) if hit}
    return {o.override_id for o in mine if _stratum(o) in present}


def add_override(
    folder: Path,
    *,
    kind: str,
    level: str,
    who: str,
    why: str,
    made_at: datetime,
    expires_at: datetime,
    keys: np.ndarray | None = None,
    values: dict[str, str] | None = None,
    pattern: Sequence[str] | None = None,
    policy_digest: str | None = None,
    key_id: str = "",
) -> Override:
    """Store a decision durably and return it; the same decision again changes nothing.

    Args:
        folder: Folder of the overrides.
        kind: One of ``KINDS``.
        level: ``high`` or ``low``.
        who: Who decided; not empty.
        why: Reason; not empty.
        made_at: Now, timezone-aware.
        expires_at: End; every override has one.
        keys: uint8 ``[n, 32]``, pseudonyms of a subject or of records.
        values: Column -> value, of a stratum.
        pattern: Rules of a reviewed group.
        policy_digest: Policy of the review.
        key_id: Name of the key of the pseudonyms.

    Raises:
        RequestError: Something is missing or malformed.
    """
    _require_complete(kind, level, who, why, made_at, expires_at, keys, values, pattern)
    n_keys = 0 if keys is None else len(keys)
    content = {
        "kind": kind,
        "level": level,
        "who": who,
        "why": why,
        "expires_at": expires_at.isoformat(),
        "values": values,
        "pattern": sorted(pattern) if pattern is not None else None,
        "policy_digest": policy_digest,
        "keys": digest_json([key.tobytes().hex() for key in keys]) if keys is not None else None,
    }
    override = Override(
        override_id=digest_json(content)[7:19],
        kind=kind,
        level=level,
        who=who,
        why=why,
        made_at=made_at,
        expires_at=expires_at,
        values=values,
        pattern=tuple(sorted(pattern)) if pattern is not None else None,
        policy_digest=policy_digest,
        n_keys=n_keys,
        key_id=key_id if n_keys else "",
    )
    with _locked(folder):
        known, withdrawn = _read(folder / _NAME)
        if override.override_id in known and override.override_id not in withdrawn:
            return known[override.override_id]
        if keys is not None:
            path = folder / f"{override.override_id}.parquet"
            pq.write_table(pa.table({"key": _keys(keys)}), path)
            path.chmod(0o600)
        _append(folder, {"did": "add", **override.to_dict()})
    return override


def withdraw_override(folder: Path, override_id: str, *, who: str, why: str, at: datetime) -> None:
    """End an override before its expiry; the line that made it stays.

    Raises:
        RequestError: There is no such override in force.
    """
    with _locked(folder):
        known, withdrawn = _read(folder / _NAME)
        if override_id not in known or override_id in withdrawn:
            message = f"override {override_id}: expected one that is in force, got none"
            raise RequestError(message)
        line = {"did": "withdraw", "override_id": override_id, "who": who, "why": why}
        _append(folder, {**line, "at": at.isoformat()})


def copy_overrides(folder: Path, copy: Path) -> None:
    """Keep the decisions and withdrawals until now; the pseudonyms stay where they are."""
    with _locked(folder):
        path = folder / _NAME
        write_atomic(copy, path.read_bytes() if path.exists() else b"", mode=0o600)


def load_overrides(
    folder: Path, *, now: datetime, policy_digest: str, copy: Path | None = None
) -> Overrides:
    """Return what is in force, what has expired, and answers under another policy.

    Args:
        folder: Folder of the overrides.
        now: Moment by which they have expired or not.
        policy_digest: Policy under which an answer to a review holds.
        copy: From ``copy_overrides``: what was said later does not count.

    Raises:
        DataError: The copy is gone.
    """
    if copy is not None and not copy.exists():
        message = "overrides: expected the copy of a run, got none; start a new run"
        raise DataError(message)
    known, withdrawn = _read(folder / _NAME if copy is None else copy)
    mine = [override for name, override in sorted(known.items()) if name not in withdrawn]
    lasting = [override for override in mine if override.expires_at > now]
    other = [o for o in lasting if o.kind == "review" and o.policy_digest != policy_digest]
    active = tuple(o for o in lasting if o.kind != "review" or o.policy_digest == policy_digest)
    answers: dict[tuple[str, ...], tuple[str, ...]] = {}
    for override in active:
        if override.kind == "review":
            rules = _rules_of(override.pattern or ())
            answers[rules] = (*answers.get(rules, ()), override.rule)
    keys = {
        override.override_id: pq.read_table(folder / f"{override.override_id}.parquet")["key"]
        .cast(_KEY)
        .combine_chunks()
        for override in active
        if override.n_keys
    }
    expired = tuple(override for override in mine if override.expires_at <= now)
    return Overrides(active, expired, keys, policy_digest, tuple(other), answers)


def _rules_of(pattern: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in pattern if not name.startswith(OVERRIDE)))


def _require_complete(
    kind: str,
    level: str,
    who: str,
    why: str,
    made_at: datetime,
    expires_at: datetime,
    keys: np.ndarray | None,
    values: dict[str, str] | None,
    pattern: Sequence[str] | None,
) -> None:
    problems = []
    if kind not in KINDS:
        problems.append(f"expected a kind of {', '.join(KINDS)}, got {kind}")
    if level not in {HIGH, LOW}:
        problems.append(f"expected level high or low, got {level}")
    if not who.strip() or not why.strip():
        problems.append("expected who decided and why, got an empty one")
    if expires_at <= made_at:
        problems.append("expected an expiry in the future")
    needed = {"subject": keys, "records": keys, "stratum": values, "review": pattern}
    target = needed.get(kind)
    if target is None or len(target) == 0:
        problems.append("expected something that it is about, got nothing")
    elif keys is not None and len(keys) > _MAX_KEYS:
        problems.append(f"expected at most {_MAX_KEYS} records, got {len(keys)}; use a stratum")
    if problems:
        message = "override: " + "; ".join(problems)
        raise RequestError(message)


def _pseudonyms(column: pa.ChunkedArray, kind: str, knowledge: Knowledge) -> list[pa.Array]:
    """Return the pseudonyms of a column under each key."""
    of = "subject" if kind == "subject" else "record"
    return [_keys(pseudonym_digests(key, of, column)) for key in knowledge.pseudonym_keys]


def _strata(overrides: Sequence[Override]) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns -> the tuples of their values that somebody decided about."""
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for override in overrides:
        if override.kind == "stratum":
            names, values = _stratum(override)
            found.setdefault(names, []).append(values)
    return found


def _stratum(override: Override) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of a stratum and their values, by column."""
    values = dict(sorted((override.values or {}).items()))
    return tuple(values), tuple(values.values())


def _in_strata(
    rows: pa.Table, names: tuple[str, ...], wanted: Sequence[tuple[str, ...]]
) -> np.ndarray:
    """Return the rows whose values are one of the wanted tuples."""
    goal, code = _stratum_codes(rows, names, wanted)
    found: np.ndarray = np.isin(code, goal)
    return found


def _stratum_codes(
    rows: pa.Table, names: tuple[str, ...], wanted: Sequence[tuple[str, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for each wanted tuple and for each row, in one pass for each column."""
    code = np.zeros(rows.num_rows, dtype=np.int64)
    goal = np.zeros(len(wanted), dtype=np.int64)
    for place, name in enumerate(names):
        if name not in rows.column_names:
            message = f"override of a stratum: expected a column '{name}', got none; withdraw it"
            raise DataError(message)
        mine = pa.array([values[place] for values in wanted], pa.string())
        known = mine.unique()
        at = pc.index_in(rows[name].cast(pa.string()), value_set=known)
        number = pc.fill_null(at, len(known)).to_numpy().astype(np.int64)
        # Renumbered at each column, codes stay below rows x values and cannot overflow.
        _, both = np.unique(np.concatenate([goal, code]), return_inverse=True)
        goal, code = both[: len(goal)], both[len(goal) :]
        code = code * (len(known) + 1) + number
        goal = goal * (len(known) + 1) + pc.index_in(mine, value_set=known).to_numpy()
    return goal, code


def _keys(digests: np.ndarray) -> pa.Array:
    content = pa.py_buffer(np.ascontiguousarray(digests))
    return pa.FixedSizeBinaryArray.from_buffers(_KEY, len(digests), [None, content])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _append(folder: Path, line: dict[str, Any]) -> None:
    handle = os.open(folder / _NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        os.fchmod(handle, 0o600)  # also of a file that an earlier version made
        file.write(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> tuple[dict[str, Override], set[str]]:
    known: dict[str, Override] = {}
    withdrawn: set[str] = set()
    if not path.exists():
        return known, withdrawn
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line.pop("did") == "withdraw":
            withdrawn.add(line["override_id"])
            continue
        withdrawn.discard(line["override_id"])
        for name in ("made_at", "expires_at"):
            line[name] = datetime.fromisoformat(line[name]).astimezone(UTC)
        if line["pattern"] is not None:
            line["pattern"] = tuple(line["pattern"])
        known[line["override_id"]] = Override(**line)
    return known, withdrawn
