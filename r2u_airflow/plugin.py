"""The plugin that Airflow finds by the entry point ``airflow.plugins``.

Airflow loads plugins in all of its processes, so this module is light: the app is made when the
API server gets its first request for it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

URL_PREFIX = "/r2u"


@cache
def build_app() -> FastAPI:
    """Return the app, made once."""
    from r2u_airflow.api import create_app

    return create_app()


class LateApp:
    """An ASGI app that is made at its first request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        await build_app()(scope, receive, send)


class Ready2UnlearnPlugin(AirflowPlugin):  # type: ignore[misc]  # no types for mypy
    """API and queue page of the deletion queue."""

    name = "ready2unlearn"
    fastapi_apps: ClassVar[list[Any]] = [
        {"name": "Ready2Unlearn", "app": LateApp(), "url_prefix": URL_PREFIX}
    ]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Deletion",
            "icon": "r2u/icon.svg",
            "href": "r2u/queue",
            "url_route": "deletion-requests",
            "destination": "nav",
            "nav_top_level": True,
        }
    ]
