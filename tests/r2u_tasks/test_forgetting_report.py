"""Laws of evidence without a workspace: any three models, data from files, and what is refused.

The task is made to be memorised: records at random with labels at random, so that a model knows the
records it was trained on and nothing of others.
"""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from governance.errors import DataError, UnlearningError
from governance.forgetting_suite.records import find_record
from r2u_tasks.cli.main import app
from r2u_tasks.data import Records
from r2u_tasks.forgetting_report import (
    EvaluationSettings,
    ForgettingData,
    ModelPools,
    evaluate,
    files,
)
from r2u_tasks.measuring import RecoverySettings, measure_models, probe_features

pytestmark = pytest.mark.ml

N, POOL = 60, 8
FORGET = [f"r{i:03d}" for i in range(12)]


def records(n, seed, prefix="r"):
    generator = np.random.default_rng(seed)
    inputs = torch.from_numpy(generator.normal(size=(n, 16)).astype(np.float32))
    labels = torch.from_numpy(generator.integers(0, 2, n))
    return Records(inputs, labels, np.array([f"{prefix}{i:03d}" for i in range(n)]))


def build():
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 2))


def train(data, seed):
    torch.manual_seed(seed % 2**32)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs), data.labels).backward()
        optimizer.step()
    return model


def noisy(model, scale=1e-4):
    """A method that does next to nothing."""
    student = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return student


DATA = ForgettingData(
    training=records(N, 0),
    forget_ids=FORGET,
    test=records(50, 1, "t"),
    high_risk_ids=FORGET[:4],
    canary_ids=FORGET[:1],
)
SETTINGS = EvaluationSettings(pool_size=POOL, recovery=RecoverySettings(models=3, steps=40))


@pytest.fixture(scope="module")
def pools():
    """O, R and R' of eight models."""
    return ModelPools(
        original=[train(DATA.training, seed) for seed in range(POOL)],
        unlearned=[],
        retrained=[train(DATA.retain, 100 + seed) for seed in range(POOL)],
        second_retrain=[train(DATA.retain, 200 + seed) for seed in range(POOL)],
    )


def with_unlearned(pools, unlearned, **changes):
    names = ("original", "retrained", "second_retrain")
    parts = {name: getattr(pools, name) for name in names}
    return ModelPools(unlearned=unlearned, **(parts | changes))


@pytest.fixture(scope="module")
def retrained_report(pools):
    """The perfect method: models trained without the records, with seeds of their own."""
    models = [train(DATA.retain, 300 + seed) for seed in range(POOL)]
    return evaluate(DATA, with_unlearned(pools, models), build=build, settings=SETTINGS)


def test_a_retrained_model_is_accepted_and_no_strong_row_tells_it_apart(retrained_report):
    """The positive control, for verdict and suite.

    A row may be void: eight models a pool are few, and one pool in twenty is an odd one.
    """
    evidence = retrained_report.evidence
    rows = {row["name"]: row["outcome"] for row in evidence["suite"]["rows"]}

    assert evidence["controls"] == dict.fromkeys(evidence["controls"], True)
    assert retrained_report.verdict == "accept"
    assert evidence["claim"] == "approximate"
    strong = ("lrt_auc", "batch_p", "klom", "lira_auc", "rmia_auc", "relearn_ratio", "rebound")
    assert "not_met" not in {rows[name] for name in strong}
    assert rows["rmia_auc"] == rows["relearn_ratio"] == rows["rebound"] == "met"


def test_the_evidence_names_no_record_and_finds_each_by_its_salt(retrained_report):
    """Neither document nor page has an id or the salt; an unknown id is an error."""
    text = json.dumps(retrained_report.evidence, allow_nan=False) + retrained_report.page
    line = find_record(retrained_report.evidence["records"], FORGET[0], retrained_report.salt)

    assert retrained_report.salt.hex() not in text
    assert not any(f'"{record}"' in text or f">{record}<" in text for record in FORGET)
    assert line["strata"][:2] == ["high_risk", "canaries"]
    with pytest.raises(DataError, match="unknown record"):
        find_record(retrained_report.evidence["records"], "r059", retrained_report.salt)


def test_the_page_is_one_file_with_all_parts(retrained_report):
    """Three columns, pictures and limits; nothing is loaded from outside."""
    page = retrained_report.page

    for part in ("must fail", "under test", "must pass", "ROC", "Relearning", "does not show"):
        assert part in page or part == "ROC"
    assert page.count("<svg") == 5
    assert not any(outside in page for outside in ('src="http', "@import", "<script"))


def test_models_that_kept_the_records_are_not_accepted(pools):
    """A method that does next to nothing, as a pool and as one model."""
    models = [noisy(model) for model in pools.original]
    for unlearned in (models, models[:1]):
        report = evaluate(DATA, with_unlearned(pools, unlearned), build=build, settings=SETTINGS)
        assert report.verdict == "retrain"
        assert "still_visible" in report.evidence["suite"]["record_statuses"]


def test_over_forgotten_models_are_not_accepted(pools):
    """Ascent to a loss of 5 nats beside descent on retained records.

    Accuracies are those of retrained models, on retained and on forget records; and yet the records
    stand out, on the other side.
    """

    def forget(model):
        student = copy.deepcopy(model)
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
        cross_entropy = nn.functional.cross_entropy
        for _ in range(80):
            optimizer.zero_grad()
            kept = cross_entropy(student(DATA.retain.inputs), DATA.retain.labels)
            gone = cross_entropy(student(DATA.forget.inputs), DATA.forget.labels)
            (kept + nn.functional.relu(5 - gone)).backward()
            optimizer.step()
        return student

    report = evaluate(
        DATA,
        with_unlearned(pools, [forget(model) for model in pools.original]),
        build=build,
        settings=SETTINGS,
    )
    rows = {row["name"]: row for row in report.evidence["suite"]["rows"]}

    def unlearned_and_retrained(name):
        return [
            rows[name]["columns"][column]["value"] for column in ("unlearned", "second_retrain")
        ]

    assert report.verdict == "retrain"
    ours, theirs = unlearned_and_retrained("forget_accuracy")
    assert ours == pytest.approx(theirs, abs=0.1)
    assert unlearned_and_retrained("retain_accuracy") == pytest.approx([1.0, 1.0], abs=0.05)
    ours, theirs = unlearned_and_retrained("share_below_99")
    assert ours > theirs + 0.05


def test_a_destroyed_model_is_not_accepted(pools):
    """Random weights forget the records, and everything else."""
    report = evaluate(DATA, with_unlearned(pools, [build()]), build=build, settings=SETTINGS)

    assert report.verdict == "retrain"


def test_one_retrained_model_is_refused_and_nothing_is_guessed(pools):
    """No verdict, no claim, and the reason in words; the accuracies of the three are there."""
    three = ModelPools(
        original=pools.original[:1],
        unlearned=[noisy(pools.original[0])],
        retrained=pools.retrained[:1],
    )
    report = evaluate(DATA, three, build=build, settings=SETTINGS)
    rows = {row["name"]: row for row in report.evidence["suite"]["rows"]}

    assert (report.verdict, report.evidence["claim"]) == ("refuse", None)
    assert "underpowered" in report.evidence["reasons"][0]
    assert {row["outcome"] for row in rows.values()} == {"unknown"}
    assert rows["retain_accuracy"]["columns"]["unlearned"]["value"] > 0.9
    assert report.evidence["statuses"] == {"underpowered": len(FORGET)}
    assert "refuse" in report.page


def test_pools_are_trained_where_it_is_told_how(pools):
    """From three models and two callables to a verdict; progress is told for every model."""
    done = []
    report = evaluate(
        DATA,
        ModelPools(
            original=pools.original[:1],
            unlearned=[noisy(pools.original[0])],
            retrained=pools.retrained[:1],
        ),
        build=build,
        train=train,
        unlearn=lambda model, _retain, _forget: noisy(model),
        settings=EvaluationSettings(pool_size=6, recovery=None),
        progress=lambda role, n, of: done.append((role, n, of)),
    )

    assert report.verdict == "retrain"
    assert {p["n"] for p in report.evidence["pools"].values()} == {6}
    assert len(done) == 5 + 5 + 6 + 5
    rows = {row["name"]: row for row in report.evidence["suite"]["rows"]}
    assert rows["rebound"]["columns"]["unlearned"]["why_none"] == "not measured"


def test_the_same_models_give_the_same_evidence(pools):
    """But for the seconds; labels too, with the same salt."""
    models = [noisy(pools.original[0], 1e-2)]

    def document():
        torch.manual_seed(0)
        report = evaluate(
            DATA,
            with_unlearned(pools, models),
            build=build,
            settings=SETTINGS,
            salt=b"salt of sixteen!",
        )
        return {name: part for name, part in report.evidence.items() if name != "cost"}

    assert document() == document()


# What is no evidence


UNSOUND = {
    "unknown id": ({"forget_ids": [*FORGET, "r999"]}, "1 of 13 are unknown"),
    "nothing to forget": ({"forget_ids": []}, "forget ids: expected at least one"),
    "unknown canary": ({"canary_ids": ["r059"]}, "canary ids: 1 of 1"),
    "test record in training": ({"test": records(50, 1, "r")}, "50 of them are training"),
    "everything is forgotten": ({"forget_ids": DATA.training.ids.tolist()}, "retained records"),
}


@pytest.mark.parametrize(("change", "message"), UNSOUND.values(), ids=UNSOUND.keys())
def test_unsound_records_are_an_error_and_never_a_verdict(pools, change, message):
    """With counts and without ids."""
    parts = {name: getattr(DATA, name) for name in ForgettingData.__dataclass_fields__}
    data = ForgettingData(**(parts | change))
    with pytest.raises(DataError, match=message) as error:
        evaluate(data, with_unlearned(pools, [noisy(pools.original[0])]), build=build)

    assert "r999" not in str(error.value)


def test_an_unchanged_model_is_an_error(pools):
    """The unlearned model is the original, byte for byte."""
    with pytest.raises(UnlearningError, match="nothing changed"):
        evaluate(DATA, with_unlearned(pools, [copy.deepcopy(pools.original[0])]), build=build)


def test_a_model_in_two_pools_is_an_error(pools):
    """A candidate that is also a yardstick, or one file given twice."""
    for unlearned, changes in (
        ([pools.retrained[0]], {}),
        ([build()], {"second_retrain": [*pools.second_retrain[:4], pools.retrained[0]]}),
    ):
        with pytest.raises(DataError, match="stand twice"):
            evaluate(DATA, with_unlearned(pools, unlearned, **changes), build=build)


def test_weights_that_are_not_finite_are_an_error(pools):
    """NaN raises; no number is left out."""
    broken = copy.deepcopy(pools.original[0])
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="finite"):
        evaluate(DATA, with_unlearned(pools, [broken]), build=build, settings=SETTINGS)


# Measuring


def test_measuring_changes_no_model(pools):
    """Neither weights nor mode, though copies are trained further."""
    model = pools.original[0].train()
    before = copy.deepcopy(model.state_dict())
    recovery = RecoverySettings(models=1, steps=3, learning_rate=0.1)
    measure_models(
        [model], forget=DATA.forget, retain=DATA.retain, test=DATA.test, recovery=recovery
    )

    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_probe_reads_the_input_of_the_last_layer():
    """Features that separate the classes give 1, also where the last layer gives nonsense."""
    generator = np.random.default_rng(0)
    labels = torch.arange(80) % 2
    inputs = torch.from_numpy(generator.normal(size=(80, 16)).astype(np.float32))
    inputs[:, 0] += 6 * labels
    data = Records(inputs, labels, np.array([f"p{i:02d}" for i in range(80)]))
    network = nn.Sequential(nn.Identity(), nn.Linear(16, 2))
    last_is_scaled = nn.Sequential(nn.Linear(16, 2), nn.Softmax(dim=1))

    assert probe_features(network, data, data) == 1.0
    assert probe_features(last_is_scaled, data, data) is None


# Files and the command


@pytest.fixture
def on_disk(pools, tmp_path, monkeypatch):
    """Everything as files, and a module with network, training and method."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "def build():\n"
        "    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 2))\n\n\n"
        "def train(inputs, labels, seed):\n"
        "    torch.manual_seed(seed % 2**32)\n"
        "    model = build()\n"
        "    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)\n"
        "    for _ in range(60):\n"
        "        optimizer.zero_grad()\n"
        "        nn.functional.cross_entropy(model(inputs), labels).backward()\n"
        "        optimizer.step()\n"
        "    return model\n"
    )
    for name in ("original", "retrained", "second_retrain"):
        (tmp_path / name).mkdir()
        for index, model in enumerate(getattr(pools, name)):
            torch.save(model.state_dict(), tmp_path / name / f"{index}.pt")
    save_file(noisy(pools.original[0]).state_dict(), tmp_path / "unlearned.safetensors")
    shuffled = np.random.default_rng(0).permutation(N)
    np.savez(
        tmp_path / "train.npz",
        inputs=DATA.training.inputs.numpy()[shuffled],
        labels=DATA.training.labels.numpy()[shuffled],
        ids=DATA.training.ids[shuffled],
    )
    columns = {f"f{i:02d}": DATA.test.inputs[:, i].numpy() for i in range(16)}
    test = {"id": DATA.test.ids, "label": DATA.test.labels.numpy(), **columns}
    pq.write_table(pa.table(test), tmp_path / "test.parquet")
    (tmp_path / "forget.txt").write_text("\n".join(FORGET) + "\n")
    return tmp_path


ARGUMENTS = [
    "evidence",
    *("--network", "own_net:build", "--original", "original"),
    *("--unlearned", "unlearned.safetensors", "--data", "train.npz", "--test", "test.parquet"),
    *("--out", "report", "--salt-file", "keys/salt"),
]


def run(*more, forget="forget.txt"):
    return CliRunner().invoke(app, [*ARGUMENTS, "--forget", forget, *more])


def test_records_are_read_as_they_were_written(on_disk):
    """From both formats, sorted by id, whatever the order in the file."""
    from_npz = files.read_records(on_disk / "train.npz")
    from_parquet = files.read_records(on_disk / "test.parquet")

    assert from_npz.ids.tolist() == sorted(DATA.training.ids)
    assert torch.equal(from_npz.inputs, DATA.training.inputs)
    assert torch.equal(from_npz.labels, DATA.training.labels)
    assert torch.equal(from_parquet.inputs, DATA.test.inputs)


def test_the_command_judges_files_without_a_workspace(on_disk):
    """Exit code 3 for a model that kept the records; document and page lie in the folder."""
    before = os.listdir(on_disk)
    done = run("--retrained", "retrained", "--second-retrain", "second_retrain")
    evidence = json.loads((on_disk / "report/evidence.json").read_text())

    assert done.exit_code == 3, done.output
    assert evidence["verdict"] == "retrain"
    assert "verdict retrain" in done.output
    assert (on_disk / "report/evidence.html").read_text().startswith("<!doctype html>")
    find_record(evidence["records"], FORGET[0], (on_disk / "keys/salt").read_bytes())
    made = {path.name for path in on_disk.iterdir()} - {"__pycache__"}
    assert {"keys", "report"} == made - set(before)


def test_the_command_refuses_with_one_retrained_model(on_disk):
    """And says what to give it."""
    done = run("--retrained", "retrained/0.pt")

    assert done.exit_code == 3
    assert "underpowered" in done.output


def test_the_command_trains_pools(on_disk):
    """From one original, one unlearned model and a training function."""
    arguments = ["--train", "own_net:train", "--pool-size", "5", "--json"]
    done = run(*arguments)

    assert done.exit_code == 3, done.output
    evidence = json.loads(done.stdout)
    assert evidence["verdict"] == "retrain"
    assert evidence["pools"]["second_retrain"] == {"n": 5}


def test_a_salt_is_made_once_and_for_the_owner_only(tmp_path):
    """The second call reads what the first wrote; the folder stays as it is."""
    mode = tmp_path.stat().st_mode
    salt = files.load_or_make_salt(tmp_path / "salt")

    assert files.load_or_make_salt(tmp_path / "salt") == salt
    assert len(salt) == 32
    assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode == mode


def test_an_unknown_id_ends_the_command_with_an_error(on_disk):
    """Before any number is written."""
    (on_disk / "other.txt").write_text("r000\nnobody\n")
    done = run("--retrained", "retrained", forget="other.txt")

    assert isinstance(done.exception, DataError)
    assert not (on_disk / "report").exists()


BAD_FILES = {
    "no such weights": (["--retrained", "nowhere"], "expected a file or folder"),
    "no such network": (["--retrained", "retrained", "--train", "own_net:nothing"], "own_net"),
    "a network that wants arguments": (
        ["--retrained", "retrained", "--network", "own_net:train"],
        "call without arguments",
    ),
    "no network": (
        ["--retrained", "retrained", "--network", "builtins:dict"],
        "expected a torch.nn.Module, got dict",
    ),
    "other weights": (["--retrained", "forget.txt"], "expected a state dict"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files_are_errors_that_say_what_was_expected(on_disk, arguments, message):
    """Never a traceback of somebody else's library."""
    assert on_disk.exists()
    done = run(*arguments)

    assert isinstance(done.exception, DataError)
    assert message in str(done.exception)


def test_a_pickle_that_runs_code_is_not_loaded(on_disk):
    """Weights are data: a file that would call something is refused."""

    class Call:
        def __reduce__(self):
            return (os.mkdir, (str(on_disk / "ran"),))

    torch.save({"0.weight": Call()}, on_disk / "evil.pt")
    with pytest.raises(DataError, match="state dict"):
        files.load_network(build, on_disk / "evil.pt")

    assert not (on_disk / "ran").exists()


# Language models


LLAMA = Path(os.environ.get("R2U_SHARED_DATA", "../shared/data")) / "models/stories260K-hf"


def test_the_suite_works_for_a_language_model():
    """A causal language model that learned some sequences: they are visible, one by one.

    Margins are those of the mean token log-likelihood; what is defined for classes only says so.
    """
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if not LLAMA.exists():
        pytest.skip(f"no model in {LLAMA}; set R2U_SHARED_DATA")
    generator = torch.Generator().manual_seed(0)

    def sequences(n, prefix):
        ids = torch.randint(3, 500, (n, 10), generator=generator)
        return Records(ids, ids, np.array([f"{prefix}{i:02d}" for i in range(n)]))

    data = ForgettingData(
        training=sequences(16, "s"), forget_ids=["s00", "s01", "s02"], test=sequences(8, "t")
    )

    def network():
        return transformers.AutoModelForCausalLM.from_pretrained(LLAMA)

    def learn(given, seed):
        torch.manual_seed(seed % 2**32)
        model = network().train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(12):
            optimizer.zero_grad()
            model(given.inputs, labels=given.inputs).loss.backward()
            optimizer.step()
        return model.eval()

    report = evaluate(
        data,
        ModelPools(
            original=(first := [learn(data.training, 0)]),
            unlearned=[noisy(first[0], 1e-5)],
            retrained=[],
        ),
        build=lambda: transformers.AutoModelForCausalLM.from_config(network().config),
        train=learn,
        settings=EvaluationSettings(
            pool_size=4, recovery=RecoverySettings(models=1, steps=3, learning_rate=0.1)
        ),
    )
    rows = {row["name"]: row["columns"]["unlearned"] for row in report.evidence["suite"]["rows"]}

    assert report.verdict == "retrain"
    assert rows["lira_auc"]["value"] > 0.9
    assert rows["forget_accuracy"]["value"] is not None
    assert rows["js_divergence"]["why_none"] == "not defined for sequences"
    assert rows["linear_probe"]["value"] is None
