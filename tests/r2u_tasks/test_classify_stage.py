"""Laws of the classify stage: steps and whole, erased rows, reruns, gates, moves, overrides."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import DataError, ValidationFailedError
from governance.key_files import load_or_make_key
from governance.storage import read_table, table_exists
from governance.suppression import Erased, add_tombstones, pseudonym
from r2u_tasks.stages.calibrate import accept_proposal, calibrate
from r2u_tasks.stages.classify import (
    classify_data,
    classify_part,
    explain,
    ingest_rows,
    publish,
    publish_classified,
)
from r2u_tasks.stages.policies import compare_policies, explain_policy
from r2u_tasks.stages.review import set_override

PLACE = {"dataset": "embedded:digits"}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "workspace"


def place_of(root):
    return {**PLACE, "root_uri": str(root)}


def classified(root):
    return {row["record_id"]: row for row in read_table(root / "tables" / "classified").to_pylist()}


def test_the_steps_are_the_whole_and_leave_no_row_behind(root, tmp_path):
    """Mapped over buckets or at once: the same decisions; the staging folder is gone."""
    whole = classify_data(run_id="a", as_of="2026-06-01", **place_of(root))
    other = tmp_path / "other"
    steps = {"run_id": "a", **place_of(other)}
    ingested = ingest_rows(as_of="2026-06-01", **steps)
    buckets = [bucket for part in ingested["parts"] for bucket in part]
    for part in ([bucket] for bucket in reversed(buckets)):
        classify_part(part=part, **steps)
    result = publish_classified(**steps)

    assert whole["levels"] == result["levels"]
    assert whole["classified"]["digest"] == result["classified"]["digest"]
    assert list((other / "staging").iterdir()) == []
    assert ingest_rows(**steps) == {"parts": []}
    names = ("risk_level", "revocable", "slice_order", "split", "deciding_rules", "expected_cost")
    first, second = classified(root), classified(other)
    assert {k: [v[n] for n in names] for k, v in first.items()} == {
        k: [v[n] for n in names] for k, v in second.items()
    }


def test_rows_that_are_erased_during_a_run_do_not_come_back(root):
    """The tombstone comes after the rows were read and before they are published."""
    steps = {"run_id": "a", **place_of(root)}
    for part in ingest_rows(**steps)["parts"]:
        classify_part(part=part, **steps)
    key = load_or_make_key(root / "keys", "pseudonym.key")
    add_tombstones(
        root / "tables" / "tombstones",
        Erased(
            record_keys=[],
            subject_keys=[pseudonym(key, "subject", "SYN-P0007")],
        ),
        batch_id="b1",
        erased_at=datetime.now(UTC),
    )
    publish_classified(**steps)

    for name in ("raw", "classified"):
        table = read_table(root / "tables" / name)
        assert table.num_rows > 0
        assert "SYN-P0007" not in table["subject_id"].to_pylist()


def test_a_blocked_gate_names_the_rows_and_changes_nothing(root):
    """All records become high under the same policy: the drift gate stops the second run."""
    classify_data(run_id="a", **place_of(root))
    before = classified(root)
    source = root / "source" / "digits.parquet"
    table = pq.read_table(source)
    place = table.column_names.index("consent_basis")
    consent = pa.array(["consent"] * table.num_rows)
    pq.write_table(table.set_column(place, "consent_basis", consent), source)

    with pytest.raises(ValidationFailedError, match="high_share_change") as caught:
        classify_data(run_id="b", **place_of(root))

    assert "SYN-" not in str(caught.value)
    assert before == classified(root)


def test_an_override_moves_a_record_and_a_rerun_keeps_it(root):
    """The subject is low by the rules, high by a person, and stays high in the next run."""
    classify_data(run_id="a", **place_of(root))
    low = next(row for row in classified(root).values() if row["risk_level"] == "low")
    signed = {"who": "dpo", "why": "asked by letter", "valid_days": 10}
    set_override(level="high", subject_id=low["subject_id"], **signed, **place_of(root))
    second = classify_data(run_id="b", **place_of(root))
    third = classify_data(run_id="c", **place_of(root))

    n_records = sum(r["subject_id"] == low["subject_id"] for r in classified(root).values())
    assert classified(root)[low["record_id"]]["risk_level"] == "high"
    assert second["moved"]["low_to_high"] == n_records
    assert third["moved"] == {"low_to_high": 0, "high_to_low": 0, "by_rules": {}}
    assert "a person said high" in explain(record_id=low["record_id"], **place_of(root))
    stored = "".join(p.read_text(errors="ignore") for p in (root / "overrides").glob("*.jsonl"))
    assert low["subject_id"] not in stored
    with pytest.raises(DataError, match="unknown"):
        explain(record_id="nobody", **place_of(root))


def test_a_policy_diff_counts_the_records_that_would_move(root):
    """Without the rule about minors, exactly those high by it alone become low."""
    classify_data(run_id="a", **place_of(root))
    rows = classified(root).values()
    only = sum(row["deciding_rules"] == ["minor"] for row in rows)
    policy = root / "source" / "policy.yaml"
    lines = [line for line in policy.read_text().splitlines() if "id: minor" not in line]
    changed = root / "changed.yaml"
    changed.write_text("\n".join(lines))

    found = compare_policies(new=str(changed), **place_of(root))
    moved = [
        row
        for row in rows
        if row["deciding_rules"] == ["minor"] and row["erasure_probability"] >= 0.5
    ]

    assert any(line.startswith("- rules.minor") for line in found["changes"])
    assert found["data"]["moved"] == {"high_to_low": only - len(moved)}
    assert sum(found["data"]["levels"]["new"].values()) == len(rows)
    assert any("minor" in line for line in explain_policy(**place_of(root))["lines"])


def test_a_proposal_is_put_in_place_by_a_person_only(root):
    """A year in which everybody of one group asked: proposed, accepted, the former file is kept."""
    classify_data(run_id="a", **place_of(root))
    run = root / "classification" / "a" / "run.json"
    content = json.loads(run.read_text())
    content["at"] = "2025-06-01T00:00:00+00:00"
    run.write_text(json.dumps(content))
    asked = {g["group"]: g["n_subjects"] // 2 for g in content["groups"]}
    observation = {
        "batch_id": "b1",
        "at": "2025-12-01T00:00:00+00:00",
        "policy_digest": content["policy_digest"],
        "n_subjects": 90,
        "n_subjects_covered": 30,
        "n_records": 900,
        "n_high": 300,
        "n_revocable": 300,
        "cost_of_misses": 600.0,
        "subjects_by_group": asked,
        "own_by_group": asked,
        "records_by_group": asked,
        "subjects_by_stratum": {},
    }
    folder = root / "calibration" / "observations"
    folder.mkdir(parents=True)
    (folder / "b1.json").write_text(json.dumps(observation))
    policy = root / "source" / "policy.yaml"
    text = policy.read_text()

    report = calibrate(run_id="c1", **place_of(root))

    assert report["recall_records"]["value"] == pytest.approx(1 / 3)
    assert report["misses"] == {"n_records": 600, "n_batches": 1, "cost": 600.0}
    assert report["drift"]["alarm"]
    assert report["proposal"]["version"] == 2
    assert policy.read_text() == text
    accepted = accept_proposal(run_id="c1", who="dpo", **place_of(root))
    assert (root / "source" / "policy.v1.yaml").read_text() == text
    assert accepted["version"] == 2
    assert "version: 2" in policy.read_text()


def break_off(path):
    path.write_bytes(path.read_bytes()[:100])


def lose_a_row(path):
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)


@pytest.mark.parametrize("what", ["rows", "decisions"])
@pytest.mark.parametrize("harm", [lambda path: path.unlink(), break_off, lose_a_row])
def test_a_staged_bucket_that_is_not_whole_publishes_nothing(root, what, harm):
    """Removed, broken off or a row short: an error that names the bucket; no table is made."""
    steps = {"run_id": "a", **place_of(root)}
    buckets = [bucket for part in ingest_rows(**steps)["parts"] for bucket in part]
    classify_part(part=buckets, **steps)
    harm(root / "staging" / "classify-a" / what / f"{buckets[-1]}.parquet")

    with pytest.raises(DataError, match=f"{what} of bucket {buckets[-1]},.*new run"):
        publish_classified(**steps)

    assert not table_exists(root / "tables" / "raw")
    assert not table_exists(root / "tables" / "classified")


def test_a_bucket_that_is_lost_while_rows_are_written_commits_nothing(root, monkeypatch):
    """Each bucket was whole until the writer had the lock: still an error of ours, and no table."""
    steps = {"run_id": "a", **place_of(root)}
    buckets = [bucket for part in ingest_rows(**steps)["parts"] for bucket in part]
    classify_part(part=buckets, **steps)
    write = publish.publish_batches

    def publish_meanwhile(*arguments, **named):
        (root / "staging" / "classify-a" / "rows" / f"{buckets[-1]}.parquet").unlink()
        return write(*arguments, **named)

    monkeypatch.setattr(publish, "publish_batches", publish_meanwhile)
    with pytest.raises(DataError, match=f"rows of bucket {buckets[-1]},"):
        publish_classified(**steps)

    assert not table_exists(root / "tables" / "raw")


def test_fewer_buckets_than_came_in_commit_nothing(root):
    """The note of the buckets and the groups lack one of them alike: the rows are counted."""
    steps = {"run_id": "a", **place_of(root)}
    buckets = [bucket for part in ingest_rows(**steps)["parts"] for bucket in part]
    for bucket in buckets:
        classify_part(part=[bucket], **steps)
    folder = root / "staging" / "classify-a"
    counts = json.loads((folder / "rows-by-bucket.json").read_text())
    n_rows, n_lost = sum(counts.values()), counts.pop(str(buckets[-1]))
    (folder / "rows-by-bucket.json").write_text(json.dumps(counts))
    (folder / "groups" / f"{buckets[-1]}.jsonl").unlink()

    with pytest.raises(DataError, match=f"publish {n_rows} rows, got {n_rows - n_lost}"):
        publish_classified(**steps)

    assert not table_exists(root / "tables" / "raw")


def test_what_persons_say_between_two_buckets_waits_for_the_next_run(root):
    """Every subject is said to be high, after the first bucket: neither bucket hears of it."""
    whole = classify_data(run_id="a", as_of="2026-06-01", **place_of(root))
    before = classified(root)
    low = [r for r in before.values() if r["risk_level"] == "low"]
    place_of_low = {r["bucket"]: r["subject_id"] for r in low}
    assert len(place_of_low) > 1

    steps = {"run_id": "b", **place_of(root)}
    buckets = [b for part in ingest_rows(as_of="2026-06-01", **steps)["parts"] for b in part]
    signed = {"who": "dpo", "why": "asked by letter", "valid_days": 10}
    for bucket in buckets:
        classify_part(part=[bucket], **steps)
        if bucket == buckets[0]:
            for subject in place_of_low.values():
                set_override(level="high", subject_id=subject, **signed, **place_of(root))
    second = publish_classified(**steps)
    third = classify_data(run_id="c", as_of="2026-06-01", **place_of(root))

    assert second["levels"] == whole["levels"]
    assert second["overrides"]["active"] == 0
    assert third["overrides"]["active"] == len(place_of_low)
    assert third["moved"]["low_to_high"] >= len(place_of_low)


def test_what_names_a_value_that_no_row_has_is_a_warning(root, caplog):
    """A misspelled rule and stratum are told by their ids; those that match are not."""
    classify_data(run_id="a", **place_of(root))
    policy = root / "source" / "policy.yaml"
    text = policy.read_text()
    column = "consent_basis"
    value = next(iter(classified(root).values()))[column]
    rules = [
        f"  - {{id: there, when: {{column: {column}, equals: {value}}}, add: 0.0}}",
        f"  - {{id: nowhere, when: {{column: {column}, in: [consnet]}}, add: 0.0}}",
    ]
    policy.write_text(text.replace("rules:\n", "rules:\n" + "\n".join(rules) + "\n"))
    signed = {"who": "dpo", "why": "asked by letter", "valid_days": 10, "level": "high"}
    lost = set_override(stratum={column: "consnet"}, **signed, **place_of(root))
    set_override(stratum={column: value}, **signed, **place_of(root))

    result = classify_data(run_id="b", **place_of(root))

    assert result["unmatched"]["strata"] == [lost["override_id"]]
    assert "nowhere" in result["unmatched"]["rules"]
    assert "there" not in result["unmatched"]["rules"]
    assert lost["override_id"] in caplog.text
