"""Streams from real brokers: every event once, offline and online, whatever is killed when."""

from __future__ import annotations

import json
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
from flyball.errors import Unavailable
from flyball.heal.incidents import open_of
from flyball.service.features import views
from flyball.service.feeds import Feed
from flyball.service.streaming import KIND, run, streams
from flyball.service.workspace import Workspace
from tests import brokers, feeding
from tests.brokers import Broker
from tests.feeding import event, table

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

BROKERS = {"kafka": brokers.kafka, "nats": brokers.nats, "redis": brokers.redis, "rabbit": brokers.rabbit}


@pytest.fixture(scope="module", params=list(BROKERS))
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with BROKERS[request.param]() as broker:
        yield broker


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
    events = [event(n) for n in range(660)]
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


def killed(root: Path, broker: Broker, events: list[dict[str, Any]], times: int = 3) -> None:
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


def test_flyball_up_reads_streams_and_sets_a_bad_batch_aside(tmp_path: Path) -> None:
    with brokers.redis() as broker:
        ws = feeding.project(tmp_path / "p", broker.url)
        settings = ws.root / "flyball.toml"
        settings.write_text(settings.read_text() + "[features]\nstreams = true\n")
        command = [sys.executable, "-m", "flyball", "up", "--only", "streams", "--project", str(ws.root)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as up:
            wait_until(ws, {"rows": 40}, lambda: broker.send([event(n) for n in range(40)]))
            broker.send([{**event(40), "amount": 1e9}])
            wait_until(ws, {"set_aside": 1})
            broker.send([event(n, late=3600) for n in range(41, 61)])
            wait_until(ws, {"rows": 60, "late": 20})
            (shown,) = streams(ws=ws)
            assert (shown["running"], shown["rows"], shown["late"]) == (True, 60, 20)
            up.terminate()
            assert up.wait(30) == 0
        assert not streams(ws=ws)[0]["running"]
        agree(ws, [event(n) for n in range(40)] + [event(n, late=3600) for n in range(41, 61)])
        assert len(open_of(ws.ledger, "upstream_data_bug", "clicks")) == 1
        with pytest.raises(Unavailable, match="redis"):  # it is gone: said, when there is an end to trying
            brokers_gone(ws)
        feeding.close(ws)


def brokers_gone(ws: Workspace) -> None:
    (ws.root / "defs.py").write_text(feeding.DEFINITIONS.replace("{url}", "redis://127.0.0.1:1/clicks"))
    again = Workspace.open(ws.root)
    run(again, idle_s=0.1)


def wait_until(ws: Workspace, counts: dict[str, int], first: Any = None) -> None:
    """Until the stream's process says that it has brought so many."""
    status = ws.state / "run" / "stream-clicks.json"
    if first is not None:
        first()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if status.exists():
            found = json.loads(status.read_text())
            if all(found[name] >= count for name, count in counts.items()):
                return
        time.sleep(0.05)
    raise AssertionError(status.read_text() if status.exists() else "it never began")


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
