"""The API of the deletion queue: submit, look, decide, send files, plan.

Every route states its access (``r2u_airflow.access``), calls one stage and returns its JSON. No
answer holds a pseudonym, no error a value of the caller's body.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from governance.errors import RequestError, TransientError
from governance.request_rows import REQUEST_ID
from governance.workspace import open_workspace
from r2u_airflow.access import MAY_DECIDE, MAY_READ, MAY_SUBMIT
from r2u_airflow.bodies import (
    Answered,
    Exemption,
    Extension,
    Hold,
    NewRequest,
    Refusal,
    Release,
    Stored,
    Submitted,
    Target,
    Why,
)
from r2u_airflow.limits import LimitBody
from r2u_airflow.place import Place, PlaceDep
from r2u_airflow.uploads import SUFFIXES, receive, require_size, suffix_of
from r2u_tasks.stages import decisions, dry_run, receipts, requests

RequestIdPath = Annotated[str, InPath(pattern=REQUEST_ID)]
Digest = Annotated[str, InPath(pattern=r"^sha256:[0-9a-f]{64}$")]
Colour = Literal["open", "calm", "half", "near", "breached", "closed"]

_PAGE = Path(__file__).with_name("queue.html")
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#7b93b0" '
    'stroke-width="1.8" stroke-linecap="round"><path d="M4 5h10M4 10h8M4 15h5"/>'
    '<circle cx="16" cy="16" r="5"/><path d="m14.2 14.2 3.6 3.6m0-3.6-3.6 3.6"/></svg>'
)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "model": Refusal}
    for status, description in {
        400: "a body that is no JSON",
        401: "no login",
        403: "a login without this permission",
        413: "too many bytes",
        503: "the store is busy, or no workspace is connected; try again",
    }.items()
}
_OF_ONE = {
    **_REFUSALS,
    404: {"description": "no such request or file", "model": Refusal},
    409: {"description": "not in its present state", "model": Refusal},
}


def create_app() -> FastAPI:
    """Return the app that Airflow mounts under ``/r2u``."""
    app = FastAPI(
        title="Ready2Unlearn deletion queue",
        version="1",
        description=__doc__,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        responses=_REFUSALS,
    )
    app.add_middleware(LimitBody, streaming=("/files",))
    _add_error_handlers(app)
    _add_reading(app)
    _add_submitting(app)
    _add_keeping(app)
    _add_deciding(app)
    return app


def _add_reading(app: FastAPI) -> None:
    @app.get("/queue", dependencies=[MAY_READ], response_class=HTMLResponse, tags=["page"])
    def queue_page() -> HTMLResponse:
        """Return the page that Airflow shows in its navigation."""
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-store"}
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers=headers)

    @app.get("/icon.svg", dependencies=[MAY_READ], response_class=Response, tags=["page"])
    def icon() -> Response:
        """Return the icon of the page in Airflow's navigation."""
        return Response(_ICON, media_type="image/svg+xml")

    @app.get("/summary", dependencies=[MAY_READ], tags=["read"])
    def summary(place: PlaceDep) -> dict[str, Any]:
        """Count the requests by state and by colour of their deadline."""
        return requests.summarize_queue(**place)

    @app.get("/requests", dependencies=[MAY_READ], tags=["read"])
    def list_requests(
        place: PlaceDep,
        state: Annotated[str | None, Query(pattern=r"^[a-z_]{1,40}$")] = None,
        colour: Colour | None = None,
        after: Annotated[str | None, Query(pattern=REQUEST_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> dict[str, Any]:
        """List requests by deadline; ``next`` of an answer is ``after`` of the next call."""
        return requests.page_requests(state=state, colour=colour, after=after, limit=limit, **place)

    @app.get("/requests/{request_id}", dependencies=[MAY_READ], responses=_OF_ONE, tags=["read"])
    def show_request(request_id: RequestIdPath, place: PlaceDep) -> dict[str, Any]:
        """Return one request with its history."""
        return _of_one(request_id, place, requests.show_request)

    @app.get(
        "/requests/{request_id}/plan", dependencies=[MAY_READ], responses=_OF_ONE, tags=["plan"]
    )
    def plan_request(request_id: RequestIdPath, place: PlaceDep) -> dict[str, Any]:
        """Say what the request would touch, take and cost; changes nothing."""
        return _of_one(request_id, place, dry_run.plan_request)

    # Not for readers: whoever may name a person here learns whether there are data of them.
    @app.post("/plan", dependencies=[MAY_SUBMIT], tags=["plan"])
    def plan_target(body: Target, place: PlaceDep) -> dict[str, Any]:
        """Say what a request that is not submitted would touch, take and cost; changes nothing."""
        return dry_run.plan_target(**body.model_dump(), **place)

    @app.get("/files/{digest}", dependencies=[MAY_READ], responses=_OF_ONE, tags=["read"])
    def show_file(digest: Digest, place: PlaceDep) -> dict[str, Any]:
        """Return what became of a file: counts, and the name of its reject file."""
        try:
            return receipts.show_file(digest=digest, **place)
        except RequestError as error:
            raise _Answer(404, str(error)) from error


def _add_submitting(app: FastAPI) -> None:
    @app.post("/requests", status_code=201, dependencies=[MAY_SUBMIT], tags=["submit"])
    def submit_request(body: NewRequest, place: PlaceDep) -> Submitted:
        """Put one request into the queue; it is durable when the answer is there."""
        return Submitted(**requests.submit_request(**body.model_dump(), **place))

    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in SUFFIXES}

    @app.post(
        "/files",
        status_code=202,
        dependencies=[MAY_SUBMIT],
        responses={
            415: {"description": "another kind of file", "model": Refusal},
            422: {"description": "no bytes", "model": Refusal},
        },
        openapi_extra={"requestBody": {"required": True, "content": content}},
        tags=["submit"],
    )
    async def send_file(request: Request, response: Response, place: PlaceDep) -> Stored:
        """Put a file of requests into the inbox, from where the next intake reads it."""
        suffix = suffix_of(request)
        require_size(request)
        inbox = open_workspace(place["root_uri"]).inbox
        part, digest = await receive(request.stream(), inbox)
        repeated = await run_in_threadpool(receipts.keep_upload, part, digest, suffix, **place)
        response.headers["Location"] = f"files/{digest}"
        return Stored(digest=digest, waiting=not repeated, repeated=repeated)


def _decision(app: FastAPI, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return app.post(
        f"/requests/{{request_id}}/{path}",
        dependencies=[MAY_DECIDE],
        responses=_OF_ONE,
        tags=["decide"],
    )


def _add_keeping(app: FastAPI) -> None:
    route = partial(_decision, app)

    @route("hold")
    def hold(request_id: RequestIdPath, body: Hold, place: PlaceDep) -> dict[str, Any]:
        """Keep the data for now, with the legal ground."""
        return _of_one(request_id, place, decisions.hold_request, **body.model_dump())

    @route("release")
    def release(
        request_id: RequestIdPath, place: PlaceDep, body: Release | None = None
    ) -> dict[str, Any]:
        """Release the holds; the request is queued again once nothing holds it."""
        only = body.only if body else None
        return _of_one(request_id, place, decisions.release_request, only=only)

    @route("exempt")
    def exempt(request_id: RequestIdPath, body: Exemption, place: PlaceDep) -> dict[str, Any]:
        """Keep the data for good, with the ground of GDPR 17(3); it awaits its answer."""
        return _of_one(request_id, place, decisions.exempt_request, **body.model_dump())

    @route("withdraw")
    def withdraw(
        request_id: RequestIdPath, place: PlaceDep, body: Release | None = None
    ) -> dict[str, Any]:
        """Take an exemption back; the request is queued again unless it was answered."""
        only = body.only if body else None
        return _of_one(request_id, place, decisions.withdraw_exemption, only=only)


def _add_deciding(app: FastAPI) -> None:
    route = partial(_decision, app)

    @route("verify")
    def verify(request_id: RequestIdPath, place: PlaceDep) -> dict[str, Any]:
        """Note that the person's identity is verified."""
        return _of_one(request_id, place, decisions.verify_request)

    @route("cancel")
    def cancel(request_id: RequestIdPath, body: Why, place: PlaceDep) -> dict[str, Any]:
        """Cancel the request; ``honoured`` is false when its erasure had begun."""
        return _of_one(request_id, place, decisions.cancel_request, reason=body.reason)

    @route("reject")
    def reject(request_id: RequestIdPath, body: Why, place: PlaceDep) -> dict[str, Any]:
        """Reject the request: identity never proven, or unfounded; it awaits its answer."""
        return _of_one(request_id, place, decisions.reject_request, reason=body.reason)

    @route("extend")
    def extend(request_id: RequestIdPath, body: Extension, place: PlaceDep) -> dict[str, Any]:
        """Extend the period of a person who was told so in time."""
        return _of_one(request_id, place, decisions.extend_request, **body.model_dump())

    @route("answer")
    def answer(
        request_id: RequestIdPath, place: PlaceDep, body: Answered | None = None
    ) -> dict[str, Any]:
        """Close a rejected or exempt request once the person was told."""
        reference = body.reference if body else None
        return _of_one(request_id, place, decisions.answer_request, reference=reference)


class _Answer(Exception):  # noqa: N818 - an answer, not always an error
    """An answer other than the expected one."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def _of_one(
    request_id: str, place: Place, stage: Callable[..., dict[str, Any]], **options: Any
) -> dict[str, Any]:
    """Call a stage about one request: 404 if there is none, 409 if it is not allowed now."""
    try:
        return stage(request_id=request_id, **options, **place)
    except RequestError as error:
        known = requests.is_known(request_id=request_id, **place)
        raise _Answer(409 if known else 404, str(error)) from error


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(_Answer)
    def answer(_request: Request, error: _Answer) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.exception_handler(RequestError)
    def refused(_request: Request, error: RequestError) -> JSONResponse:
        problem = {"loc": ["body"], "msg": str(error), "type": "request"}
        return JSONResponse({"detail": [problem]}, 422)

    @app.exception_handler(TransientError)
    def busy(_request: Request, error: TransientError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, headers={"Retry-After": "5"})

    @app.exception_handler(RequestValidationError)
    def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        """Say where and what, without the value: it may be somebody's name."""
        problems = [
            {"loc": [str(part) for part in p["loc"]], "msg": p["msg"], "type": p["type"]}
            for p in error.errors()
        ]
        return JSONResponse({"detail": problems}, 422)
