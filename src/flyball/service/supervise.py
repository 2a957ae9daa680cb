"""Keep a workspace's processes alive: started together, restarted when they die, stopped together.

One ``flyball up`` per workspace, held by a lock that ends with the process, however it ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from flyball.errors import Conflict, NotFound, Unavailable

log = logging.getLogger(__name__)

PARTS = ("serve", "console", "govern")
STREAMS = "streams"  # with [features] streams = true
_WORDS = {STREAMS: ("features", "stream")}  # parts whose command has another name
_BACKOFF_S = (0.1, 0.5, 2.0, 5.0)  # a part that keeps dying is tried less and less often
_WELL_AFTER_S = 30.0
_PR_SET_PDEATHSIG = 1


class Held:
    """A named lock of a workspace that dies with its holder; the file tells the holder's pid."""

    def __init__(self, run_dir: Path, name: str) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.pid_file = run_dir / f"{name}.pid"
        self._file: IO[str] = (run_dir / f"{name}.lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = self.pid_file.read_text().strip() if self.pid_file.exists() else "unknown"
            self._file.close()
            raise Conflict(
                f"flyball {name} runs already for this project (pid {pid})", "flyball down stops it", pid=pid
            ) from error
        self.pid_file.write_text(str(os.getpid()))

    def release(self) -> None:
        """Give it back; also happens by itself when the process ends."""
        self.pid_file.unlink(missing_ok=True)
        self._file.close()


class Part:
    """One supervised process."""

    def __init__(self, name: str, command: Sequence[str], log_path: Path) -> None:
        self.name = name
        self._command = list(command)
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self._next = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def look(self, now_s: float) -> None:
        """Start it when it does not run, after the pause that its failures have earned."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            self._failures = 0 if now_s - self._started > _WELL_AFTER_S else self._failures + 1
            pause = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
            self._next = now_s + pause
            said = _last_line(self._log_path)
            log.warning(
                "%s ended with %s: %s; again in %.1f s (%s)", self.name, code, said, pause, self._log_path
            )
        if now_s >= self._next:
            with self._log_path.open("ab") as out:
                self._process = subprocess.Popen(
                    self._command,
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (no threads here)
                )
            self._started = now_s

    def stop(self, for_s: float) -> None:
        """Ask it to end; kill it when it does not in time."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(for_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _last_line(path: Path) -> str:
    """What a process said last, within the end of its log."""
    try:
        lines = path.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["nothing"])[-1]


def up(root: Path, state: Path, parts: Sequence[str] = PARTS, extra: Sequence[str] = ()) -> None:
    """Run the parts until SIGTERM or SIGINT; blocks."""
    held = Held(state / "run", "up")
    logs = state / "run"
    python = [sys.executable, "-m", "flyball"]
    supervised = [
        Part(
            name, [*python, *_WORDS.get(name, (name,)), "--project", str(root), *extra], logs / f"{name}.log"
        )
        for name in parts
    ]
    ending = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal ending
        ending = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        while not ending:
            for part in supervised:
                part.look(time.monotonic())
            time.sleep(0.05)
    finally:
        for part in reversed(supervised):
            part.stop(for_s=15.0)
        held.release()


def holds(lock: Path) -> bool:
    """Whether a living process holds a lock; asking makes none."""
    return lock.exists() and _is_held(lock)


def _is_held(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _end_with_parent() -> None:
    """In a new child, on Linux: end when ``flyball up`` is killed, however it is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def down(state: Path, wait_s: float = 20.0) -> int:
    """Stop what ``flyball up`` runs here; returns the pid that was stopped."""
    try:
        if not _is_held(
            state / "run" / "up.lock"
        ):  # a pid file outlives a kill -9, and its number may be another's now
            raise ValueError
        pid = int((state / "run" / "up.pid").read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError) as error:
        raise NotFound("nothing is up for this project", "flyball up starts it") from error
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return pid
        time.sleep(0.05)
    raise Unavailable(f"flyball up (pid {pid}) did not end within {wait_s:.0f} s", f"kill -9 {pid}")
