"""Laws of every method, on digits, on a table and on language models."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.readiness.tasks import load_digits
from governance.declaration import UNLEARNING_METHODS, load_declaration
from governance.errors import DeclarationError, UnlearningError
from r2u_tasks.config import ReadinessConfig, TrainingConfig, UnlearningConfig
from r2u_tasks.data import Records
from r2u_tasks.model import weights_digest
from r2u_tasks.objectives import sequence_losses
from r2u_tasks.parameters import parameters_in_scope
from r2u_tasks.training import SegmentedRecords, train_segments
from r2u_tasks.unlearning.choice import CHEAP, auto, final_distance
from r2u_tasks.unlearning.contract import TOLERANCE_NATS, UnlearnedModel, run_unlearning
from r2u_tasks.unlearning.driver import MAX_RETAIN_DROP
from r2u_tasks.unlearning.registry import BUILT_IN, find_method
from r2u_tasks.unlearning.relabeling import saliency_mask
from r2u_tasks.unlearning.scores import score_records

pytestmark = pytest.mark.ml

METHODS = [name for name in UNLEARNING_METHODS if name != "no_op"]
WITHOUT_FORGET_RECORDS = {"finetune", "l1_sparse"}
"""They forget by drift, and may well come nowhere; then they must say so."""

MAY_COME_NO_NEARER = {("table", "scrub")}
"""Where rounding decides, and differs between processors: it must be said, loudly."""

SHARED = Path(os.environ.get("R2U_SHARED_DATA", "../shared/data")) / "models/stories260K-hf"


class Case:
    """A model that knows its training records by heart, and a request."""

    def __init__(self, name, model, train, asked, validation):
        self.name, self.model = name, model
        self.forget, self.retain = train.select(asked), train.select(~asked)
        self.validation = validation

    def run(self, method, **settings):
        return run_unlearning(
            BUILT_IN[method] if isinstance(method, str) else method,
            self.model,
            self.retain,
            self.forget,
            self.validation,
            config=UnlearningConfig(**settings),
        )


def train_by_heart(model, records, *, epochs, learning_rate=3e-3):
    train_segments(
        model,
        SegmentedRecords(records, np.ones(len(records), np.int8), 2),
        training=TrainingConfig(
            batch_size=32, stable_epochs=0, revocable_epochs=epochs, learning_rate=learning_rate
        ),
        readiness=ReadinessConfig().ordinary(),
    )
    return model.eval()


@pytest.fixture(scope="module")
def digits():
    """300 digits, 20 of which are asked for."""
    task = load_digits()
    train = task.train.select(np.arange(len(task.train)) < 300)
    model = train_by_heart(task.build(0), train, epochs=40)
    return Case("digits", model, train, np.arange(300) % 15 == 0, task.validation)


@pytest.fixture(scope="module")
def one_digit(digits):
    """The same model, and the request of a whole class."""
    task = load_digits()
    train = task.train.select(np.arange(len(task.train)) < 300)
    asked = train.labels.numpy() == task.classwise
    return Case("one digit", digits.model, train, asked, task.validation)


@pytest.fixture(scope="module")
def table():
    """A table of two classes with a fifth of the labels wrong, which the model learned by heart."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(700, 8)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0) ^ (generator.random(700) < 0.2)
    ids = np.array([f"t{i:03d}" for i in range(700)])
    records = Records(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)), ids)
    train, validation = (records.select(m) for m in (np.arange(700) < 300, np.arange(700) >= 300))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    return Case(
        "table",
        train_by_heart(model, train, epochs=60),
        train,
        np.arange(300) % 10 == 0,
        validation,
    )


class SmallLanguageModel(nn.Module):
    """Predicts the next token from this one and the last; brings the loss of sequences."""

    record_losses = staticmethod(sequence_losses)

    def __init__(self, n_tokens=12, width=48):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width)
        self.hidden = nn.Linear(2 * width, 64)
        self.head = nn.Linear(64, n_tokens)

    def forward(self, ids):
        here = self.embedding(ids)
        before = torch.roll(here, 1, dims=1)
        return self.head(torch.tanh(self.hidden(torch.cat([here, before], dim=2))))


@pytest.fixture(scope="module")
def text():
    """40 random sequences by heart, 8 of them asked for; unseen ones look no different."""
    ids = torch.randint(0, 12, (80, 7), generator=torch.Generator().manual_seed(0))
    records = Records(ids, ids, np.array([f"x{i:02d}" for i in range(80)]))
    train, unseen = (records.select(m) for m in (np.arange(80) < 40, np.arange(80) >= 40))
    torch.manual_seed(0)
    model = train_by_heart(SmallLanguageModel(), train, epochs=40, learning_rate=1e-2)
    return Case("text", model, train, np.arange(40) % 5 == 0, unseen)


def require_two_sided(case, method, result):
    """Nearer to the level, within the tolerance of it or with a reason, and never beyond."""
    start, end = result.curve[0].distance, final_distance(result)
    assert start > 2 * TOLERANCE_NATS, f"{case.name}: there is nothing to forget"
    assert -TOLERANCE_NATS <= end < start
    if end > TOLERANCE_NATS:
        assert "nats" in result.stopped_because, result.stopped_because
    else:
        assert result.stopped_because.endswith("forget margins are at the level of unseen records")
    if method not in WITHOUT_FORGET_RECORDS | {"ssd"}:
        before, after = (
            score_records(m, case.forget).margins.mean() for m in (case.model, result.model)
        )
        assert after < before - 0.2 * start


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["digits", "one_digit", "table", "text"])
def test_a_method_comes_to_the_level_from_above_or_says_why_not(method, name, request):
    """Two-sided, on a copy, the same with the same seed; on images, tables and text."""
    case = request.getfixturevalue(name)
    before = weights_digest(case.model)
    try:
        result = case.run(method)
    except UnlearningError as error:
        if (name, method) in MAY_COME_NO_NEARER and "came no nearer" in str(error):
            return
        raise
    assert weights_digest(case.model) == before
    assert weights_digest(result.model) != before
    require_two_sided(case, method, result)
    assert weights_digest(case.run(method).model) == weights_digest(result.model)


@pytest.mark.parametrize("method", ["neg_grad_plus", "npo", "salun", "scrub", "level_matching"])
def test_methods_with_retain_records_keep_what_stays(digits, method):
    """Retain accuracy within the guard, and accuracy on unseen records at most 5 points below."""
    result = digits.run(method)
    retain, unseen = (
        score_records(digits.model, part).accuracy - score_records(result.model, part).accuracy
        for part in (digits.retain, digits.validation)
    )
    assert retain <= MAX_RETAIN_DROP + 0.01
    assert unseen <= 0.05


def test_a_given_step_size_is_taken_and_the_seed_matters(digits):
    first = digits.run("random_labels", step_size=0.002)
    other = digits.run("random_labels", step_size=0.002, seed=1)
    by_rule = digits.run("random_labels")
    assert weights_digest(first.model) != weights_digest(other.model)
    assert first.steps > by_rule.steps


def test_only_parameters_in_scope_move(digits):
    for method in METHODS:
        result = digits.run(method, parameters=("*.4.*",))
        for name, value in digits.model.named_parameters():
            moved = not torch.equal(value, result.model.state_dict()[name])
            assert moved == (".4." in name), (method, name)


def test_salun_moves_no_weight_outside_its_mask(digits):
    mask = saliency_mask(digits.model, digits.forget, UnlearningConfig())
    result = digits.run("salun")
    after = parameters_in_scope(result.model)
    n_moved = 0
    for name, value in parameters_in_scope(digits.model).items():
        moved = value != after[name]
        assert not bool((moved & (mask[name] == 0)).any())
        n_moved += int(moved.sum())
    assert n_moved > 0


def test_a_given_level_is_kept_to(digits):
    """The level of the reference model goes in by ``target_margins``; here 2 nats below now."""
    wanted = score_records(digits.model, digits.forget).margins - 2.0
    result = digits.run("level_matching", target_margins=wanted)
    reached = score_records(result.model, digits.forget).margins
    assert float((reached - wanted).mean()) == pytest.approx(0, abs=TOLERANCE_NATS + 1e-3)


@pytest.mark.parametrize("name", ["digits", "text"])
def test_auto_takes_the_best_of_the_cheap_methods(name, request):
    """At the level, the highest accuracy on unseen records; else the nearest to the level."""
    case = request.getfixturevalue(name)
    results = [case.run(method) for method in CHEAP]
    at_level = [r for r in results if abs(final_distance(r)) <= TOLERANCE_NATS]
    if at_level:
        best = max(at_level, key=lambda r: score_records(r.model, case.validation).accuracy)
    else:
        best = min(results, key=lambda r: abs(final_distance(r)))

    chosen = case.run("auto")

    assert chosen.method == f"auto:{best.method}"
    assert weights_digest(chosen.model) == weights_digest(best.model)


def test_auto_leaves_failures_out_and_fails_when_all_do(digits, monkeypatch):
    def broken(model, retain, forget, validation, *, config):
        raise UnlearningError("broken on purpose")

    monkeypatch.setattr("r2u_tasks.unlearning.choice.CHEAP", (broken, BUILT_IN["npo"]))
    assert digits.run(auto).method == "auto:npo"
    monkeypatch.setattr("r2u_tasks.unlearning.choice.CHEAP", (broken, BUILT_IN["no_op"]))
    with pytest.raises(UnlearningError, match=r"broken on purpose.*changed nothing"):
        digits.run(auto)


def test_a_model_that_is_at_the_level_already_is_refused(digits):
    """Nothing to forget is no success: the records to forget were never trained on."""
    unseen = Case(
        "unseen",
        digits.model,
        digits.retain,
        np.zeros(len(digits.retain), bool),
        digits.validation,
    )
    unseen.forget = digits.validation.select(np.arange(len(digits.validation)) < 150)
    level = score_records(digits.model, unseen.forget).margins
    for method in METHODS:
        with pytest.raises(UnlearningError, match="changed nothing"):
            unseen.run(method, target_margins=level)


def test_the_names_of_a_declaration_are_those_that_ship(declare_people, tmp_path):
    assert tuple(BUILT_IN) == UNLEARNING_METHODS
    path = declare_people(tmp_path)
    text = path.read_text()
    for name in UNLEARNING_METHODS:
        path.write_text(f"{text}unlearning: {{method: {name}}}\n")
        assert load_declaration(path).unlearning.method == name
    path.write_text(f"{text}unlearning: {{method: neg_grad}}\n")
    with pytest.raises(DeclarationError, match=r"expected one of neg_grad_plus, .*'neg_grad'"):
        load_declaration(path)
    with pytest.raises(DeclarationError, match=r"expected one of auto, .*'neg_grad'"):
        find_method("neg_grad")


MODULE = """
import copy
from r2u_tasks.unlearning.contract import UnlearnedModel

def shrink(model, retain, forget, validation, *, config):
    student = copy.deepcopy(model)
    for parameter in student.parameters():
        parameter.data.mul_(0.9)
    return UnlearnedModel(student, "shrink", 1, "shrunk")
"""


def test_a_user_s_own_method_comes_by_entry_point(digits, declare_people, tmp_path, monkeypatch):
    """Installed as a package is: module and metadata in a folder of the path."""
    (tmp_path / "their_unlearners.py").write_text(MODULE)
    metadata = tmp_path / "their_unlearners-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-unlearners\nVersion: 1\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[r2u.unlearners]\n"
        "shrink = their_unlearners:shrink\n"
        "gone = their_unlearners:nothing\n"
        "text = their_unlearners:MODULE_NAME\n"
    )
    (tmp_path / "their_unlearners.py").write_text(MODULE + "MODULE_NAME = 'x'\n")
    path = declare_people(tmp_path)
    path.write_text(path.read_text() + "unlearning: {method: shrink}\n")
    with pytest.raises(DeclarationError, match="'shrink'"):
        load_declaration(path)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert load_declaration(path).unlearning.method == "shrink"
    result = digits.run(find_method("shrink"))
    assert isinstance(result, UnlearnedModel)
    first = next(digits.model.parameters())
    assert torch.equal(next(result.model.parameters()), first * 0.9)
    for broken, message in (("gone", "nothing"), ("text", "expected a function, got str")):
        with pytest.raises(DeclarationError, match=message):
            find_method(broken)
    sys.modules.pop("their_unlearners", None)


class CausalModel(nn.Module):
    """A transformers model with the loss of sequences, as a user's model factory would give it."""

    record_losses = staticmethod(sequence_losses)

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids).logits


@pytest.mark.parametrize("method", ["neg_grad_plus", "npo", "salun", "scrub", "ssd"])
def test_a_real_language_model_forgets_down_to_a_level(method):
    """A Llama of 260,000 parameters: 1 nat below where its records are now, or a reason."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if not SHARED.exists():
        pytest.skip(f"no model in {SHARED}; set R2U_SHARED_DATA")
    model = CausalModel(transformers.AutoModelForCausalLM.from_pretrained(SHARED)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHARED)
    stories = [
        f"Once upon a time, there was a little {who} named {name}. {name} loved to play."
        for who in ("girl", "boy", "cat", "dog")
        for name in ("Lily", "Tim", "Max", "Sue", "Ben", "Tom")
    ]
    rows = [tokenizer(story)["input_ids"] for story in stories]
    length = min(map(len, rows))
    ids = torch.tensor([row[:length] for row in rows])
    records = Records(ids, ids, np.array([f"s{i:02d}" for i in range(len(rows))]))
    case = Case("stories", model, records, np.arange(len(rows)) % 6 == 0, records)
    wanted = score_records(model, case.forget).margins - 1.0
    before = weights_digest(model)

    result = case.run(method, target_margins=wanted)

    assert weights_digest(model) == before
    require_two_sided(case, method, result)
