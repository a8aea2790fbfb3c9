"""A letter as a page: HTML and PDF with the same words. Pure functions, no outside resource."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import matplotlib as mpl
from fpdf import FPDF
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from governance.letters import Letter

_SIZES_PT = (10.0, 9.5, 9.0, 8.5, 8.0)
"""Text sizes that are tried until the letter fits on one page."""

_MADE_AT = datetime(2000, 1, 1, tzinfo=UTC)
"""Date inside the PDF file: fixed, so that the same letter is the same file."""

_FAMILY = "DejaVu"


def letter_html(letter: Letter) -> str:
    """Return the letter as one self-contained HTML page that prints on one sheet of A4."""
    return _environment().get_template("letter.html.j2").render(letter=letter)


def letter_pdf(letter: Letter) -> bytes:
    """Return the letter as a PDF page of A4, in the largest text size that fits."""
    for size in _SIZES_PT:
        pdf = _page(letter, size)
        if pdf.pages_count == 1:
            break
    return bytes(pdf.output())


def _page(letter: Letter, size_pt: float) -> FPDF:
    pdf = FPDF(format="A4", unit="mm")
    pdf.set_creation_date(_MADE_AT)
    pdf.set_title(letter.title)
    pdf.set_lang(letter.language)
    pdf.set_margin(22)
    pdf.set_auto_page_break(True, margin=16)
    for style, name in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
        pdf.add_font(_FAMILY, style, _font(name))
    pdf.add_page()
    _write(pdf, letter.title, size_pt + 5, bold=True, after=3)
    for label, value in letter.facts:
        _fact(pdf, label, value, size_pt)
    pdf.ln(3)
    for paragraph in letter.summary:
        _write(pdf, paragraph, size_pt + 0.5, after=1.5)
    for section in letter.sections:
        pdf.ln(1.5)
        _write(pdf, section.heading, size_pt + 1, bold=True, after=0.8)
        for paragraph in section.paragraphs:
            _write(pdf, paragraph, size_pt, after=1.2)
    return pdf


def _write(pdf: FPDF, text: str, size_pt: float, *, bold: bool = False, after: float) -> None:
    pdf.set_font(_FAMILY, "B" if bold else "", size_pt)
    pdf.multi_cell(0, size_pt * 0.5, text, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(after)


def _fact(pdf: FPDF, label: str, value: str, size_pt: float) -> None:
    pdf.set_font(_FAMILY, "B", size_pt)
    pdf.cell(32, size_pt * 0.55, label)
    pdf.set_font(_FAMILY, "", size_pt)
    pdf.multi_cell(0, size_pt * 0.55, value, align="L", new_x="LMARGIN", new_y="NEXT")


def _font(name: str) -> Path:
    """Return a font that ships with matplotlib: it holds Latin, Greek and Cyrillic."""
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / name


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("governance"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
