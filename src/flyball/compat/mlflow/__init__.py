"""MLflow's REST API over a workspace: its unmodified client works with ``MLFLOW_TRACKING_URI=http://127.0.0.1:7070``.

``routes(ws)`` are mounted by the control plane. What is not offered (traces, prompts, gateways, …) says so in MLflow's
own error shape.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flyball.compat.mlflow.wire import Call, MlflowError, Nothing, failed, served

if TYPE_CHECKING:
    from flyball.service import Workspace

__all__ = ["VERSION", "failed", "is_mlflow", "no_endpoint", "routes"]

VERSION = "3.17.2"  # of the client whose calls we answer; it asks /version before it uses newer ones
# The first word of a path -> the modules whose `CALLS` answer it. They are imported when it is first asked for: a
# console that no MLflow client talks to holds neither their 20 MB nor the registry's dataframes.
_PARTS = {
    "experiments": ("experiments", "lineage"),
    "runs": ("runs", "facts", "lineage"),
    "artifacts": ("lineage",),
    "metrics": ("metrics",),
    "logged-models": ("logged_models", "logged_search"),
    "registered-models": ("registry",),
    "model-versions": ("registry",),
}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_Handler = Callable[["Workspace", Request], Awaitable[Response]]


def routes(ws: Workspace) -> list[Route]:
    """All routes: ``/api/2.0/mlflow/…`` (also under 3.0 and ``/ajax-api``), artifacts, ``/version``."""

    async def rest(request: Request) -> Response:
        path = request.path_params["path"]
        group = path.partition("/")[0]
        table = await run_in_threadpool(_table, group if group in _PARTS else "server-info")
        found = table.find(request.method, path)
        if found is None:
            return failed(table.refusal(request.method, path))
        return await served(ws, found[0], request, found[1])

    return [
        *(
            Route(f"/{api}/{version}/mlflow/{{path:path}}", rest, methods=_METHODS)
            for api in ("api", "ajax-api")
            for version in ("2.0", "3.0")
        ),
        *(one for api in ("api", "ajax-api") for one in _files(ws, f"/{api}/2.0/mlflow-artifacts")),
        Route("/version", lambda _request: PlainTextResponse(VERSION)),
    ]


def _files(ws: Workspace, prefix: str) -> list[Route]:
    """The artifact proxy: streamed, so these handlers answer requests themselves."""
    handlers = [
        ("GET", "artifacts", "artifacts:listed"),
        ("GET", "artifacts/{path:path}", "artifacts:downloaded"),
        ("PUT", "artifacts/{path:path}", "artifacts:uploaded"),
        ("DELETE", "artifacts/{path:path}", "artifacts:deleted"),
        ("POST", "mpu/create/{path:path}", "uploads:create"),
        ("POST", "mpu/complete/{path:path}", "uploads:complete"),
        ("POST", "mpu/abort/{path:path}", "uploads:abort"),
        ("PUT", "mpu/parts/{upload}/{number:int}", "uploads:part"),
        ("GET", "presigned/{path:path}", "uploads:presigned"),
    ]
    routes = [Route(f"{prefix}/{path}", _over(ws, name), methods=[method]) for method, path, name in handlers]
    return [*routes, Route(f"{prefix}/{{path:path}}", _no_route, methods=_METHODS)]


async def _no_route(request: Request) -> Response:
    return failed(no_endpoint(f"There is no {request.method} {request.url.path}."))


def _over(ws: Workspace, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def over(request: Request) -> Response:
        handler = await run_in_threadpool(_handler, name)
        return await handler(ws, request)

    return over


@cache
def _handler(name: str) -> _Handler:
    module, _, function = name.partition(":")
    found: _Handler = getattr(import_module(f"flyball.compat.mlflow.{module}"), function)
    return found


def _server_info(_ws: Workspace, _asked: Nothing) -> dict[str, Any]:
    """What a client asks before it uploads in parts or names a workspace."""
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": True,
        "multipart_downloads_enabled": False,  # ours costs a request more for each file, and is no faster
        "presigned_upload_run_id_supported": False,
        "presigned_upload_model_id_supported": False,
        "features_enabled": {"gateway": False},
    }


def is_mlflow(path: str) -> bool:
    """Whether a path belongs to MLflow's REST API: its errors have MLflow's shape.

    >>> is_mlflow("/api/2.0/mlflow/runs/get"), is_mlflow("/api/runs/ls")
    (True, False)
    """
    return "/mlflow" in path and path.startswith(("/api/2.0/", "/api/3.0/", "/ajax-api/"))


@cache
def _table(group: str) -> _Table:
    """The calls of one part of the API."""
    if group not in _PARTS:
        return _Table([Call("GET", "server-info", Nothing, _server_info)])
    modules: list[Any] = [import_module(f"flyball.compat.mlflow.{name}") for name in _PARTS[group]]
    calls = [call for module in modules for call in module.CALLS]
    return _Table([call for call in calls if call.path.partition("/")[0] == group])


def no_endpoint(what: str) -> MlflowError:
    """``ENDPOINT_NOT_FOUND``, 404."""
    return MlflowError("ENDPOINT_NOT_FOUND", what)


class _Table:
    """Calls by method and path: one look into a dict, and a walk over those with a name in their path."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._exact = {(one.method, one.path): one for one in calls if "<" not in one.path}
        self._named = [(one.path.split("/"), one) for one in calls if "<" in one.path]

    def find(self, method: str, path: str) -> tuple[Call, dict[str, str] | None] | None:
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact, None
        words = path.split("/")
        for pattern, call in self._named:
            if call.method == method and len(pattern) == len(words):
                named = _match(pattern, words)
                if named is not None:
                    return call, named
        return None

    def refusal(self, method: str, path: str) -> MlflowError:
        """Why there is nothing here: another method, a part of MLflow that is not offered, or no such route."""
        others = [one for one in _METHODS if self.find(one, path) is not None]
        if others:
            return no_endpoint(f"/mlflow/{path} answers {', '.join(others)}, not {method}.")
        group = path.partition("/")[0]
        if group in _PARTS:
            return no_endpoint(f"There is no {method} /mlflow/{path} in MLflow's REST API.")
        return MlflowError(
            "NOT_IMPLEMENTED",
            f"Flyball does not offer MLflow's {group or 'root'} ({method} /mlflow/{path}): it has experiments, runs, "
            "metrics, artifacts, logged models and the model registry.",
        )


def _match(pattern: list[str], words: list[str]) -> dict[str, str] | None:
    named: dict[str, str] = {}
    for expected, word in zip(pattern, words, strict=True):
        if expected.startswith("<"):
            if not word:
                return None
            named[expected.strip("<>")] = word
        elif expected != word:
            return None
    return named
