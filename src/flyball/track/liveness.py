"""Recognise runs whose process is gone: killed, or the machine went down."""

from __future__ import annotations

import os
import socket
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from flyball.core.records import Run
from flyball.stores.run_seal import put_head, sealed_record
from flyball.stores.runs import RunStore

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "boot"


def process_name(pid: int | None = None) -> str:
    """A name no other process has: host, boot, pid and the tick it started at (pids are used again)."""
    return _name(os.getpid()) if pid is None else f"{_host()}/{_boot()}/{pid}/{_started_tick(pid)}"


@cache
def _name(own: int) -> str:
    """Asked for at each run, and the same as long as this process lives."""
    return f"{_host()}/{_boot()}/{own}/{_started_tick(own)}"


def _host() -> str:
    return socket.gethostname()


def is_alive(name: str) -> bool:
    """Whether the process of that name still runs. One on another host counts as alive: we can't see it."""
    host, _, rest = name.partition("/")
    if host != socket.gethostname():
        return True
    boot, pid, tick = rest.split("/")
    if boot != _boot():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and another user's
    return _started_tick(int(pid)) == tick


def recover(ledger: Ledger) -> list[Run]:
    """Mark runs as failed whose process is gone; returns them. Their finished steps stay, so they can be resumed."""
    gone = [head.id for head in RunStore(ledger).running() if not is_alive(head.process)]
    recovered: list[Run] = []
    for run_id in gone:
        with ledger.transaction() as tx:
            tx.alone(run_id)
            now = tx.find("run", run_id, Run)
            if now is None or now.status != "running" or not now.process or is_alive(now.process):
                continue  # resumed meanwhile
            ended = sealed_record(
                tx.connection,
                msgspec.structs.replace(
                    now,
                    status="failed",
                    ended=tx.now(),
                    error=f"its process ({now.pid}) is gone; it was killed",
                ),
            )
            tx.append("run.died", run_id, actor="flyball", sets=[("run", run_id, ended)])
            put_head(tx, ended)
            recovered.append(ended)
    return recovered


def recover_now_and_then(ledger: Ledger) -> None:
    """:func:`recover`, at most every ten seconds: a program that starts many runs should not look before each."""
    now = time.monotonic()
    if now - _looked.get(ledger, -_LOOK_AGAIN_S) >= _LOOK_AGAIN_S:
        _looked[ledger] = now
        recover(ledger)


_LOOK_AGAIN_S = 10.0
_looked: WeakKeyDictionary[Ledger, float] = WeakKeyDictionary()


def _started_tick(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""  # not Linux: the pid alone must do
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
