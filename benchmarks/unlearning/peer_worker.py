"""Runs erasus on models and records of the study, in an environment of its own.

    python peer_worker.py FOLDER

Reads ``FOLDER/input.pt``, writes the unlearned models to ``FOLDER/output.pt`` and prints one line
of JSON. It imports nothing of this project.
"""

import copy
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

STRATEGIES = (
    "gradient_ascent",
    "negative_gradient",
    "saliency_unlearning",
    "scrub",
    "fisher_forgetting",
    "knowledge_distillation",
    "amnesiac",
    "neuron_pruning",
)
"""The strategies of erasus for classifiers, with the settings that it comes with."""


def main() -> None:
    """Unlearn, verify, print."""
    import torch  # noqa: PLC0415 - this environment has neither for the linter
    from torch.utils.data import DataLoader, TensorDataset  # noqa: PLC0415

    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    given = torch.load(folder / "input.pt", weights_only=False)
    torch.manual_seed(given["seed"])

    def loaders() -> Any:
        return [
            DataLoader(TensorDataset(*given[part]), batch_size=64, shuffle=True)
            for part in ("forget", "retain")
        ]

    models = dict(given["models"])
    unlearned, methods = {}, {}
    _unlearn(STRATEGIES[0], models["original"], *loaders())  # what a process does once, untimed
    for name in STRATEGIES:
        methods[name] = _unlearn(name, models["original"], *loaders())
        model = methods[name].pop("model")
        if model is not None:
            unlearned[name] = models[f"erasus {name}"] = model
    verdicts = {name: _verify(model, given, *loaders()) for name, model in models.items()}
    torch.save(unlearned, folder / "output.pt")
    sys.stdout.write(
        json.dumps({"version": version("erasus"), "methods": methods, "verdicts": verdicts}) + "\n"
    )


def _unlearn(name: str, model: Any, forget: Any, retain: Any) -> dict[str, Any]:
    from erasus.unlearners.erasus_unlearner import ErasusUnlearner  # noqa: PLC0415

    original = copy.deepcopy(model)
    started = time.process_time()
    try:
        unlearner = ErasusUnlearner(model=original, strategy=name, device="cpu")
        result = unlearner.fit(forget_data=forget, retain_data=retain)
    except Exception as error:
        return {"model": None, "error": f"{type(error).__name__}: {error}"[:200]}
    return {"model": result.model.eval(), "error": None, "cpu_s": time.process_time() - started}


def _verify(
    model: Any, given: dict[str, Any], forget: Any, retain: Any
) -> dict[str, dict[str, Any]]:
    from erasus.certification.certified_removal import CertifiedRemovalVerifier  # noqa: PLC0415
    from erasus.certification.verification import UnlearningVerifier  # noqa: PLC0415
    from erasus.evaluation.verification_suite import UnlearningVerificationSuite  # noqa: PLC0415

    sizes = {"n_forget": len(given["forget"][1])}
    sizes["n_total"] = sizes["n_forget"] + len(given["retain"][1])
    checks = {
        "UnlearningVerifier": lambda m: UnlearningVerifier().verify_all(m, forget, retain)[
            "overall"
        ]["verdict"],
        "CertifiedRemovalVerifier": lambda m: str(
            CertifiedRemovalVerifier().verify(m, given["models"]["retrained"], **sizes)["certified"]
        ),
        "UnlearningVerificationSuite": lambda m: UnlearningVerificationSuite().verify(
            m, forget, retain
        )["verdict"],
    }
    found = {}
    for name, check in checks.items():
        started = time.process_time()
        try:
            verdict = check(copy.deepcopy(model))
        except Exception as error:
            verdict = f"{type(error).__name__}: {error}"[:200]
        found[name] = {"verdict": verdict, "cpu_s": time.process_time() - started}
    return found


if __name__ == "__main__":
    main()
