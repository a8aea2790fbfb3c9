"""Stage ``review``: what a person should look at, and what they and others decided.

A *review group* is a risk group in the policy's review band: its records matched the same rules.
Until somebody answers, its records count as high. An answer is an override of that group, under
that policy, with an expiry; the next classification applies it. Texts hold ids and counts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from governance import scanner
from governance.classification.decisions import HIGH, LOW
from governance.classification.overrides import (
    Override,
    add_override,
    load_overrides,
    withdraw_override,
)
from governance.classification.runs import RunRecord, latest_run
from governance.errors import RequestError
from governance.policy import load_policy
from governance.suppression import pseudonym_digests
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.context import JSON, StageContext, open_context

ALL_HIGH, ALL_LOW, AS_LISTED, NOT_NOW = "All high", "All low", "As listed", "Not now"
"""Options of the human-in-the-loop task; the last is taken when nobody answers in time."""

_MAX_LISTED = 20
_TOLD_BY_VALUE = ("email", "iban", "card")
_COARSE = frozenset(
    {
        "user.contact.address.country",
        "user.contact.address.state",
        "user.demographic.age_range",
        "user.demographic.gender",
        "user.demographic.language",
        "user.location.imprecise",
    }
)
"""Data categories (fideslang) whose values many persons share, so that they make a stratum."""

_VALID_DAYS = 180


def list_reviews(*, dataset: str, root_uri: str) -> JSON:
    """Return the review groups that nobody has answered, largest first, and their policy."""
    context = open_context(dataset, root_uri)
    run = latest_run(context.workspace.classifications)
    if run is None:
        return {"groups": [], "policy_digest": None}
    return {"groups": _open_groups(context, run), "policy_digest": run.policy_digest}


def review_text(*, dataset: str, root_uri: str) -> JSON:
    """Return the human-in-the-loop task: what the person reads, and what the answer is about.

    Returns:
        ``subject`` and ``body``; ``n_groups`` and ``n_records`` that they show; ``form``, to be
        given to ``take_answer``: ``policy_digest`` and, for each group that is shown, its rules.
    """
    found = list_reviews(dataset=dataset, root_uri=root_uri)
    shown = found["groups"][:_MAX_LISTED]
    n_more = len(found["groups"]) - len(shown)
    n_records = sum(group["n_records"] for group in shown)
    lines = ["| group | records | subjects | probability | rules |", "|---|---|---|---|---|"]
    lines += [
        f"| {group['group']} | {group['n_records']} | {group['n_subjects']} | "
        f"{group['probability']:.2f} | {', '.join(group['rules'])} |"
        for group in shown
    ]
    if n_more:
        lines.append(
            f"\n{n_more} smaller groups are not part of this form; they stay high and come with "
            "the next run, or now with `r2u review list`."
        )
    lines.append(
        "\nUntil somebody answers, these records count as high. *As listed*: name the groups that "
        "are low, the others are high. The answer is about the groups in this table only, and "
        "holds for `valid_days` under the policy of today."
    )
    return {
        "n_groups": len(shown),
        "n_records": n_records,
        "subject": f"Risk review: {n_records} records in {len(shown)} groups",
        "body": "\n".join(lines),
        "form": {
            "policy_digest": found["policy_digest"],
            "groups": {group["group"]: group["rules"] for group in shown},
        },
    }


def answer_review(
    *,
    groups: Sequence[str],
    level: str,
    who: str,
    why: str,
    valid_days: int,
    dataset: str,
    root_uri: str,
) -> JSON:
    """Store a person's answer for some groups of the latest run.

    Raises:
        RequestError: A group is not open for review, or the answer is incomplete.
    """
    context = open_context(dataset, root_uri)
    run = latest_run(context.workspace.classifications)
    known = {} if run is None else {group["group"]: group for group in _open_groups(context, run)}
    unknown = [group for group in groups if group not in known]
    if unknown or not groups or run is None:
        message = (
            f"review: expected groups of {', '.join(sorted(known)) or 'none, nothing is open'}, "
            f"got {', '.join(unknown) or 'none'}"
        )
        raise RequestError(message)
    signed = _signed(who, why, valid_days)
    patterns = [known[name]["rules"] for name in groups]
    stored = _store_answers(context, patterns, level, run.policy_digest, signed)
    return {"overrides": stored, "level": level, "groups": list(groups)}


def take_answer(
    *, run_id: str, answer: JSON | None, form: JSON, dataset: str, root_uri: str
) -> JSON:
    """Store what came out of the human-in-the-loop task, for the groups that its form showed.

    Whatever was classified since, nothing else is answered, and the answer belongs to the policy
    that the person saw. A retry stores what is missing. Where a listed name is none of the form's,
    nobody knows which group was meant: the groups that were named right are low, the others stay
    open, which counts as high.

    Args:
        run_id: Run of the DAG, the stated reason where the person gave none.
        answer: Output of the task: ``chosen_options``, ``params_input``, ``responded_by_user``.
        form: ``form`` of the ``review_text`` that the person read.
        dataset: Declaration.
        root_uri: Workspace.

    Returns:
        ``n_overrides``: groups that hold this answer now, 0 if nobody answered; ``n_mistyped``:
        listed names that the form did not show; ``applies``: whether a classification is due,
        which is not so if the policy has changed since the form.

    Raises:
        RequestError: The option is none of the form's.
    """
    answer = answer or {}
    chosen = (answer.get("chosen_options") or [NOT_NOW])[0]
    given = answer.get("params_input") or {}
    by_level, n_mistyped = _read_answer(chosen, given, list(form["groups"]))
    user = answer.get("responded_by_user") or {}
    signed = _signed(
        str(user.get("name") or user.get("id") or "airflow user"),
        str(given.get("why") or "").strip() or f"review in run {run_id}",
        int(given.get("valid_days") or _VALID_DAYS),
    )
    context = open_context(dataset, root_uri)
    digest = form["policy_digest"]
    for level, groups in by_level.items():
        patterns = [form["groups"][group] for group in groups]
        _store_answers(context, patterns, level, digest, signed)
    n_overrides = sum(len(groups) for groups in by_level.values())
    policy = load_policy(context.declaration.policy_path, context.declaration)
    applies = n_overrides > 0 and policy.digest == digest
    return {"n_overrides": n_overrides, "n_mistyped": n_mistyped, "applies": applies}


def classify_again(*, run_id: str, dataset: str, root_uri: str) -> JSON:
    """Classify once more, so that the answers of this run take effect."""
    return classify_data(run_id=f"{run_id}-reviewed", dataset=dataset, root_uri=root_uri)


def set_override(
    *,
    level: str,
    who: str,
    why: str,
    valid_days: int,
    dataset: str,
    root_uri: str,
    subject_id: str | None = None,
    record_ids: Sequence[str] = (),
    record_file: str | None = None,
    stratum: dict[str, str] | None = None,
) -> JSON:
    """Store a person's decision about a subject, a set of records, or a stratum.

    Args:
        level: ``high`` or ``low``.
        who: Who decides.
        why: Reason.
        valid_days: Days until it expires.
        dataset: Declaration.
        root_uri: Workspace.
        subject_id: One subject.
        record_ids: Records.
        record_file: File with one record id in each line, added to ``record_ids``.
        stratum: Column -> value.

    Raises:
        RequestError: Not exactly one of them is given, a column is not declared, or a stratum
            would name a person: its values are stored as they are.
    """
    context = open_context(dataset, root_uri)
    records = [*record_ids, *(_lines(record_file) if record_file else [])]
    given = [
        kind
        for kind, value in (("subject", subject_id), ("records", records), ("stratum", stratum))
        if value
    ]
    if len(given) != 1:
        message = f"override: expected one of a subject, records or a stratum, got {len(given)}"
        raise RequestError(message)
    known = context.declaration.columns.all_names
    unknown = [name for name in stratum or {} if name not in known]
    if unknown:
        message = f"override: expected columns of {', '.join(known)}, got {', '.join(unknown)}"
        raise RequestError(message)
    if stratum:
        _require_no_identity(context, stratum)
    keys = None
    if given[0] != "stratum":
        names = pa.array([subject_id] if subject_id else records, pa.string())
        of = "subject" if subject_id else "record"
        keys = np.unique(
            pseudonym_digests(context.pseudonym_key, of, pa.chunked_array([names])), axis=0
        )
    override = add_override(
        context.workspace.overrides,
        kind=given[0],
        level=level,
        keys=keys,
        key_id=context.key_ring.ids[0],
        values=stratum,
        **_signed(who, why, valid_days),
    )
    _enter(context, override)
    return override.to_dict()


def list_overrides(*, dataset: str, root_uri: str) -> JSON:
    """Return overrides in force, expired ones, and answers that another policy superseded."""
    context = open_context(dataset, root_uri)
    policy = load_policy(context.declaration.policy_path, context.declaration)
    found = load_overrides(
        context.workspace.overrides, now=datetime.now(UTC), policy_digest=policy.digest
    )
    return {
        "active": [override.to_dict() for override in found.active],
        "superseded": [override.to_dict() for override in found.superseded],
        "expired": [override.to_dict() for override in found.expired],
    }


def end_override(*, override_id: str, who: str, why: str, dataset: str, root_uri: str) -> JSON:
    """Withdraw an override before its expiry; what was said stays on record."""
    context = open_context(dataset, root_uri)
    now = datetime.now(UTC)
    withdraw_override(context.workspace.overrides, override_id, who=who, why=why, at=now)
    context.ledger.append("override_withdrawn", {"override_id": override_id})
    return {"override_id": override_id}


def _require_no_identity(context: StageContext, stratum: dict[str, str]) -> None:
    columns = context.declaration.columns
    policy = load_policy(context.declaration.policy_path, context.declaration)
    refused = [
        name
        for name, value in stratum.items()
        if name in {columns.record_id, columns.subject_id}
        or _identifies(policy.categories.get(name, ""))
        or any(
            scanner.detect(pa.chunked_array([[value]]), entity, name=name).any()
            for entity in _TOLD_BY_VALUE
        )
    ]
    if refused:
        message = (
            f"override: expected a stratum of values that many persons share, got "
            f"{', '.join(refused)}, which can name one; use --subject or --record"
        )
        raise RequestError(message)


def _identifies(category: str) -> bool:
    """Return whether a data category can name a person; what is not known to be coarse can."""
    return category.partition(".")[0] == "user" and category not in _COARSE


def _open_groups(context: StageContext, run: RunRecord) -> list[JSON]:
    found = load_overrides(
        context.workspace.overrides, now=datetime.now(UTC), policy_digest=run.policy_digest
    )
    groups = [
        {
            "group": group.group,
            "rules": list(group.pattern),
            "probability": group.decision.probability,
            "cost": group.decision.cost,
            "n_records": group.n_records,
            "n_subjects": group.n_subjects,
        }
        for group in run.groups
        if group.decision.needs_review and found.with_review_answers(group.pattern) == group.pattern
    ]
    return sorted(groups, key=lambda group: (-group["n_records"], group["group"]))


def _read_answer(
    chosen: str, given: JSON, shown: Sequence[str]
) -> tuple[dict[str, list[str]], int]:
    """Return level -> groups, and how many listed names are not of the form.

    What a person typed is neither logged nor repeated: it may be anything.
    """
    if chosen == AS_LISTED:
        listed = set(str(given.get("low_groups") or "").replace(",", " ").split())
        low = [group for group in shown if group in listed]
        n_mistyped = len(listed.difference(shown))
        high = [] if n_mistyped else [group for group in shown if group not in listed]
        return {HIGH: high, LOW: low}, n_mistyped
    by_level: dict[str, dict[str, list[str]]] = {
        ALL_HIGH: {HIGH: list(shown)},
        ALL_LOW: {LOW: list(shown)},
        NOT_NOW: {},
    }
    if chosen not in by_level:
        options = ", ".join((ALL_HIGH, ALL_LOW, AS_LISTED, NOT_NOW))
        message = f"review: expected an answer of {options}, got another one"
        raise RequestError(message)
    return by_level[chosen], 0


def _store_answers(
    context: StageContext,
    patterns: Sequence[Sequence[str]],
    level: str,
    policy_digest: str,
    signed: JSON,
) -> list[str]:
    """Store an answer for each pattern; one that has it under this policy keeps what it has."""
    folder = context.workspace.overrides
    found = load_overrides(folder, now=signed["made_at"], policy_digest=policy_digest)
    held = {
        override.pattern: override.override_id
        for override in found.active
        if override.kind == "review"
        and override.level == level
        and override.policy_digest == policy_digest
    }
    stored = []
    for pattern in patterns:
        known = held.get(tuple(sorted(pattern)))
        if known is None:
            override = add_override(
                folder,
                kind="review",
                level=level,
                pattern=pattern,
                policy_digest=policy_digest,
                **signed,
            )
            _enter(context, override)
            known = override.override_id
        stored.append(known)
    return stored


def _signed(who: str, why: str, valid_days: int) -> JSON:
    now = datetime.now(UTC)
    return {"who": who, "why": why, "made_at": now, "expires_at": now + timedelta(days=valid_days)}


def _enter(context: StageContext, override: Override) -> None:
    """Note in the ledger that a person decided; who and why stay in the workspace."""
    shown = ("override_id", "kind", "level", "n_keys", "policy_digest")
    content = asdict(override)
    body = {name: content[name] for name in shown}
    context.ledger.append("override_added", {**body, "expires_at": override.expires_at.isoformat()})


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = (
            f"records: expected a text file with one id in each line, got {type(error).__name__}"
        )
        raise RequestError(message) from error
    return [line.strip() for line in text.splitlines() if line.strip()]
