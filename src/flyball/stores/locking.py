"""A lock of this machine's processes: many hold it together, or one holds it alone; a killed holder lets go."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flyball.errors import Conflict, Unavailable

_LOOK_EVERY_S = 0.05


@contextmanager
def held(path: Path | None, *, exclusive: bool, wait_s: float = 600.0) -> Iterator[None]:
    """Hold the lock of a file; :class:`Conflict` when others keep it for longer than ``wait_s``.

    Without a path there is nothing to share, and nothing to wait for.
    """
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise Unavailable(f"the lock {path} can't be opened: {error.strerror}", "check its rights") from error
    try:
        _take(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, path, wait_s)
        yield
    finally:
        os.close(handle)


def _take(handle: int, kind: int, path: Path, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= until:
                others = "someone adds data" if kind == fcntl.LOCK_EX else "a collection runs"
                raise Conflict(
                    f"{path} is held: {others} on this machine", "try again when it is done", path=str(path)
                ) from error
            time.sleep(_LOOK_EVERY_S)
