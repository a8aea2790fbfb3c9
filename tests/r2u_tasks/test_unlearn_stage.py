"""Laws of a batch: what a killed run, an unknown person and an older model make of it."""

import importlib.util
from pathlib import Path

import pytest

from governance.digests import read_json
from governance.errors import ReleaseBlockedError
from governance.ledger import read_entries
from governance.verifier import verify_certificate
from r2u_tasks.models import load_model, load_record, read_champion
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.context import open_context
from r2u_tasks.stages.requests import list_requests, submit_request
from r2u_tasks.stages.train import train_ready_model
from r2u_tasks.stages.unlearn import exact, run_batch, steps

pytestmark = pytest.mark.ml

_path = Path(__file__).parent.parent / "acceptance" / "readme.py"
_spec = importlib.util.spec_from_file_location("readme_example", _path)
readme = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(readme)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def place(repository, tmp_path):
    """The README's example, classified, and trained twice: an older model knew the person too."""
    readme.write_example((repository / "README.md").read_text(), tmp_path)
    declaration = tmp_path / "people.yaml"
    text = declaration.read_text().replace("pool_size: 6", "pool_size: 4")
    declaration.write_text(text.replace("stable_epochs: 10", "stable_epochs: 3"))
    place = {"dataset": str(declaration), "root_uri": str(tmp_path / "root")}
    classify_data(run_id="c", **place)
    train_ready_model(run_id="t1", **place)
    train_ready_model(run_id="t2", **place)
    return place


def ask(place, request_id, **columns):
    submit_request(request_id=request_id, **columns, **place)


def states(place):
    return {r["request_id"]: (r["state"], r["outcome"]) for r in list_requests(**place)}


def holders(root, needle):
    """Return every file below a folder that holds these bytes."""
    return [p for p in root.rglob("*") if p.is_file() and needle in p.read_bytes()]


def fingerprints(root):
    """Return 64 bytes out of the last tensor of each model's weights."""
    return [p.read_bytes()[-64:] for p in sorted(root.glob("models/ready-*/weights.safetensors"))]


@pytest.mark.parametrize("step", ["erasure-raw", "result"])
def test_a_batch_killed_before_any_publication_goes_on(place, monkeypatch, step):
    """The same run again finishes the batch: counts, certificate and ledger are whole."""
    root = Path(place["root_uri"])
    ask(place, "one", subject_id="p-17")
    older = fingerprints(root)
    assert len(older) == 2
    assert all(len(holders(root, needle)) >= 2 for needle in older)  # workspace and registry
    write = steps.write_json

    def killed_at(path, content):
        if path.name == f"{step}.json":
            raise Killed
        write(path, content)

    monkeypatch.setattr(steps, "write_json", killed_at)
    with pytest.raises(Killed):
        run_batch(run_id="night", **place)
    monkeypatch.setattr(steps, "write_json", write)
    result = run_batch(run_id="night", **place)

    assert result["outcomes"] == {"forgotten": 1}
    assert states(place) == {"one": ("closed", "forgotten")}
    batch = root / "batches" / result["batch_id"]
    verified = verify_certificate(
        batch / "certificates" / "one.json", public_key_path=next(root.rglob("*.pub.pem"))
    )
    assert verified.ok, verified.problem
    assert [e["seq"] for e in read_entries(root / "ledger.jsonl")] == list(
        range(len(read_entries(root / "ledger.jsonl")))
    )
    assert read_json(batch / "erasure.json")["tables"]["raw"]["erased"] == 4
    assert not (batch / "private").exists()
    for needle in older:
        assert holders(root, needle) == []


def test_who_was_erased_with_a_tenant_is_not_called_unknown(place):
    """An unknown person is *not found*; one erased at another's request is *already forgotten*."""
    ask(place, "tenant", select="country=DE")
    run_batch(run_id="first", **place)
    table = (Path(place["dataset"]).parent / "people.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in table]
    stays = {row[1] for row in rows if row[6] != "DE"}
    gone = sorted({row[1] for row in rows} - stays)
    assert gone
    ask(place, "gone", subject_id=gone[0])
    ask(place, "stranger", subject_id="nobody-at-all")
    ask(place, "tenant-again", select="country=DE")
    ask(place, "no-tenant", select="country=XX")
    run_batch(run_id="second", **place)

    found = states(place)
    assert found["tenant"] == ("closed", "forgotten")
    assert found["gone"] == ("closed", "already_forgotten")
    assert found["stranger"] == ("closed", "not_found")
    assert found["tenant-again"] == ("closed", "already_forgotten")
    assert found["no-tenant"] == ("closed", "not_found")


def test_an_exact_lane_that_gives_the_old_weights_back_certifies_nobody(place, monkeypatch):
    """Whatever its evidence says: a person must look, and nothing says that it was forgotten."""
    ask(place, "one", subject_id="p-17")
    context = open_context(**place)
    train = exact.train_segments

    def returns_the_original(model, *arguments, **named):
        cost = train(model, *arguments, **named)
        record = load_record(context.workspace, read_champion(context.workspace))
        original = load_model(context.workspace, context.declaration, record)
        model.load_state_dict(original.state_dict())
        return cost

    monkeypatch.setattr(exact, "train_segments", returns_the_original)
    with pytest.raises(ReleaseBlockedError):
        run_batch(run_id="night", **place)

    assert states(place) == {"one": ("needs_person", None)}
    assert read_champion(context.workspace) == "ready-t2"
    assert not list(context.workspace.root.glob("batches/*/certificates/*.json"))
