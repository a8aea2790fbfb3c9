"""Who may do what: Airflow's own logins and permissions, nothing of ours beside them.

The queue has no permissions of its own; a person has the access to it that they have to the DAG
``intake_requests``: whoever may read the DAG reads the queue, whoever may start it may hand in
requests, whoever may change it may decide about them. Without a login the answer is 401, without
the permission 403.
"""

from __future__ import annotations

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends

_DAG = "intake_requests"

MAY_READ = Depends(requires_access_dag("GET", param_dag_id=_DAG))
MAY_SUBMIT = Depends(requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=_DAG))
MAY_DECIDE = Depends(requires_access_dag("PUT", param_dag_id=_DAG))
