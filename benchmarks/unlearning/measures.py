"""What is measured of one model: accuracies, membership attack, margins, rebound.

Shapes: B records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC
from torch import nn

from benchmarks.readiness.measures import train_on
from benchmarks.unlearning.cases import Case
from r2u_tasks.data import Records
from r2u_tasks.metrics import accuracy, margins
from r2u_tasks.unlearning.contract import thinned

GAPS = ("ua", "ra", "ta", "mia")
"""Measures that Avg. Gap is the mean of."""
ACCURACIES = ("ua", "ra", "ta")
"""The same without the attack, whose answer is unstable."""

_ATTACK_RECORDS = 1000
_RETAIN_RECORDS = 2000
_MARGINS_KEPT = 300
REBOUND_STEPS = 60


def measure(case: Case, model: nn.Module, part: str, seed: int) -> dict[str, Any]:
    """Return the measures of a model, in percent.

    Args:
        case: Task and request.
        model: Any model of the task.
        part: ``test``, or ``validation`` where something is still to be chosen; unseen records.
        seed: Of the retain-only training.

    Returns:
        ``ua``: 100 - accuracy on the records to forget; ``ra``: accuracy on those that stay, at
        most 2,000; ``ta``: accuracy on unseen records of classes that stay; ``mia``: ``svc_mia``.
        On test records also ``rebound``: accuracy on the records to forget after 60 steps on what
        stays; ``margins`` of at most 300 records to forget, ``[B]``, in nats.
    """
    unseen = case.setting.stays(getattr(case.task, part))
    forget, retain = case.forget, case.retain
    found: dict[str, Any] = {
        "ua": 100 * (1 - accuracy(model, forget)),
        "ra": 100 * accuracy(model, thinned(retain, _RETAIN_RECORDS)),
        "ta": 100 * accuracy(model, unseen),
        "mia": svc_mia(model, retain, unseen, forget),
    }
    if part == "test":
        phi = margins(model, thinned(forget, _MARGINS_KEPT)).clip(-99, 99)
        found["rebound"] = 100 * train_on(model, retain, forget, REBOUND_STEPS, seed)[-1]
        found["margins"] = [round(float(value), 2) for value in phi]
    return found


def svc_mia(model: nn.Module, retain: Records, unseen: Records, forget: Records) -> float:
    """Return MIA-efficacy in percent: records to forget that an attack takes for unseen ones.

    The attack is a support vector classifier (C = 3, radial) on the probability of the label,
    fitted on equally many records that stay and unseen ones, at most 1,000 each. The value to
    reach is that of a retrained model, not 0, 50 or 100. Source: Jia et al. 2023 (arXiv
    2304.04934), SalUn (arXiv 2310.12508); there the retained side is the first records, here they
    are evenly spread.
    """
    size = min(len(retain), len(unseen), _ATTACK_RECORDS)
    known, new = (_confidence(model, thinned(part, size)) for part in (retain, unseen))
    attack = SVC(C=3, gamma="auto", kernel="rbf")
    attack.fit(np.concatenate([known, new]), np.repeat([1, 0], size))
    return 100 * float((attack.predict(_confidence(model, forget)) == 0).mean())


def _confidence(model: nn.Module, records: Records) -> np.ndarray:
    """Return the probability of the label, ``[B, 1]``."""
    phi = torch.from_numpy(margins(model, records))
    return torch.sigmoid(phi).numpy()[:, None]
