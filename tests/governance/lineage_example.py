"""A workspace with a history of models, made by hand: nothing is trained, everything is real."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from governance.digests import write_json
from governance.manifest import Members, write_members
from governance.suppression import Erased, add_tombstones, pseudonym
from governance.workspace import Workspace

KEY = bytes(32)
START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def record_key(record_id):
    return pseudonym(KEY, "record", record_id)


@dataclass
class History:
    """Writes models, promotions and erasures as the stages do, with a clock of its own."""

    root: Path
    at: datetime = START
    n_said: int = 0

    @property
    def workspace(self):
        return Workspace(self.root)

    def wait(self, days):
        self.at += timedelta(days=days)

    def say(self, kind, body):
        """Add a line as the ledger has them, at the time of this history."""
        self.n_said += 1
        line = {"seq": self.n_said - 1, "at": self.at.isoformat(), "kind": kind, "body": body}
        line["digest"] = f"sha256:{kind}"
        with self.workspace.ledger.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def model(self, key, records, *, parent=None, lane=None, batch=None, verdict=None, serve=True):
        folder = self.workspace.model(key)
        keys = np.array([list(bytes.fromhex(record_key(r))) for r in records], np.uint8)
        keys = keys.reshape(-1, 32)
        write_members(
            folder / "members.parquet", [Members(keys, np.zeros(len(keys), np.int8), keys)]
        )
        claim = {None: None, "approximate": "approximate"}.get(lane, "exact")
        write_json(
            folder / "model.json",
            {
                "model_key": key,
                "kind": "ready" if lane is None else "unlearned",
                "parent": parent,
                "lane": lane,
                "claim": claim,
                "batch_id": batch,
                "verdict": verdict or (None if lane is None else "accept"),
                "weights_digest": f"sha256:{key}",
                "manifest_root": f"sha256:root-{key}",
                "manifest_digest": f"sha256:manifest-{key}",
                "policy_digest": "sha256:policy",
                "declaration_digest": "sha256:declaration",
                "model_version": None,
                "mlflow_run_id": None,
                "checkpoints": {},
                "feature_scale": {},
                "metrics": {},
                "created_at": self.at.isoformat(timespec="seconds"),
            },
        )
        (folder / "weights.safetensors").write_bytes(key.encode())
        if serve:
            self.say("model_promoted", {"model_key": key, "batch_id": batch})
            write_json(self.workspace.champion, {"model_key": key})

    def erase(self, batch, records, *, replacement=None):
        """Erase records; ``replacement`` is called before the batch closes."""
        self.say("erasure_started", {"batch_id": batch, "n_records": len(records)})
        add_tombstones(
            self.workspace.tombstones,
            Erased(
                record_keys=[record_key(r) for r in records],
                subject_keys=[],
            ),
            batch_id=batch,
            erased_at=self.at,
        )
        self.say("rows_erased", {"batch_id": batch, "tables": {}})
        self.wait(1)
        if replacement is not None:
            replacement()
        self.wait(1)
        self.say("batch_closed", {"batch_id": batch, "bundle_root": f"sha256:{batch}"})

    def remove(self, *keys):
        for key in keys:
            (self.workspace.model(key) / "weights.safetensors").unlink()
