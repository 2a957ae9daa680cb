"""The control plane in one process: the verbs over HTTP and the pages, on one port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flyball.api import LOOPBACK
from flyball.api import routes as api_routes
from flyball.compat.mlflow import routes as mlflow_routes
from flyball.console import routes as console_routes

if TYPE_CHECKING:
    from flyball.service import Workspace


def application(ws: Workspace) -> Starlette:
    """The ASGI application over one workspace."""
    # A page elsewhere must not reach us under a name of its own (DNS rebinding); api refuses foreign origins.
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK), www_redirect=False)
    return Starlette(routes=[*mlflow_routes(ws), *api_routes(ws), *console_routes(ws)], middleware=[trusted])


def serve_control(ws: Workspace) -> None:
    """Serve it with Granian until SIGTERM."""
    from flyball.serve.supervisor import serve_asgi

    serve_asgi(application(ws), host=ws.config.console.host, port=ws.config.console.port)
