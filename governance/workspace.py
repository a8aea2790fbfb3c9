"""Where everything of one dataset lies: one root folder, one place for each kind of thing.

<root>/tables/{raw,classified,salts,tombstones,memorisation}   Delta tables
<root>/staging/                                   rows between the steps of a run, then removed
<root>/overrides/                                 what persons decided about risk; reruns keep it
<root>/classification/<run_key>/                  risk groups with counts; reviews; failing rows
<root>/calibration/                               requests against the classification, counts only
<root>/inbox/, rejects/                           deletion requests as files, and rows refused
<root>/queue.db                                   deletion queue (unless a database URL is set)
<root>/keys/                                      signing key, pseudonym keys (mode 600)
<root>/ledger.jsonl                               append-only ledger
<root>/models/<model_key>/                        weights, checkpoints, manifest, model.json
<root>/models/champion.json                       which model serves
<root>/batches/<batch_id>/                        plan, evidence, certificates; private/ is purged
<root>/runs/<stage>/<run_key>/                    result.json, log.txt of each stage run
<root>/pools/                                     cached reference models, purged with the records
<root>/reports/                                   governance reports, lineage pictures
<root>/openlineage/events.jsonl                   OpenLineage events, where declared
<root>/letters/                                   answers to persons, by request id
<root>/mlflow.db, mlartifacts/                    MLflow (unless a tracking URI is set)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from governance.digests import JSONValue, read_json, write_json

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_KEY_LENGTH = 80


def safe_key(run_id: str) -> str:
    """Turn a run id (Airflow's hold ``:`` and ``+``) into a file name, keeping it unique.

    >>> safe_key("manual__2026-01-31T00:00:00+00:00")
    'manual__2026-01-31T00-00-00-00-00-f74b17ce'
    >>> safe_key("first")
    'first'
    """
    cleaned = _UNSAFE.sub("-", run_id).strip("-.")[:_MAX_KEY_LENGTH]
    if cleaned == run_id:
        return cleaned
    return f"{cleaned}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths under one root; makes folders only when something is written."""

    root: Path

    @property
    def raw(self) -> Path:
        """Delta table of the ingested source, as declared."""
        return self.root / "tables" / "raw"

    @property
    def classified(self) -> Path:
        """Delta table of the training records with risk level, reasons and split."""
        return self.root / "tables" / "classified"

    @property
    def salts(self) -> Path:
        """Delta table of the salts of record commitments; erased with the record."""
        return self.root / "tables" / "salts"

    @property
    def tombstones(self) -> Path:
        """Delta table of keyed digests of erased records and subjects."""
        return self.root / "tables" / "tombstones"

    @property
    def memorisation(self) -> Path:
        """Delta table of how much the last training memorised single records."""
        return self.root / "tables" / "memorisation"

    @property
    def staging(self) -> Path:
        """Folder of rows between the steps of a run."""
        return self.root / "staging"

    @property
    def overrides(self) -> Path:
        """Folder of what persons decided about risk levels, mode 700."""
        return self.root / "overrides"

    @property
    def classifications(self) -> Path:
        """Folder of the risk groups, reviews and failing rows of each classification."""
        return self.root / "classification"

    @property
    def calibration(self) -> Path:
        """Folder of what deletion requests said about the classification."""
        return self.root / "calibration"

    @property
    def inbox(self) -> Path:
        """Folder where deletion request files are dropped."""
        return self.root / "inbox"

    @property
    def rejects(self) -> Path:
        """Folder of request rows that were refused, with the reason."""
        return self.root / "rejects"

    @property
    def queue_url(self) -> str:
        """SQLAlchemy URL of the default deletion queue."""
        return f"sqlite:///{self.root / 'queue.db'}"

    @property
    def keys(self) -> Path:
        """Folder of key files, mode 700."""
        return self.root / "keys"

    @property
    def ledger(self) -> Path:
        """The append-only ledger."""
        return self.root / "ledger.jsonl"

    @property
    def models(self) -> Path:
        """Folder of model folders."""
        return self.root / "models"

    @property
    def champion(self) -> Path:
        """The file that names the serving model."""
        return self.models / "champion.json"

    @property
    def readiness_choice(self) -> Path:
        """The file of the readiness settings chosen for ``readiness: auto``."""
        return self.models / "readiness-choice.json"

    @property
    def pools(self) -> Path:
        """Cached reference models."""
        return self.root / "pools"

    @property
    def reports(self) -> Path:
        """Folder of governance reports."""
        return self.root / "reports"

    @property
    def events(self) -> Path:
        """OpenLineage events, one a line."""
        return self.root / "openlineage" / "events.jsonl"

    @property
    def letters(self) -> Path:
        """Folder of letters to persons."""
        return self.root / "letters"

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI of the embedded default."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """MLflow artifact folder of the embedded default."""
        return self.root / "mlartifacts"

    def model(self, model_key: str) -> Path:
        """Folder of one model."""
        return self.models / model_key

    def batch(self, batch_id: str) -> Path:
        """Folder of one unlearning batch."""
        return self.root / "batches" / batch_id

    def run(self, stage: str, run_id: str) -> Path:
        """Folder of one stage run."""
        return self.root / "runs" / stage / safe_key(run_id)

    def is_done(self, stage: str, run_id: str) -> bool:
        """Return whether a stage run has a result."""
        return (self.run(stage, run_id) / "result.json").exists()

    def once(self, stage: str, run_id: str, work: Callable[[], JSONValue]) -> JSONValue:
        """Return the result of a stage run, doing the work only the first time.

        The result is published atomically at the end, so a run that was killed is done again and
        a run that finished is read back.
        """
        path = self.run(stage, run_id) / "result.json"
        if path.exists():
            return read_json(path)
        result = work()
        write_json(path, result)
        return read_json(path)


def open_workspace(root_uri: str) -> Workspace:
    """Return the workspace at a local path or ``file://`` URL.

    Raises:
        ValueError: Another kind of URL; tables may live on an object store later, keys and queue
            need a local disk.
    """
    text = root_uri.removeprefix("file://")
    if "://" in text:
        message = f"root: expected a local folder or file:// URL, got {text.split('://')[0]}://"
        raise ValueError(message)
    return Workspace(Path(text).resolve())
