"""Backup, restore and migrate killed at random instants: the old or the new, and the same command finishes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flyball.service.backup import backup
from flyball.service.workspace import Workspace
from tests.postgres import Postgres
from tests.workspaces import close, everything, fill, new_workspace

pytestmark = pytest.mark.integration
FLYBALL = [sys.executable, "-m", "flyball"]


def killed_at_random(words: list[str], rng: random.Random, longest_s: float) -> bool:
    """Run a command and kill it somewhere on its way; whether it was still on its way."""
    process = subprocess.Popen([*FLYBALL, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(rng.uniform(0.0, longest_s))
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def length_s(words: list[str]) -> float:
    """How long a command takes here and now."""
    began = time.monotonic()
    subprocess.run([*FLYBALL, *words], check=True, capture_output=True)
    return time.monotonic() - began


def big(root: Path) -> Workspace:
    ws = new_workspace(root)
    fill(ws, 1)
    rng = random.Random(0)
    for _ in range(40):
        ws.blobs.put(rng.randbytes(1_000_000))
    return ws


def test_restores_killed_at_random_leave_the_old_workspace_or_the_new(tmp_path: Path) -> None:
    rng = random.Random(11)
    ws = big(tmp_path / "p")
    new = everything(ws)
    backup(str(tmp_path / "b.tar"), ws=ws)
    close(ws)
    words = ["restore", str(tmp_path / "b.tar"), "--force", "--project", str(ws.root)]
    took = length_s(words)
    outcomes = set()
    for n in range(12):
        fill(Workspace.open(ws.root), 100 + n)
        before = Workspace.open(ws.root)
        old = everything(before)
        close(before)
        killed_at_random(
            words, rng, took * (12 - n) / 12
        )  # earlier and earlier: Python alone takes the last of them
        left = Workspace.open(ws.root)
        found = everything(left)
        close(left)
        assert found in (old, new)
        outcomes.add(found == new)
    subprocess.run([*FLYBALL, *words], check=True, capture_output=True)
    assert everything(Workspace.open(ws.root)) == new
    assert not list(ws.root.glob(".flyball.*"))
    assert False in outcomes


def test_backups_killed_at_random_leave_a_whole_file_or_none(tmp_path: Path) -> None:
    rng = random.Random(12)
    close(big(tmp_path / "p"))
    words = ["backup", str(tmp_path / "b.tar"), "--project", str(tmp_path / "p")]
    took = length_s(words)
    (tmp_path / "b.tar").unlink()
    for _ in range(8):
        killed_at_random(words, rng, took)
        if (tmp_path / "b.tar").exists():
            backup(str(tmp_path / "b.tar"), verify=True)
            (tmp_path / "b.tar").unlink()
    subprocess.run([*FLYBALL, *words], check=True, capture_output=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.tar", "p"]


def test_moves_killed_at_random_go_on(tmp_path: Path, postgres: Postgres) -> None:
    rng = random.Random(13)
    ws = big(tmp_path / "p")
    before = everything(ws)
    close(ws)
    took = length_s(["migrate", "--to", postgres.new(), f"file:{tmp_path}/first", "--project", str(ws.root)])
    url, blobs = postgres.new(), f"file:{tmp_path}/elsewhere"
    words = ["migrate", "--to", url, blobs, "--write", "--project", str(ws.root)]
    for _ in range(6):
        if not killed_at_random(words, rng, took):
            break
        left = Workspace.open(ws.root)
        assert everything(left) == before
        close(left)
    else:
        subprocess.run([*FLYBALL, *words], check=True, capture_output=True)
    there = Workspace.open(ws.root)
    assert there.config.stores.metadata == url
    assert everything(there) == before
    close(there)
