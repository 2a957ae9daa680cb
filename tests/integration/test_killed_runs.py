"""A run killed with -9 has lost at most the step it was in; resuming goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.core.records import Run
from flyball.pipelines import RunContext, load_definitions, resume
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.track.liveness import recover

PIPELINES = """
import os
import signal
from pathlib import Path

import polars as pl
import flyball.pipelines as fb

HERE = Path(__file__).parent

def saw(word):
    with (HERE / "seen").open("a") as file:
        file.write(word + "\\n")

@fb.step
def one(n: int) -> pl.DataFrame:
    saw("one")
    return pl.DataFrame({"n": range(n)})

@fb.step
def two(frame: pl.DataFrame) -> tuple[pl.DataFrame, dict]:
    saw("two")
    return frame.with_columns(m=pl.col("n") * 2), {"rows": frame.height}

@fb.step
def three(frame, facts) -> int:
    saw("three")
    if (HERE / "die").exists():
        (HERE / "die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return int(frame["m"].sum()) + facts["rows"]

@fb.step
def four(total: int) -> int:
    saw("four")
    return total + 1

@fb.pipeline
def train(n: int):
    frame, facts = two(one(n))
    four(three(frame, facts))
"""

RUN = """
import sys
from pathlib import Path
from flyball.pipelines import RunContext, execute, load_definitions
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

root = Path(sys.argv[1])
context = RunContext(
    ledger=Ledger.open(f"sqlite:///{root}/.flyball/ledger.db"),
    blobs=Blobs.open(f"file:{root}/.flyball/blobs"),
    root=root,
    actor="person:ann",
    on_step=lambda told: (sys.stdout.write(f"{told.node} {told.status}\\n"), sys.stdout.flush()),
)
execute(load_definitions(root, ["pipelines.py"]).pipelines["train"], {"n": "4"}, context)
"""


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen((sys.executable, "-c", RUN, str(root)), stdout=subprocess.PIPE, text=True)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / ".flyball").mkdir()
    (tmp_path / "pipelines.py").write_text(PIPELINES)
    return tmp_path


@pytest.fixture
def context(root):
    ledger = Ledger.open(f"sqlite:///{root}/.flyball/ledger.db")
    yield RunContext(
        ledger=ledger, blobs=Blobs.open(f"file:{root}/.flyball/blobs"), root=root, actor="person:ann"
    )
    ledger.close()


@pytest.mark.integration
def test_a_run_killed_in_a_step_is_resumed_without_running_the_finished_ones_again(root, context):
    (root / "die").touch()
    process = start(root)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert out.split("\n")[-2] == "three started"
    (killed,) = context.ledger.ls("run", Run)
    assert killed.status == "running"
    assert [line["node"] for line in killed.steps] == ["one", "two"]
    assert [one.id for one in recover(context.ledger)] == [killed.id]
    assert context.ledger.get("run", killed.id, Run).status == "failed"

    done = resume(killed.id, load_definitions(root, ["pipelines.py"]).pipelines, context)
    assert (done.id, done.status, done.params) == (killed.id, "done", {"n": 4})
    assert [line["status"] for line in done.steps] == ["reused", "reused", "done", "done"]
    assert (root / "seen").read_text().split() == ["one", "two", "three", "three", "four"]
    assert context.blobs.get(done.outputs["four"]) == b"17"


@pytest.mark.integration
def test_a_run_killed_at_any_moment_leaves_a_ledger_that_the_next_run_goes_on_from(root, context):
    """Killed after each line it tells in turn; what was told as done is never run again."""
    finished: set[str] = set()
    for lines in range(1, 9):
        process = start(root)
        assert process.stdout is not None
        told = [line.split() for _ in range(lines) if (line := process.stdout.readline())]
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait(timeout=60)
        again = {node for node, status in told if status == "started"} & finished
        assert not again
        finished |= {node for node, status in told if status == "done"}
    assert finished == {"one", "two", "three", "four"}
    assert context.ledger.rebuild() > 0
    recover(context.ledger)
    assert not [run for run in context.ledger.ls("run", Run) if run.status == "running"]
