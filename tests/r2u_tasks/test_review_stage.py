"""Laws of the review: an answer is about the groups that the person saw, and about no others."""

from datetime import UTC, datetime

import pytest

from governance.classification import RiskGroup, group_name
from governance.classification.decisions import decide
from governance.classification.runs import RunRecord, save_run
from governance.errors import RequestError
from governance.policy import load_policy
from governance.suites import describe_groups
from r2u_tasks.stages import review
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.review import list_overrides, list_reviews, review_text, take_answer

BAND = "review: [0.40, 0.50]"
FIRST, SECOND = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 8, tzinfo=UTC)
PATTERNS = (("old-consent",), ("young",), ("erasure-law",))
LATER = (("erasure-law", "young"), ("old-consent", "young"))
USER = {"id": "dpo", "name": "dpo"}


@pytest.fixture
def place(tmp_path):
    """A workspace whose policy asks about every record that is not high anyway."""
    from r2u_tasks import embedded

    root = tmp_path / "workspace"
    dataset = embedded.resolve("embedded:digits", root)
    path = dataset.parent / "policy.yaml"
    path.write_text(path.read_text().replace(BAND, "review: [0.0, 0.50]"))
    return {"dataset": str(dataset), "root_uri": str(root)}


def publish(place, key, patterns, *, at):
    """Publish a run that has one risk group for each pattern."""
    context = open_context(**place)
    policy = load_policy(context.declaration.policy_path, context.declaration)
    groups = tuple(
        RiskGroup(group_name(names), names, decide(names, policy), 100 - n, 5)
        for n, names in enumerate(patterns)
    )
    assert all(group.decision.needs_review for group in groups)
    record = RunRecord(
        run_key=key,
        at=at,
        policy_digest=policy.digest,
        policy_version=policy.version,
        horizon_days=policy.horizon_days,
        distribution=describe_groups(list(groups), policy.digest),
        groups=groups,
        revocable_by_group={},
        strata={},
    )
    save_run(context.workspace.classifications, record)
    return [group.group for group in groups]


def answer(place, form, option, **given):
    said = {"chosen_options": [option], "params_input": given, "responded_by_user": USER}
    return take_answer(run_id="r", answer=said, form=form, **place)


def stored(place):
    """Level -> groups that hold an answer in force."""
    found = {"high": set(), "low": set()}
    for override in list_overrides(**place)["active"]:
        found[override["level"]].add(group_name(tuple(override["pattern"])))
    return found


@pytest.fixture
def shown(place):
    """Three groups of a form, and the form."""
    names = publish(place, "a", PATTERNS, at=FIRST)
    text = review_text(**place)
    assert names == list(text["form"]["groups"])
    return names, text["form"]


@pytest.mark.parametrize(
    ("option", "listed", "high", "low", "mistyped"),
    [
        ("All high", "", "012", "", 0),
        ("All low", "", "", "012", 0),
        ("As listed", "1", "02", "1", 0),
        ("As listed", "", "012", "", 0),
        ("As listed", "1x", "", "1", 1),
        ("Not now", "", "", "", 0),
    ],
)
def test_an_answer_means_the_groups_of_its_form(place, shown, option, listed, high, low, mistyped):
    """A later run brings two more groups: no option touches them, nor what is unclear."""
    names, form = shown
    publish(place, "b", (*PATTERNS, *LATER), at=SECOND)
    typed = " ".join({"1": names[1], "x": "jane@example.org"}[letter] for letter in listed)

    result = answer(place, form, option, low_groups=typed, valid_days=30, why="seen")

    expected = {"high": {names[int(n)] for n in high}, "low": {names[int(n)] for n in low}}
    n_answered = len(high) + len(low)
    assert expected == stored(place)
    assert {"n_overrides": n_answered, "n_mistyped": mistyped, "applies": n_answered > 0} == result
    still_open = {group["group"] for group in list_reviews(**place)["groups"]}
    assert len(PATTERNS) + len(LATER) - n_answered == len(still_open)
    assert {group_name(names) for names in LATER} <= still_open


def test_a_retry_after_half_an_answer_stores_the_rest_once(place, shown, monkeypatch):
    """The task dies after the first of three groups; its retry ends with one answer for each."""
    names, form = shown
    enter = review._enter

    def die(context, override):
        enter(context, override)
        message = "killed"
        raise OSError(message)

    with monkeypatch.context() as patch:
        patch.setattr(review, "_enter", die)
        with pytest.raises(OSError, match="killed"):
            answer(place, form, "All low")
    assert 1 == len(list_overrides(**place)["active"])
    for _ in range(2):
        result = answer(place, form, "All low")

    assert (3, True) == (result["n_overrides"], result["applies"])
    assert {"high": set(), "low": set(names)} == stored(place)
    assert 3 == len(list_overrides(**place)["active"])


def test_the_answer_of_a_stale_form_belongs_to_the_policy_that_the_person_saw(place, shown):
    """The policy changed meanwhile: nothing is answered under the new one, no run is due."""
    _, form = shown
    path = open_context(**place).declaration.policy_path
    path.write_text(path.read_text().replace("base_cost: 1.0", "base_cost: 2.0"))
    publish(place, "b", PATTERNS, at=SECOND)

    result = answer(place, form, "All low")

    assert (3, False) == (result["n_overrides"], result["applies"])
    assert len(PATTERNS) == len(list_reviews(**place)["groups"])
    assert form["policy_digest"] != list_reviews(**place)["policy_digest"]
    lines = open_context(**place).workspace.overrides.joinpath("overrides.jsonl").read_text()
    assert 3 == lines.count(form["policy_digest"])


def test_a_form_shows_at_most_twenty_groups_and_its_answer_covers_these(place, monkeypatch):
    """Two of three groups fit: *All low* leaves the third open, and the form says so."""
    monkeypatch.setattr(review, "_MAX_LISTED", 2)
    names = publish(place, "a", PATTERNS, at=FIRST)
    text = review_text(**place)

    answer(place, text["form"], "All low")

    assert (2, 199) == (text["n_groups"], text["n_records"])
    assert "1 smaller groups are not part of this form" in text["body"]
    assert {"high": set(), "low": set(names[:2])} == stored(place)
    assert names[2:] == [group["group"] for group in list_reviews(**place)["groups"]]


def test_an_unknown_option_is_refused_without_repeating_it(place, shown):
    """An answer that is none of the four stores nothing."""
    with pytest.raises(RequestError, match="expected an answer of") as caught:
        answer(place, shown[1], "jane@example.org")

    assert "jane" not in str(caught.value)
    assert {"high": set(), "low": set()} == stored(place)


@pytest.mark.parametrize(
    "stratum",
    [
        {"record_id": "SYN-R00005"},
        {"subject_id": "SYN-P0007"},
        {"email": "x"},
        {"name": "x"},
        {"tenant": "jane@example.org"},
    ],
)
def test_a_stratum_that_can_name_a_person_is_refused(place, stratum):
    """Ids, identifying categories and values that are an address: nothing is stored."""
    signed = {"level": "high", "who": "dpo", "why": "asked", "valid_days": 9}
    with pytest.raises(RequestError, match="--subject"):
        review.set_override(stratum=stratum, **signed, **place)

    assert not open_context(**place).workspace.overrides.joinpath("overrides.jsonl").exists()
    assert review.set_override(stratum={"country": "BR"}, **signed, **place)["n_keys"] == 0
