"""Letters to a person: one page that says what became of a request, in words of everyday life.

The words follow from the outcome and, where data were erased, from the claim of the certificate; a
letter never says more than the certificate does. Texts are data (``letter_texts/<language>.json``);
a new language is a new file with the same keys, which a test checks.

A letter holds no personal data: it names the request, and the mail system of the controller adds
the person. Where the declaration does not name controller or authority, a placeholder in brackets
stands, and ``Letter.missing`` names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any

from governance.errors import DataError

Texts = dict[str, Any]

ERASED = frozenset({"forgotten", "partial"})
"""Outcomes by which data were erased."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LetterFacts:
    """What a letter is made from.

    Attributes:
        request_id: The request.
        outcome: How it ended, a word of the queue's ``Outcome``.
        claim: ``exact``, ``approximate``, ``suppressed`` or ``retired``; None if nothing was
            erased.
        untouched: No model in use had learned from the records.
        received_at: When the request came in.
        due_at: When the answer was due.
        answered_at: When it was answered.
        n_records: Number of erased records.
        n_tests: Number of conditions of the forgetting test.
        erased_at: When the rows were gone.
        replaced_at: When the model was replaced, filtered or withdrawn.
        weights_removed_at: When the last weights that knew the records were gone.
        backups_until: When the last backup expires that may hold the data; None: not declared.
        recipients: Whom the data had been passed on to.
        duplicate_of: Request that was answered together with it.
        grounds: Words of the queue for why data are kept.
        in_ledger: Whether the signed ledger has an entry of the answer.
        certificate_digest: Of the certificate file.
        key_digest: Of the public key.
        controller: Name, empty if it is not declared.
        contact: Where to write to.
        authority: Data protection authority.
    """

    request_id: str
    outcome: str
    claim: str | None = None
    untouched: bool = False
    received_at: datetime
    due_at: datetime
    answered_at: datetime
    n_records: int = 0
    n_tests: int = 0
    erased_at: datetime | None = None
    replaced_at: datetime | None = None
    weights_removed_at: datetime | None = None
    backups_until: datetime | None = None
    recipients: tuple[str, ...] = ()
    duplicate_of: str | None = None
    grounds: tuple[str, ...] = ()
    in_ledger: bool = False
    certificate_digest: str | None = None
    key_digest: str | None = None
    controller: str = ""
    contact: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A letter in one language, before it is drawn as a page.

    Attributes:
        language: Code of the language.
        title: Heading of the page.
        facts: Label and value of each line at the top.
        summary: What happened, first.
        sections: The rest.
        missing: Keys of the declaration that would fill the placeholders.
    """

    language: str
    title: str
    facts: tuple[tuple[str, str], ...]
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    missing: tuple[str, ...] = field(default=())

    def to_text(self) -> str:
        """Return the letter as plain text: every word that the pages hold, in their order."""
        lines = [self.title, "", *(f"{label}: {value}" for label, value in self.facts), ""]
        lines += self.summary
        for section in self.sections:
            lines += ["", section.heading, *section.paragraphs]
        return "\n".join(lines) + "\n"


def languages() -> tuple[str, ...]:
    """Return the codes of the languages that have texts."""
    names = (path.name for path in files("governance").joinpath("letter_texts").iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def write_letter(facts: LetterFacts, *, language: str) -> Letter:
    """Return the letter of a request.

    Args:
        facts: What happened.
        language: Code of a language that has texts.

    Raises:
        DataError: There are no texts for the language or the outcome, or a fact is missing that
            the text needs: a letter with a hole is not written.
    """
    texts = load_texts(language)
    kind = _kind(facts)
    if kind not in texts["outcomes"]:
        message = f"letter {facts.request_id}: expected a known outcome, got {kind}"
        raise DataError(message)
    words = texts["outcomes"][kind]
    values = _values(facts, texts)

    def say(paragraphs: Sequence[str]) -> tuple[str, ...]:
        return tuple(_fill(text, values, facts.request_id) for text in paragraphs)

    late = [texts["late"]] if facts.answered_at > facts.due_at else []
    sections = (
        ("done", say(words["done"])),
        ("tested", say(words["tested"])),
        ("limits" if facts.outcome in ERASED else "note", say(words["limits"])),
        ("remains", say(_remains(facts, texts))),
        ("verify", say([_verify(facts, texts)])),
        ("complain", say(texts["complain"])),
    )
    return Letter(
        language=language,
        title=texts["title"],
        facts=_top(facts, texts, say([words["result"]])[0]),
        summary=say([*words["summary"], *late]),
        sections=tuple(
            Section(texts["headings"][name], paragraphs)
            for name, paragraphs in sections
            if paragraphs
        ),
        missing=_missing(facts),
    )


@cache
def load_texts(language: str) -> Texts:
    """Return the texts of a language.

    Raises:
        DataError: There are none.
    """
    path = files("governance").joinpath("letter_texts", f"{language}.json")
    if language not in languages():
        message = f"letter: expected one of the languages {', '.join(languages())}, got another"
        raise DataError(message)
    texts: Texts = json.loads(path.read_text(encoding="utf-8"))
    return texts


def placeholders(text: str) -> frozenset[str]:
    """Return the names in braces of a text."""
    return frozenset(name for _, name, _, _ in Formatter().parse(text) if name)


def _missing(facts: LetterFacts) -> tuple[str, ...]:
    """Return the keys of the declaration that would fill the placeholders."""
    declared = {"name": facts.controller, "contact": facts.contact, "authority": facts.authority}
    return tuple(f"controller.{name}" for name, value in declared.items() if not value)


def _kind(facts: LetterFacts) -> str:
    if facts.outcome != "forgotten":
        return facts.outcome
    if facts.untouched:
        return "forgotten.untouched"
    return f"forgotten.{facts.claim}"


def _values(facts: LetterFacts, texts: Texts) -> dict[str, str | None]:
    count = texts["records"]["one" if facts.n_records == 1 else "many"]
    words = texts["grounds"]
    unspecified = words["unspecified"]
    values: dict[str, str | None] = {
        "request_id": facts.request_id,
        "n_records": count.format(n=facts.n_records),
        "n_tests": str(facts.n_tests) if facts.n_tests else None,
        "duplicate_of": facts.duplicate_of,
        "grounds": "; ".join(words.get(ground, unspecified) for ground in facts.grounds) or None,
        "recipients": ", ".join(facts.recipients) or None,
        "certificate_digest": facts.certificate_digest,
        "key_digest": facts.key_digest,
    }
    for name in ("controller", "contact", "authority"):
        values[name] = getattr(facts, name) or texts["missing"][name]
    for name in ("erased", "replaced", "weights_removed", "answered", "due"):
        values[f"{name}_on"] = _date(getattr(facts, f"{name}_at"), texts)
    values["backups_until"] = _date(facts.backups_until, texts)
    if facts.outcome == "partial":
        claim = "none" if facts.untouched else str(facts.claim)
        for name in ("model_sentence", "test_sentence"):
            sentence = texts[f"{name}s"].get(claim)
            values[name] = sentence and _fill(sentence, values, facts.request_id)
    return values


def _fill(text: str, values: dict[str, str | None], request_id: str) -> str:
    holes = sorted(name for name in placeholders(text) if values.get(name) is None)
    if holes:
        message = (
            f"letter {request_id}: expected {', '.join(holes)}, got nothing; it is not written"
        )
        raise DataError(message)
    return text.format(**values)


def _date(moment: datetime | None, texts: Texts) -> str | None:
    if moment is None:
        return None
    filled: str = texts["date"].format(
        day=moment.day, month=texts["months"][moment.month - 1], year=moment.year
    )
    return filled


def _top(facts: LetterFacts, texts: Texts, result: str) -> tuple[tuple[str, str], ...]:
    labels = texts["labels"]
    values = _values(facts, texts)
    return (
        (labels["controller"], f"{values['controller']}"),
        (labels["request"], facts.request_id),
        (labels["received"], f"{_date(facts.received_at, texts)}"),
        (labels["answered"], f"{values['answered_on']}"),
        (labels["result"], result),
    )


def _remains(facts: LetterFacts, texts: Texts) -> list[str]:
    if facts.outcome not in ERASED:
        return []
    words = texts["remains"]
    lines = [words["backups_until" if facts.backups_until else "backups_unknown"], words["mark"]]
    return [*lines, words["recipients"]] if facts.recipients else lines


def _verify(facts: LetterFacts, texts: Texts) -> str:
    without = "ledger" if facts.in_ledger else "records"
    name = "certificate" if facts.certificate_digest else without
    text: str = texts["verify"][name]
    return text
