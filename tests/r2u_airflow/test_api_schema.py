"""Law of the API as a whole: what its OpenAPI document allows, and more, never breaks the server.

Schemathesis makes calls from the document, valid and invalid ones, and sends them to Airflow's real
app with a real queue behind it. The number of calls is bounded and the same in every run.
"""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.airflow


CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
KINDS = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


def test_no_call_breaks_the_server(airflow_app, client_of):
    """No 5xx for any operation; each answer has a documented status, content type and shape."""
    client = client_of("admin")
    for number in range(3):
        client.post(
            "/r2u/requests", json={"request_id": f"r-{number}", "subject_id": f"p-{number}"}
        )
    headers = {"Authorization": client.headers["authorization"]}
    schema = schemathesis.openapi.from_asgi("/r2u/openapi.json", airflow_app)
    operations = [result.ok() for result in schema.get_all_operations()]
    statuses = []

    for operation in operations:
        for kind in KINDS:

            @settings(
                max_examples=12, deadline=None, derandomize=True, suppress_health_check=HealthCheck
            )
            @given(case=operation.as_strategy(generation_mode=kind))
            def call(case):
                answer = case.call(headers=headers)
                statuses.append(answer.status_code)
                case.validate_response(answer, checks=CHECKS)

            with contextlib.suppress(Unsatisfiable):  # no wrong input exists for this operation
                call()

    assert len(operations) >= 10
    assert len(statuses) > 5 * len(operations)
    assert {200, 201, 404, 422} <= set(statuses)
