"""Where the workspace is: Airflow's connection ``r2u_workspace``, as for the DAGs."""

from __future__ import annotations

from typing import Annotated, TypedDict

from airflow.exceptions import AirflowNotFoundException
from airflow.models.connection import Connection
from fastapi import Depends, HTTPException


class Place(TypedDict):
    """Where everything of one dataset lies, as the stages take it."""

    root_uri: str
    dataset: str


def workspace_place() -> Place:
    """Return ``root_uri`` and ``dataset`` of the connection."""
    try:
        extra = Connection.get_connection_from_secrets("r2u_workspace").extra_dejson
        return {"root_uri": extra["root_uri"], "dataset": extra["dataset"]}
    except (AirflowNotFoundException, KeyError) as error:
        message = "connection r2u_workspace: expected it with root_uri and dataset in its extra"
        raise HTTPException(503, message) from error


PlaceDep = Annotated[Place, Depends(workspace_place)]
