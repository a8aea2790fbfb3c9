"""Laws of the API, against Airflow's real API server app: access, errors, files, the page."""

import contextlib
import subprocess
import sys
import tomllib
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest

from r2u_tasks.stages.intake import intake_requests

pytestmark = pytest.mark.airflow

READ = ["/r2u/summary", "/r2u/requests", "/r2u/requests/r-1", "/r2u/files/sha256:" + "0" * 64]
READ += ["/r2u/queue"]
DECIDE = {
    "verify": None,
    "hold": {"ground": "legal_claim"},
    "release": None,
    "extend": {"reason": "complex", "notice_at": "2026-11-20T00:00:00Z"},
    "exempt": {"ground": "legal_obligation"},
    "answer": {"reference": "letters/17"},
}
OTHER = {"withdraw": None, "cancel": {"reason": "withdrawn"}, "reject": {"reason": "unproven"}}


def test_the_package_registers_its_plugin(repository):
    """The entry point that Airflow looks for names a plugin that Airflow accepts."""
    from importlib import import_module

    from airflow.plugins_manager import is_valid_plugin

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["airflow.plugins"]["ready2unlearn"].partition(":")

    assert is_valid_plugin(getattr(import_module(module), name))


def test_loading_the_plugin_loads_nothing_heavy(repository):
    """Airflow loads it in every process: no stage, no library of ours, no FastAPI app."""
    code = (
        "import sys, r2u_airflow.plugin; "
        "print([m for m in ('torch', 'mlflow', 'pyarrow', 'governance', 'r2u_tasks') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )

    assert "[]" == result.stdout.strip().splitlines()[-1]


def test_serving_the_api_loads_no_model_code(repository):
    """The API server's memory is not for torch, MLflow, Great Expectations or pandas."""
    code = (
        "import sys, r2u_airflow.api; r2u_airflow.api.create_app(); "
        "print([m for m in ('torch', 'mlflow', 'great_expectations', 'pandas') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )

    assert "[]" == result.stdout.strip().splitlines()[-1]


def test_nobody_without_a_login_gets_anything(client_of):
    """401 on every route, also for a body that would be refused for its content."""
    client = client_of()

    answers = [client.get(path) for path in READ]
    answers += [client.post("/r2u/requests", json={"colour": "red"})]
    answers += [client.post("/r2u/files", content=b"x", headers={"content-type": "text/csv"})]
    answers += [
        client.post(f"/r2u/requests/r-1/{d}", json=b) for d, b in {**DECIDE, **OTHER}.items()
    ]

    assert {401} == {answer.status_code for answer in answers}


def test_a_viewer_reads_and_does_nothing_else(client_of):
    """Who may only read Airflow's DAGs changes nothing and cannot ask whether a person is known."""
    client = client_of("user")
    client.post("/r2u/requests", json={"request_id": "r-1", "subject_id": "p-1"})
    viewer = client_of("viewer")

    changes = [viewer.post("/r2u/requests", json={"subject_id": "p-1"})]
    changes += [viewer.post("/r2u/plan", json={"subject_id": "p-1"})]
    changes += [viewer.post("/r2u/files", content=b"x", headers={"content-type": "text/csv"})]
    changes += [
        viewer.post(f"/r2u/requests/r-1/{d}", json=b) for d, b in {**DECIDE, **OTHER}.items()
    ]

    assert {403} == {answer.status_code for answer in changes}
    assert [200, 200, 200, 404, 200] == [viewer.get(path).status_code for path in READ]
    assert "unverified" == viewer.get("/r2u/requests/r-1").json()["state"]


def test_a_token_of_somebody_else_is_no_login(client_of):
    """A forged token is refused."""
    client = client_of()
    client.headers["Authorization"] = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.x"

    assert client.get("/r2u/requests").status_code in {401, 403}


def test_a_request_goes_its_way_by_api_alone(client_of):
    """Submit, verify, hold, release, extend, exempt, answer: each state and event is there."""
    client = client_of("user")
    received = (datetime.now(UTC) - timedelta(days=5)).isoformat()
    body = {"request_id": "r-1", "subject_id": "p-1", "received_at": received}
    new = client.post("/r2u/requests", json=body)
    DECIDE["extend"]["notice_at"] = datetime.now(UTC).isoformat()
    states = [new.json()["state"]]
    for decision, body in DECIDE.items():
        answer = client.post(f"/r2u/requests/r-1/{decision}", json=body)
        assert answer.status_code == 200, answer.text
        states.append(answer.json()["state"])

    assert 201 == new.status_code
    assert ["unverified", "queued", "held", "queued", "queued", "exempt", "closed"] == states
    shown = client.get("/r2u/requests/r-1").json()
    assert "kept_exempt" == shown["outcome"]
    assert len(shown["events"]) >= 7
    assert {"hold", "exemption"} == {one["kind"] for one in shown["reservations"]}
    assert not {"subject_key", "record_keys", "target_key"} & set(shown)


def test_a_cancellation_is_honoured_and_a_rejection_awaits_its_answer(client_of):
    """Two requests: one cancelled and closed, one rejected, open until the person was told."""
    client = client_of("user")
    for name in ("r-1", "r-2"):
        client.post("/r2u/requests", json={"request_id": name, "subject_id": name})

    cancelled = client.post("/r2u/requests/r-1/cancel", json=OTHER["cancel"]).json()
    rejected = client.post("/r2u/requests/r-2/reject", json=OTHER["reject"]).json()
    answered = client.post("/r2u/requests/r-2/answer").json()

    assert ("closed", "cancelled", True) == tuple(
        cancelled[name] for name in ("state", "outcome", "honoured")
    )
    assert ("rejected", "closed") == (rejected["state"], answered["state"])


def test_a_second_decision_that_makes_no_sense_is_a_conflict(client_of):
    """404 for a request that does not exist, 409 for one that is not in the right state."""
    client = client_of("user")
    client.post("/r2u/requests", json={"request_id": "r-1", "subject_id": "p-1"})

    assert 404 == client.post("/r2u/requests/r-9/verify").status_code
    assert 409 == client.post("/r2u/requests/r-1/release").status_code


def test_an_error_repeats_nothing_of_the_body(client_of):
    """Wrong in each field: the answer names the places and holds no value."""
    client = client_of("user")
    body = {
        "subject_id": "canary;canary",
        "record_ids": ["canary\u0000"],
        "select": "canary",
        "hold_ground": "Canary Name",
        "received_at": "canary",
        "regime": "canary!",
        "canary": 1,
    }

    answer = client.post("/r2u/requests", json=body)
    select = client.post("/r2u/requests", json={"select": "canary=x"})

    assert (422, 422) == (answer.status_code, select.status_code)
    assert 7 == len(answer.json()["detail"])
    assert "canary" not in answer.text.replace('"body","canary"', "") + select.text


def test_a_large_body_without_a_login_is_not_kept(client_of):
    """A JSON body above the limit is cut off with 413 before FastAPI would hold it."""
    answer = client_of().post(
        "/r2u/requests",
        content=(b"x" * (1 << 20) for _ in range(8)),
        headers={"content-type": "application/json"},
    )

    assert 413 == answer.status_code


def test_lists_are_pages_in_order_of_the_deadline(client_of):
    """Seven requests in pages of three: each once, those due first at the top; filters agree."""
    client = client_of("user")
    for number in range(7):
        body = {
            "request_id": f"r-{number}",
            "subject_id": f"p-{number}",
            "verified": number % 2 == 0,
            "received_at": f"2026-11-{20 - number:02d}T00:00:00Z",
        }
        assert 201 == client.post("/r2u/requests", json=body).status_code
    found, after = [], None
    while True:
        query = {"limit": 3, **({"after": after} if after else {})}
        page = client.get("/r2u/requests", params=query).json()
        found += [row["request_id"] for row in page["requests"]]
        after = page["next"]
        if after is None:
            break

    assert [f"r-{number}" for number in range(6, -1, -1)] == found
    queued = client.get("/r2u/requests", params={"state": "queued"}).json()["requests"]
    assert {"r-0", "r-2", "r-4", "r-6"} == {row["request_id"] for row in queued}
    summary = client.get("/r2u/summary").json()
    assert {"queued": 4, "unverified": 3} == summary["states"]
    assert 7 == sum(summary["colours"].values())


def test_a_file_goes_from_the_api_through_the_intake(client_of, place, tmp_path):
    """202 and its digest; after the intake its counts; the same bytes again say so."""
    client = client_of("user")
    data = b"subject_id,verified\np-1,true\n,true\n"
    headers = {
        "content-type": "text/csv; charset=utf-8",
        "content-disposition": 'attachment; filename="../../../../tmp/evil.csv"',
    }
    sent = client.post("/r2u/files", content=data, headers=headers)
    digest = sent.json()["digest"]
    waiting = client.get(f"/r2u/files/{digest}").json()
    intake_requests(run_id="one", **place)
    read = client.get(f"/r2u/files/{digest}").json()
    again = client.post("/r2u/files", content=data, headers=headers).json()

    assert 202 == sent.status_code
    assert f"files/{digest}" == sent.headers["location"]
    assert {"digest": digest, "waiting": True} == waiting
    assert (2, 1, 1) == (read["read"], read["accepted"], read["rejected"])
    assert {"digest": digest, "waiting": False, "repeated": True} == again
    assert [".lock"] == [p.name for p in (tmp_path / "root" / "inbox").iterdir()]


def stream(app, token, blocks):
    """Send blocks to the app as a server does, without a client that collects them; None hangs up.

    Returns:
        The status, or None if the app never answered.
    """
    import asyncio

    waiting, answers = iter(blocks), []

    async def receive():
        block = next(waiting, b"")
        if block is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": block, "more_body": bool(block)}

    async def send(message):
        answers.append(message)

    headers = [(b"content-type", b"text/csv"), (b"authorization", token.encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/r2u/files",
        "raw_path": b"/r2u/files",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "server": ("testserver", 80),
        "client": ("testclient", 50000),
        "state": {},
    }
    with contextlib.suppress(Exception):  # the server logs it; nobody is there to be answered
        asyncio.run(app(scope, receive, send))
    return answers[0]["status"] if answers else None


def test_100_megabytes_are_streamed(airflow_app, client_of, tmp_path):
    """A file of 100 MB arrives whole and is never held: the peak stays below a twentieth of it."""
    block = (b"p-%09d,true\n" % 7) * 65_536  # 1.1 MB
    token = client_of("user").headers["authorization"]
    stream(airflow_app, token, [b"subject_id\n"])
    tracemalloc.start()
    status = stream(airflow_app, token, (block for _ in range(100)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert 202 == status
    sizes = sorted(path.stat().st_size for path in (tmp_path / "root" / "inbox").iterdir())
    assert [11, 100 * len(block)] == sizes
    assert sizes[1] > 100_000_000
    assert peak < sizes[1] / 20


def test_a_sender_who_hangs_up_leaves_nothing(airflow_app, client_of, tmp_path):
    """The connection breaks after two of many blocks: no file and no part of one is left."""
    token = client_of("user").headers["authorization"]

    status = stream(airflow_app, token, [b"subject_id\n", b"p-1\n", None])

    assert status != 202
    assert [] == list((tmp_path / "root" / "inbox").iterdir())


def test_more_than_the_limit_is_refused_and_leaves_nothing(client_of, tmp_path, monkeypatch):
    """By the sender's own word at once, and by count when the sender gives none or lies."""
    monkeypatch.setattr("r2u_airflow.uploads.MAX_UPLOAD_BYTES", 1000)
    client = client_of("user")
    headers = {"content-type": "text/csv"}

    by_word = client.post("/r2u/files", content=b"x" * 2000, headers=headers)
    by_count = client.post("/r2u/files", content=(b"x" * 100 for _ in range(20)), headers=headers)
    other = client.post("/r2u/files", content=b"x", headers={"content-type": "text/html"})
    empty = client.post("/r2u/files", content=b"", headers=headers)

    assert [413, 413, 415, 422] == [a.status_code for a in (by_word, by_count, other, empty)]
    inbox = tmp_path / "root" / "inbox"
    assert [] == (list(inbox.iterdir()) if inbox.exists() else [])


def test_the_page_needs_no_other_host(client_of):
    """No address of another host in the page, and a policy that forbids the browser to ask one."""
    answer = client_of("viewer").get("/r2u/queue")

    assert 200 == answer.status_code
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text


def test_the_page_is_in_airflows_navigation(client_of):
    """Airflow's list of plugins shows the view under its own prefix."""
    plugins = client_of("admin").get("/api/v2/plugins").json()["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "ready2unlearn"]

    assert ["nav"] == [view["destination"] for view in ours["external_views"]]
    assert "/r2u" == ours["fastapi_apps"][0]["url_prefix"]
