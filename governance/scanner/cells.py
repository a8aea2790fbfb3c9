"""Evidence by the look of whole cells: names of persons and street addresses.

No list of names is used: what counts is the column's name and the shape of most of its cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from governance.scanner.text import (
    DIGIT,
    LETTER,
    SPACE,
    UNDERSCORE,
    WIDE,
    Runs,
    Text,
    code_of,
    runs_of,
    word_codes,
)

_NAME_BYTES_MAX = 60
_PIECE_BYTES_MAX = 128
_ADDRESS_BYTES_MAX = 160

_STREET_ENDS = (
    "street st str avenue ave road rd lane ln drive dr court ct place pl square sq blvd way "
    "close crescent terrace trail highway hwy parkway pkwy circle cir rue chemin allee quai "
    "impasse route via viale piazza corso vicolo calle avenida avda plaza paseo camino carrera "
    "rua travessa largo estrada ulica ulice utca ut ul aleja namesti trg cesta tie katu polku "
    "gata vag gatan vagen vej vejen alle gade veien veg gate straat laan weg plein gracht kade "
    "strasse platz gasse suite apt box postboks"
)
_STREET_CODES = np.array([code_of(word) for word in _STREET_ENDS.split()])
_STREET_TAILS = ("strasse", "straat", "strase", "gatan", "vagen", "vej", "gade", "katu", "weg")
"""Endings of compound words."""

_STREET_TAILS_WIDE = ("stra\u00dfe", "v\u00e4gen", "k\u00e1ja")


@dataclass(frozen=True, slots=True)
class CellLooks:
    """Bool arrays over the cells of a slice."""

    filled: np.ndarray
    one_piece: np.ndarray
    name_like: np.ndarray
    address_like: np.ndarray
    street_words: np.ndarray


def look_at(text: Text) -> CellLooks:
    """Return the look of every cell of a slice."""
    words = runs_of((text.kind & (DIGIT | LETTER | WIDE | UNDERSCORE)) != 0, text.lower)
    n = len(text.cell_first)
    size = text.cell_stop - text.cell_first
    cell = text.cells_of(words.first) if len(words.first) else np.zeros(0, np.int64)
    n_words = np.bincount(cell, minlength=n)
    initial = text.data[words.first]
    capital = ((initial - 65) < 26) | (initial >= 0xC3)
    n_capital = np.bincount(cell, weights=capital, minlength=n)
    n_digits = _count(text, (text.kind & DIGIT) != 0)
    n_letters = _count(text, (text.kind & (LETTER | WIDE)) != 0)
    n_space = _count(text, (text.kind & SPACE) != 0)
    n_plain = n_letters + n_digits + n_space
    filled = size > n_space
    # Apostrophes, hyphens and full stops stand in names (O'Neil, Anne-Marie, J.).
    name_like = filled & (size <= _NAME_BYTES_MAX) & (n_digits == 0) & (n_letters >= 1)
    name_like &= (n_words >= 1) & (n_words <= 5) & (size - n_plain <= 3)
    name_like &= n_capital * 2 >= n_words
    address_like = filled & (size <= _ADDRESS_BYTES_MAX) & (n_words >= 2) & (n_words <= 12)
    address_like &= (n_letters >= 3) & (n_digits >= 1) & (n_letters > n_digits)
    asked = np.flatnonzero(address_like[cell])
    street = np.bincount(cell[asked[_is_street_word(text, words, asked)]], minlength=n) > 0
    one_piece = filled & (n_space == 0) & (size >= 3) & (size <= _PIECE_BYTES_MAX)
    return CellLooks(filled, one_piece, name_like, address_like, address_like & street)


def _count(text: Text, mask: np.ndarray) -> np.ndarray:
    """Return for each cell how many of its bytes the mask holds."""
    at = np.flatnonzero(mask)
    return np.searchsorted(at, text.cell_stop) - np.searchsorted(at, text.cell_first)


def _is_street_word(text: Text, words: Runs, index: np.ndarray) -> np.ndarray:
    stop, length = words.stop[index], words.length[index]
    hit = np.isin(word_codes(text, words.first[index], stop), _STREET_CODES)
    for tail in (*_STREET_TAILS, *_STREET_TAILS_WIDE):
        raw = tail.encode()
        ends = length > len(raw)
        for offset, byte in enumerate(reversed(raw), start=1):
            ends &= text.lower[stop - offset] == byte
        hit |= ends
    return hit
