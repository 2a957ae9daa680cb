"""The control plane in one process: the verbs, MLflow's REST API and Feast's over HTTP, and the pages, on one port."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flyball.api import LOOPBACK
from flyball.api import routes as api_routes
from flyball.compat.feast.server import routes as feast_routes
from flyball.compat.mlflow import failed, is_mlflow, no_endpoint
from flyball.compat.mlflow import routes as mlflow_routes
from flyball.console import routes as console_routes
from flyball.errors import FlyballError, Internal, Invalid, NotFound, Refused

if TYPE_CHECKING:
    from flyball.service import Workspace


class NotSupported(Invalid):
    """There is such a path, but not for this method."""

    http_status = 405


class Guard:
    """Lets in what was sent to this machine by its own names, and by no page of another site.

    A page elsewhere must not reach us under a name of its own (DNS rebinding), nor under ours (its browser says where
    a request comes from).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := _refusal(Headers(scope=scope))) is not None:
            await _answer(scope["path"], refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def application(ws: Workspace) -> Starlette:
    """The ASGI application over one workspace."""
    return Starlette(
        routes=[*mlflow_routes(ws), *feast_routes(ws), *api_routes(ws), *console_routes(ws)],
        middleware=[Middleware(Guard)],
        exception_handlers={HTTPException: _not_served, Exception: _defect},
    )


def serve_control(ws: Workspace) -> None:
    """Serve it with Granian until SIGTERM."""
    from flyball.serve.supervisor import serve_asgi

    serve_asgi(application(ws), host=ws.config.console.host, port=ws.config.console.port)


def _refusal(headers: Headers) -> FlyballError | None:
    host = headers.get("host", "")
    if (_name(f"//{host}") or "nowhere") not in _NAMES:
        return Refused(
            f"a request for {host or 'no host'} does not belong here", f"call this server as {LOOPBACK[0]}"
        )
    origin = headers.get("origin")
    if origin is not None and _name(origin) not in _NAMES:
        return Refused(
            f"a page of {origin} may not call this API", "call it from this machine, or from a script"
        )
    return None


_NAMES = tuple(name.strip("[]") for name in LOOPBACK)


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # not even an address
        return ""


async def _not_served(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (no such path, not by this method) in the shape of the face that was asked."""
    path = request.url.path
    if is_mlflow(path):
        return failed(no_endpoint(f"There is no {request.method} {path}."))
    if isinstance(error, HTTPException) and error.status_code == 405:
        methods = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return _answer(path, NotSupported(f"{request.method} {path} is not offered", f"use {methods}"))
    if isinstance(error, HTTPException) and error.status_code == 404:
        return _answer(
            path, NotFound(f"there is nothing at {path}", "GET /api lists the verbs; / is the page")
        )
    return _answer(path, Invalid(str(error), "see /openapi.json"))


async def _defect(request: Request, error: Exception) -> Response:
    what = f"this is a defect in Flyball: {type(error).__name__}: {error}"
    return _answer(request.url.path, Internal(what, "report it, with the console's log"))


def _answer(path: str, error: FlyballError) -> Response:
    if is_mlflow(path):
        return failed(error)
    body = msgspec.json.encode(error.as_json(), enc_hook=str)
    return Response(body, error.http_status, media_type="application/json")
