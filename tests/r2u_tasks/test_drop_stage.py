"""Laws of DROP in the queue: who is asked for, what is answered, and nothing answered twice."""

import csv
import stat
import zipfile
from datetime import UTC, datetime

import pytest

from governance.deletion_queue import Outcome
from governance.drop import DropList, identifier_hash
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.drop import answer_items, screen_persons
from r2u_tasks.stages.intake import intake_requests
from r2u_tasks.stages.pseudonym_keys import rotate_pseudonyms
from r2u_tasks.stages.requests import list_requests

DROP = """\
drop:
  broker_id: "4821"
  lists:
    Email: {email: mail}
    NDZ: {first_name: first, last_name: last, date_of_birth: born, zip: zip}
"""
PEOPLE = """id,person,churned,age,mail,first,last,born,zip
r-1,p-1,0,30,Anna.Smith@Domain.com,Anna,Smith,1990-01-02,91790
r-2,p-1,0,30,Anna.Smith@Domain.com,Anna,Smith,1990-01-02,91790
r-3,p-2,0,31,family@example.org,Ben,Jones,1980-02-03,91791
r-4,p-3,1,32,family@example.org,Cleo,Jones,1981-03-04,91791
r-5,p-4,1,33,,Ivan,,1982-04-05,91792
r-6,p-5,1,34,eve@example.org,Eve,Genesis,1983-05-06,91793
"""


def email(address):
    return identifier_hash(("email",), [address])


ANNA_NDZ = identifier_hash(
    ("first_name", "last_name", "date_of_birth", "zip"), ["Anna", "Smith", "1990-01-02", "91790"]
)
ITEMS = {
    "AAAAAAAAAAA1": email("anna.smith@domain.com"),  # one person
    "AAAAAAAAAAA2": email("FAMILY@example.org"),  # two persons share it
    "AAAAAAAAAAA3": email("nobody@example.org"),  # nobody
    "AAAAAAAAAAA4": email("eve@example.org"),  # one person
}


@pytest.fixture
def place(tmp_path, declare_people):
    path = declare_people(tmp_path, "mail", more=DROP)
    (tmp_path / "people.csv").write_text(PEOPLE)
    (tmp_path / "root" / "inbox").mkdir(parents=True)
    return {"dataset": str(path), "root_uri": str(tmp_path / "root")}


def download(tmp_path, name, files):
    with zipfile.ZipFile(tmp_path / "root" / "inbox" / name, "w") as archive:
        for kind, lines in files.items():
            header = "ID,Hash,ListType" if kind == "Removed" else "ID,Hash"
            archive.writestr(f"20260915_4821_{kind}.csv", "\n".join([header, *lines, ""]))


@pytest.fixture
def taken(place, tmp_path):
    """A first download: four e-mail items, and Anna again by name, birth and ZIP."""
    lines = [f"{item},{hashed}" for item, hashed in ITEMS.items()]
    files = {"Email": lines, "NDZ": [f"BBBBBBBBBBB1,{ANNA_NDZ}"], "Phone": []}
    download(tmp_path, "20260915_4821_DROP.zip", files)
    return intake_requests(run_id="one", **place)


def close(place, request_id, outcome):
    queue = open_context(**place).queue
    now = datetime.now(UTC)
    lease = queue.lease_batch(f"run-{request_id}", lease_s=60, max_items=1, now=now)
    assert (request_id,) == lease.request_ids
    queue.transition(request_id, "planned", token=lease.token, now=now)
    queue.close(request_id, outcome=outcome, claim=None, token=lease.token, now=now)


def statuses(result):
    found = {}
    for path in result["files"]:
        with open(path) as file:
            found |= {row["Id"]: row["Status"] for row in csv.DictReader(file)}
    return found


def test_items_become_requests_where_they_mean_one_person(taken, place, tmp_path):
    """Five items: Anna, Anna again (a duplicate), Eve, two persons, nobody."""
    drop = taken["receipts"][0]["drop"]

    assert (5, 5, 0) == tuple(taken[name] for name in ("read", "accepted", "rejected"))
    assert (3, 1, 1, 3) == tuple(
        drop[name] for name in ("one_person", "shared", "nobody", "new_requests")
    )
    assert 6 == drop["persons"]
    assert {"Email": 1, "NDZ": 1} == drop["without_hash"]  # p-4 has no address and no last name
    rows = {row["request_id"]: row for row in list_requests(**place)}
    assert {"drop-AAAAAAAAAAA1", "drop-AAAAAAAAAAA4", "drop-BBBBBBBBBBB1"} == set(rows)
    assert "drop-AAAAAAAAAAA1" == rows["drop-BBBBBBBBBBB1"]["duplicate_of"]
    assert {"drop"} == {row["regime"] for row in rows.values()}
    (shared,) = (tmp_path / "root" / "drop").glob("*/opted_out.csv")
    assert ["p-2", "p-3"] == [line.split(",")[1] for line in shared.read_text().split()[1:]]
    private = [p for p in shared.parent.iterdir() if p.name in {"items.parquet", "opted_out.csv"}]
    assert {0o600} == {stat.S_IMODE(p.stat().st_mode) for p in private}


def test_each_item_is_answered_once_with_its_code(taken, place):
    """Nobody 5 at once; deleted 3, exempt 2 when closed; shared 4 only when said; then nothing."""
    first = answer_items(**place)
    close(place, "drop-AAAAAAAAAAA1", Outcome.FORGOTTEN)
    second = answer_items(**place)
    close(place, "drop-AAAAAAAAAAA4", Outcome.KEPT_EXEMPT)
    third = answer_items(opted_out=True, **place)
    fourth = answer_items(opted_out=True, **place)

    assert {"AAAAAAAAAAA3": "5"} == statuses(first)
    assert (3, 1) == (first["waiting"], first["shared"])
    assert {"AAAAAAAAAAA1": "3", "BBBBBBBBBBB1": "3"} == statuses(second)
    assert {"AAAAAAAAAAA2": "4", "AAAAAAAAAAA4": "2"} == statuses(third)
    assert {"files": [], "answered": 0, "waiting": 0, "shared": 0, "by_hand": 0} == fourth
    names = sorted(p.split("/")[-1] for r in (first, second, third) for p in r["files"])
    assert [
        "20260915_4821_Email.csv",
        "20260915_4821_Email_part02.csv",
        "20260915_4821_Email_part03.csv",
        "20260915_4821_NDZ.csv",
    ] == names


def test_a_request_that_was_taken_back_is_cancelled_and_not_answered(taken, place, tmp_path):
    """In the next download: before the erasure it is cancelled, after it it is too late."""
    close(place, "drop-AAAAAAAAAAA1", Outcome.FORGOTTEN)
    lines = [f"{item},{ITEMS[item]},Email" for item in ("AAAAAAAAAAA1", "AAAAAAAAAAA4")]
    download(tmp_path, "20261030_4821_DROP.zip", {"Removed": lines})

    result = intake_requests(run_id="two", **place)["receipts"][0]["drop"]

    assert (2, 1, 1, 0) == tuple(
        result[name] for name in ("removed", "cancelled", "too_late", "new_requests")
    )
    assert {"AAAAAAAAAAA3": "5", "BBBBBBBBBBB1": "3"} == statuses(answer_items(**place))


def test_who_appears_later_is_found_by_the_next_screening(taken, place, tmp_path):
    """Nobody at first; the person is in the table 45 days later: a request, once."""
    with (tmp_path / "people.csv").open("a") as file:
        file.write("r-7,p-6,1,35,nobody@example.org,No,Body,1984-06-07,91794\n")

    first, again = screen_persons(**place), screen_persons(**place)

    assert (1, 0) == (first["new_requests"], again["new_requests"])
    assert "drop-AAAAAAAAAAA3" in {row["request_id"] for row in list_requests(**place)}


def test_another_person_under_an_answered_identifier_is_asked_for_too(taken, place, tmp_path):
    """Anna's rows are gone; later somebody else has her address: a request of their own, once."""
    close(place, "drop-AAAAAAAAAAA1", Outcome.FORGOTTEN)
    lines = [line for line in PEOPLE.splitlines() if "p-1" not in line]
    lines.append("r-9,p-9,0,30,anna.smith@domain.com,An,Other,1991-01-02,91790")
    (tmp_path / "people.csv").write_text("\n".join(lines) + "\n")

    assert (1, 0) == tuple(screen_persons(**place)["new_requests"] for _ in range(2))
    new = [r for r in list_requests(**place) if r["request_id"].startswith("drop-AAAAAAAAAAA1-")]
    assert ["queued"] == [row["state"] for row in new]


def test_a_rotation_asks_for_nobody_anew(taken, place, tmp_path):
    """The same items again, under the new key: known by the former one, also the second person."""
    close(place, "drop-AAAAAAAAAAA1", Outcome.FORGOTTEN)
    people = (tmp_path / "people.csv").read_text().replace("eve@example.org", "gone@example.org")
    (tmp_path / "people.csv").write_text(people + "r-7,p-6,0,20,eve@example.org,,,,\n")
    before = screen_persons(**place)
    rotate_pseudonyms(**place)
    (tmp_path / "people.csv").write_text(people + "r-8,p-7,0,20,eve@example.org,,,,\n")
    after = [screen_persons(**place)["new_requests"] for _ in range(2)]
    (tmp_path / "people.csv").write_text(people + "r-7,p-6,0,20,eve@example.org,,,,\n")

    assert 1 == before["new_requests"]
    assert [1, 0] == after  # p-7, whom no request was about
    assert 0 == screen_persons(**place)["new_requests"]  # p-6, under the former key
    context = open_context(**place)
    assert 1 == context.queue.key_ids()[context.key_ring.ids[0]]


def test_what_was_found_stays_found_when_the_row_is_gone(taken, place, tmp_path):
    """Erasure empties the table: the item is answered deleted, not "not found"."""
    close(place, "drop-AAAAAAAAAAA1", Outcome.FORGOTTEN)
    lines = [line for line in PEOPLE.splitlines() if "p-1" not in line]
    (tmp_path / "people.csv").write_text("\n".join(lines) + "\n")
    screen_persons(**place)

    assert "3" == statuses(answer_items(**place))["AAAAAAAAAAA1"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"Fax": []}, "file name"),
        ({"../Email": []}, "file name"),
    ],
)
def test_a_bad_archive_is_refused_as_a_whole(place, tmp_path, files, reason):
    """Nothing goes in, the archive lies in the rejects."""
    download(tmp_path, "x.zip", files)

    result = intake_requests(run_id="one", **place)

    assert 1 == result["refused_files"]
    assert reason in result["receipts"][0]["refused"]
    assert [] == list_requests(**place)
    assert not (tmp_path / "root" / "drop").exists()


def test_a_dataset_without_drop_refuses_the_download(place, tmp_path):
    """The declaration says who we are; without it there is nothing to match with."""
    path = tmp_path / "people.yaml"
    path.write_text(path.read_text().split("drop:")[0])
    download(tmp_path, "x.zip", {"Email": []})

    result = intake_requests(run_id="one", **place)

    assert "'drop' part" in result["receipts"][0]["refused"]


def test_a_download_that_was_refused_is_read_when_it_is_dropped_again(place, tmp_path):
    """Our own table was missing: refused, nothing answered; with the table the same bytes go in."""
    (tmp_path / "people.csv").rename(tmp_path / "elsewhere.csv")
    line = f"AAAAAAAAAAA1,{ITEMS['AAAAAAAAAAA1']}"
    download(tmp_path, "x.zip", {"Email": [line]})
    refused = intake_requests(run_id="one", **place)
    unanswered = answer_items(**place)
    (tmp_path / "elsewhere.csv").rename(tmp_path / "people.csv")
    (kept,) = (tmp_path / "root" / "rejects").iterdir()
    kept.rename(tmp_path / "root" / "inbox" / "again.zip")

    again = intake_requests(run_id="two", **place)

    assert (1, 0) == (refused["refused_files"], unanswered["answered"])
    assert (0, 0, 1) == (again["refused_files"], again["repeated_files"], again["accepted"])
    assert ["drop-AAAAAAAAAAA1"] == [row["request_id"] for row in list_requests(**place)]


def test_the_declaration_names_every_field_of_a_list():
    """NDZ needs four columns; a declaration with three of them is refused."""
    from governance.declaration import Drop

    with pytest.raises(ValueError, match="date_of_birth"):
        Drop(broker_id="4821", lists={DropList.NDZ: {"first_name": "a", "last_name": "b"}})
