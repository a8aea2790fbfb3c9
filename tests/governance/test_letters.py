"""Laws of letters: what a person reads follows from outcome and claim, in every language."""

import io
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pypdf import PdfReader

from governance.errors import DataError
from governance.letter_pages import letter_html, letter_pdf
from governance.letters import LetterFacts, languages, load_texts, placeholders, write_letter

GOLDEN = Path(__file__).parent.parent / "golden" / "letters"


def day(month, number):
    return datetime(2026, month, number, 12, tzinfo=UTC)


PLAIN = LetterFacts(
    request_id="request-417",
    outcome="not_found",
    received_at=day(3, 2),
    due_at=day(4, 2),
    answered_at=day(3, 9),
    controller="Example Ltd",
    contact="privacy@controller.example",
    authority="Example Authority",
)
ERASED = replace(
    PLAIN,
    outcome="forgotten",
    claim="exact",
    n_records=4,
    n_tests=5,
    erased_at=day(3, 8),
    replaced_at=day(3, 8),
    weights_removed_at=day(3, 9),
    backups_until=day(4, 7),
    recipients=("Recipient Ltd",),
    certificate_digest="sha256:" + "0a" * 32,
    key_digest="sha256:" + "0b" * 32,
)
CASES = {
    "exact": ERASED,
    "approximate": replace(ERASED, claim="approximate"),
    "suppressed": replace(ERASED, claim="suppressed"),
    "retired": replace(ERASED, claim="retired"),
    "untouched": replace(ERASED, untouched=True, replaced_at=None),
    "late-without-backups": replace(
        ERASED, answered_at=day(4, 9), backups_until=None, n_records=1, recipients=()
    ),
    "not-found": replace(PLAIN, in_ledger=True),
    "already-forgotten": replace(PLAIN, outcome="already_forgotten"),
    "duplicate": replace(PLAIN, outcome="duplicate", duplicate_of="request-400"),
    "cancelled": replace(PLAIN, outcome="cancelled"),
    "rejected": replace(PLAIN, outcome="rejected"),
    "kept-exempt": replace(PLAIN, outcome="kept_exempt", grounds=("legal_obligation",)),
    "partial": replace(
        ERASED, outcome="partial", claim="approximate", grounds=("legal_claims", "another word")
    ),
    "nobody-declared": replace(PLAIN, controller="", contact="", authority=""),
}

every_letter = pytest.mark.parametrize(
    ("case", "language"), [(case, language) for case in CASES for language in languages()]
)


def words(text):
    return re.sub(r"\s+", "", text)


@every_letter
def test_the_words_of_a_letter_change_only_on_purpose(case, language):
    """Goldens: R2U_UPDATE_GOLDEN=1 writes them anew, and a person reads the difference."""
    text = write_letter(CASES[case], language=language).to_text()
    path = GOLDEN / f"{case}.{language}.txt"
    if os.environ.get("R2U_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    assert path.read_text(encoding="utf-8") == text


@every_letter
def test_both_pages_hold_every_word_and_the_sheet_is_one(case, language):
    """HTML and PDF say the same, nothing comes from elsewhere, and the PDF is a single page."""
    letter = write_letter(CASES[case], language=language)
    page, pdf = letter_html(letter), PdfReader(io.BytesIO(letter_pdf(letter)))
    printed = pdf.pages[0].extract_text()
    text = re.sub(r"<style>.*?</style>|<title>.*?</title>|<[^>]+>", "", page, flags=re.DOTALL)

    for line in letter.to_text().splitlines():
        for part in (
            line.split(": ", 1) if line.startswith(tuple(x for x, _ in letter.facts)) else [line]
        ):
            assert words(part) in words(text.replace("&#39;", "'"))
            assert words(part) in words(printed)
    assert len(pdf.pages) == 1
    assert not re.search(r"(src|href)=|url\(|https?://", page)


@pytest.mark.parametrize("language", languages())
def test_a_long_letter_still_fits_on_one_sheet(language):
    """Long names of controller, authority and recipients make the print smaller, not longer."""
    long = replace(
        CASES["partial"],
        controller="A very long name of a controller, with its legal form and its seat " * 2,
        contact="privacy@controller.example, Some Long Street 123, 10115 Some Town, " * 3,
        authority="The Commissioner for Data Protection and Freedom of Information " * 2,
        recipients=tuple(f"Recipient number {n} with a long name" for n in range(8)),
        grounds=tuple(load_texts(language)["grounds"])[:6],
    )
    pdf = letter_pdf(write_letter(long, language=language))

    assert len(PdfReader(io.BytesIO(pdf)).pages) == 1


def test_the_same_letter_is_the_same_file():
    """No clock and no random number in the page: a digest of it can be kept."""
    letter = write_letter(ERASED, language="en")

    assert letter_pdf(letter) == letter_pdf(letter)


def test_every_language_has_the_same_texts():
    """Same keys, and in each text the same placeholders; otherwise a fact would be lost."""

    def shape(value):
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shape(item) for item in value]
        return placeholders(value)

    reference = shape(load_texts("en"))
    assert {"de", "en"} <= set(languages())
    assert all(shape(load_texts(language)) == reference for language in languages())


def test_only_an_exact_letter_says_made_without():
    """An approximate letter says it is no proof, a suppressed one that the model is as it was."""
    exact, approximate, suppressed = (
        write_letter(CASES[case], language="en").to_text()
        for case in ("exact", "approximate", "suppressed")
    )

    assert "made without your data" in exact
    assert "made without your data" not in approximate + suppressed
    assert "not a proof" in approximate
    assert "your data are not removed from it" in suppressed


@pytest.mark.parametrize(
    "hole", [{"erased_at": None}, {"replaced_at": None}, {"weights_removed_at": None}]
)
def test_a_letter_with_a_hole_is_not_written(hole):
    """A missing fact is an error that names it, never an empty place in a sentence."""
    with pytest.raises(DataError, match=next(iter(hole)).removesuffix("_at")):
        write_letter(replace(ERASED, **hole), language="en")


@pytest.mark.parametrize(
    "facts",
    [
        replace(ERASED, claim=None),
        replace(ERASED, claim="certain"),
        replace(PLAIN, outcome="kept_exempt"),
        replace(PLAIN, outcome=""),
        replace(CASES["approximate"], n_tests=0),
    ],
)
def test_an_unknown_claim_or_ground_gives_no_letter(facts):
    """Erased without a claim, kept without a ground, tested without a test: a person must look."""
    with pytest.raises(DataError):
        write_letter(facts, language="en")


def test_a_language_without_texts_is_refused():
    """The message lists those that there are; a path is no language."""
    for name in ("xx", "../letter_texts/en"):
        with pytest.raises(DataError, match="de, en"):
            write_letter(PLAIN, language=name)


def test_what_the_declaration_does_not_say_is_a_placeholder():
    """In brackets, and listed, so that nobody sends it by mistake."""
    letter = write_letter(CASES["nobody-declared"], language="en")

    assert letter.missing == ("controller.name", "controller.contact", "controller.authority")
    assert "[name of the controller]" in letter.to_text()
    assert write_letter(PLAIN, language="en").missing == ()
