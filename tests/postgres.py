"""A real PostgreSQL for tests: one server of our own, which may also be killed, frozen and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from flyball.service.supervise import _end_with_parent

_QUICK = (
    "fsync=off", "full_page_writes=off", "shared_buffers=64MB", "max_connections=120",
    "autovacuum=off", "max_wal_size=256MB", "unix_socket_directories=", "listen_addresses=127.0.0.1",
    "log_min_messages=fatal", "dynamic_shared_memory_type=mmap",
)  # fmt: skip


class Postgres:
    """A server in a folder of its own on a port of its own; it goes with its folder when the ``with`` block ends."""

    def __init__(self) -> None:
        found = find_spec("pgserver")
        assert found is not None
        assert found.origin is not None
        self._bin = Path(found.origin).parent / "pginstall" / "bin"
        # PostgreSQL refuses to run as root, so there it runs as nobody.
        self._as: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        self.folder = Path(tempfile.mkdtemp(prefix="flyball-pg-"))
        self.port = free_port()
        self._schemas = 0
        if self._as:
            shutil.chown(self.folder, **self._as)
        initdb = [
            str(self._bin / "initdb"), "-D", str(self.folder / "data"), "-U", "flyball", "--auth=trust",
            "--encoding=UTF8", "--no-sync", "--locale=C.UTF-8",
        ]  # fmt: skip
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.folder, **self._as)
        self.start()

    def __enter__(self) -> Postgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        settings = [word for setting in _QUICK for word in ("-c", setting)]
        command = [
            str(self._bin / "postgres"),
            "-D",
            str(self.folder / "data"),
            "-p",
            str(self.port),
            *settings,
        ]
        with (self.folder / "log").open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (no threads that hold locks here)
                **self._as,
            )
        until = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def kill(self) -> None:
        """``kill -9`` it with all its backends."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and to every backend of it (SIGSTOP: it hangs)."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in [self._process.pid, *map(int, children)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    @property
    def dsn(self) -> str:
        return f"postgresql://flyball@127.0.0.1:{self.port}/postgres"

    def new(self) -> str:
        """The URL of an empty schema: to a ledger a database of its own."""
        self._schemas += 1
        name = f"t{self._schemas}"
        self.run(f"create schema {name}")
        return f"{self.dsn}?options=-csearch_path%3D{name}"

    def run(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]  # statements of tests are plain text


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
