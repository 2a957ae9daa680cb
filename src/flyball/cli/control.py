"""The control plane in one process: the verbs over HTTP and the pages, on one port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette

from flyball.api import routes as api_routes
from flyball.console import routes as console_routes

if TYPE_CHECKING:
    from flyball.service import Workspace


def application(ws: Workspace) -> Starlette:
    """The ASGI application over one workspace."""
    return Starlette(routes=[*api_routes(ws), *console_routes(ws)])


def serve_control(ws: Workspace) -> None:
    """Serve it with Granian until SIGTERM."""
    from flyball.serve.supervisor import serve_asgi

    serve_asgi(application(ws), host=ws.config.console.host, port=ws.config.console.port)
