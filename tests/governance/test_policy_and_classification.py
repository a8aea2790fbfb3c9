"""Laws of risk classification: one level, a reason, unknown is high, order is nothing."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.classification.explanation import explain_record
from governance.classification.table import classify_records
from governance.declaration import load_declaration
from governance.errors import DeclarationError, PolicyError, ValidationFailedError
from governance.expectations import require_passed, run_gate
from governance.policy import Policy, load_policy
from governance.scanner import detect
from governance.suites import input_suite
from governance.suppression import pseudonym, pseudonym_array

RULES = [
    {"id": "minor", "when": {"column": "age", "less_than": 16}, "set": "high"},
    {"id": "contract", "when": {"column": "basis", "equals": "contract"}, "set": "low"},
    {"id": "consent", "when": {"column": "basis", "in": ["consent"]}, "add": 0.5},
    {"id": "eu", "when": {"column": "country", "equals": "DE"}, "add": 0.1},
    {"id": "mail", "when": {"column": "email", "detects": "email"}, "add_cost": 1.0},
    {"id": "rare", "when": {"k_anonymity_lt": 2, "quasi": ["country", "age"]}, "add_cost": 2.0},
    {"id": "contact", "when": {"category_under": ["user.contact"]}, "add_cost": 0.5},
    {"id": "no-mail", "when": {"column": "email", "missing": True}, "add": -0.05},
]


def make_policy(rules=None, **changes):
    content = {
        "policy": {"name": "test", "version": 1},
        "categories": {"email": "user.contact.email"},
        "required": ["basis"],
        "rules": RULES if rules is None else rules,
    }
    return Policy.model_validate(content | changes)


@pytest.fixture(scope="module")
def declaration(tmp_path_factory, declare_people):
    return load_declaration(declare_people(tmp_path_factory.mktemp("d"), "basis, country, email"))


ROWS = st.lists(
    st.tuples(
        st.integers(5, 90),
        st.sampled_from(["consent", "contract", "", None]),
        st.sampled_from(["DE", "US", None]),
        st.sampled_from(["planted@example.org", "", None]),
    ),
    min_size=1,
    max_size=30,
)


def table_of(rows):
    n = len(rows)
    return pa.table(
        {
            "id": [f"r{i:03d}" for i in range(n)],
            "person": [f"p{i // 2}" for i in range(n)],
            "churned": [i % 2 for i in range(n)],
            "age": [float(row[0]) for row in rows],
            "basis": pa.array([row[1] for row in rows], pa.string()),
            "country": pa.array([row[2] for row in rows], pa.string()),
            "email": pa.array([row[3] for row in rows], pa.string()),
            "bucket": pa.array([0] * n, pa.int32()),
        }
    )


def classify(table, declaration, policy=None):
    return classify_records(
        table, policy or make_policy(), declaration=declaration, as_of=date(2026, 1, 1)
    )


def by_id(table, *names):
    return {row["id"]: tuple(row[name] for name in names) for row in table.to_pylist()}


LAWS = settings(max_examples=40, deadline=None, database=None)


@given(ROWS)
@LAWS
def test_every_record_has_one_level_and_a_reason(declaration, rows):
    """A level of two, and at least one deciding rule."""
    for row in classify(table_of(rows), declaration).to_pylist():
        assert row["risk_level"] in {"high", "low"}
        assert len(row["deciding_rules"]) >= 1
        assert 0 <= row["erasure_probability"] <= 1


@given(ROWS, st.randoms())
@LAWS
def test_neither_row_order_nor_rule_order_matters(declaration, rows, random):
    """Shuffled rows and rules give the same decisions."""
    table = table_of(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    rules = list(RULES)
    random.shuffle(rules)
    names = ("risk_level", "erasure_probability", "expected_cost", "revocable", "slice_order")

    expected = by_id(classify(table, declaration), *names)
    got = by_id(classify(table.take(order), declaration, make_policy(rules)), *names)

    assert expected == got


@given(ROWS)
@LAWS
def test_set_high_and_unknown_cannot_be_outvoted(declaration, rows):
    """A minor with a contract is high; so is a record without a lawful basis."""
    for row in classify(table_of(rows), declaration).to_pylist():
        if row["age"] < 16 or not row["basis"]:
            assert row["risk_level"] == "high"
        if not row["basis"]:
            assert "unknown:basis" in row["deciding_rules"]


@given(ROWS, st.floats(0, 0.5))
@LAWS
def test_a_stricter_policy_never_moves_a_record_down(declaration, rows, extra):
    """More probability or a lower threshold keeps every high record high."""
    table = table_of(rows)
    stricter = make_policy(base_probability=0.05 + extra)

    before = by_id(classify(table, declaration), "risk_level")
    after = by_id(classify(table, declaration, stricter), "risk_level")

    assert all(after[key] == ("high",) for key, level in before.items() if level == ("high",))


def test_the_budget_keeps_the_costliest_records(declaration):
    """Of 10 high-risk records, 4 fit into 40 %: those with the highest expected cost."""
    rows = [(20 + i, "consent", "DE" if i < 4 else "US", None) for i in range(10)]
    policy = make_policy(budget={"revocable_share_max": 0.4})

    table = classify(table_of(rows), declaration, policy)

    assert [r["id"] for r in table.to_pylist() if r["revocable"]] == [
        "r000",
        "r001",
        "r002",
        "r003",
    ]


def test_the_reason_is_told_in_words_without_values(declaration):
    """The explanation names rules and numbers, never the record's content."""
    table = classify(table_of([(40, "consent", "DE", "planted@example.org")]), declaration)

    text = explain_record(table.to_pylist()[0], make_policy())

    assert "risk high" in text
    assert "rule consent: +0.50" in text
    assert "planted" not in text


def test_a_subject_is_on_one_side_of_the_split(declaration):
    """All records of a person have the same use."""
    rows = [(30, "consent", "DE", None)] * 200
    uses = {}
    for row in classify(table_of(rows), declaration).to_pylist():
        uses.setdefault(row["person"], set()).add(row["split"])

    assert all(len(use) == 1 for use in uses.values())
    assert {use for used in uses.values() for use in used} == {"train", "validation", "holdout"}


def test_all_mistakes_of_a_policy_are_in_one_error(tmp_path, declaration):
    """Unknown keys, bad numbers and conditions, each with its path."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        "policy: {name: x, version: 0}\nthreshold: 1\nrules:\n"
        "  - {id: a, when: {column: basis, equals: x, missing: true}, set: high}\n"
        "  - {id: b, when: {column: basis, equals: x}}\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_policy(path, declaration)

    for part in ("policy.version", "threshold: unknown key", "rules.0.when", "rules.1"):
        assert any(problem.startswith(part) for problem in caught.value.problems)


def test_a_policy_for_columns_that_are_not_declared_is_refused(tmp_path, declaration):
    """A misspelt column would silently never match."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        "policy: {name: x, version: 1}\nrules:\n"
        "  - {id: a, when: {column: bassis, equals: x}, set: high}\n"
    )
    with pytest.raises(PolicyError, match="got 'bassis'"):
        load_policy(path, declaration)


def test_all_mistakes_of_a_declaration_are_in_one_error(tmp_path, declare_people):
    """Unknown keys and wrong values together."""
    wrong = {"task: tabular": "task: magic", '"my_net:build"': "my_net"}
    path = declare_people(tmp_path, changes=wrong, more="extra: 1\n")
    with pytest.raises(DeclarationError) as caught:
        load_declaration(path)

    assert len(caught.value.problems) == 3


def test_values_of_a_declaration_mean_what_is_written(tmp_path, declare_people):
    """Classes 0012, NO and 1:30 are text; YAML 1.1 makes 10, false and 90 of them."""
    changes = {"classes: [0, 1]": "classes: [0012, NO, 1:30, 7]"}
    found = load_declaration(declare_people(tmp_path, changes=changes))

    assert found.columns.label.classes == ("0012", "NO", "1:30", 7)


def test_a_repeated_key_of_a_declaration_is_a_problem_among_the_others(tmp_path, declare_people):
    """The last of two would win without a word; it is told also when all else is right."""
    for more, n_problems in (("buckets: 4\nbuckets: 8\n", 1), ("task: text\nextra: 1\n", 2)):
        path = declare_people(tmp_path, more=more)
        with pytest.raises(DeclarationError, match="expected each key once") as caught:
            load_declaration(path)
        assert len(caught.value.problems) == n_problems


def test_a_declaration_without_an_erasure_class_is_refused(tmp_path, declare_people):
    """Who does not say how data is erased may not train on it."""
    path = declare_people(tmp_path, changes={"deletion: {deletion_class: customers}\n": ""})
    with pytest.raises(DeclarationError, match="deletion"):
        load_declaration(path)


def gate_table(rows):
    table = table_of(rows)
    return table.set_column(2, "churned", table["churned"].cast(pa.string()))


def test_a_critical_expectation_blocks_and_a_warning_does_not(declaration, tmp_path):
    """Severity decides; the message counts rows, shows no value, and says where they are named."""
    suite = input_suite(declaration, make_policy())
    good = gate_table([(30, None, None, None)] * 4)
    gate = run_gate("input", [good], suite)
    assert (False, True) == (gate.blocked, any("warning" in line for line in gate.failures))

    bad = good.set_column(0, "id", pa.array(["planted-id"] * 3 + ["other"]))
    path = tmp_path / "failing.parquet"
    keys = lambda rows: pseudonym_array(b"k" * 32, "record", rows["id"])  # noqa: E731
    gate = run_gate("input", [bad], suite, keys=keys, rows_path=path)
    with pytest.raises(ValidationFailedError, match="BeUnique on id: 3 of 4 rows") as caught:
        require_passed(gate)
    assert "planted" not in str(caught.value)
    assert str(path) in str(caught.value)
    named = pq.read_table(path).filter(
        pc.match_substring(pq.read_table(path)["expectation"], "Unique")
    )
    assert named["record_key"].to_pylist() == [pseudonym(b"k" * 32, "record", "planted-id")] * 3


def test_a_gate_gives_the_same_result_for_any_number_of_shards(declaration):
    """Counts add up: a warning of 5 % missing values is judged over the whole table."""
    suite = [e for e in input_suite(declaration, make_policy()) if "Unique" not in e.kind]
    table = gate_table([(30, "consent" if i >= 3 else None, "DE", "a@b.org") for i in range(40)])

    whole = run_gate("input", [table], suite)
    shards = run_gate("input", [table.slice(i, 8) for i in range(0, 40, 8)], suite)

    assert whole.failures == shards.failures
    assert (
        "warning: ExpectColumnValuesToNotBeNull on basis: 3 of 40 rows failed",
    ) == whole.failures


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("email", ["a.b@example.org", "x <u@mail.example.com>"], ["a@b", "@example.org", ""]),
        ("phone", ["call +49 30 1234567 now", "+1(415)555-9317"], ["12345", "+1", "1+1=2"]),
        (
            "iban",
            ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
            ["DE88370400440532013000"],
        ),
        ("card", ["4111 1111 1111 1111", "pay 5500005555555559"], ["4111 1111 1111 1112", "1234"]),
        ("ip", ["from 192.168.0.1:80"], ["1.2.3", "300.1.1.1"]),
    ],
)
def test_detectors_find_patterns_and_check_checksums(pattern, hits, misses):
    """Valid examples are found, near misses are not."""
    column = pa.chunked_array([pa.array([*hits, *misses, None])])

    expected = np.array([True] * len(hits) + [False] * (len(misses) + 1))
    assert expected.tolist() == detect(column, pattern).tolist()
