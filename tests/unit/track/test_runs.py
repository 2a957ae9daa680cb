"""Runs: opened, measured, closed, and found dead when their process is."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, date, datetime

import msgspec
import pytest

from flyball.core.clock import ManualClock
from flyball.core.events import Edge
from flyball.core.records import Run
from flyball.errors import Conflict, Invalid, Refused
from flyball.stores.metadata import Ledger
from flyball.stores.run_seal import put_head
from flyball.track.liveness import is_alive, process_name, recover
from flyball.track.runs import get, history, log_metric, log_param, open_run, reopen, start


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://", ManualClock(datetime(2013, 4, 1, tzinfo=UTC)))
    yield ledger
    ledger.close()


def test_a_block_is_recorded_with_its_parameters_and_metrics(ledger):
    with start(ledger, "script", actor="person:ann", params={"until": date(2013, 4, 1)}, code="b3:c") as run:
        log_metric("auc", 0.7, step=1)
        log_metric("auc", 0.8, step=2)
        log_param("trees", 200)
    found = get(ledger, run.id)
    assert (found.status, found.metrics, found.actor) == ("done", {"auc": 0.8}, "person:ann")
    assert found.params == {"until": "2013-04-01", "trees": 200}
    assert [(one.value, one.step) for one in history(ledger, run.id, "auc")] == [(0.7, 1), (0.8, 2)]
    assert ledger.made_from(run.id) == [Edge(run.id, "b3:c", "code")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no"), "failed"), (Refused("no"), "refused"), (KeyboardInterrupt(), "failed")],
)
def test_a_block_that_raises_says_how_it_ended_and_keeps_its_metrics(ledger, error, status):
    def measure_and_raise():
        with start(ledger, actor="a"):
            log_metric("loss", 1.0)
            raise error

    with pytest.raises(type(error)):
        measure_and_raise()
    found = get(ledger, ledger.keys("run")[0])
    assert (found.status, found.metrics) == (status, {"loss": 1.0})
    assert found.error


def test_not_a_number_is_kept_in_the_history_and_breaks_nothing(ledger):
    with start(ledger, actor="a") as run:
        for value in (1.0, math.nan, -math.inf):
            log_metric("loss", value)
    assert get(ledger, run.id).metrics == {"loss": 1.0}
    values = [one.value for one in history(ledger, run.id, "loss")]
    assert values[0] == 1.0
    assert math.isnan(values[1])
    assert values[2] == -math.inf


def test_a_word_is_not_a_metric(ledger):
    with pytest.raises(Invalid, match="not a number"), start(ledger, actor="a"):
        log_metric("loss", "low")


def test_metrics_are_written_in_batches(ledger):
    with start(ledger, actor="a") as run:
        for number in range(2500):
            log_metric("loss", float(number), step=number)
        assert len(ledger.events(kind="run.logged")) <= 4
    assert len(history(ledger, run.id, "loss")) == 2500


def test_a_parameter_has_one_value(ledger):
    with start(ledger, actor="a", params={"trees": 10}):
        log_param("trees", 10)
        with pytest.raises(Invalid, match="trees is 10"):
            log_param("trees", 20)


def test_outside_a_run_logging_does_nothing():
    log_metric("auc", 0.7)
    log_param("trees", 1)


def dead_process() -> str:
    code = "from flyball.track.liveness import process_name; import sys; sys.stdout.write(process_name())"
    return subprocess.run((sys.executable, "-c", code), check=True, capture_output=True, text=True).stdout


def test_a_run_whose_process_is_gone_is_marked_and_can_be_reopened(ledger):
    alive = open_run(ledger, "train", params={}, code="", environment="", actor="a")
    run = open_run(ledger, "train", params={}, code="", environment="", actor="a")
    with ledger.transaction() as tx:
        dead = msgspec.structs.replace(tx.find("run", run.id, Run), process=dead_process())
        tx.append("run.moved", run.id, actor="test", sets=[("run", run.id, dead)])
        put_head(tx, dead)
    assert [one.id for one in recover(ledger)] == [run.id]
    assert recover(ledger) == []
    assert "gone" in get(ledger, run.id).error
    assert get(ledger, alive.id).status == "running"
    reopen(ledger, run.id, code="b3:2", environment="", actor="b").end("done")
    assert (get(ledger, run.id).status, get(ledger, run.id).error) == ("done", "")


def test_a_run_that_goes_on_or_is_done_is_not_reopened(ledger):
    run = open_run(ledger, "train", params={}, code="", environment="", actor="a")
    with pytest.raises(Conflict, match="is running"):
        reopen(ledger, run.id, code="", environment="", actor="b")
    run.end("done")
    with pytest.raises(Invalid, match="is done"):
        reopen(ledger, run.id, code="", environment="", actor="b")


def test_a_pid_that_is_used_again_is_another_process():
    name = process_name()
    assert is_alive(name)
    assert not is_alive(name.rpartition("/")[0] + "/1")
    assert is_alive("elsewhere/boot/1/1")  # another host: we can't see it
