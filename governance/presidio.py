"""Microsoft Presidio's pattern recognisers behind the interface of ``governance.scanner``.

Optional (extra ``presidio``) and imported only when a scanner is made. Regular expressions,
checksums and the phone library alone: no language model is loaded, and the list of public suffixes
is the one inside its package, so that nothing is fetched. It sees one cell at a time, and the
regular expressions backtrack; long or hostile text is better left to our own scanner. Same records
as there: counts, never values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from governance.errors import DataError
from governance.scanner.decision import conclude
from governance.scanner.findings import ColumnCounts, ColumnFindings, Evidence, Profile
from governance.scanner.kinds import as_text
from governance.scanner.scan import scan_with

RECOGNIZERS: dict[str, tuple[str, str]] = {
    "email": ("EmailRecognizer", "EMAIL_ADDRESS"),
    "url": ("UrlRecognizer", "URL"),
    "iban": ("IbanRecognizer", "IBAN_CODE"),
    "card": ("CreditCardRecognizer", "CREDIT_CARD"),
    "ip": ("IpRecognizer", "IP_ADDRESS"),
    "mac": ("MacAddressRecognizer", "MAC_ADDRESS"),
    "phone": ("PhoneRecognizer", "PHONE_NUMBER"),
    "date": ("DateRecognizer", "DATE_TIME"),
    "us_ssn": ("UsSsnRecognizer", "US_SSN"),
    "uk_nhs": ("NhsRecognizer", "UK_NHS"),
    "uk_nino": ("UkNinoRecognizer", "UK_NINO"),
    "de_tax_id": ("DeTaxIdRecognizer", "DE_TAX_ID"),
    "es_dni": ("EsNifRecognizer", "ES_NIF"),
    "es_nie": ("EsNieRecognizer", "ES_NIE"),
    "it_codice_fiscale": ("ItFiscalCodeRecognizer", "IT_FISCAL_CODE"),
    "pl_pesel": ("PlPeselRecognizer", "PL_PESEL"),
    "se_personnummer": ("SePersonnummerRecognizer", "SE_PERSONNUMMER"),
    "fi_hetu": ("FiPersonalIdentityCodeRecognizer", "FI_PERSONAL_IDENTITY_CODE"),
    "in_aadhaar": ("InAadhaarRecognizer", "IN_AADHAAR"),
    "ca_sin": ("CaSinRecognizer", "CA_SIN"),
    "tr_kimlik": ("TrNationalIdRecognizer", "TR_NATIONAL_ID"),
    "au_tfn": ("AuTfnRecognizer", "AU_TFN"),
}
"""Our entity -> its recogniser and its entity."""

SUPPORTED = tuple(RECOGNIZERS)

PLAUSIBLE_SCORE, CERTAIN_SCORE = 0.4, 0.85
"""Scores from which a match counts as plausible, or as certain (a checksum gives 1.0)."""


@dataclass(frozen=True, slots=True)
class Match:
    """One match in one cell: characters ``[start, stop)`` and Presidio's score."""

    start: int
    stop: int
    score: float


class PresidioScanner:
    """Recognisers, loaded once."""

    def __init__(self, entities: Sequence[str] = SUPPORTED) -> None:
        """Load the recognisers of some entities.

        Raises:
            DataError: Presidio is not installed, or it has no recogniser for an entity.
        """
        unknown = sorted(set(entities) - set(SUPPORTED))
        if unknown:
            message = f"expected entities out of {', '.join(SUPPORTED)}; got {', '.join(unknown)}"
            raise DataError(message)
        self._recognizers = _load(entities)

    def matches(self, text: str, entity: str) -> list[Match]:
        """Return the matches in one cell, in order."""
        found = self._recognizers[entity].analyze(text, [RECOGNIZERS[entity][1]], None)
        ordered = sorted(found, key=lambda result: (result.start, result.end))
        return [Match(result.start, result.end, result.score) for result in ordered]

    def detect(
        self, column: pa.ChunkedArray | pa.Array, entity: str, *, score_min: float = PLAUSIBLE_SCORE
    ) -> np.ndarray:
        """Return bool ``[n]``: the cell holds the entity with at least this score."""
        cells = _cells(column)
        return np.array(
            [any(m.score >= score_min for m in self.matches(cell, entity)) for cell in cells],
            dtype=bool,
        )

    def count_column(self, column: pa.ChunkedArray | pa.Array, *, name: str = "") -> ColumnCounts:
        """Return the counts of all loaded entities, as ``governance.scanner.count_column`` does."""
        counts = ColumnCounts(name=name)
        for cell in _cells(column):
            evidence = {
                entity: _evidence(entity, cell, matches)
                for entity in self._recognizers
                if (matches := self.matches(cell, entity))
            }
            profile = Profile(
                n_cells=1, n_filled=int(bool(cell.strip())), n_bytes=len(cell.encode())
            )
            counts += ColumnCounts(name=name, profile=profile, evidence=evidence)
        return counts

    def scan_table(
        self, table: pa.Table | Iterable[pa.RecordBatch | pa.Table]
    ) -> list[ColumnFindings]:
        """Return the findings of every column of a table or of its batches."""
        return scan_with(table, lambda column, name: self.count_column(column, name=name))

    def scan_column(self, column: pa.ChunkedArray | pa.Array, *, name: str = "") -> ColumnFindings:
        """Return what a column is and contains, by the rules of ``governance.scanner``."""
        return conclude(self.count_column(column, name=name))


def _evidence(entity: str, cell: str, matches: list[Match]) -> Evidence:
    counted = [match for match in matches if match.score >= PLAUSIBLE_SCORE]
    certain = any(match.score >= CERTAIN_SCORE for match in matches)
    whole = [match for match in matches if cell[match.start : match.stop] == cell.strip()]
    return Evidence(
        entity=entity,
        n_matches=len(counted),
        n_cells=int(bool(counted)),
        n_certain=int(certain),
        n_whole=int(any(match in counted for match in whole)),
        n_whole_faint=int(bool(whole)),
    )


def _cells(column: pa.ChunkedArray | pa.Array) -> Iterator[str]:
    """Yield the cells as text; null as empty, bytes that are not UTF-8 replaced."""
    text = as_text(column)
    if text is None:
        yield from ("" for _ in range(len(column)))
        return
    for value in text:
        cell = value.as_py()
        yield cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell or ""


def _load(entities: Sequence[str]) -> dict[str, Any]:
    try:
        import tldextract.tldextract as suffixes
        from presidio_analyzer import predefined_recognizers
    except ImportError as error:
        message = "expected the package presidio-analyzer; install 'ready2unlearn[presidio]'"
        raise DataError(message) from error
    # The recogniser of e-mail would fetch the list of suffixes at its first match.
    suffixes.TLD_EXTRACTOR = suffixes.TLDExtract(suffix_list_urls=(), cache_dir=None)
    return {
        entity: getattr(predefined_recognizers, RECOGNIZERS[entity][0])() for entity in entities
    }
