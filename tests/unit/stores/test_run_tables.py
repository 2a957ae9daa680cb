"""Ledgers from before runs had tables, runs with a million tags, and a disk that is full."""

from __future__ import annotations

import math
import time

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from flyball.core.records import Run
from flyball.errors import Invalid, NotFound, Unavailable
from flyball.stores.artifacts import ArtifactStore
from flyball.stores.blobs import Blobs
from flyball.stores.engine import connection_to_write, open_engine
from flyball.stores.metadata import Ledger
from flyball.stores.run_tables import RUNS
from flyball.stores.runs import Point, RunQuery, RunStore, series_of
from flyball.track.runs import get, history, open_run, reopen, start
from tests.filling import small_disk


def first_schema(url: str) -> None:
    """An empty ledger as it was before this migration."""
    engine = open_engine(url)
    config = Config()
    config.set_main_option("script_location", "src/flyball/stores/migrations")
    with connection_to_write(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()


def test_runs_of_the_first_ledger_are_brought_over_with_their_histories(ledger_url, monkeypatch):
    first_schema(ledger_url)
    with monkeypatch.context() as patch:
        patch.setattr("flyball.stores.metadata.SCHEMA_VERSION", "0001")
        old = Ledger.open(ledger_url)
    with old.transaction() as tx:
        run = Run(
            id="run_1",
            pipeline="train",
            started=tx.now(),
            ended=tx.now(),
            status="failed",
            params={"trees": 10, "until": "2013-04-01"},
            metrics={"loss": 0.5, "bare": 1.0},
            code="",
            environment="",
            actor="person:ann",
        )
        fields = {"name", "experiment", "parent", "deleted", "counts", "seal"}
        plain = {key: value for key, value in msgspec.to_builtins(run).items() if key not in fields}
        tx.append("run.started", "run_1", actor="a", sets=[("run", "run_1", plain)])
        points = [["loss", 1.0, 1], ["loss", "nan", 2], ["loss", 0.5, 3], ["other", "inf", 0]]
        for part in (points[:2], points[2:]):
            tx.append("run.logged", "run_1", actor="a", sets=[("run", "run_1", plain)], body={"points": part})
    old.close()

    ledger = Ledger.open(ledger_url)
    store = RunStore(ledger)
    found = store.search(RunQuery()).runs[0]
    assert (found.head.pipeline, found.head.status, found.head.name) == ("train", "failed", "")
    assert found.facts.params == {"trees": "10", "until": "2013-04-01"}
    assert [(one.step, repr(one.value)) for one in history(ledger, "run_1", "loss")] == [
        (1, "1.0"),
        (2, "nan"),
        (3, "0.5"),
    ]
    assert found.facts.metrics["other"].value == math.inf
    assert found.facts.metrics["bare"].value == 1.0
    assert store.verify("run_1") == []
    again = reopen(ledger, "run_1", code="", environment="", actor="a")
    again.metric("loss", 0.4, 4)
    again.end()
    assert get(ledger, "run_1").metrics == {"bare": 1.0, "loss": 0.4}
    assert len(history(ledger, "run_1", "loss")) == 4
    ledger.close()


def test_a_run_may_have_tens_of_thousands_of_tags_and_metrics(ledger):
    """A million tags take 6 s of CPU on SQLite (measured); here there are as many as a quick test bears."""
    many = 20_000 if ledger.url.startswith("sqlite") else 2000
    store = RunStore(ledger)
    with start(ledger, "p", actor="a") as run:
        run.tags({f"t{number}": "x" for number in range(2 * many)})
        run.metrics({f"m{number}": number for number in range(many)})
        run.params({f"p{number}": number for number in range(many)})
    record = get(ledger, run.id)
    assert record.counts == {"params": many, "metrics": many, "tags": 2 * many, "points": many}
    facts = store.search(RunQuery()).runs[0].facts
    assert (len(facts.tags), facts.metrics[f"m{many - 1}"].value) == (2 * many, many - 1)
    assert store.verify(run.id) == []


def test_histories_of_a_hundred_thousand_points_are_read_in_time(tmp_path):
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    run = open_run(ledger, "p", params={}, code="", environment="", actor="a")
    for start_ in range(0, 100_000, 1000):
        run.metric_points("loss", [0.5] * 1000, range(start_, start_ + 1000))
        run.flush()
    store = RunStore(ledger)
    took = []
    for _ in range(5):
        began = time.process_time()
        assert len(store.history(run.id, "loss")) == 100_000
        assert len(store.history(run.id, "loss", sampled=2000)) <= 2000
        took.append(time.process_time() - began)
    assert min(took) < 0.1
    run.end()
    ledger.close()


def test_a_full_disk_is_said_and_what_was_measured_meanwhile_is_not_lost(tmp_path):
    with small_disk(tmp_path / "disk", "3m") as disk:
        ledger = Ledger.open(f"sqlite:///{disk}/ledger.db")
        run = start(ledger, "p", actor="a").begin()
        run.metric("a", 1.0)
        run.flush()
        stuffing = disk / "stuffing"
        with pytest.raises(OSError, match="No space"), stuffing.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(Unavailable, match="full"):
            run.metric_points("b", [0.5] * 60_000)  # so many are written at once, by the caller
        with pytest.raises(Unavailable, match="full"):
            run.flush()
        assert run.writer.waiting == 1
        stuffing.unlink()
        run.end()
        store = RunStore(ledger)
        assert len(store.history(run.id, "b")) == 60_000
        assert store.verify(run.id) == []
        ledger.close()


def test_a_batch_that_fails_in_its_middle_leaves_nothing(ledger):
    store = RunStore(ledger)
    run = open_run(ledger, "p", params={"a": 1}, code="", environment="", actor="a").id
    with pytest.raises(Invalid):
        store.write(run, tags={"t": "1"}, metrics=[Point("m", 1.0), Point("", 1.0)])
    with pytest.raises(Invalid):
        store.write(run, tags={"t": "1"}, series={"m": series_of([1.0])}, params={"a": 2})
    facts = store.facts([run])[run]
    assert (facts.tags, facts.metrics) == ({}, {})


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "a/../b", ".", "a\\b", "a\x00b", "x" * 501, "\ud800"]
)
def test_a_path_that_leads_out_or_can_not_be_kept_is_said(ledger, path):
    files = ArtifactStore(ledger, Blobs.open("memory:"))
    with pytest.raises(Invalid):
        files.put("model:delays@3", path, b"x")
    assert files.ls("model:delays@3") == []


def test_files_of_other_owners_are_their_own(ledger, tmp_path):
    files = ArtifactStore(ledger, Blobs.open("memory:"))
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "ü b.txt").write_bytes(b"1")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    files.put_folder("m-1", tmp_path / "d", "model")
    files.put("m-1", "model.txt", b"2")
    digest = files.put("model:a@1", "model/x", b"2").digest
    assert [one.path for one in files.ls("m-1", "model")] == ["model/e/ü b.txt"]
    assert [one.path for one in files.ls("m-1")] == ["model.txt", "model/e/ü b.txt"]
    assert files.owners(digest) == [("m-1", "model.txt"), ("model:a@1", "model/x")]
    assert files.put("m-2", "y", digest).size_bytes == 1
    assert files.entries("m-1", "model.txt") == []
    assert files.delete("m-1", "model") == 1
    with pytest.raises(NotFound):
        files.put("m-2", "z", "b3:" + "0" * 64)
    with pytest.raises(Invalid, match="not a digest"):
        files.put("m-2", "z", "zzz")
    with pytest.raises(NotFound, match="no folder"):
        files.put_folder("m-1", tmp_path / "none")


def test_verifying_names_what_is_gone(ledger):
    store = RunStore(ledger)
    run = open_run(ledger, "p", params={}, code="", environment="", actor="a").id
    with ledger.writing() as connection:
        connection.execute(sa.delete(RUNS))
    assert store.verify(run) == [f"run {run} is gone from the table of runs"]
    assert store.verify("run_none") == ["run run_none is gone from the ledger"]
