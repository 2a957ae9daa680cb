"""Worker processes on one port: one listening socket, N workers that share it, each replaced when it dies.

The socket belongs to the supervisor, so connections that wait in its queue survive the death of a worker. A worker that
dies is replaced at once; one that keeps dying soon after its start waits longer each time, at most 5 s.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from flyball.errors import FlyballError, Invalid
from flyball.serve.listening import listen, serve_asgi
from flyball.serve.logs import to_stderr

__all__ = ["Running", "listen", "serve", "serve_asgi", "where"]
log = logging.getLogger(__name__)
_LOOK_S = 0.05
_SOON_S = 2.0  # dying this soon after the start counts as not starting
_LONGEST_WAIT_S = 5.0


class Running(msgspec.Struct, frozen=True):
    """Where the data plane listens, as ``run/serve.json`` says it while it runs."""

    pid: int
    host: str
    port: int
    workers: int


class _Seat:
    """The place of one worker: the process in it, and how often it fell soon after its start."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.falls = 0
        self.not_before = 0.0


def serve(
    plan: Path,
    log_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    workers: int = 2,
    drain_s: float = 10.0,
    ended: threading.Event | None = None,
) -> None:
    """Serve the plan until SIGTERM or SIGINT (or until ``ended`` is set); then drain, at most ``drain_s``.

    Raises :class:`Conflict` when the port is taken, :class:`Unavailable` when the address can't be bound.
    """
    if workers < 1:
        raise Invalid(f"serve.workers is {workers}", "at least one worker is needed", field="serve.workers")
    listener = listen(host, port)
    run_dir = log_dir.resolve().parent / "run"
    stop = ended or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    seats = [_Seat() for _ in range(workers)]
    try:
        _clean(run_dir / "workers")
        _say(run_dir, Running(os.getpid(), host, listener.getsockname()[1], workers))
        command = [sys.executable, "-m", "flyball.serve.worker", "--fd", str(listener.fileno())]
        command += ["--plan", str(plan.resolve()), "--log", str(log_dir.resolve())]
        while not stop.is_set():
            for seat in seats:
                _fill(seat, command, listener.fileno())
            stop.wait(_LOOK_S)
    finally:
        listener.close()
        _drain(seats, drain_s)
        (run_dir / "serve.json").unlink(missing_ok=True)


def where(state_dir: Path) -> Running | None:
    """Where the data plane of this project listens; ``None`` when it does not run."""
    try:
        return msgspec.json.decode((state_dir / "run" / "serve.json").read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _fill(seat: _Seat, command: list[str], fd: int) -> None:
    now = time.monotonic()
    if seat.process is not None:
        code = seat.process.poll()
        if code is None:
            return
        early = now - seat.started < _SOON_S
        seat.falls = seat.falls + 1 if early else 0
        # The first replacement is immediate: a worker killed once is no reason to wait.
        wait_s = 0.0 if seat.falls < 2 else min(0.1 * 2**seat.falls, _LONGEST_WAIT_S)
        seat.not_before = now + wait_s
        log.error("worker %d ended with %d; replaced in %.1f s", seat.process.pid, code, wait_s)
        seat.process = None
    if now >= seat.not_before:
        seat.process = subprocess.Popen(command, pass_fds=[fd], env=_environment(), stdin=subprocess.DEVNULL)
        seat.started = now


def _environment() -> dict[str, str]:
    """One thread of arithmetic per worker: processes are our parallelism."""
    ones = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**ones, **os.environ}


def _drain(seats: list[_Seat], drain_s: float) -> None:
    running = [seat.process for seat in seats if seat.process is not None]
    for process in running:
        process.terminate()
    until = time.monotonic() + drain_s
    for process in running:
        try:
            process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            log.error("worker %d did not drain within %.0f s; killed", process.pid, drain_s)
            process.kill()
            process.wait()


def _clean(folder: Path) -> None:
    """Words and counts of workers of an earlier server."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.json", "*.metrics", ".*.json", ".*.metrics"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


def _say(run_dir: Path, running: Running) -> None:
    staged = run_dir / f".serve.{running.pid}"
    staged.write_bytes(msgspec.json.encode(running))
    staged.replace(run_dir / "serve.json")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flyball.serve.supervisor", description=__doc__)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(arguments)
    to_stderr()
    try:
        serve(asked.plan, asked.log, host=asked.host, port=asked.port, workers=asked.workers)
    except FlyballError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
