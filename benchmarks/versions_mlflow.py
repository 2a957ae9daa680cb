"""MLflow's unmodified client against our console, and against MLflow's own server on its defaults (SQLite, this machine).

Both hold the same 5,000 finished runs (ten metrics, ten params, three tags each) and one history of 100,000 points.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Row, compare, in_turns
from benchmarks.peers import python_of
from benchmarks.peers.mlflow_client import EXPERIMENT, LONG, METRICS, POINTS, RUNS, value_of
from flyball.demo.setup import free_port

# what, what the client calls, how often in one measurement, units of a call, milliseconds or seconds
ROWS = (
    ("log_metric, one call", "log_metric", 50, "ms"),
    ("log_batch, 1,000 metrics", "log_batch", 5, "ms"),
    ("a run: 10 params, 10 metrics, 1 artifact", "whole_run", 5, "ms"),
    ("search 5,000 runs: 2 filters, order, 100 rows", "search", 3, "ms"),
    ("5,000 runs into a frame", "frame", 1, "s"),
    ("history of 100,000 points", "history", 1, "s"),
)


def measured(repeats: int) -> list[Row]:
    """Start both servers, then let one client do the same to each in turns."""
    python = python_of("mlflow")
    with tempfile.TemporaryDirectory() as name, _client(python) as client:
        ours, theirs = Path(name) / "ours", Path(name) / "mlflow"
        ours.mkdir()
        theirs.mkdir()
        port, other = free_port(0), free_port(0)
        _fill(ours, port)
        client("fill", f"sqlite:///{theirs}/mlflow.db", 1)
        backend = ("--backend-store-uri", f"sqlite:///{theirs}/mlflow.db")
        kept = ("--artifacts-destination", str(theirs / "artifacts"))
        command = [str(python), "-m", "mlflow", "server", *backend, *kept, "--port", str(other)]
        console = [sys.executable, "-m", "flyball", "console"]
        with _server(console, ours, port) as mine, _server(command, theirs, other) as beside:
            rows = [
                compare("ready after its start", "s", [(mine.ready_s, beside.ready_s)]),
                compare("memory when ready (PSS of all its processes)", "MB", [(mine.mb(), beside.mb())]),
            ]
            for what, call, count, unit in ROWS:
                per_s = (1000 if unit == "ms" else 1) / count
                work = [_timed(client, call, server.url, count, per_s) for server in (mine, beside)]
                for one in work:
                    one()
                rows.append(compare(what, unit, in_turns(*work, repeats)))
            rows.append(compare("memory after all that", "MB", [(mine.mb(), beside.mb())]))
        return rows


def _timed(client: Any, call: str, url: str, count: int, per_s: float) -> Callable[[], float]:
    return lambda: client(call, url, count) * per_s


@contextmanager
def _client(python: Path, cwd: Path | None = None) -> Iterator[Callable[[str, str, int], float]]:
    """The peer's interpreter with its client in it; called, it answers seconds."""
    root = Path(__file__).parents[1]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))
    }
    environment |= {"PYTHONPATH": str(root), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    process = subprocess.Popen(
        [python, "-m", "benchmarks.peers.mlflow_client"],
        env=environment,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answers = process.stdin, process.stdout

    def call(what: str, uri: str, count: int) -> float:
        asked.write(json.dumps({"what": what, "uri": uri, "count": count}) + "\n")
        asked.flush()
        line = answers.readline()
        if not line:
            said = process.stderr.read() if process.stderr is not None else ""
            raise subprocess.CalledProcessError(process.wait(), "mlflow's client", stderr=said[-3000:])
        return float(line)

    try:
        yield call
    finally:
        asked.close()
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class _Running:
    """A server that answers, how long that took, and what it holds."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, ready_s: float) -> None:
        self.process, self.url, self.ready_s = process, url, ready_s

    def mb(self) -> float:
        """Proportional set size of the process and all below it: shared pages count once."""
        parent = psutil.Process(self.process.pid)
        return sum(one.memory_full_info().pss for one in (parent, *parent.children(recursive=True))) / 1e6


@contextmanager
def _server(command: list[str], folder: Path, port: int) -> Iterator[_Running]:
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        while time.perf_counter() - started < 180:
            if process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                    answer.read()
                yield _Running(process, url, time.perf_counter() - started)
                return
            except OSError:
                time.sleep(0.02)
        said = (folder / "server.log").read_text()[-3000:]
        raise subprocess.CalledProcessError(process.returncode or 1, command, stderr=said)
    finally:
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(30)
        for one in psutil.wait_procs(below, timeout=10)[1]:
            one.kill()


def _fill(folder: Path, port: int) -> None:
    """The same runs in a workspace of ours."""
    from datetime import UTC, datetime, timedelta

    import msgspec
    import numpy as np

    from flyball.core.clock import to_us
    from flyball.core.ids import new_id
    from flyball.core.records import Run
    from flyball.service import Workspace
    from flyball.stores.points import series_of
    from flyball.stores.run_seal import put_head, sealed_record
    from flyball.stores.runs import Point, RunStore
    from flyball.track import experiments

    (folder / "flyball.toml").write_text(f"[console]\nport = {port}\n")
    ws = Workspace.open(folder)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    places = [experiments.create(ws.ledger, name, actor="benchmark").id for name in (EXPERIMENT, LONG)]
    runs: list[Run] = []
    for n in range(RUNS + 1):
        begun = start + timedelta(seconds=n)
        run = Run(
            id=new_id("run", begun),
            pipeline="mlflow",
            started=begun,
            status="running",
            params={},
            code="",
            environment="",
            actor="person:ann",
            name=f"run {n}",
            experiment=places[n == RUNS],
        )
        runs.append(run)
    store = RunStore(ws.ledger)
    for part in range(0, len(runs), 500):
        with ws.ledger.transaction() as tx:
            for run in runs[part : part + 500]:
                tx.append("run.started", run.id, actor=run.actor, sets=[("run", run.id, run)])
                put_head(tx, run)
    for n, run in enumerate(runs[:RUNS]):
        at_us = to_us(run.started)
        store.write(
            run.id,
            params={f"param{k}": str(n % 7) for k in range(METRICS)},
            metrics=[Point(f"metric{k}", value_of(n, k), 0, at_us) for k in range(METRICS)],
            tags={"mlflow.runName": run.name, "mlflow.user": "ann", "team": "air"},
        )
    steps = np.arange(POINTS)
    series = series_of(1 / (steps + 1), steps, to_us(start) + 1000 * steps)
    store.write(runs[RUNS].id, series={"loss": series})
    for part in range(0, len(runs), 500):
        with ws.ledger.transaction() as tx:
            for run in runs[part : part + 500]:
                done = msgspec.structs.replace(run, status="done", ended=run.started + timedelta(seconds=5))
                sealed = sealed_record(tx.connection, done)
                tx.append("run.done", run.id, actor=run.actor, sets=[("run", run.id, sealed)])
                put_head(tx, sealed)
    ws.ledger.close()
