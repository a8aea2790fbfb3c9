"""Laws of a finished batch on real digits: every change is found, what was done can be shown."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.mutations import REQUESTS, all_mutations, missed, pack, serve_batch
from governance.digests import read_json, write_json
from governance.errors import DataError
from governance.ledger import read_entries, verify_chain
from governance.storage import read_table
from governance.verifier import verify_certificate, weights_digest
from r2u_tasks.stages.proofs import check_members, check_proof, prove_record
from r2u_tasks.stages.replay import replay_batch
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.sentinel import check
from r2u_tasks.stages.unlearn import run_batch

pytestmark = pytest.mark.ml

PERSONS = ("SYN-P0015", "SYN-P0029")
GOLDEN = Path(__file__).parent.parent / "golden"


class Served:
    """A workspace of the digits with one finished batch, and what was proven before it."""

    def __init__(self, folder):
        declaration, self.root = serve_batch(folder, small=True)
        self.source = declaration.parent / "digits.parquet"
        self.place = {"dataset": str(declaration), "root_uri": str(self.root)}
        self.batch = next(self.root.glob("batches/*/bundle.json")).parent

    def certificate(self, request=REQUESTS[0]):
        return self.batch / "certificates" / f"{request}.json"

    def verify(self, **options):
        key = self.root / "keys" / "signing.pub.pem"
        return verify_certificate(self.certificate(), public_key_path=key, **options)


def trained_record(served):
    """Return the proof of an erased record that the model had been trained on."""
    rows = pq.read_table(served.source, columns=["record_id", "subject_id"]).to_pylist()
    for record in (row["record_id"] for row in rows if row["subject_id"] in PERSONS):
        try:
            return prove_record(record_id=record, **served.place)
        except DataError:
            continue  # held out of training
    pytest.fail("expected an erased record that a model was trained on, got none")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return Served(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def package(served, tmp_path_factory):
    return pack(served.root, tmp_path_factory.mktemp("auditor"))


def test_every_single_change_is_found(package):
    """More than a thousand changes of bytes, lines and certificates: none is missed.

    Every file that the bundle names, bundle, certificate, ledger and weights; the original verifies
    before and after, with every check made.
    """
    assert (True, 8, []) == (
        package.verify().ok,
        len(package.verify().checks),
        package.verify().not_checked,
    )
    counts, unseen = missed(package, all_mutations(package, n_bytes=130, n_lines=120))

    assert [] == [(m.file, m.kind) for m in unseen]
    assert sum(counts.values()) >= 1000
    touched = {name.split(", ")[0] for name in counts}
    sealed = set(read_json(package.certificate.parent.parent / "bundle.json")["files"])
    assert sealed | {"certificate", "bundle.json", "ledger", "weights"} == touched
    assert package.verify().ok


def test_a_certificate_of_another_batch_or_workspace_is_found(package):
    """Another batch's certificate in its place, or its batch under our key."""
    foreign = next((GOLDEN / "v2").glob("batches/*/certificates/second-1.json"))
    original = package.certificate.read_bytes()
    shutil.copyfile(foreign, package.certificate)
    assert "another key" in package.verify().problem
    package.certificate.write_bytes(original)
    result = verify_certificate(foreign, public_key_path=package.public_key)
    assert "another key" in result.problem


def test_the_members_behind_a_certificate_are_counted_again(served, tmp_path):
    """A changed members file, manifest or set difference is found by whoever has the workspace."""
    assert check_members(batch_dir=served.batch)["ok"] is True
    sealed = read_json(served.batch / "members.json")
    folders = [served.root / "models" / sealed[name]["model_key"] for name in ("parent", "child")]
    for path in [f / name for f in folders for name in ("members.parquet", "manifest.json")]:
        original = path.read_bytes()
        for place in range(7, len(original), max(1, len(original) // 8)):
            changed = bytearray(original)
            changed[place] ^= 1
            path.write_bytes(bytes(changed))
            assert check_members(batch_dir=served.batch)["ok"] is False, (path.name, place)
        path.write_bytes(original)
    write_json(
        served.batch / "members.json",
        sealed
        | {"difference": sealed["difference"] | {"asked": sealed["difference"]["asked"] - 1}},
    )
    assert check_members(batch_dir=served.batch)["ok"] is False
    write_json(served.batch / "members.json", sealed)


def test_an_erased_record_is_proven_in_the_old_model_and_not_in_the_new(served, tmp_path):
    """Before in, after out: the proof fits the certificate, and no other proof does."""
    proof = trained_record(served)
    kinds = {s["model_key"]: s["kind"] for s in proof["statements"]}
    sealed = read_json(served.batch / "members.json")
    assert "inclusion" == kinds[sealed["parent"]["model_key"]]
    assert "absence" == kinds[sealed["child"]["model_key"]]
    assert [sealed["parent"]["model_key"]] == proof["held_by"]
    path = tmp_path / "proof.json"
    write_json(path, proof)
    assert served.verify(proof_path=path).ok
    assert "in 1 models" in check_proof(proof=path, root_uri=str(served.root))

    stays = read_table(served.root / "tables" / "classified", columns=["record_id", "split"])
    kept = next(r["record_id"] for r in stays.to_pylist() if r["split"] == "train")
    write_json(path, prove_record(record_id=kept, **served.place))
    assert "not in the model after" in served.verify(proof_path=path).problem
    for change in (
        {"leaf": "00" * 32},
        {"statements": proof["statements"][:1]},
        {"statements": [s | {"n_records": s["n_records"] + 1} for s in proof["statements"]]},
        {"schema": "r2u-proof/9"},
        {"statements": []},
    ):
        write_json(path, proof | change)
        assert not served.verify(proof_path=path).ok
    write_json(path, proof | {"leaf": "00" * 32})
    with pytest.raises(DataError, match="not proven"):
        check_proof(proof=path, root_uri=str(served.root))
    with pytest.raises(DataError, match="none was"):
        prove_record(record_id="nobody", **served.place)


def test_an_exact_batch_is_trained_again_and_gives_the_same_bits(served):
    """The replay lane, from its checkpoint and from scratch; another model is told apart."""
    if read_json(served.batch / "result-model.json")["claim"] != "exact":
        answer = replay_batch(batch_id=served.batch.name, **served.place)
        assert "impossible" == answer["outcome"]
        assert "approximate" in answer["detail"]
        pytest.skip("the approximate model was accepted; golden batches are exact")
    run = {"batch_id": served.batch.name, **served.place}
    for options in ({"note": True}, {"from_scratch": True}):
        answer = replay_batch(**run, **options)
        assert ("same", True) == (answer["outcome"], "same bits" in answer["detail"])
    noted = [
        e for e in read_entries(served.root / "ledger.jsonl") if e["kind"] == "replay_verified"
    ]
    assert [served.batch.name] == [e["body"]["batch_id"] for e in noted]

    model = served.root / "models" / read_json(served.batch / "result-model.json")["model_key"]
    record = read_json(model / "model.json")
    write_json(model / "model.json", record | {"weights_digest": "sha256:" + "0" * 64})
    answer = replay_batch(**run)
    write_json(model / "model.json", record)
    assert "differs" == answer["outcome"]
    assert "code and libraries are the same" in answer["detail"]


def test_a_replay_from_a_changed_checkpoint_fails_by_name(served):
    """One bit of it, even where the workspace's record names the changed bytes."""
    result = read_json(served.batch / "result-model.json")
    assert result["lane"] == "replay", "without a checkpoint, there is nothing to change"
    run = {"batch_id": served.batch.name, **served.place}
    first = read_json(served.batch / "plan.json")["first_segment"]
    model = served.root / "models" / result["model_key"]
    path = model / "checkpoints" / f"{first}.safetensors"
    original, record = path.read_bytes(), read_json(model / "model.json")
    changed = bytearray(original)
    changed[-1] ^= 1
    path.write_bytes(bytes(changed))
    digests = record["checkpoints"] | {str(first): weights_digest(path)}
    write_json(model / "model.json", record | {"checkpoints": digests})
    answer = replay_batch(**run)
    by_command = r2u(
        "verify", served.certificate(), "--replay", "--dataset", served.place["dataset"]
    )
    path.write_bytes(original)
    write_json(model / "model.json", record)

    assert "differs" == answer["outcome"]
    assert f"checkpoint before slice {first} is not the one of the sealed" in answer["detail"]
    assert 1 == by_command.returncode
    assert "FAIL replay: the checkpoint before" in by_command.stdout
    sealed = read_json(served.batch / "members.json")
    parent = {n: v for n, v in sealed["parent"].items() if n != "checkpoints"}
    write_json(served.batch / "members.json", sealed | {"parent": parent})
    answer = replay_batch(**run)
    write_json(served.batch / "members.json", sealed)
    assert ("impossible", True) == (answer["outcome"], "older version" in answer["detail"])


def r2u(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "r2u_tasks.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_the_command_line_verifies_folders_and_says_what_it_did_not_check(served):
    """A whole workspace as JSON; a wrong head, a wrong request and a missing file by exit code."""
    head = verify_chain(served.root / "ledger.jsonl", served.root / "keys/signing.pub.pem").head
    done = r2u("verify", served.root, "--head", head, "--members", "--json")
    answers = json.loads(done.stdout)
    assert (0, 2) == (done.returncode, len(answers))
    for answer in answers:
        assert (True, []) == (answer["ok"], answer["not_checked"])
        assert ["ledger", "model", "members"] == [c["check"] for c in answer["checks"]][-3:]

    done = r2u("verify", served.certificate(), "--head", "sha256:" + "0" * 64)
    assert (1, True) == (done.returncode, "lines were cut off" in done.stdout)
    done = r2u("verify", served.certificate(), "--request", REQUESTS[1])
    assert (1, True) == (done.returncode, "another request" in done.stdout)
    assert "not checked no ledger head" in r2u("verify", served.certificate()).stdout
    assert 2 == r2u("verify", served.root / "none.json").returncode


def test_a_ledger_that_was_cut_is_found_by_the_heads_noted_elsewhere(served):
    """Its last line gone, the rest is a whole chain; MLflow's params and a report tell of more."""
    path = served.root / "ledger.jsonl"
    whole = path.read_bytes()
    closed = next(e for e in read_entries(path) if e["kind"] == "batch_closed")["seq"]

    def found():
        warnings = check(run_id="s", **served.place)["warnings"]
        return [w["message"] for w in warnings if w["kind"] == "ledger"]

    assert [] == found()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:closed]))
    assert 1 == len(found())
    assert f"MLflow's run 'batch {served.batch.name}'" in found()[0]
    path.unlink()
    assert 1 == len(found())
    path.write_bytes(whole)
    assert [] == found()


def test_when_later_batches_erased_the_records_a_replay_is_called_impossible(served):
    """The last test of the workspace: it erases another person. What was noted stays known."""
    exact = read_json(served.batch / "result-model.json")["claim"] == "exact"
    table = read_table(served.root / "tables" / "classified")
    trained = (r for r in table.to_pylist() if r["split"] == "train" and r["revocable"])
    submit_request(request_id="later", subject_id=next(trained)["subject_id"], **served.place)
    run_batch(run_id="later", **served.place)
    answer = replay_batch(batch_id=served.batch.name, **served.place)

    assert "impossible" == answer["outcome"]
    if exact:
        assert "erased since" in answer["detail"]
        assert "as entry" in answer["detail"]
    result = served.verify()
    assert result.ok
    assert any("model file not given" in line for line in result.not_checked)
    assert check_members(batch_dir=served.batch)["ok"] is True


def imported(folder, *arguments):
    """Return a run of a bare interpreter, and the top-level names that it imported."""
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}


def test_the_verifier_imports_only_the_standard_library_and_cryptography(repository, tmp_path):
    """Copied alone into an empty folder, it verifies, and loads no package of ours or of others."""
    shutil.copyfile(repository / "governance" / "verifier.py", tmp_path / "verifier.py")
    root = GOLDEN / "v2"
    key = root / "keys" / "signing.pub.pem"
    arguments = ["verifier.py", root, "--public-key", key]
    done, loaded = imported(tmp_path, *arguments)
    _, by_every_start = imported(tmp_path, "-c", "")
    assert (0, 6) == (done.returncode, done.stdout.count("ok: "))
    optional = {"bcrypt"}  # cryptography looks for it
    allowed = sys.stdlib_module_names | by_every_start | {"cryptography", "_cffi_backend"}
    assert set() == loaded - allowed - optional - {"imported package", "org"}
    assert set() == loaded & {"socket", "_socket", "ssl", "http", "asyncio"}
    tree = ast.parse((tmp_path / "verifier.py").read_text())
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert names <= sys.stdlib_module_names | {"cryptography"}
