"""Streams from real brokers: every event once, offline and online, whatever is killed when."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flyball.core.records import Report
from flyball.service.features import views
from flyball.service.feeds import Feed
from flyball.service.streaming import KIND, run
from flyball.service.workspace import Workspace
from tests import brokers, feeding
from tests.brokers import Broker
from tests.feeding import event, table

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

BROKERS = {"kafka": brokers.kafka, "nats": brokers.nats, "redis": brokers.redis, "rabbit": brokers.rabbit}


@pytest.fixture(scope="module", params=list(BROKERS))
def broker_of(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with BROKERS[request.param]() as broker:
        yield broker


@pytest.fixture
def broker(broker_of: Broker, request: pytest.FixtureRequest) -> Broker:
    return broker_of


def rows_of(ws: Workspace) -> pl.DataFrame:
    return Feed(ws, "clicks").history()


def agree(ws: Workspace, events: list[dict[str, Any]]) -> None:
    """Offline table, online values and what was sent are one."""
    rows = rows_of(ws)
    assert sorted(rows["id"].to_list()) == [one["id"] for one in events]
    asked = feeding.questions(len(events))
    assert feeding.online(ws, views(ws), asked) == feeding.offline(views(ws), asked, table(events))
    assert feeding.offline(views(ws), asked, rows) == feeding.offline(views(ws), asked, table(events))


def test_events_land_on_both_sides_and_a_killed_reader_goes_on(broker: Broker, tmp_path: Path) -> None:
    """One test a broker: brokers are slow to start and a stream has one past."""
    ws = feeding.project(tmp_path / "p", broker.url)
    events = [event(n) for n in range(1500)]
    broker.send(events[:40])
    (done,) = run(ws, idle_s=1.0)
    assert (done.rows, done.bad, done.messages) == (40, 0, 40)
    (report,) = [one for one in ws.ledger.ls("report", Report) if one.kind == KIND]
    assert report.evidence["rows"] == 40
    agree(ws, events[:40])

    broker.send([b"no json", {"user": "u1"}, {**event(40), "amount": "much"}, *events[40:60]])
    (done,) = run(ws, idle_s=1.0)
    assert (done.rows, done.bad) == (20, 3)
    (dead,) = (ws.tables_dir / "dead" / "clicks").iterdir()
    reasons = [one["reason"] for one in pl.read_ndjson(dead).to_dicts()]
    assert len(reasons) == 3
    assert any("amount" in one for one in reasons)
    agree(ws, events[:60])
    feeding.close(ws)

    killed(ws.root, broker, events[60:])
    ws = feeding.project(tmp_path / "p", broker.url)
    run(ws, idle_s=2.0)
    agree(ws, events)
    feeding.close(ws)


def killed(root: Path, broker: Broker, events: list[dict[str, Any]], times: int = 4) -> None:
    """A reader in a process of its own, killed with -9 at random instants while events come."""
    chance = random.Random(len(events))
    command = [sys.executable, "-c", READER, str(root), broker.url]
    size = len(events) // times
    for begin in range(0, len(events), size):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline()  # it has begun
            for first in range(begin, min(begin + size, len(events)), 40):
                broker.send(events[first : min(first + 40, begin + size)])
                time.sleep(chance.random() * 0.05)
            reader.send_signal(signal.SIGKILL)


READER = """
import sys
from pathlib import Path
from flyball.service import streaming
from tests import feeding
ws = feeding.project(Path(sys.argv[1]), sys.argv[2])
streaming.BATCH_ROWS = 17
print("begun", flush=True)
streaming.run(ws)
"""
