"""Laws of the Presidio adapter: the same records, no network, and a quality that ours reaches."""

import os
import socket
from pathlib import Path

import pyarrow as pa
import pytest

from governance.errors import DataError
from governance.presidio import RECOGNIZERS, SUPPORTED, PresidioScanner
from governance.scanner import NAMES, scan_column

pytest.importorskip("presidio_analyzer", reason="needs the extra 'presidio'")

SHARED = Path(os.environ.get("R2U_SHARED_DATA", "../shared/data"))


@pytest.fixture(scope="module")
def scanner():
    return PresidioScanner()


def test_entities_have_our_names():
    """What the adapter calls an entity, the scanner does, too."""
    assert set(SUPPORTED) <= set(NAMES)
    assert len(SUPPORTED) == len({name for name, _ in RECOGNIZERS.values()})


def test_findings_are_the_same_records(scanner):
    """A column of addresses is e-mail to both, and URL to neither; no value is in the findings."""
    column = pa.array([f"planted{i}@example.org" for i in range(40)] + [None, ""])
    ours = scan_column(column, name="m", entities=SUPPORTED)
    theirs = scanner.scan_column(column, name="m")

    assert type(ours) is type(theirs)
    assert ("email", 42, 40) == (theirs.entity, theirs.n_cells, theirs.n_filled)
    assert ours.entity == theirs.entity
    assert "planted" not in repr(theirs)


def test_it_asks_no_network(scanner, monkeypatch):
    """The list of suffixes is the one in the package: no socket is opened."""

    def refuse(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    column = pa.array(["a@example.co.uk", b"no".decode(), None])

    assert [True, False, False] == scanner.detect(column, "email").tolist()


def test_bytes_and_other_types_are_cells_without_text(scanner):
    """Bytes that are not UTF-8 are read with replacements; what is no text holds nothing."""
    assert [True] == scanner.detect(pa.array([b"\xff a@example.org"]), "email").tolist()
    assert [False] == scanner.detect(pa.array([True]), "email").tolist()


def test_an_entity_without_recogniser_is_refused():
    """The error names those that there are."""
    with pytest.raises(DataError, match=r"expected entities out of email, .*; got nl_bsn"):
        PresidioScanner(("nl_bsn",))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data (R2U_SHARED_DATA)")
def test_our_quality_is_not_below(scanner):
    """F1 of ours reaches Presidio's on every shared entity, on a small part of the study.

    The part is fixed by seeds; Presidio has its best score of the half on which rules were chosen.
    """
    from benchmarks.detection_parts.corpus import generated, sentences
    from benchmarks.detection_parts.quality import best_scores, find_ours, find_presidio, judge

    corpora = {half: sentences(half)[::3] + generated(half, per_entity=8) for half in HALVES}
    shared = sorted({kind for c in corpora["report"] for kind, _, _ in c.spans} & set(SUPPORTED))
    score = best_scores(scanner, corpora["tune"], shared)
    report = corpora["report"]
    below = {}
    for entity in shared:
        mine = judge(report, find_ours(report, entity), entity).measures()["f1"][0]
        found = find_presidio(scanner, report, entity)
        theirs = judge(report, found, entity, score[entity]).measures()["f1"][0]
        if mine < theirs:
            below[entity] = (mine, theirs)

    assert len(shared) >= 20
    assert below == {}


HALVES = ("tune", "report")
