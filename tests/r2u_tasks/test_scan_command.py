"""Laws of ``r2u scan``: any table file, counts and no values, a hint for the policy."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from governance.errors import DataError
from governance.storage import append_table
from r2u_tasks.cli.main import app

TABLE = pa.table(
    {
        "e-mail": [f"planted{i}@example.org" for i in range(40)],
        "note": ["hello"] * 39 + ["her SSN is 536-90-4399"],
        "order no": list(range(1000, 1040)),
    }
)


def run(*arguments):
    result = CliRunner().invoke(app, ["scan", *map(str, arguments)])
    if isinstance(result.exception, DataError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(params=["csv", "parquet", "delta"])
def source(request, tmp_path):
    path = tmp_path / f"people.{request.param}"
    if request.param == "delta":
        append_table(path, TABLE, transaction="t")
    elif request.param == "parquet":
        pq.write_table(TABLE, path)
    else:
        TABLE.to_pandas().to_csv(path, index=False)
    return path


def test_json_holds_entities_counts_and_suggestions(source):
    """CSV, Parquet and Delta tables give the same."""
    told = json.loads(run(source, "--json"))

    assert {"e-mail": "user.contact.email"} == told["categories"]
    assert [{"column": "note", "detects": "us_ssn"}] == told["conditions"]
    assert [40, 40, 40] == [column["n_cells"] for column in told["columns"]]


def test_presidio_gives_the_same_records(tmp_path):
    """With the extra, its recognisers count; the page and the suggestions are made alike."""
    pytest.importorskip("presidio_analyzer", reason="needs the extra 'presidio'")
    path = tmp_path / "people.parquet"
    pq.write_table(TABLE, path)
    told = json.loads(run(path, "--presidio", "-e", "email", "-e", "url", "--json"))

    assert {"e-mail": "user.contact.email"} == told["categories"]


def test_the_page_holds_no_value_and_a_policy_that_parses(source):
    """What is printed below the table is YAML for the policy; no cell is quoted anywhere."""
    page = run(source)
    hint = yaml.safe_load(page.partition("each line:\n")[2])

    assert "planted" not in page
    assert "536-90" not in page
    assert {"e-mail": "user.contact.email"} == hint["categories"]
    assert [{"column": "note", "detects": "us_ssn"}] == [rule["when"] for rule in hint["rules"]]


def test_bytes_that_are_no_utf8_stop_nothing(tmp_path):
    """A file of another encoding, with NUL bytes, is scanned as it is."""
    path = tmp_path / "latin.csv"
    path.write_bytes(b"name,mail\nM\xfcller,m\xfcller@example.org\nN\x00,x\xff\xfe@example.org\n")
    told = json.loads(run(path, "--json"))

    assert {"name": 0, "mail": 2} == {
        column["name"]: sum(finding["n_cells"] for finding in column["findings"])
        for column in told["columns"]
    }


def test_wrong_input_is_named(tmp_path):
    """A missing file, another kind of file, a damaged file, an unknown entity."""
    (tmp_path / "x.txt").write_text("a")
    (tmp_path / "x.parquet").write_text("planted")
    (tmp_path / "x.csv").write_text('a,b\n"planted,1\n')

    for name in ("none.csv", "x.txt"):
        with pytest.raises(DataError, match="expected a CSV or Parquet file"):
            run(tmp_path / name)
    with pytest.raises(DataError, match=r"expected a readable parquet file; ArrowInvalid$"):
        run(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"--entity: expected some of .*got e-mail"):
        run(tmp_path / "x.csv", "-e", "e-mail")
