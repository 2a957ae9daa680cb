"""Waiting for workers: the dead are not waited for, and a failure is handed over."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flyball.errors import Unavailable
from flyball.serve.publish import Ack, acks, is_alive, wait_until_loaded, workers_dir, write_ack

NOW = datetime(2013, 1, 1, tzinfo=UTC)


def say(state: Path, pid: int, tried: int, error: str = "") -> None:
    folder = workers_dir(state)
    folder.mkdir(parents=True, exist_ok=True)
    write_ack(folder, Ack(pid=pid, generation=tried, loaded_at=NOW, tried=tried, error=error))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_dead_are_not_waited_for(tmp_path: Path) -> None:
    say(tmp_path, dead_pid(), 1)
    say(tmp_path, os.getpid(), 2, "delays@2: no")
    (found,) = wait_until_loaded(tmp_path, 2, timeout_s=1)
    assert (found.pid, found.error) == (os.getpid(), "delays@2: no")


def test_a_worker_that_stays_behind_is_named(tmp_path: Path) -> None:
    say(tmp_path, os.getpid(), 1)
    with pytest.raises(Unavailable, match=rf"workers \[{os.getpid()}\] are still behind"):
        wait_until_loaded(tmp_path, 2, timeout_s=0.0)


def test_no_worker_at_all_is_said(tmp_path: Path) -> None:
    assert acks(tmp_path) == []
    with pytest.raises(Unavailable, match="no worker is running"):
        wait_until_loaded(tmp_path, 1, timeout_s=0.0)


def test_one_that_ended_and_was_not_waited_for_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # ends with the process
    process.stdout.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(process.pid)
    process.wait()
