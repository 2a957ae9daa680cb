"""``fb.track`` against MLflow used directly, each on its own SQLite on this machine: nothing between caller and database.

Both hold the same 5,000 finished runs (ten metrics, ten params, three tags each) and one history of 100,000 points.
MLflow runs in an interpreter of its own that is asked in turns with ours.

What profiling taught (CPU, 2 cores, Python 3.11): a list and a thread beat every queue (0.65 us a call of the caller);
building SQLAlchemy statements was two thirds of a small run, so those of the hot path are compiled once (7.4 to 2.8 ms);
100,000 rows of facts cost 100 ms to fetch whatever is done with them, 5,000 summaries 29 ms; a trickle of points fills up
blocks of 512, so that a history is a few hundred rows however it was logged.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Row, compare, in_turns
from benchmarks.peers import python_of
from benchmarks.peers.mlflow_client import EXPERIMENT, LONG, POINTS, RUNS
from benchmarks.versions_mlflow import _client, _fill
from flyball.service import Workspace, track
from flyball.service import runs as verbs

CALLS, BATCH, WHOLE = 100_000, 1_000, 20  # values, of one of MLflow's batches, runs; in one measurement


def measured(repeats: int) -> list[Row]:
    """The same work on both sides in turns, after one unmeasured turn each."""
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours", Path(name) / "mlflow"
        ours.mkdir()
        theirs.mkdir()
        _fill(ours, 0)
        with _client(python_of("mlflow"), theirs) as client:
            uri = f"sqlite:///{theirs}/mlflow.db"
            client("fill", uri, 1)
            work = _Work(Workspace.open(ours))
            rows = [
                _row(
                    what, unit, per_s, mine, lambda call=call, count=count: client(call, uri, count), repeats
                )
                for what, unit, mine, call, count, per_s in (
                    (
                        "one metric, for the caller",
                        "us",
                        work.call,
                        "log_metric",
                        50,
                        (1e6 / CALLS, 1e6 / 50),
                    ),
                    (
                        "metrics until durable",
                        "us each",
                        work.durable,
                        "log_batch",
                        5,
                        (1e6 / CALLS, 1e6 / 5 / BATCH),
                    ),
                    (
                        "a run: 10 params, 10 metrics, 1 artifact",
                        "ms",
                        work.whole,
                        "whole_run",
                        5,
                        (1e3 / WHOLE, 1e3 / 5),
                    ),
                    (
                        "search 5,000 runs: 2 filters, order, 100 rows",
                        "ms",
                        work.search,
                        "search",
                        3,
                        (1e3, 1e3 / 3),
                    ),
                    ("5,000 runs into a frame", "ms", work.frame, "frame", 1, (1e3, 1e3)),
                    ("history of 100,000 points", "ms", work.history, "history", 1, (1e3, 1e3)),
                    ("the same, thinned to 2,000", "ms", work.thinned, "history", 1, (1e3, 1e3)),
                )
            ]
            work.ws.ledger.close()
    return rows


def _row(
    what: str,
    unit: str,
    per_s: tuple[float, float],
    ours: Callable[[], float],
    beside: Callable[[], float],
    repeats: int,
) -> Row:
    ours()
    beside()
    pairs = in_turns(lambda: ours() * per_s[0], lambda: beside() * per_s[1], repeats)
    return compare(what, unit, pairs)


class _Work:
    """What is timed on our side; each answers seconds."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws.use()
        self.long = verbs.ls(experiment=LONG, ws=ws)[0]["id"]

    def call(self) -> float:
        """Only what the caller waits for: the thread writes meanwhile, and the rest is written after the clock stopped."""
        with track.start("timed", ws=self.ws) as run:
            metric = run.metric
            started = time.perf_counter()
            for step in range(CALLS):
                metric("single", 0.5, step)
            return time.perf_counter() - started

    def durable(self) -> float:
        with track.start("timed", ws=self.ws) as run:
            started = time.perf_counter()
            for step in range(CALLS):
                run.metric("batched", step / 7, step)
            run.flush()
            return time.perf_counter() - started

    def whole(self) -> float:
        started = time.perf_counter()
        for number in range(WHOLE):
            with track.start("timed", {f"p{n}": n for n in range(10)}, ws=self.ws) as run:
                run.metrics({f"m{n}": n / 7 for n in range(10)})
                run.artifact(f"artifact {number} {started}".encode(), "a.txt")
        return time.perf_counter() - started

    def search(self) -> float:
        started = time.perf_counter()
        where = "metrics.metric3 > 0.5 and params.param4 = '3'"
        query = verbs._query(self.ws, where, "metrics.metric5 desc", EXPERIMENT, "", 100, "active")
        found = verbs._store(self.ws).search(query).runs
        assert len(found) == 100
        return time.perf_counter() - started

    def frame(self) -> float:
        started = time.perf_counter()
        assert track.search(experiment=EXPERIMENT, ws=self.ws).height == RUNS
        return time.perf_counter() - started

    def history(self) -> float:
        started = time.perf_counter()
        assert track.history(self.long, "loss", ws=self.ws).height == POINTS
        return time.perf_counter() - started

    def thinned(self) -> float:
        started = time.perf_counter()
        assert track.history(self.long, "loss", points=2000, ws=self.ws).height <= 2000
        return time.perf_counter() - started
