"""The control plane's refusals have the shape of the face that was asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from flyball.cli.control import application
from flyball.service import Workspace


@pytest.fixture
def app(tmp_path: Path) -> Starlette:
    (tmp_path / "flyball.toml").write_text("")
    return application(Workspace.open(tmp_path))


def call(
    app: Starlette, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request to an ASGI application, without a socket."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [
            (name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:7070", **headers}.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 7070),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, b"".join(one.get("body", b"") for one in sent[1:])


def test_a_path_that_is_not_there_says_so_in_json(app: Starlette) -> None:
    status, head, body = call(app, "GET", "/nowhere")
    assert (status, head["content-type"]) == (404, "application/json")
    assert json.loads(body)["error"] == "NotFound"


def test_a_method_that_is_not_offered_says_which_is(app: Starlette) -> None:
    status, head, body = call(app, "DELETE", "/api/models/ls")
    assert (status, head["content-type"]) == (405, "application/json")
    assert json.loads(body) == {
        "error": "NotSupported",
        "what": "DELETE /api/models/ls is not offered",
        "hint": "use GET, HEAD, POST",
        "facts": {},
    }


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7070", "127.0.0.1.evil.example", "", "[::1"])
def test_a_foreign_host_is_refused_in_json(app: Starlette, host: str) -> None:
    status, head, body = call(app, "GET", "/api", host=host)
    assert (status, head["content-type"]) == (422, "application/json")
    assert json.loads(body)["error"] == "Refused"


@pytest.mark.parametrize("host", ["127.0.0.1:7070", "localhost", "LOCALHOST:7070", "[::1]:7070"])
def test_this_machines_own_names_are_let_in(app: Starlette, host: str) -> None:
    status, _, body = call(app, "GET", "/health", host=host)
    assert status == 200
    assert json.loads(body)["status"] == "ok"


@pytest.mark.parametrize("path", ["/api/2.0/mlflow/experiments/search", "/api/models/ls", "/"])
def test_a_page_of_another_site_is_refused_everywhere(app: Starlette, path: str) -> None:
    status, _, body = call(app, "GET", path, origin="https://evil.example")
    assert status in (403, 422)
    assert b"evil.example may not call this API" in body


def test_mlflows_paths_answer_in_mlflows_shape(app: Starlette) -> None:
    status, _, body = call(app, "GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", host="evil.example")
    assert (status, json.loads(body)["error_code"]) == (403, "PERMISSION_DENIED")
    status, _, body = call(app, "POST", "/api/3.0/mlflow/traces", b"{}")
    assert (status, json.loads(body)["error_code"]) == (501, "NOT_IMPLEMENTED")
    assert "does not offer MLflow's traces" in json.loads(body)["message"]
    status, _, body = call(app, "GET", "/version")
    assert (status, body) == (200, b"3.17.2")
