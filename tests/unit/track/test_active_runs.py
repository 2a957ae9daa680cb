"""A run as the one who trains sees it: nothing waits, nothing is lost, what goes wrong is said."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from flyball.core.clock import SystemClock
from flyball.core.records import Run
from flyball.errors import Invalid, NotFound, Refused, Unavailable
from flyball.stores.artifacts import ArtifactStore
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.stores.runs import RunStore
from flyball.track import runs, writing
from flyball.track.runs import current, get, open_run, start, update


@pytest.fixture
def blobs() -> Blobs:
    return Blobs.open("memory:")


@pytest.fixture
def store(ledger: Ledger) -> RunStore:
    return RunStore(ledger)


def test_values_are_durable_within_a_second_without_being_asked(ledger_url):
    ledger = Ledger.open(ledger_url, SystemClock())
    run = start(ledger, "p", actor="a").begin()
    run.metric("loss", 0.5, 3)
    run.param("trees", 10)
    run.tag("x", "y")
    deadline = time.monotonic() + 5
    while not RunStore(ledger).facts([run.id])[run.id].metrics and time.monotonic() < deadline:
        time.sleep(0.02)
    facts = RunStore(ledger).facts([run.id])[run.id]
    assert (facts.metrics["loss"].value, facts.params, facts.tags) == (0.5, {"trees": "10"}, {"x": "y"})
    run.end()
    ledger.close()


def test_many_threads_and_batches_keep_the_order_of_each_metric(ledger, store):
    with start(ledger, "p", actor="a") as run:

        def measure(name: str) -> None:
            for step in range(4000):
                run.metric(name, float(step), step)
            run.metric_points(name, np.arange(4000.0, 5000.0), range(4000, 5000))
            run.metric(name, 5000.0, 5000)

        threads = [threading.Thread(target=measure, args=(f"m{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            run.flush()
        for thread in threads:
            thread.join()
    for number in range(4):
        assert store.history(run.id, f"m{number}").steps.tolist() == list(range(5001))
    assert store.verify(run.id) == []


def test_arrays_dicts_and_numbers_of_libraries_are_metrics(ledger, store):
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=i) for i in range(3)]
    with start(ledger, "p", actor="a") as run:
        run.metrics({"a": np.float32(0.5), "b": 1, "c": True}, step=np.int64(2))
        run.metric_points("d", [1.0, 2.0, math.nan], times=times)
        run.metric_points(
            "e", pl.Series([1, 2]), steps=[5, 4], times=np.array(["2026-01-01", "2026-01-02"], "M8[s]")
        )
        run.metric("f", np.array(3.0), at=times[0])
        run.metric_points("none", [])
    metrics = store.facts([run.id])[run.id].metrics
    assert {name: (one.value, one.step) for name, one in metrics.items() if name in "abce"} == {
        "a": (0.5, 2),
        "b": (1.0, 2),
        "c": (1.0, 2),
        "e": (1.0, 5),
    }
    assert math.isnan(metrics["d"].value)
    assert metrics["d"].at_us - metrics["f"].at_us == 2_000_000
    assert "none" not in metrics


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.metric("a", "low"), "not a number"),
        (lambda run: run.metric("a", None), "not a number"),
        (lambda run: run.metric("a", 1.0, 0.5), "not a whole number"),
        (lambda run: run.metric("a", 1.0, 2**63), "64 bits"),
        (lambda run: run.metric("", 1.0), "name of a metric"),
        (lambda run: run.metric(3, 1.0), "is a text"),
        (lambda run: run.metrics({"a": 1.0, "b": "x"}), "not a number"),
        (lambda run: run.metric_points("a", [1.0], [1, 2]), "steps of shape"),
        (lambda run: run.param("x" * 251, 1), "name of a param"),
        (lambda run: run.artifact(b"x"), "no name"),
        (lambda run: run.artifact(b"x", "../x"), "not a path"),
        (lambda run: run.figure(object(), "a.svg"), "no figure"),
        (lambda run: run.figure(object(), "a"), "no ending"),
        (lambda run: run.table(3, "a"), "no table"),
        (lambda run: run.system_metrics(0.0), "no interval"),
    ],
)
def test_a_mistake_is_said_at_the_call_and_nothing_of_it_is_noted(ledger, store, blobs, call, said):
    with start(ledger, "p", actor="a", blobs=blobs) as run:
        with pytest.raises(Invalid, match=said):
            call(run)
        run.flush()
        facts = store.facts([run.id])[run.id]
        assert (facts.params, facts.metrics) == ({}, {})


class Broken:
    """A ledger whose disk is full for a while: the real one, with writes refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.error: Exception = Unavailable("the disk of the ledger is full", "free some space")
        real = writing.changing

        def changing(*args, **kwargs):
            if self.left > 0:
                self.left -= 1
                raise self.error
            return real(*args, **kwargs)

        monkeypatch.setattr(writing, "changing", changing)


def test_a_failed_write_is_told_at_the_next_call_and_loses_nothing(ledger, store, monkeypatch):
    broken = Broken(monkeypatch)
    run = start(ledger, "p", actor="a").begin()
    run.metric("a", 1.0)
    run.flush()
    broken.left = 1
    run.metric("a", 2.0, 1)
    run.writer.step()  # the thread's turn
    with pytest.raises(Unavailable, match="full"):
        run.metric("a", 3.0, 2)
    run.metric("a", 4.0, 3)
    run.end()
    assert store.history(run.id, "a").values.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_flush_that_fails_raises_and_can_be_asked_again(ledger, store, monkeypatch):
    broken = Broken(monkeypatch)
    run = start(ledger, "p", actor="a").begin()
    run.metric("a", 1.0)
    broken.left = 1
    with pytest.raises(Unavailable):
        run.flush()
    run.flush()
    assert store.history(run.id, "a").values.tolist() == [1.0]
    run.end()


def test_a_run_deleted_behind_our_back_is_told_at_each_call(ledger, store):
    run = start(ledger, "p", actor="a").begin()
    run.metric("a", 1.0)
    run.flush()
    store.delete(run.id, actor="b")
    run.metric("a", 2.0)
    run.writer.step()
    for _ in range(2):
        with pytest.raises(Invalid, match="is deleted"):
            run.metric("a", 3.0)
    store.restore(run.id, actor="b")
    run.end()
    assert len(store.history(run.id, "a")) == 4


def test_a_param_another_process_wrote_differently_is_left_out_and_told(ledger, store):
    run = start(ledger, "p", actor="a").begin()
    store.write(run.id, params={"trees": 1})
    run.param("trees", 2)
    run.param("depth", 3)
    run.metric("a", 1.0)
    with pytest.raises(Invalid, match="trees is 1"):
        run.end()
    found = get(ledger, run.id)
    assert (found.status, found.params, found.metrics) == ("done", {"trees": "1", "depth": 3}, {"a": 1.0})
    assert store.verify(run.id) == []


def test_after_its_end_a_run_takes_nothing_more(ledger):
    run = start(ledger, "p", actor="a").begin()
    run.end()
    run.end()
    for call in (lambda: run.metric("a", 1.0), lambda: run.param("a", 1), lambda: run.tag("a", 1)):
        with pytest.raises(Invalid, match="has ended"):
            call()


def test_runs_inside_runs_know_whose_children_they_are(ledger, store):
    with start(ledger, "outer", actor="a") as outer:
        with start(ledger, "inner", actor="a", parent=outer.id) as inner:
            assert current() is inner
        assert current() is outer
        again = start(ledger, "inner", actor="a", parent=outer.id).begin()
        assert current() is again
        again.end()
        assert current() is outer
    assert current() is None
    assert set(store.children(outer.id)) == {inner.id, again.id}
    assert get(ledger, inner.id).parent == outer.id
    assert [edge.role for edge in ledger.made_from(inner.id)] == ["parent"]


def test_files_folders_bytes_and_tables_are_artifacts(ledger, store, blobs, tmp_path):
    (tmp_path / "plots" / "deep").mkdir(parents=True)
    (tmp_path / "plots" / "a.txt").write_text("a")
    (tmp_path / "plots" / "deep" / "b.txt").write_text("b")
    with start(ledger, "p", actor="a", blobs=blobs) as run:
        run.artifact(tmp_path / "plots")
        run.artifact(str(tmp_path / "plots" / "a.txt"), "copy/")
        digest = run.artifact(b"bytes", "x.bin")
        run.artifact(b"other", "x.bin")
        run.table({"x": [1, 2]}, "t")
        run.table(pl.DataFrame({"y": [1.5]}).lazy(), "lazy.parquet")
        with pytest.raises(NotFound, match="no file"):
            run.artifact(tmp_path / "none.txt")
    files = ArtifactStore(ledger, blobs)
    assert [one.path for one in files.ls(run.id)] == [
        "copy/a.txt",
        "lazy.parquet",
        "plots/a.txt",
        "plots/deep/b.txt",
        "t.parquet",
        "x.bin",
    ]
    assert files.get(run.id, "x.bin") == b"other"
    assert blobs.get(digest) == b"bytes"
    assert pl.read_parquet(files.get(run.id, "t.parquet"))["x"].to_list() == [1, 2]
    assert [(one.path, one.is_folder) for one in files.entries(run.id, "plots")] == [
        ("plots/a.txt", False),
        ("plots/deep", True),
    ]
    assert store.verify(run.id) == []
    with pytest.raises(NotFound, match=r"did you mean 'x\.bin'"):
        files.get(run.id, "y.bin")
    assert files.delete(run.id, "plots") == 2
    assert store.verify(run.id) == []
    files.put(run.id, "late.txt", b"late")
    assert store.verify(run.id) == []


def test_a_figure_of_matplotlib_is_kept_as_its_ending_says(ledger, blobs):
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2])
    with start(ledger, "p", actor="a", blobs=blobs) as run:
        run.figure(figure, "a.svg")
        run.figure(axes, "b.png")
        with pytest.raises(Invalid, match="can't write"):
            run.figure(figure, "a.xyz")
    files = ArtifactStore(ledger, blobs)
    assert b"<svg" in files.get(run.id, "a.svg")
    assert files.get(run.id, "b.png").startswith(b"\x89PNG")


def test_the_machine_is_measured_on_the_side(ledger, store):
    with start(ledger, "p", actor="a", system_s=0.05) as run:
        run.metric("a", 1.0)
        sampler = run._sampler
    assert sampler is not None
    assert not sampler.is_alive()
    metrics = store.facts([run.id])[run.id].metrics
    assert metrics["system/system_memory_usage_megabytes"].value > 0
    assert 0 <= metrics["system/cpu_utilization_percentage"].value <= 100
    assert "system/disk_available_megabytes" in metrics


def test_a_run_of_another_machine_is_changed_and_sealed_by_its_client(ledger, store):
    run = open_run(ledger, "p", params={}, code="", environment="", actor="a", remote=True)
    ended = datetime(2013, 5, 1, tzinfo=UTC)
    found = update(ledger, run.id, status="killed", ended=ended, name="x", actor="a")
    assert (found.status, found.ended, found.name, found.seal != "") == ("killed", ended, "x", True)
    assert store.head(run.id).ended_us is not None
    found = update(ledger, run.id, status="running", actor="a")
    assert (found.ended, found.seal) == (None, "")
    assert store.running() == []
    store.delete(run.id, actor="a")
    with pytest.raises(Invalid, match="is deleted"):
        update(ledger, run.id, status="done", actor="a")


def test_what_was_read_is_lineage_at_once(ledger):
    with start(ledger, "p", actor="a") as run:
        run.input("flights@3", "training")
        assert get(ledger, run.id).inputs == {"training": "flights@3"}
    assert [(edge.of, edge.role) for edge in ledger.made_from(run.id)] == [
        ("snapshot:flights@3", "input:training")
    ]
    assert get(ledger, run.id).inputs == {"training": "flights@3"}


def test_a_record_is_bounded_and_counts_the_rest(ledger, store):
    with start(ledger, "p", actor="a") as run:
        run.params({f"p{number}": number for number in range(1500)})
        run.metrics({f"m{number}": number for number in range(1500)})
        run.param("late", "x" * 5000)
    found = get(ledger, run.id)
    assert (len(found.params), len(found.metrics)) == (1000, 1000)
    assert found.counts == {"params": 1501, "metrics": 1500, "tags": 0, "points": 1500}
    assert len(store.facts([run.id])[run.id].params) == 1501
    assert store.verify(run.id) == []


def test_a_child_process_measures_in_the_same_run_and_does_not_end_it(ledger_url):
    ledger = Ledger.open(ledger_url, SystemClock())
    run = start(ledger, "p", actor="a").begin()
    run.metric("parent", 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork and threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        code = 1
        try:
            for step in range(100):
                run.metric("child", float(step), step)
            run.end()
            code = 0
        finally:
            os._exit(code)
    for step in range(100):
        run.metric("parent", float(step), step)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert get(ledger, run.id).status == "running"
    run.end()
    store = RunStore(ledger)
    assert len(store.history(run.id, "child")) == 100
    assert len(store.history(run.id, "parent")) == 101
    assert store.verify(run.id) == []
    ledger.close()


def test_a_ledger_that_another_process_holds_delays_nobody_who_measures(tmp_path):
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    run = start(ledger, "p", actor="a").begin()
    held = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    held.execute("begin immediate")
    run.metric("a", 0.0)
    worst = 0.0
    for step in range(2000):
        began = time.perf_counter()
        run.metric("a", float(step), step)
        worst = max(worst, time.perf_counter() - began)
        if step % 100 == 0:
            time.sleep(0.01)  # the writer's thread gets to the lock and waits there
    assert worst < 1.0
    assert RunStore(ledger).facts([run.id])[run.id].metrics == {}
    held.execute("rollback")
    held.close()
    run.end()
    assert len(RunStore(ledger).history(run.id, "a")) == 2001
    ledger.close()


def test_a_block_that_is_refused_says_so_even_when_the_run_can_not_be_closed(ledger, monkeypatch):
    def refuse():
        with start(ledger, "p", actor="a") as run:
            monkeypatch.setattr(run, "end", fail)
            raise Refused("the gate said no")

    def fail(*_args):
        raise Unavailable("gone")

    with pytest.raises(Refused, match="gate") as caught:
        refuse()
    assert "could not be closed" in caught.value.__notes__[0]


def test_a_value_is_taken_in_microseconds(tmp_path):
    """CPU of the caller's thread, the best of five: bounded generously, the figure itself is a benchmark's."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    run = start(ledger, "p", actor="a").begin()
    took = []
    for _ in range(5):
        started = time.thread_time()
        for step in range(5000):
            run.metric("loss", 0.5, step)
        took.append((time.thread_time() - started) / 5000)
    run.end()
    assert min(took) < 5e-6
    assert runs.RunStore(ledger).facts([run.id])[run.id].metrics["loss"].points == 25_000
    assert ledger.get("run", run.id, Run).metrics == {"loss": 0.5}
    ledger.close()
