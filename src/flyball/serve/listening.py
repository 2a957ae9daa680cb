"""A listening socket, and Granian on it: the HTTP server below the data plane and the control plane.

Granian's own supervisor is not used: on Linux each of its workers listens by itself (SO_REUSEPORT), so a killed worker
takes its queue of connections along, two servers on one port go unnoticed, and two deaths within 5.5 s end everything.
We hand its worker a socket instead, by the way it takes one on macOS. Read and measured with Granian 2.8.7.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from flyball.errors import Conflict, Unavailable


def listen(host: str, port: int) -> socket.socket:
    """The listening socket; a taken port is said plainly. Port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} on {host} is in use",
                "flyball status shows what runs here; or set serve.port in flyball.toml",
                host=host,
                port=port,
            ) from error
        raise Unavailable(
            f"can't listen on {host}:{port}: {error.strerror}",
            "set serve.host and serve.port in flyball.toml",
            host=host,
            port=port,
        ) from error
    return listener


def run_rsgi(app: Any, fd: int) -> None:
    """Serve an RSGI application on a socket that other processes may share, until SIGTERM; then drain."""
    from granian.server.mp import MPServer

    MPServer._spawn_rsgi_worker(*_worker_arguments(app, fd))


def serve_asgi(application: Any, *, host: str, port: int) -> None:
    """Serve an ASGI application (the control plane) from this process until SIGTERM or SIGINT; then drain.

    Raises :class:`Conflict` when the port is taken.
    """
    from granian.server.mp import MPServer

    fd = listen(host, port).detach()  # Granian closes it
    MPServer._spawn_asgi_worker(*_worker_arguments(application, fd))


def _worker_arguments(app: Any, fd: int) -> tuple[Any, ...]:
    """What Granian's supervisor would tell one worker, by position."""
    from granian._granian import SocketHolder
    from granian.constants import HTTPModes, Loops, RuntimeModes, TaskImpl
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    holder = SocketHolder(fd, False, 1024)  # type: ignore[call-arg]  # its stub lacks the constructor
    return (
        1,  # worker id
        None,  # process name
        lambda: app,
        ((None, holder), None),
        None,  # ipc
        Loops.asyncio,
        False,  # Granian's own log
        LogLevels.info,
        None,
        (),  # env files
        RuntimeModes.st,
        1,  # runtime threads
        8,  # runtime blocking threads
        1,  # blocking threads
        30,
        1024,  # backpressure: requests under way
        TaskImpl.asyncio,
        HTTPModes.http1,
        HTTP1Settings(header_read_timeout=10_000),
        None,
        False,  # websockets
        None,
        None,
        (False, None, None, None, "1.3", None, [], False),  # no TLS
        {"url_path_prefix": None},
        (None, None),
    )
