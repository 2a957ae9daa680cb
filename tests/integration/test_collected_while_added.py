"""Processes that add, forget, collect and are killed at once: every named snapshot keeps its exact bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flyball.core.hashing import digest_bytes
from flyball.core.records import Snapshot
from flyball.errors import Conflict
from flyball.service.gc import gc
from flyball.service.workspace import Workspace
from flyball.versions import data
from tests.workspaces import close, new_workspace

pytestmark = pytest.mark.integration

ADDER = """
import random, sys
from pathlib import Path
from flyball.service.workspace import Workspace
from flyball.versions import data
root, me, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rng, ws = random.Random(seed), Workspace.open(root)
folder = root / me
folder.mkdir(exist_ok=True)
for n in range(1000):
    base = random.Random(rng.randrange(3)).randbytes(700_000)   # three contents that come back again and again
    at = rng.randrange(len(base))
    (folder / "a.bin").write_bytes(base[:at] + rng.randbytes(50) + base[at:])
    (folder / "same.bin").write_bytes(base)
    snapshot = data.add(ws.ledger, ws.blobs, me, folder, actor=me)
    print(snapshot.ref, (folder / "a.bin").read_bytes().hex()[:40], flush=True)
"""


@pytest.fixture
def ws(tmp_path: Path, ledger_url: str) -> Iterator[Workspace]:
    opened = new_workspace(tmp_path / "p", ledger_url)
    yield opened
    close(opened)


def test_adding_killing_forgetting_and_collecting_at_once_loses_no_named_byte(
    ws: Workspace, tmp_path: Path
) -> None:
    rng = random.Random(7)
    deadline = time.monotonic() + 14
    seed = collections = killed = 0
    ws.ledger.keys("snapshot")
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    while time.monotonic() < deadline or (killed < 3 and time.monotonic() < deadline + 60):  # a busy machine
        for me in ("one", "two"):
            if me not in running:
                seed += 1
                command = [sys.executable, "-c", ADDER, str(ws.root), me, str(seed)]
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                running[me] = (process, time.monotonic() + rng.uniform(1.5, 4))
        for me, (process, until) in list(running.items()):
            if time.monotonic() > until:
                process.send_signal(signal.SIGKILL)
                process.wait()
                del running[me]
                killed += 1
        known = [one for one in ws.ledger.ls("snapshot", Snapshot) if not one.forgotten]
        if len(known) > 4:
            forget(ws, rng.choice(known))
        time.sleep(rng.uniform(0.1, 0.4))  # nobody collects without a pause; adders get their turn
        try:
            collections += gc(older_than="0s", ws=ws).state == "done"
        except Conflict:
            continue
    for process, _ in running.values():
        process.kill()
        process.wait()
    kept = [one for one in ws.ledger.ls("snapshot", Snapshot) if not one.forgotten]
    assert len(kept) > 2
    assert collections > 3
    assert killed > 2
    gc(older_than="0s", ws=ws)
    for snapshot in kept:
        data.use(ws.ledger, ws.blobs, snapshot.ref).checkout(tmp_path / "out" / snapshot.ref)
        for entry in snapshot.files:
            content = (tmp_path / "out" / snapshot.ref / entry.path).read_bytes()
            assert digest_bytes(content) == entry.digest
    assert gc(older_than="0s", ws=ws).blobs == 0


def forget(ws: Workspace, snapshot: Snapshot) -> None:
    with ws.ledger.transaction() as tx:
        gone = msgspec.structs.replace(snapshot, forgotten=True)
        tx.append("data.forgotten", snapshot.ref, actor="x", sets=[("snapshot", snapshot.ref, gone)])
