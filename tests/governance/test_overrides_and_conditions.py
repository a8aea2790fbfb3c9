"""Laws of conditions, overrides and streams: unknown is stricter, a person's word, any buckets."""

import hashlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.classification import assign_split, classify_rows
from governance.classification.conditions import Knowledge, count_strata, stratum_keys
from governance.classification.decisions import decide
from governance.classification.overrides import (
    add_override,
    find_applied,
    load_overrides,
    match_overrides,
    withdraw_override,
)
from governance.classification.patterns import find_patterns
from governance.classification.population import find_looks, find_rare_groups, rank_records
from governance.classification.staging import Staging, add_groups, in_parts
from governance.classification.table import classify_records
from governance.declaration import load_declaration
from governance.errors import DataError, PolicyError, RequestError
from governance.policy import Policy, load_policy, parse_policy, write_policy
from governance.policy.changes import describe_policy, policy_changes
from governance.policy.vocabulary import known_vocabularies, load_categories
from governance.source import read_source
from governance.storage import with_buckets
from governance.suites import Distribution, describe_groups, drift_figures, drift_suite
from governance.suppression import pseudonym, pseudonym_digests

KEY = b"k" * 32
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = date(2026, 6, 1)
LAWS = settings(max_examples=25, deadline=None, database=None)


ROLES = {
    "lawful_basis": "basis",
    "consent_at": "since",
    "jurisdiction": "country",
    "subject_type": "kind",
    "tenant": "tenant",
}


@pytest.fixture(scope="module")
def declaration(tmp_path_factory, declare_people):
    return load_declaration(
        declare_people(tmp_path_factory.mktemp("d"), "basis, country, since, kind, tenant")
    )


def policy_of(*rules, **more):
    content = {
        "policy": {"name": "p", "version": 1},
        "roles": ROLES,
        "strata": ["country"],
        "rules": [{"id": f"r{i}", **rule} for i, rule in enumerate(rules)],
    }
    return Policy.model_validate(content | more)


def table_of(**columns):
    n = len(next(iter(columns.values())))
    base = {
        "id": [f"r{i:03d}" for i in range(n)],
        "person": [f"p{i // 2}" for i in range(n)],
        "churned": [0] * n,
        "age": [30.0] * n,
        "basis": ["contract"] * n,
        "country": ["US"] * n,
        "since": pa.array([date(2026, 1, 1)] * n, pa.date32()),
        "kind": ["adult"] * n,
        "tenant": ["t1"] * n,
    }
    table = pa.table(base | columns)
    return table.append_column("bucket", pa.array(np.zeros(n, np.int32)))


def knowledge(**more):
    return Knowledge(as_of=DAY, subject_id="person", record_id="id", pseudonym_keys=(KEY,), **more)


def levels(table, policy, declaration, **more):
    found = classify_records(
        table, policy, declaration=declaration, as_of=DAY, pseudonym_key=KEY, **more
    )
    return found["risk_level"].to_pylist()


@pytest.mark.parametrize(
    ("when", "columns", "expected"),
    [
        ({"lawful_basis": "consent"}, {"basis": ["consent", "contract", None]}, "yn?"),
        ({"jurisdiction": "EU"}, {"country": ["FR", "US", " "]}, "yn?"),
        ({"jurisdiction": ["US", "EEA"]}, {"country": ["NO", "US", "CH"]}, "yyn"),
        ({"subject_type": ["minor"]}, {"kind": ["minor", "adult", None]}, "yn?"),
        ({"tenant": "t2"}, {"tenant": ["t2", "t1", ""]}, "yn?"),
        (
            {"consent_age_days_gt": 100},
            {"since": pa.array([date(2026, 2, 20), date(2026, 2, 21), None], pa.date32())},
            "yn?",
        ),
        ({"column": "age", "less_than": 16}, {"age": [15.0, 16.0, None]}, "yn?"),
        ({"tenant": "0012"}, {"tenant": ["0012", "12", None]}, "yn?"),
        ({"tenant": 12}, {"tenant": ["12.0", "0012", ""]}, "yn?"),
        ({"column": "kind", "in": [1.5, "x"]}, {"kind": ["1.50", "01.5", "x", None]}, "yny?"),
        ({"column": "kind", "equals": True}, {"kind": ["True", "1", None]}, "yn?"),
        ({"column": "kind", "less_than": 16}, {"kind": ["15.5", "016", "many", "1,5"]}, "yn??"),
        ({"column": "kind", "greater_than": -1}, {"kind": ["-9e-1", "-1", "0x1"]}, "yn?"),
        (
            {"consent_age_days_gt": 100},
            {"since": ["2026-02-20", "2026-02-21 23:00", "2026-02-30", "20.02.2026"]},
            "yn??",
        ),
        (
            {"column": "since", "age_days_gt": 100},
            {"since": ["2026-02-21T00:30+01:00", "2026-02-20T23:30-01:00", None]},
            "yn?",
        ),
        ({"column": "basis", "missing": True}, {"basis": ["x", " ", None]}, "nyy"),
        ({"column": "basis", "equals": ""}, {"basis": ["x", " ", None]}, "nyy"),
        ({"detects": "email"}, {"kind": ["a@example.org", "adult", None]}, "ynn"),
    ],
)
def test_an_unknown_condition_takes_the_stricter_side(declaration, when, columns, expected):
    """Y holds, n does not, ? unknown: counts where the rule raises risk, not where it lowers it."""
    table = table_of(**columns)

    raised = levels(table, policy_of({"when": when, "set": "high"}), declaration)
    lenient = {**when, "if_missing": "no_match"}
    told = levels(table, policy_of({"when": lenient, "set": "high"}), declaration)
    lowered = levels(
        table,
        policy_of({"when": when, "set": "low"}, base_probability=0.9),
        declaration,
    )

    assert ["high" if e in "y?" else "low" for e in expected] == raised
    assert ["high" if e == "y" else "low" for e in expected] == told
    assert ["low" if e == "y" else "high" for e in expected] == lowered


def test_cells_of_a_csv_mean_what_is_written(tmp_path, declare_people):
    """Tenant 0012 is not 12, zip 01067 and True stay, and so do classes that are text."""
    changes = {"classes: [0, 1]": 'classes: ["01", "1"]'}
    path = declare_people(tmp_path, "basis, country, since, kind, tenant", changes=changes)
    (tmp_path / "people.csv").write_text(
        "id,person,churned,age,basis,country,since,kind,tenant\n"
        "r1,p1,01,30,True,01067,2026-02-20,1.50,0012\n"
        "r2,p2,1,31,False,10115,2026-02-21,2,12\n"
    )
    declaration = load_declaration(path)

    rows = read_source(declaration)
    first = rows.to_pylist()[0]

    assert first["churned"] == "01"
    assert [first[name] for name in declaration.columns.governance] == [
        "True",
        "01067",
        "2026-02-20",
        "1.50",
        "0012",
    ]
    for when in (
        {"tenant": "0012"},
        {"column": "country", "equals": "01067"},
        {"column": "basis", "equals": True},
        {"column": "kind", "less_than": 1.6},
        {"consent_age_days_gt": 100},
    ):
        policy = policy_of({"when": when, "set": "high"})
        table = with_buckets(rows, "person", 8)
        assert levels(table, policy, declaration) == ["high", "low"]


def test_memorisation_counts_by_percentile_and_the_unscored_are_stricter():
    """97 is above 95, 20 is not; a record that training never scored counts as memorised."""
    table = table_of(kind=["a", "b", "c"])
    scores = pa.table(
        {
            "record_key": [pseudonym(KEY, "record", name) for name in ("r000", "r001")],
            "percentile": [97.0, 20.0],
        }
    )
    policy = policy_of({"when": {"memorisation_pct_gt": 95}, "set": "high"})

    def found(known):
        classified = classify_rows(
            table, policy, knowledge=knowledge(memorisation=known), overrides=no_overrides(policy)
        )
        return classified.table()["risk_level"].to_pylist()

    assert ["high", "low", "high"] == found(scores)
    assert ["high"] * 3 == found(None)


def test_scores_rates_and_strata_are_known_through_a_rotation():
    """Scores of a training before it, rates by the longest history, strata under every key."""
    new, table = bytes(range(50, 82)), table_of(country=["DE", "US", "BR"])
    ring = {"pseudonym_keys": (new, KEY)}
    scores = pa.table({"record_key": [pseudonym(KEY, "record", "r001")], "percentile": [20.0]})
    rates = {
        key.hex(): rate
        for under, found in ((KEY, (0.5, 0.05)), (new, (0.0, 0.0, 0.0)))
        for key, rate in zip(stratum_keys(table, ("country",), under)[1], found, strict=False)
    }

    def found(rule, **more):
        policy = policy_of({"when": rule, "set": "high"})
        known = replace(knowledge(**more), **ring)
        rows = classify_rows(table, policy, knowledge=known, overrides=no_overrides(policy))
        assert 6 == len(count_strata(table, policy, known))
        return rows.table()["risk_level"].to_pylist()

    assert ["high", "low", "high"] == found({"memorisation_pct_gt": 95}, memorisation=scores)
    assert ["high", "low", "low"] == found({"request_rate_gt": 0.1}, request_rates=rates)


def no_overrides(policy):
    from governance.classification.overrides import Overrides

    return Overrides(policy_digest=policy.digest)


def test_request_rates_count_by_stratum_and_the_unobserved_are_stricter():
    """0.5 a year is above 0.1, 0.05 is not; a stratum that nobody observed counts as asking."""
    table = table_of(country=["DE", "US", "BR"])
    policy = policy_of({"when": {"request_rate_gt": 0.1}, "set": "high"})
    _, keys = stratum_keys(table, ("country",), KEY)
    rates = {keys[0].hex(): 0.5, keys[1].hex(): 0.05}

    classified = classify_rows(
        table, policy, knowledge=knowledge(request_rates=rates), overrides=no_overrides(policy)
    )

    assert ["high", "low", "high"] == classified.table()["risk_level"].to_pylist()


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(1, 7))
@LAWS
def test_buckets_do_not_matter(tmp_path_factory, declaration, countries, n_buckets):
    """Staged in buckets or whole: the same levels, groups, budget and order for each record."""
    policy = policy_of(
        {"when": {"k_anonymity_lt": 3, "quasi": ["country"]}, "add": 0.6},
        {"when": {"jurisdiction": "a"}, "add_cost": 1.0},
        budget={"revocable_share_max": 0.5},
    )
    table = table_of(country=countries)
    whole = classify_records(table, policy, declaration=declaration, as_of=DAY)
    names = ("risk_level", "risk_group", "expected_cost", "revocable", "slice_order")
    expected = {row["id"]: [row[name] for name in names] for row in whole.to_pylist()}

    staging = Staging(tmp_path_factory.mktemp("s"))
    parts = [
        with_buckets(part.drop_columns(["bucket"]), "person", n_buckets) for part in halves(table)
    ]
    assert staging.write_rows(parts) == table.num_rows
    rare = find_rare_groups(
        lambda names: (staging.rows(b, names) for b in staging.buckets()),
        policy,
        subject_id="person",
    )
    groups = {}
    for bucket in staging.buckets():
        classified = classify_rows(
            staging.rows(bucket),
            policy,
            knowledge=knowledge(rare_groups=rare),
            overrides=no_overrides(policy),
        )
        staging.write_decisions(bucket, classified)
        staging.write_groups(bucket, classified.groups)
        for group in classified.groups:
            groups[group.group] = add_groups(groups.get(group.group), group)
    found = staging.groups()
    ranking = rank_records(
        found,
        lambda: (staging.decisions(b, found) for b in staging.buckets()),
        n_records=table.num_rows,
        share_max=0.5,
    )
    got = {}
    for bucket in staging.buckets():
        decided = ranking.apply(staging.decisions(bucket, found))
        for record_id, row in zip(
            staging.rows(bucket)["id"].to_pylist(), decided.to_pylist(), strict=True
        ):
            got[record_id] = [row[name] for name in names]

    assert expected == got
    assert sum(group.n_records for group in found) == table.num_rows
    assert staging.count_repeated("id") == 0


NAMED = st.lists(st.sampled_from(["Ada Moor", "Jo Li", "x9 y8 z7", "12", "", None]), max_size=40)


@given(NAMED.filter(len), st.integers(1, 9), st.randoms())
@LAWS
def test_the_look_of_a_column_is_that_of_all_buckets(declaration, cells, n_buckets, random):
    """Whichever rows lie together, in whatever order: the levels of the whole table."""
    policy = policy_of({"when": {"column": "name", "detects": "person_name"}, "set": "high"})
    table = table_of(name=pa.array(cells, pa.string()))
    expected = levels(table, policy, declaration)
    numbers = [random.randrange(n_buckets) for _ in cells]
    buckets = [
        table.filter(pa.array([number == bucket for number in numbers]))
        for bucket in random.sample(range(n_buckets), n_buckets)
    ]

    def in_buckets(names):
        return (rows.select(list(names)) for rows in buckets)

    looks = find_looks(in_buckets, policy, columns=table.column_names)
    got = {}
    for rows in buckets:
        found = classify_rows(
            rows, policy, knowledge=knowledge(looks=looks), overrides=no_overrides(policy)
        ).table()
        got |= dict(zip(rows["id"].to_pylist(), found["risk_level"].to_pylist(), strict=True))

    assert dict(zip(table["id"].to_pylist(), expected, strict=True)) == got


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 60])
@pytest.mark.parametrize(
    ("entity", "column", "cell"),
    [
        ("person_name", "name", "Ada Moor"),
        ("street_address", "address", "Askelund 93"),
        ("username", "user_name", "prom1964"),
        ("password", "pwd", "Koocei5Ai"),
    ],
)
def test_a_column_of_few_rows_takes_the_stricter_side(declaration, entity, column, cell, n):
    """All names: never low; below 9 rows nobody knows, so that no rule lowers a risk by it."""
    table = table_of(**{column: [cell] * n})
    when = {"column": column, "detects": entity}
    raised = levels(table, policy_of({"when": when, "set": "high"}), declaration)
    lowered = levels(
        table, policy_of({"when": when, "set": "low"}, base_probability=0.9), declaration
    )
    told = levels(
        table, policy_of({"when": {**when, "if_missing": "no_match"}, "set": "high"}), declaration
    )

    # Wilson: n / (n + z^2) >= 0.7 from n = 9 on.
    known = n / (n + 1.96**2) >= 0.7
    assert ["high"] * n == raised
    assert ["low" if known else "high"] * n == lowered
    assert ["high" if known else "low"] * n == told


def test_what_was_not_counted_is_unknown():
    """Without knowledge of the column, rows that look like it count, and others do not."""
    policy = policy_of({"when": {"column": "name", "detects": "person_name"}, "set": "high"})
    table = table_of(name=["Ada Moor", "12", None])
    found = classify_rows(table, policy, knowledge=knowledge(), overrides=no_overrides(policy))

    assert ["high", "low", "low"] == found.table()["risk_level"].to_pylist()


def test_a_column_that_is_no_name_counts_nowhere(declaration):
    """Two names among 58 numbers: the interval of the share lies below the bound."""
    policy = policy_of({"when": {"column": "name", "detects": "person_name"}, "set": "high"})
    table = table_of(name=["Ada Moor", "Jo Li", *["17"] * 58])

    assert ["low"] * 60 == levels(table, policy, declaration)


CARD = "4111111111111111"
STRUCT = pa.struct([("card", pa.string())])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([CARD, "none"]).dictionary_encode(),
        pa.array([int(CARD), 12]),
        pa.array([CARD, "none"], pa.string_view()),
        pa.array([CARD.encode(), b"none"]),
        pa.array([CARD.encode(), b"none"], pa.binary_view()),
        pa.array([["x", CARD], ["none", None]]),
        pa.array([["none"], [None, CARD], ["none", None], None]).slice(1, 2),
        pa.array([["x", CARD], ["none"]], pa.large_list(pa.large_string())),
        pa.array([["x", CARD], ["none", "x"]], pa.list_(pa.string(), 2)),
    ],
    ids=lambda column: str(column.type),
)
def test_detects_without_a_column_reads_every_type_with_text(declaration, column):
    """A card number is found in whatever type it stands; the other cell has none."""
    policy = policy_of({"when": {"detects": "card"}, "set": "high"})

    assert ["high", "low"] == levels(table_of(note=column), policy, declaration)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([{"card": "none"}, None], STRUCT), ["high", "low"]),
        (pa.array([[["none"]], None]), ["high", "low"]),
        (pa.array([[1.0, 2.0], None]), ["low", "low"]),
        (pa.array([True, None]), ["low", "low"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_a_type_that_cannot_be_read_is_unknown(declaration, column, expected):
    """Text in a struct may be anything: high where there is a value; numbers hold no text."""
    when = {"detects": "card"}
    lowered = policy_of({"when": when, "set": "low"}, base_probability=0.9)
    table = table_of(note=column)

    assert expected == levels(table, policy_of({"when": when, "set": "high"}), declaration)
    assert ["high", "high"] == levels(table, lowered, declaration)


def test_the_ids_are_not_looked_at(declaration):
    """A record id that looks like a card number is an id."""
    policy = policy_of({"when": {"detects": "card"}, "set": "high"})

    assert ["low"] == levels(table_of(id=[CARD], person=[CARD]), policy, declaration)


def halves(table):
    middle = table.num_rows // 2
    return [part for part in (table.slice(0, middle), table.slice(middle)) if part.num_rows]


@given(st.integers(1, 60), st.floats(0.05, 0.95))
@LAWS
def test_the_budget_is_used_up_also_among_equals(n, share):
    """All alike: exactly the whole part of share * n is revocable, whatever the ties."""
    policy = policy_of(
        {"when": {"tenant": "t1"}, "set": "high"}, budget={"revocable_share_max": share}
    )
    table = table_of(country=["DE"] * n)
    classified = classify_rows(table, policy, knowledge=knowledge(), overrides=no_overrides(policy))
    decisions = classified.table()
    ranking = rank_records(classified.groups, lambda: [decisions], n_records=n, share_max=share)

    assert int(share * n) == int(ranking.revocable(decisions).sum())
    assert len(set(ranking.slice_order(decisions).tolist())) == n


def test_repeated_ids_are_counted_on_disk(tmp_path):
    """r000 three times and r001 twice: 3 repeated ones."""
    staging = Staging(tmp_path / "s")
    table = table_of(id=["r000", "r001", "r000", "r000", "r001", "r2"])
    staging.write_rows([with_buckets(table.drop_columns(["bucket"]), "person", 3)])

    assert 3 == staging.count_repeated("id")


def test_parts_hold_every_bucket_once():
    """Whole buckets, in order, none lost, also one that is larger than a part."""
    buckets = [0, 2, 3, 7, 9]
    parts = in_parts(buckets, [5, 50, 5, 5, 5], rows_per_part=12)

    assert buckets == [bucket for part in parts for bucket in part]
    assert [2] in parts


@given(st.lists(st.lists(st.booleans(), min_size=70, max_size=70), min_size=1, max_size=12))
@LAWS
def test_patterns_are_exact_for_any_number_of_rules(rows):
    """More rules than bits in an integer: each row still has exactly its names."""
    hits = {f"n{j:02d}": np.array([row[j] for row in rows]) for j in range(70)}

    found = find_patterns(hits, len(rows))

    for index, row in enumerate(rows):
        expected = tuple(f"n{j:02d}" for j in range(70) if row[j])
        assert expected == found.members[found.number[index]]
    assert len(set(found.members)) == len(found.members)


def override(folder, **more):
    signed = {
        "who": "dpo",
        "why": "asked by phone",
        "made_at": NOW,
        "expires_at": NOW + timedelta(days=30),
    }
    return add_override(folder, **(signed | more))


def keys_of(kind, *names):
    return pseudonym_digests(KEY, kind, pa.chunked_array([pa.array(names, pa.string())]))


def test_a_persons_word_holds_until_it_expires(tmp_path, declaration):
    """By subject, record and stratum: high or low; after the expiry the rules decide again."""
    policy = policy_of({"when": {"tenant": "t2"}, "add": 0.6})
    table = table_of(tenant=["t1", "t1", "t2", "t2", "t1"], country=["US", "US", "US", "US", "BR"])
    override(tmp_path, kind="subject", level="high", keys=keys_of("subject", "p0"))
    override(tmp_path, kind="records", level="low", keys=keys_of("record", "r002", "gone"))
    override(tmp_path, kind="stratum", level="high", values={"country": "BR"})

    def at(moment):
        found = load_overrides(tmp_path, now=moment, policy_digest=policy.digest)
        return levels(table, policy, declaration, overrides=found), found

    now, found = at(NOW + timedelta(days=1))
    later, gone = at(NOW + timedelta(days=31))

    assert ["high", "high", "low", "high", "high"] == now
    assert ["low", "low", "high", "high", "low"] == later
    assert (3, 0) == (len(found.active), len(found.expired))
    assert (0, 3) == (len(gone.active), len(gone.expired))
    assert "p0" not in (tmp_path / "overrides.jsonl").read_text()


@pytest.mark.parametrize("why", ["set", "required"])
def test_nobody_outvotes_set_high_or_unknown(tmp_path, declaration, why):
    """Who thinks that a rule is wrong changes the rule, not the record."""
    rule = (
        {"when": {"tenant": "t1"}, "set": "high"}
        if why == "set"
        else {"when": {"tenant": "x"}, "add": 0.1}
    )
    policy = policy_of(rule, required=["basis"])
    table = table_of(basis=["" if why == "required" else "contract"])
    override(tmp_path, kind="stratum", level="low", values={"country": "US"})
    found = load_overrides(tmp_path, now=NOW, policy_digest=policy.digest)

    assert ["high"] == levels(table, policy, declaration, overrides=found)


def test_an_override_is_stored_once_and_can_be_withdrawn(tmp_path):
    """The same word twice is one; a withdrawal ends it and both lines stay."""
    first = override(tmp_path, kind="stratum", level="low", values={"a": "b"})
    again = override(tmp_path, kind="stratum", level="low", values={"a": "b"}, made_at=NOW)
    assert first == again
    withdraw_override(tmp_path, first.override_id, who="dpo", why="error", at=NOW)

    assert load_overrides(tmp_path, now=NOW, policy_digest="").active == ()
    assert 2 == len((tmp_path / "overrides.jsonl").read_text().splitlines())
    with pytest.raises(RequestError, match="in force"):
        withdraw_override(tmp_path, first.override_id, who="dpo", why="error", at=NOW)
    assert override(tmp_path, kind="stratum", level="low", values={"a": "b"}) is not None
    assert 1 == len(load_overrides(tmp_path, now=NOW, policy_digest="").active)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"who": " "}, "who decided"),
        ({"level": "maybe"}, "high or low"),
        ({"kind": "everything"}, "expected a kind"),
        ({"values": {}}, "about"),
        ({"expires_at": NOW}, "expiry"),
    ],
)
def test_an_incomplete_override_is_refused(tmp_path, change, expected):
    """Nobody, no level, nothing that it is about, or no end."""
    given = {"kind": "stratum", "level": "low", "values": {"a": "b"}} | change
    with pytest.raises(RequestError, match=expected):
        override(tmp_path, **given)


def test_an_override_of_a_column_that_is_gone_is_told(tmp_path, declaration):
    """It must not silently lose its effect."""
    policy = policy_of({"when": {"tenant": "t2"}, "add": 0.6})
    override(tmp_path, kind="stratum", level="high", values={"gone": "x"})
    found = load_overrides(tmp_path, now=NOW, policy_digest=policy.digest)
    with pytest.raises(DataError, match="gone"):
        levels(table_of(tenant=["t1"]), policy, declaration, overrides=found)


def test_a_review_counts_as_high_until_it_is_answered_under_the_same_policy(tmp_path, declaration):
    """Band 0.4 to 0.5: high and to be reviewed; low once a person says so; else asked again."""
    policy = policy_of({"when": {"tenant": "t2"}, "add": 0.4})
    other = policy_of({"when": {"tenant": "t2"}, "add": 0.41})
    table = table_of(tenant=["t2"])
    before = classify_records(table, policy, declaration=declaration, as_of=DAY).to_pylist()[0]
    override(tmp_path, kind="review", level="low", pattern=["r0"], policy_digest=policy.digest)

    assert ("high", True) == (before["risk_level"], before["needs_review"])
    assert "review" in before["deciding_rules"]
    for asked, expected in ((policy, "low"), (other, "high")):
        found = load_overrides(tmp_path, now=NOW, policy_digest=asked.digest)
        assert [expected] == levels(table, asked, declaration, overrides=found)


@given(
    st.sets(st.sampled_from(["r0", "r1", "r2", "unknown:basis"])),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.booleans(),
)
@LAWS
def test_a_stricter_policy_never_moves_a_pattern_down(pattern, more, lower, banded):
    """More probability, a lower threshold, a wider or no stated band: what was high stays high."""
    rules = (
        {"when": {"tenant": "a"}, "set": "high"},
        {"when": {"tenant": "b"}, "set": "low"},
        {"when": {"tenant": "c"}, "add": 0.3},
    )
    policy = policy_of(*rules)
    top = 0.5 - lower
    thresholds = (
        {"high": top, "review": [max(0.0, top - 0.1 - lower), top]} if banded else {"high": top}
    )
    stricter = policy_of(
        *rules,
        base_probability=0.05 + more,
        thresholds=thresholds,
    )
    names = tuple(sorted(pattern))

    before, after = decide(names, policy), decide(names, stricter)

    assert after.level == "high" or before.level == "low"
    assert len(before.deciding) >= 1


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.booleans())
@LAWS
def test_the_level_never_falls_as_the_probability_rises(high, low, more, banded):
    """Low below the band, high in it and above: no gap, wherever high is and without a band."""
    top = high / 100
    stated = {"review": [min(low, high) / 100, top]} if banded else {}
    thresholds = {"high": top, **stated}
    rule = {"when": {"tenant": "a"}, "set": "high"}

    def level(probability):
        policy = policy_of(rule, base_probability=probability, thresholds=thresholds)
        return decide((), policy).level

    begin = min(low, high) / 100 if banded else max(0.0, round(top - 0.1, 12))
    assert ("high" if more / 100 >= begin else "low") == level(more / 100)


@pytest.mark.parametrize(("high", "band"), [(0.7, [0.4, 0.5]), (0.5, [0.4, 0.6])])
def test_a_band_that_does_not_end_at_the_threshold_is_refused(high, band):
    """Between the band and the threshold a likelier record would be low."""
    with pytest.raises(ValueError, match="up = high"):
        policy_of({"when": {"tenant": "a"}, "add": 0.1}, thresholds={"high": high, "review": band})


HEAD = "policy: {name: x, version: 1}\nroles: {tenant: tenant, jurisdiction: country}\n"


@pytest.mark.parametrize(
    ("when", "columns", "expected"),
    [
        ("jurisdiction: [DK, NO, SE]", {"country": ["NO", "US", "false"]}, "ynn"),
        ("tenant: 0012", {"tenant": ["0012", "10", "12"]}, "ynn"),
        ("tenant: 1:30", {"tenant": ["1:30", "90", "x"]}, "ynn"),
        ("tenant: 2026-01-01", {"tenant": ["2026-01-01", "x", "y"]}, "ynn"),
        ("{column: tenant, equals: true}", {"tenant": [True, False, False]}, "ynn"),
        ("{column: tenant, equals: true}", {"tenant": ["True", "true", "yes"]}, "yyn"),
        ("{column: tenant, equals: 1.0}", {"tenant": [1, 2, 10]}, "ynn"),
        ("{column: tenant, equals: 1.0}", {"tenant": [1.0, 1.5, 10.0]}, "ynn"),
    ],
)
def test_a_value_means_what_is_written(declaration, when, columns, expected):
    """NO is Norway, 0012 is no octal, 1:30 no number of minutes, 1.0 is the integer 1."""
    when = when if when.startswith("{") else f"{{{when}}}"
    text = f"{HEAD}rules: [{{id: a, when: {when}, set: high}}]\n"
    policy = parse_policy(text, what="x", declaration=declaration)

    assert ["high" if e == "y" else "low" for e in expected] == levels(
        table_of(**columns), policy, declaration
    )
    assert policy.digest == parse_policy(write_policy(policy), what="y").digest


def test_a_repeated_key_is_a_problem_with_its_line(declaration):
    """A second effect or a second list of rules does not silently replace the first."""
    text = (
        f"{HEAD}rules: [{{id: a, when: {{tenant: t}}, set: high, set: low}}]\n"
        "rules: [{id: b, when: {tenant: u}, set: low}]\n"
    )
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, what="x", declaration=declaration)

    assert [
        "line 3: expected each key once, got 'set' again",
        "line 4: expected each key once, got 'rules' again",
    ] == list(caught.value.problems)


def test_no_mistake_hides_another(declaration):
    """A wrong field, a wrong when, no effect and equal ids: each told, and each told once."""
    text = (
        f"{HEAD}base_probability: 7\nrules:\n"
        "  - {id: a, when: {tenant: []}}\n"
        "  - {id: a, when: {tenant: x}, set: low, add_cost: 1}\n"
    )
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, what="x", declaration=declaration)

    problems = caught.value.problems
    for place in (
        "base_probability:",
        "rules.0.when.tenant",
        "rules.0: expected an effect",
        "rules.1: expected two rules",
        "rules: expected unique ids, got ['a']",
    ):
        assert any(line.startswith(place) for line in problems), place
    assert len(set(problems)) == len(problems)


@pytest.mark.parametrize(
    "line",
    [
        "base_cost: .inf\nrules: [{id: a, when: {tenant: x}, add: 0.1}]",
        "rules: [{id: a, when: {column: age, greater_than: .nan}, add: 0.1}]",
        "rules: [{id: a, when: {column: age, equals: .inf}, add: 0.1}]",
    ],
)
def test_a_number_that_is_not_finite_is_refused(line):
    """It compares with nothing, and no digest can hold it."""
    with pytest.raises(PolicyError):
        parse_policy(f"{HEAD}{line}\n", what="x")


def test_a_policy_is_written_as_it_was_read(declaration):
    """YAML out and in again has the same digest."""
    policy = policy_of(
        {"when": {"column": "age", "in": [1, 2]}, "add": 0.1, "ground": "x"},
        {"when": {"jurisdiction": ["EU"], "if_missing": "no_match"}, "set": "high"},
        categories={"country": "user.contact.address.country"},
    )

    assert (
        policy.digest
        == parse_policy(write_policy(policy), what="x", declaration=declaration).digest
    )
    assert [] == policy_changes(policy, policy)
    assert all(isinstance(line, str) for line in describe_policy(policy))


def test_mistakes_of_form_and_of_meaning_are_in_one_error(tmp_path, declaration):
    """Bad rules, an unknown category, role, entity, vocabulary and column: each with its path."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        "policy: {name: x, version: 1, vocabulary: fideslang-9}\n"
        "roles: {tenant: tennant}\n"
        "categories: {country: user.contact.adress}\n"
        "rules:\n"
        "  - {id: a, when: {jurisdiction: DE}, set: high}\n"
        "  - {id: b, when: {detects: shoe_size}, set: high}\n"
        "  - {id: c, when: {column: age, equals: 1}, set: medium}\n"
        "  - {id: d, when: {category_under: [user.helth]}, set: high}\n"
        "  - {id: e, when: {request_rate_gt: 1}, add: 0.1}\n"
        "  - {id: f, when: {column: bassis, missing: true}, add: 0.1}\n"
        "  - {id: g, when: {tenant: x}, add: -0.1, add_cost: 1}\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_policy(path, declaration)

    for place in (
        "policy.vocabulary",
        "roles.tenant",
        "categories.country",
        "rules.0.when.jurisdiction",
        "rules.1.when.detects",
        "rules.2.set",
        "rules.3.when.category_under",
        "rules.4.when.request_rate_gt",
        "rules.5.when.column",
        "rules.6",
    ):
        assert any(line.startswith(place) for line in caught.value.problems), place


def test_the_vocabulary_has_the_published_number_of_categories():
    """Fideslang 3.1.4: 85 data categories."""
    assert "fideslang-3.1.4" in known_vocabularies()
    assert 85 == len(load_categories("fideslang-3.1.4"))


def test_drift_is_judged_against_the_previous_run():
    """Twice the share of high records blocks under one policy, and is reported under a new one."""
    policy = policy_of({"when": {"tenant": "t2"}, "add": 0.6})
    before = Distribution(policy.digest, 1000, 0.1, {"r0 (high)": 0.1}, [0.9] + [0.0] * 8 + [0.1])
    after = Distribution(policy.digest, 50, 0.6, {"r0 (high)": 0.6}, [0.4] + [0.0] * 8 + [0.6])

    figures = drift_figures(after, before)
    same = drift_suite(policy, has_previous=True, same_policy=True)
    changed = drift_suite(policy, has_previous=True, same_policy=False)

    assert figures["rows_lost_share"] == pytest.approx(0.95)
    assert figures["high_share_change"] == pytest.approx(0.5)
    assert figures["largest_rule_share_change"] == pytest.approx(0.5)
    assert figures["probability_shift"] == pytest.approx(1.3008, abs=1e-3)
    critical = [e.arguments["column"] for e in same if e.severity == "critical"]
    assert ["rows_lost_share", "high_share_change"] == critical
    assert ["rows_lost_share"] == [
        e.arguments["column"] for e in changed if e.severity == "critical"
    ]


def test_the_figures_of_a_run_follow_from_its_groups(declaration):
    """Two of five records high by one rule: shares 0.4 and 0.6."""
    policy = policy_of({"when": {"tenant": "t2"}, "add": 0.6})
    table = table_of(tenant=["t2", "t2", "t1", "t1", "t1"])
    classified = classify_rows(table, policy, knowledge=knowledge(), overrides=no_overrides(policy))

    found = describe_groups(list(classified.groups), policy.digest)

    assert (5, 0.4) == (found.n_rows, found.high_share)
    assert found.rule_shares == pytest.approx(
        {"threshold (high)": 0.4, "r0 (high)": 0.4, "base (low)": 0.6}
    )


def test_an_answer_outlives_another_override_of_its_records(tmp_path, declaration):
    """High for the group, low for one subject: high beats low, before and after the low ends."""
    policy = policy_of({"when": {"tenant": "t2"}, "add": 0.4})
    table = table_of(tenant=["t2"])
    override(tmp_path, kind="review", level="high", pattern=["r0"], policy_digest=policy.digest)
    ends = NOW + timedelta(days=2)
    keys = keys_of("subject", "p0")
    override(tmp_path, kind="subject", level="low", keys=keys, expires_at=ends)

    for moment in (NOW, ends):
        found = load_overrides(tmp_path, now=moment, policy_digest=policy.digest)
        assert ["high"] == levels(table, policy, declaration, overrides=found)
        seen = classify_rows(table, policy, knowledge=knowledge(), overrides=found).groups
        assert [False] == [group.decision.needs_review for group in seen]


def test_answers_under_another_policy_are_superseded(tmp_path):
    """They are listed, and are not among those in force."""
    override(tmp_path, kind="review", level="low", pattern=["r0"], policy_digest="sha256:a")

    same = load_overrides(tmp_path, now=NOW, policy_digest="sha256:a")
    other = load_overrides(tmp_path, now=NOW, policy_digest="sha256:b")

    assert (1, 0) == (len(same.active), len(same.superseded))
    assert (0, 1) == (len(other.active), len(other.superseded))


def test_only_the_owner_reads_overrides(tmp_path):
    """Values of strata are in clear: mode 600, whatever the umask."""
    override(tmp_path, kind="stratum", level="low", values={"a": "b"})

    assert 0o600 == (tmp_path / "overrides.jsonl").stat().st_mode & 0o777


@given(st.lists(st.tuples(*[st.sampled_from("abc")] * 3), min_size=1, max_size=12))
@LAWS
def test_many_overrides_are_two_names_and_mean_what_each_means(tmp_path_factory, made):
    """Any strata and subjects: where one of a level holds, as found one by one; two names."""
    folder = tmp_path_factory.mktemp("o")
    table = table_of(country=list("abcabcab"), kind=list("aabbccab"))
    rows = table.to_pylist()
    expected = {"high": set(), "low": set()}
    for index, (country, kind, which) in enumerate(made):
        level = "high" if which == "a" else "low"
        values = {"country": country} | ({"kind": kind} if which != "c" else {})
        override(folder, kind="stratum", level=level, values=values, why=str(index))
        override(folder, kind="subject", level=level, keys=keys_of("subject", f"p{index}"))
        for at, row in enumerate(rows):
            if values.items() <= row.items() or row["person"] == f"p{index}":
                expected[level].add(at)
    found = load_overrides(folder, now=NOW, policy_digest="")

    hits = match_overrides(table, found, knowledge())

    got = {level: set() for level in expected}
    for name, hit in hits.items():
        got[name.split(":")[1]] |= set(np.flatnonzero(hit).tolist())
    assert expected == got
    assert len(hits) <= 2
    for at in range(table.num_rows):
        said = find_applied(table.slice(at, 1), found, knowledge())
        assert {level: at in expected[level] for level in said} == {
            level: bool(ids) for level, ids in said.items()
        }


def test_the_split_is_a_hash_of_seed_and_subject(declaration):
    """SHA-256 of seed, zero byte and subject, as in a loop over the subjects."""
    table = table_of(person=[f"p{i}" for i in range(200)])
    setting = declaration.split

    def part(name):
        digest = hashlib.sha256(f"{setting.seed}\x00{name}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        if share < setting.holdout_fraction:
            return "holdout"
        kept_out = setting.holdout_fraction + setting.validation_fraction
        return "validation" if share < kept_out else "train"

    found = assign_split(table, declaration).to_pylist()

    assert [part(name) for name in table["person"].to_pylist()] == found
    assert {"train", "holdout", "validation"} == set(found)
