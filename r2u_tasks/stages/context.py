"""What every stage opens first: declaration, workspace, keys, queue, ledger, tracker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from governance.declaration import Declaration, load_declaration
from governance.deletion_queue import DeletionQueue, open_queue
from governance.digests import read_json
from governance.errors import StoreBusyError
from governance.key_ring import KeyRing, open_ring, read_record
from governance.ledger import Ledger
from governance.signing import Signer, open_signer
from governance.tracking import Tracker, open_tracker
from governance.workspace import Workspace, open_workspace
from r2u_tasks import embedded

JSON = dict[str, Any]


@dataclass(frozen=True)
class StageContext:
    """One dataset in one workspace; everything else is opened when it is needed."""

    declaration: Declaration
    workspace: Workspace

    def with_choice(self) -> StageContext:
        """Return the context with the readiness settings that ``readiness: auto`` stands for.

        They are chosen once in a workspace, so that a model is replayed, and its reference pools
        are trained, with the settings that it was trained with.
        """
        path, readiness = self.workspace.readiness_choice, self.declaration.readiness
        if readiness.choose != "auto" or not path.exists():
            return self
        chosen = readiness.chosen(read_json(path)["readiness"])
        declaration = self.declaration.model_copy(update={"readiness": chosen})
        return StageContext(declaration, self.workspace)

    @cached_property
    def key_ring(self) -> KeyRing:
        """Keys of the pseudonyms in queue, tombstones and manifests, the current one first."""
        workspace = self.workspace
        in_use = workspace.tombstones.exists() or any(workspace.models.glob("*/members.parquet"))
        return open_ring(workspace.keys, os.environ, in_use=in_use)

    @property
    def pseudonym_key(self) -> bytes:
        """The key of new pseudonyms."""
        return self.key_ring.current

    def require_same_ring(self) -> None:
        """Refuse to go on with a ring that was changed since this context read it.

        Raises:
            StoreBusyError: It was; the same call again works with the new one.
        """
        record = read_record(self.workspace.keys)
        if record is not None and record.ids != self.key_ring.ids:
            message = "pseudonym keys: they were rotated meanwhile; run this step again"
            raise StoreBusyError(message)

    @cached_property
    def signer(self) -> Signer:
        """Key of ledger and certificates: a file, an environment variable or a key service."""
        return open_signer(self.workspace.keys, os.environ)

    @cached_property
    def ledger(self) -> Ledger:
        """The signed ledger."""
        return Ledger(self.workspace.ledger, self.signer)

    @cached_property
    def queue(self) -> DeletionQueue:
        """The deletion queue, SQLite unless the declaration names another database."""
        settings = self.declaration.queue
        ring = read_record(self.workspace.keys)  # read only: a look at the queue makes no key
        return open_queue(
            settings.url or self.workspace.queue_url,
            dataset=self.declaration.name,
            time_zone=settings.time_zone,
            key_id=None if ring is None else ring.current,
        )

    @cached_property
    def tracker(self) -> Tracker:
        """MLflow: ``MLFLOW_TRACKING_URI`` where set, else SQLite in the workspace."""
        uri = os.environ.get("MLFLOW_TRACKING_URI") or self.workspace.tracking_uri
        return open_tracker(uri, self.workspace.artifacts)

    @property
    def registered_model(self) -> str:
        """Name of the model in MLflow's registry."""
        return self.declaration.name


def open_context(dataset: str, root_uri: str) -> StageContext:
    """Open a dataset in a workspace.

    Args:
        dataset: Path of a declaration, or ``embedded:digits``.
        root_uri: Root folder of the workspace.

    Raises:
        DeclarationError: The declaration is missing or wrong.
    """
    workspace = open_workspace(root_uri)
    path: Path = embedded.resolve(dataset, workspace.root)
    return StageContext(load_declaration(path), workspace).with_choice()
