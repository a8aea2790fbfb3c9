"""The commands about risk, as a person types them."""

import json

import pytest
from typer.testing import CliRunner

from r2u_tasks.cli.main import app

TEXT = {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "workspace"
    assert r2u(folder, "classify", "--run-id", "a").exit_code == 0
    return folder


def r2u(root, *arguments):
    return CliRunner().invoke(app, [*arguments, "--root", str(root)], env=TEXT)


def said(root, *arguments):
    result = r2u(root, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_record_and_the_policy_are_explained_in_words(root):
    """Level, score parts and deciding rules; every rule with its effect."""
    record = said(root, "classify", "--explain", "SYN-R00005")
    assert record.startswith("risk ")
    assert "decided by:" in record
    assert "minor: if subject_type equals minor" in said(root, "policy", "explain")
    assert "ok digits-risk v1" in said(root, "policy", "check")


def test_a_changed_policy_is_compared_rule_by_rule_and_record_by_record(root, tmp_path):
    """A rule that adds 0.45 less: its line, and the records that it moves."""
    text = (root / "source" / "policy.yaml").read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("add: 0.45", "add: 0.10").replace("version: 1", "version: 2"))

    shown = said(root, "policy", "diff", str(changed))
    found = json.loads(said(root, "policy", "diff", str(changed), "--json"))

    assert "~ rules.consent.add: 0.45 -> 0.1" in shown
    assert found["data"]["moved"]["high_to_low"] > 0
    assert "high to low" in shown


def test_a_wrong_policy_is_told_with_every_path(root, tmp_path):
    """Two mistakes, two lines."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("policy: {name: x, version: 0}\nrules: [{id: a, when: {}, set: high}]\n")

    problems = r2u(root, "policy", "check", str(wrong)).exception.problems

    assert {line.split(":")[0] for line in problems} == {"policy.version", "rules.0.when"}


def test_an_override_is_added_listed_and_withdrawn(root):
    """By stratum, with author, reason and expiry."""
    signed = ("--who", "dpo", "--why", "left the programme")
    said(root, "override", "add", "high", "--stratum", "country=BR", *signed, "--days", "30")
    listed = json.loads(said(root, "override", "list", "--json"))["active"]

    assert [(o["who"], o["why"], o["values"]) for o in listed] == [
        ("dpo", "left the programme", {"country": "BR"})
    ]
    said(root, "override", "end", listed[0]["override_id"], *signed)
    assert json.loads(said(root, "override", "list", "--json"))["active"] == []


def test_without_a_review_band_or_requests_the_commands_say_so(root):
    """Nothing to review; a calibration of nothing has no recall, no alarm and no proposal."""
    assert "nothing to review" in said(root, "review", "list")
    report = json.loads(said(root, "calibrate", "--run-id", "c1", "--json"))

    assert report["recall_subjects"]["value"] is None
    assert (report["drift"]["alarm"], report["proposal"]) == (False, None)
    assert (root / "calibration" / "c1" / "reliability.png").exists()
