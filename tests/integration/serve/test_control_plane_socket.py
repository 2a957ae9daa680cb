"""An ASGI application served from one process: what the control plane stands on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest

from flyball.errors import Conflict
from flyball.serve.listening import listen, serve_asgi

pytestmark = pytest.mark.integration
APPLICATION = """
import sys
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from flyball.serve.supervisor import serve_asgi

async def hello(request): return JSONResponse({"hello": request.path_params["name"]})
async def stream(request):
    async def parts():
        for number in range(3): yield f"data: {number}\\n\\n"
    return StreamingResponse(parts(), media_type="text/event-stream")

routes = [Route("/hello/{name}", hello), Route("/live", stream)]
serve_asgi(Starlette(routes=routes), host="127.0.0.1", port=int(sys.argv[1]))
"""


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_serves_starlette_until_sigterm() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", APPLICATION, str(port)])
    try:
        until = time.monotonic() + 15
        while True:
            try:
                answer = get(port, "/hello/ann")
                break
            except ConnectionError:
                assert time.monotonic() < until
                time.sleep(0.05)
        assert answer == (200, b'{"hello":"ann"}')
        assert get(port, "/live") == (200, b"data: 0\n\ndata: 1\n\ndata: 2\n\n")
        assert get(port, "/nothing")[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_a_taken_port_is_a_conflict() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(Conflict, match="is in use"):
        serve_asgi(None, host="127.0.0.1", port=taken.getsockname()[1])
