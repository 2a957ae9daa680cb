"""kill -9 in the middle of measuring and of a sweep: what was acknowledged is there, whole, and the run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flyball.core.clock import SystemClock
from flyball.core.records import Run
from flyball.service.workspace import Workspace
from flyball.stores.metadata import Ledger
from flyball.stores.runs import RunStore
from flyball.track import runs
from flyball.track.liveness import recover

pytestmark = pytest.mark.integration

MEASURE = """
import sys
from flyball.stores.metadata import Ledger
from flyball.track import runs
ledger = Ledger.open(sys.argv[1])
if len(sys.argv) > 2:
    run = runs.reopen(ledger, sys.argv[2], code="", environment="", actor="a")
else:
    run = runs.open_run(ledger, "p", params={}, code="", environment="", actor="a")
print(run.id, flush=True)
step = int(sys.argv[3]) if len(sys.argv) > 3 else 0
while True:
    for _ in range(500):
        run.metric("loss", step / 2, step)
        run.metrics({"a": step, "b": -step}, step)
        step += 1
    run.param(f"p{step}", step)
    run.flush()
    print(step, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_has_all_it_acknowledged_and_goes_on_without_a_gap(ledger_url, seed):
    chance = random.Random(seed)
    Ledger.open(ledger_url).close()
    arguments: list[str] = []
    acknowledged = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", MEASURE, ledger_url, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        run_id = child.stdout.readline().strip()
        assert run_id.startswith("run_")
        child.stdout.readline()  # the first batch is durable
        time.sleep(chance.uniform(0.0, 0.5))
        child.kill()
        said, _ = child.communicate()
        before = int(arguments[1]) if arguments else 0
        acknowledged = max([before + 500, *(int(line) for line in said.split() if line.isdigit())])
        ledger = Ledger.open(ledger_url)
        store = RunStore(ledger)
        steps = store.history(run_id, "loss").steps.tolist()
        assert steps == list(range(len(steps)))
        assert len(steps) >= acknowledged
        assert len(store.history(run_id, "a")) >= acknowledged
        assert [one.id for one in recover(ledger)] == [run_id]
        assert store.verify(run_id) == []
        assert ledger.get("run", run_id, Run).status == "failed"
        arguments = [run_id, str(len(steps))]
        ledger.close()
    ledger = Ledger.open(ledger_url)
    run = runs.reopen(ledger, arguments[0], code="", environment="", actor="a")
    run.metric("loss", 1.0, int(arguments[1]))
    run.end()
    assert RunStore(ledger).verify(run.id) == []
    ledger.close()


SWEEP = """
import os, signal, sys
import flyball as fb
tried = 0
def objective(params):
    global tried
    tried += 1
    if tried == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return -(params["x"] - 3) ** 2
print(fb.track.sweep(objective, {"x": (0.0, 10.0)}, trials=12, seed=1, resume_run=sys.argv[2] if len(sys.argv) > 2 else "").run)
"""


def test_a_killed_sweep_goes_on_from_the_ledger(tmp_path: Path):
    pytest.importorskip("optuna")
    (tmp_path / "flyball.toml").write_text("")
    environment = {**os.environ, "FLYBALL_ACTOR": "ann"}

    def begin(*arguments: str) -> int:
        command = [sys.executable, "-c", SWEEP, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode

    assert begin("5") == -signal.SIGKILL
    ws = Workspace.open(tmp_path)
    sweep = next(one for one in ws.ledger.ls("run", Run) if "sweep.trials" in one.params)
    recover(ws.ledger)
    cut_off = ws.ledger.get("run", RunStore(ws.ledger).children(sweep.id)[-1], Run)
    assert cut_off.status == "failed"
    assert begin("4", sweep.id) == -signal.SIGKILL
    assert begin("99", sweep.id) == 0
    from flyball.track.sweeps import found

    result = found(ws.ledger, sweep.id)
    assert sum(one.value is not None for one in result.trials) == 12
    assert [one.number for one in result.trials] == list(range(14))
    assert result.trials[5].params == cut_off.params  # the trial that was cut off was tried first
    assert result.best is not None
    assert abs(result.best.params["x"] - 3) < 2
    assert ws.ledger.get("run", sweep.id, Run).status == "done"
    ws.ledger.close()


def test_a_program_that_ends_without_ending_its_run_closes_it(tmp_path: Path):
    (tmp_path / "flyball.toml").write_text("")
    code = "import flyball as fb; run = fb.track.start('p').begin(); run.metric('a', 1.0); {}"
    for what, status in (
        ("", "done"),
        ("raise ValueError('no')", "failed"),
        ("import os; os._exit(1)", "failed"),
    ):
        subprocess.run(
            [sys.executable, "-c", code.format(what)], cwd=tmp_path, check=False, capture_output=True
        )
        ledger = Ledger.open(f"sqlite:///{tmp_path}/.flyball/ledger.db", SystemClock())
        recover(ledger)
        run = ledger.ls("run", Run)[-1]
        assert run.status == status
        if "ValueError" in what:
            assert "ValueError: no" in run.error
        if "_exit" not in what:
            assert run.metrics == {"a": 1.0}
        ledger.close()


def test_children_of_multiprocessing_measure_and_lose_nothing(tmp_path: Path):
    (tmp_path / "flyball.toml").write_text("")
    code = """
import multiprocessing, warnings
import flyball as fb
warnings.simplefilter("ignore", DeprecationWarning)
def work(number):
    for step in range(50):
        fb.track.log_metric(f"child{number}", step, step)
if __name__ == "__main__":
    with fb.track.start("p") as run:
        run.metric("parent", 1.0)
        children = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in range(3)]
        for child in children: child.start()
        for child in children: child.join()
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    ledger = Ledger.open(f"sqlite:///{tmp_path}/.flyball/ledger.db")
    run = ledger.ls("run", Run)[0]
    store = RunStore(ledger)
    assert [len(store.history(run.id, f"child{number}")) for number in range(3)] == [50, 50, 50]
    assert (run.status, store.verify(run.id)) == ("done", [])
    ledger.close()
