"""The command line as a new user meets it: the README's example, and wrong input at each door."""

import hashlib
import importlib.util
import resource
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

_spec = importlib.util.spec_from_file_location("readme", Path(__file__).with_name("readme.py"))
readme = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(readme)

TABLES = ("raw", "classified", "salts")


@pytest.fixture(scope="module")
def example(repository, tmp_path_factory):
    """A folder with the README's four files, and what its commands answered."""
    folder = tmp_path_factory.mktemp("people")
    commands = readme.write_example((repository / "README.md").read_text(), folder)
    answers = {line: readme.shell(folder, line) for line in commands}
    return folder, answers


def content(folder):
    """Return the digest of every file that later steps build on."""
    root = folder / "r2u-root" / "people"
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and "runs" not in p.parts]
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if not p.name.endswith(("-wal", "-shm", ".lock"))
    }


def test_the_readme_works_as_printed(example):
    """Own CSV, own nn.Module: every command of the README ends with 0, in the printed order."""
    _, answers = example

    failed = {line: a.stderr[-400:] for line, a in answers.items() if a.returncode != 0}
    assert failed == {}
    assert len(answers) >= 8
    listed = next(a.stdout for line, a in answers.items() if "request list" in line)
    assert "forgotten" in listed
    verified = next(a.stdout for line, a in answers.items() if "verify" in line)
    assert "ok" in verified


def edit(name, old, new):
    def change(folder):
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def first_row(old, new):
    """Change the first data row of the table."""

    def change(folder):
        path = folder / "people.csv"
        header, row, rest = path.read_text().split("\n", 2)
        assert old(row)
        path.write_text("\n".join([header, new(row), rest]))

    return change


def without_subjects(folder):
    path = folder / "people.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text(
        "\n".join([",".join(lines[0])] + [",".join([r[0], "", *r[2:]]) for r in lines[1:]])
    )


def corrupt_parquet(folder):
    (folder / "people.parquet").write_bytes(b"PAR1 this is no table PAR1")
    edit(
        "people.yaml", "{path: people.csv, format: csv}", "{path: people.parquet, format: parquet}"
    )(folder)


def only_header(folder):
    path = folder / "people.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")


DOORS = {
    "unknown key in the declaration": (
        edit("people.yaml", "task: tabular", "tusk: tabular"),
        "tusk",
    ),
    "declaration is no YAML": (edit("people.yaml", "name: people", "name: [people"), "people.yaml"),
    "unknown key in the policy": (edit("policy.yaml", "add: 0.5", "ad: 0.5"), "rules"),
    "column that the table lacks": (edit("people.yaml", "name: income", "name: incame"), "incame"),
    "label that is NaN": (
        first_row(lambda row: True, lambda row: row.rsplit(",", 1)[0] + ","),
        "churned",
    ),
    "empty table": (only_header, "row"),
    "corrupt Parquet": (corrupt_parquet, "parquet"),
    "no subject": (without_subjects, "person"),
    "no such factory": (edit("people.yaml", "my_net:build", "my_net:built"), "built"),
}


@pytest.mark.parametrize("door", DOORS)
def test_wrong_input_gives_one_clear_error_and_changes_nothing(example, tmp_path, door):
    """Exit code 2, one message that names the place, and every stored file as it was."""
    folder = tmp_path / "people"
    shutil.copytree(example[0], folder)
    before = content(folder)
    change, named = DOORS[door]
    change(folder)

    command = "r2u train" if door == "no such factory" else "r2u classify"
    answer = readme.shell(folder, command)

    assert answer.returncode == 2, answer.stderr[-800:]
    assert answer.stderr.count("error ") == 1
    assert "Traceback" not in answer.stderr
    assert named in answer.stderr
    assert "p-17" not in answer.stderr
    assert content(folder) == before


def test_a_full_disk_leaves_the_former_tables(example, tmp_path):
    """Writing stops in the middle of a publish: an error, and the tables are readable as before."""
    from governance.storage import read_table

    folder = tmp_path / "people"
    shutil.copytree(example[0], folder)
    tables = [p for p in (folder / "r2u-root" / "people").rglob("_delta_log") if p.is_dir()]
    before = {str(p.parent): read_table(p.parent).num_rows for p in tables}
    assert before

    def no_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    answer = readme.shell(folder, "r2u classify", preexec_fn=no_space)

    assert answer.returncode == 2, answer.stderr[-800:]
    assert "Traceback" not in answer.stderr
    assert {name: read_table(Path(name)).num_rows for name in before} == before
