"""Laws of DROP: the published vectors, the files both ways, and archives that mean harm."""

import io
import zipfile

import pytest

from governance.drop import (
    FIELDS,
    BadLine,
    DropList,
    DropStatus,
    WorkItem,
    download_names,
    identifier_hash,
    parse_name,
    read_download,
    standardize,
    write_statuses,
)
from governance.errors import DataError

HASH = "KA18MT/ph6IHYjzT9zwETySDQyvSh87YuoSBpOQtkhE="

PUBLISHED = [
    ("first_name", "Juan Pablo", "juanpablo", "91hIbrbzNeqHs3o81O5yNrXUj7wDd2shvZ6THKi9qz8="),
    ("last_name", "Martinez", "martinez", "2wRPGbwBNxhShjRczx8GfS2c4cjvs4NJskeWloUNtp8="),
    ("date_of_birth", "1776-07-04", "17760704", "skXYXxBER6HQTZ3rXSZH1wVGLQ054mS5rbR/bwvzy4I="),
    ("zip", "91790-3771", "91790", "2FPZucR4x7U8KlM+SFAX4LPGhwNz/PIZUCSUdDh0o/s="),
    ("zip", "M1B 1A1", "m1b1a", "n8L9q8mVeT6Xt9/EeUNiTukGDrkbPJ3DvOEx14uElxk="),
    ("zip", "00712345", "71234", "aeNUYKh7Xw5sqpxSbSP9eOHsj6iXewbUyavv89DIuhQ="),
    ("email", "Anna.Smith@Domain.com", "anna.smith@domain.com", HASH),
    ("phone", "+1(415)555-9317", "4155559317", "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E="),
    ("phone", "+84(90)123 4567", "4901234567", "ptzVkgbv9DonwvPCHmXmJ2SEOaolSh37z3ZzY/Gmm+U="),
    (
        "vin",
        "1HGCM82633A004352",
        "1hgcm82633a004352",
        "iNswy1m+0VSt8jAfFrvaiQ1R/0HAbgSwNGkwqo6QBss=",
    ),
    (
        "maid",
        "a3f1c2d4-5678-90ab-cdef-1234567890ab",
        "a3f1c2d4567890abcdef1234567890ab",
        "250KY6lOgzYUB3EHrkbDCE2kMEZQE69SF38muhoDudI=",
    ),
    (
        "ctvid",
        "SmartTV_9F8E7D6C",
        "smarttv9f8e7d6c",
        "d9fxuTIrKksBXYDlaWsvQbcyUUfCbUx7v78gd+KP+tc=",
    ),
]


@pytest.mark.parametrize(("field", "value", "standard", "expected"), PUBLISHED)
def test_a_single_field_hashes_as_published(field, value, standard, expected):
    """CalPrivacy, DROP technical specifications 1.2.0, examples of "Working with the data"."""
    assert standard == standardize(field, value)
    assert expected == identifier_hash((field,), [value])


def test_composite_lists_hash_as_published():
    """NDZ and NameVIN: each field hashed, the Base64 texts joined in order, hashed again."""
    ndz = ["Danielle", "Johnson", "1985-07-04", "91790"]
    name_vin = ["Eve", "Genesis", "1HGCM82633A004352"]

    assert "PQOfn1RffEKmqMmNAzDKKaoZCwxWbQZkQzPWmQo9REA=" == identifier_hash(
        FIELDS[DropList.NDZ], ndz
    )
    assert "rtnDuXIe63jXYQQXW5r07GJ7lSsrib8+46QuKFwkOmk=" == identifier_hash(
        FIELDS[DropList.NAME_VIN], name_vin
    )


def test_accents_and_dates_have_one_standard_form():
    """An accent is dropped; a date object and its ISO text are the same date."""
    from datetime import date

    assert "jose" == standardize("first_name", " José ")
    assert "19850704" == standardize("date_of_birth", date(1985, 7, 4))


@pytest.mark.parametrize("value", [None, "", "  ", "Иван", "Γιώργος"])
def test_what_has_no_published_form_has_no_hash(value):
    """An empty field or a script whose table is not published matches nobody, not everybody."""
    assert standardize("first_name", value) is None
    assert identifier_hash(FIELDS[DropList.NDZ], [value, "a", "1985-07-04", "91790"]) is None


def archive(path, files, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as target:
        for name, text in files.items():
            target.writestr(name, text)
    return path


def test_a_download_gives_items_and_bad_lines_and_every_line_counts(tmp_path):
    """Lists first, cancellations last; each line is an item or a bad line with its number."""
    path = archive(
        tmp_path / "20260312_4821_DROP.zip",
        {
            "20260312_4821_Removed.csv": f"ID,Hash,ListType\nB7kP2xQ9Lm4R,{HASH},Email\n",
            "20260312_4821_Email.csv": f"ID,Hash\r\nA7kP2xQ9Lm4R,{HASH}\r\nshort,{HASH}\r\n"
            f"A7kP2xQ9Lm4S,nohash\r\n=cmd()!A1AA,{HASH}\r\n{'x' * 20_000}\r\n",
            "20260312_4821_MAID.csv": "ID,Hash\n",
        },
    )

    found = list(read_download(path, broker_id="4821"))

    assert found[0] == WorkItem("A7kP2xQ9Lm4R", HASH, "Email")
    assert [(b.line, b.reason.split(":")[0]) for b in found if isinstance(b, BadLine)] == [
        (3, "ID"),
        (4, "Hash"),
        (5, "ID"),
        (6, "expected 2 cells, got 0"),
    ]
    assert found[-1] == WorkItem("B7kP2xQ9Lm4R", HASH, "Email", is_removed=True)
    assert len(found) == 6


@pytest.mark.parametrize(
    "name",
    [
        "../20260312_4821_Email.csv",
        "/etc/20260312_4821_Email.csv",
        "a/20260312_4821_Email.csv",
        "..\\20260312_4821_Email.csv",
        "20260312_4821_Email.csv/",
        "20260312_4821_Email.exe",
        "20260312_4821_Fax.csv",
        "20260312_4821_Email_toolongsuffix.csv",
    ],
)
def test_a_name_outside_the_pattern_is_refused(tmp_path, name):
    """A path in an archive is refused, and the message does not repeat it."""
    path = archive(tmp_path / "x.zip", {name: "ID,Hash\n"})

    with pytest.raises(DataError, match="file name") as refused:
        list(read_download(path))

    assert name not in str(refused.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
    """64 MiB of zeros in 64 KiB: refused by ratio."""
    path = archive(tmp_path / "x.zip", {"20260312_4821_Email.csv": b"ID,Hash\n" + bytes(64 << 20)})

    assert path.stat().st_size < 1 << 17
    with pytest.raises(DataError, match="bomb"):
        next(read_download(path))


def test_a_bomb_that_lies_about_its_size_is_refused_while_it_is_read(tmp_path, monkeypatch):
    """The stream has its own limit: sizes in an archive's directory are claims."""
    monkeypatch.setattr("governance.drop.MAX_ENTRY_BYTES", 1000)
    lines = "".join(f"{i:012d},{HASH}\n" for i in range(100))
    path = archive(tmp_path / "x.zip", {"20260312_4821_Email.csv": "ID,Hash\n" + lines})
    monkeypatch.setattr("governance.drop._require_harmless", lambda entry: None)

    with pytest.raises(DataError, match="larger"):
        list(read_download(path))


def test_other_archives_are_refused(tmp_path):
    """No ZIP, an empty one, one with the wrong header, one of another broker, one name twice."""
    no_zip = tmp_path / "no.zip"
    no_zip.write_bytes(b"PK\x03\x04 nothing")
    empty = archive(tmp_path / "empty.zip", {})
    header = archive(tmp_path / "header.zip", {"20260312_4821_Email.csv": "Id;Hash\n"})
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as target:
        target.writestr("20260312_4821_Email.csv", "ID,Hash\n")
        with pytest.warns(UserWarning, match="Duplicate"):
            target.writestr("20260312_4821_Email.csv", "ID,Hash\n")
    (tmp_path / "twice.zip").write_bytes(twice.getvalue())

    for path in (no_zip, empty, header, tmp_path / "twice.zip"):
        with pytest.raises(DataError):
            list(read_download(path))
    good = archive(tmp_path / "good.zip", {"20260312_4821_Email.csv": "ID,Hash\n"})
    with pytest.raises(DataError, match="broker 1111"):
        download_names(good, broker_id="1111")


def test_an_answer_file_has_the_published_form(tmp_path):
    """``Id,Status`` and the code of each outcome; the name is that of the downloaded list."""
    name = parse_name("20260312_4821_Email.csv")
    path = tmp_path / str(name)

    count = write_statuses(
        path, [("A7kP2xQ9Lm4R", DropStatus.EXEMPTED), ("B7kP2xQ9Lm4R", DropStatus.NOT_FOUND)]
    )

    assert count == 2
    assert path.read_text() == "Id,Status\nA7kP2xQ9Lm4R,2\nB7kP2xQ9Lm4R,5\n"
    assert [p.name for p in tmp_path.iterdir()] == ["20260312_4821_Email.csv"]
    assert {"DELETED": 3, "OPTED_OUT": 4} == {
        s.name: int(s) for s in (DropStatus.DELETED, DropStatus.OPTED_OUT)
    }
