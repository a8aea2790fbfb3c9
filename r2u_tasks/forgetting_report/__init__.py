"""Forgetting evidence for any models: no workspace, no orchestrator, no declaration.

``evaluate`` takes original, unlearned and retrained models with the data they were trained on, and
returns ``evidence.json`` and a page. It trains pools itself where it is told how. One retrained
model and no way to train more is not evidence: the answer then is ``refuse`` (underpowered).

    data        the records, and everything that must hold of them before a verdict
    pools       the pools O, U, R, R': given, filled by training, or too small
    evaluation  ``evaluate``
    files       weights, networks and records from files, for ``r2u evidence``
"""

from r2u_tasks.forgetting_report.data import ForgettingData
from r2u_tasks.forgetting_report.evaluation import (
    EvaluationSettings,
    ForgettingReport,
    evaluate,
)
from r2u_tasks.forgetting_report.pools import ModelPools

__all__ = ["EvaluationSettings", "ForgettingData", "ForgettingReport", "ModelPools", "evaluate"]
