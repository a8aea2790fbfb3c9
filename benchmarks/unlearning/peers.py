"""Other unlearning packages on the same models, records and machine, in the same run.

Each package gets a virtual environment of its own under ``build/``. erasus unlearns the ordinary
models of the study with its strategies for classifiers as they come, and its three verifiers judge
the results and the controls: the original model (nothing done) and an untrained one must not pass,
a retrained one must. Our methods run with their defaults on the same models. One row for each
request and seed; a finished row is not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import RESULTS, is_small
from benchmarks.readiness.runner import Rows
from benchmarks.unlearning.cases import SETTINGS, Case, train_ordinary
from benchmarks.unlearning.measures import measure
from benchmarks.unlearning.runner import DEFAULT, FIRST_TEST_SEED, SMALL_ROWS, rows_of, timed_run

OURS = ("gradient_ascent", "neg_grad_plus", "auto")
ORIGINAL, RANDOM, RETRAINED = "original", "random init", "retrained"
_SEEDS = {"digits": 5, "mnist": 2}
"""Seeds by task; the verifiers take longer than the methods."""
_ROOT = Path(__file__).parents[2]
_TORCH = f"torch=={version('torch').partition('+')[0]}"
_WORKER = Path(__file__).with_name("peer_worker.py")


@dataclass(frozen=True)
class Installed:
    """What came of installing a package.

    Attributes:
        python: Interpreter of its environment.
        problem: Last line of what pip or the import said; None where it can be imported.
    """

    python: Path
    problem: str | None


def install(name: str, *requirements: str) -> Installed:
    """Make an environment with a package, and try to import it; one that is there is kept."""
    folder = _ROOT / "build" / f"unlearning-peer-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        problem = _add(python, _TORCH, *requirements)
        if problem is not None:
            return Installed(python, problem)
        (folder / "ready").touch()
    return Installed(python, _import(python, name))


def _add(python: Path, *requirements: str) -> str | None:
    pip = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    done = subprocess.run(pip, check=False, capture_output=True, text=True)  # noqa: S603
    return _last_line(done.stderr) if done.returncode != 0 else None


def _import(python: Path, module: str) -> str | None:
    done = subprocess.run(  # noqa: S603
        [str(python), "-c", f"import {module}"],
        check=False,
        capture_output=True,
        text=True,
        env=_environment(),
    )
    return _last_line(done.stderr) if done.returncode != 0 else None


def compare(case: Case, seed: int, python: Path) -> dict[str, Any]:
    """Return verdicts and measures of all models of one request and seed."""
    ordinary, retrained = train_ordinary(case.task, seed), case.retrained(seed)
    controls = {
        ORIGINAL: ordinary.model,
        RANDOM: case.task.build(seed).eval(),
        RETRAINED: retrained.model,
    }
    answer, unlearned = _ask_erasus(case, seed, controls, python)
    seconds = {f"erasus {name}": run.get("cpu_s") for name, run in answer["methods"].items()}
    models: dict[str, nn.Module] = {**controls}
    models |= {f"erasus {name}": model for name, model in unlearned.items()}
    for method in OURS:
        run = timed_run(case, ordinary.model, method, DEFAULT, seed)
        models[f"r2u {method}"], seconds[f"r2u {method}"] = run.result.model, run.cpu_s
    return {
        "kind": "peers",
        "task": case.task.name,
        "setting": case.setting.name,
        "seed": seed,
        "version": answer["version"],
        "retrain_cpu_s": retrained.cpu_s,
        "errors": {n: run["error"] for n, run in answer["methods"].items() if run["error"]},
        "verdicts": answer["verdicts"],
        "models": {
            name: {"cpu_s": seconds.get(name), **_without_margins(case, model, seed)}
            for name, model in models.items()
        },
    }


def _without_margins(case: Case, model: nn.Module, seed: int) -> dict[str, Any]:
    found = measure(case, model, "test", seed)
    return {name: value for name, value in found.items() if name != "margins"}


def _ask_erasus(
    case: Case, seed: int, models: dict[str, nn.Module], python: Path
) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    parts = {name: (part.inputs, part.labels) for name, part in _parts(case).items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"seed": seed, "models": models, **parts}, Path(folder) / "input.pt")
        done = subprocess.run(  # noqa: S603
            [str(python), str(_WORKER), folder],
            check=True,
            capture_output=True,
            text=True,
            env=_environment(),
        )
        unlearned = torch.load(Path(folder) / "output.pt", weights_only=False)
    return json.loads(done.stdout.strip().splitlines()[-1]), unlearned


def _parts(case: Case) -> dict[str, Any]:
    return {"forget": case.forget, "retain": case.retain}


def _environment() -> dict[str, str]:
    """Return the environment without our modules."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def _try_torchunlearn() -> dict[str, Any]:
    """Return whether torchunlearn can be imported, as it declares its needs and with what it lacks.

    It imports scipy without declaring it, so a second try adds that.
    """
    folder = _ROOT / "build" / "unlearning-peer-torchunlearn"
    (folder / "ready").unlink(missing_ok=True)  # what was added must not be there
    first = install("torchunlearn", "torchunlearn==0.1.0")
    second = _add(first.python, "scipy") or _import(first.python, "torchunlearn")
    methods = list(folder.glob("lib/*/site-packages/torchunlearn/unlearn/trainers"))
    return {
        "kind": "torchunlearn",
        "problems": {"as declared": first.problem, "with scipy": second},
        "has_methods": bool(methods),
    }


def main() -> None:
    """Install the peers and compare, request by request and seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=SMALL_ROWS if is_small() else RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(rows_of("peers", arguments.rows))
    erasus = install("erasus", "erasus==0.2.0", "scikit-learn")
    if erasus.problem is not None:
        rows.once("erasus", lambda: {"kind": "erasus", "problem": erasus.problem})
        return
    Case.of("digits", "class").retrained(0)  # so that no timing has what a process does once
    seeds = {"digits": 1} if is_small() else _SEEDS
    for task, n in seeds.items():
        for case in (Case.of(task, setting) for setting in SETTINGS):
            for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + n):
                rows.once(
                    f"{case.name}/{seed}",
                    lambda case=case, seed=seed: compare(case, seed, erasus.python),  # type: ignore[misc]
                )
    rows.once("torchunlearn", _try_torchunlearn)


if __name__ == "__main__":
    main()
