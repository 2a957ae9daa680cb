"""Workers say which plan they serve; whoever published one can wait until all of them do."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import msgspec

from flyball.errors import Unavailable

_LOOK_S = 0.02


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's word: the generation that answers there, the newest it tried, and what would not load.

    ``tripped`` maps endpoints to the candidate that this worker has cut off.
    """

    pid: int
    generation: int
    loaded_at: datetime
    tried: int
    error: str = ""
    tripped: dict[str, str] = {}


def workers_dir(state_dir: Path) -> Path:
    """Where workers leave their words."""
    return state_dir / "run" / "workers"


def write_ack(folder: Path, ack: Ack) -> None:
    """Say it, atomically."""
    staged = folder / f".{ack.pid}.json"
    staged.write_bytes(msgspec.json.encode(ack))
    staged.replace(folder / f"{ack.pid}.json")


def acks(state_dir: Path) -> list[Ack]:
    """The word of each living worker."""
    found = []
    for file in sorted(workers_dir(state_dir).glob("[0-9]*.json")):
        try:
            ack = msgspec.json.decode(file.read_bytes(), type=Ack)
        except (FileNotFoundError, msgspec.DecodeError):
            continue
        if is_alive(ack.pid):
            found.append(ack)
    return found


def wait_until_loaded(state_dir: Path, generation: int, timeout_s: float = 10.0) -> list[Ack]:
    """The word of every living worker once each has tried ``generation`` or a later one; look at their ``error``.

    Raises :class:`Unavailable` when that takes longer, or when no worker lives. Dead workers are not waited for.
    """
    until = time.monotonic() + timeout_s
    while True:
        found = acks(state_dir)
        if found and all(ack.tried >= generation for ack in found):
            return found
        if time.monotonic() >= until:
            behind = [ack.pid for ack in found if ack.tried < generation]
            what = f"workers {behind} are still behind" if found else "no worker is running"
            raise Unavailable(
                f"generation {generation} is not served after {timeout_s:g} s: {what}",
                "flyball status shows the workers; flyball up starts them",
                generation=generation,
            )
        time.sleep(_LOOK_S)


def is_alive(pid: int) -> bool:
    """Whether a process has this id; one that ended and was not yet waited for counts as dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
