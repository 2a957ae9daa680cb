"""Several processes read while one writes: every read is of one moment, and never goes back in time."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.errors import Unavailable
from flyball.features import Service, View, count, push, sum
from flyball.features.online import OnlineReader
from flyball.features.vectors import VectorReader
from flyball.service.online_features import get_online_features_async
from flyball.service.workspace import Workspace
from flyball.stores.online import open_online
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.integration
START = datetime(2026, 1, 1, tzinfo=UTC)
VIEW = View("shop", ("shop",), "sales", "at", columns=("price", "city"), types={"city": "BYTES"}, ttl_s=10**6)
MOVING = View("moving", ("shop",), "sales", "at", windows=(count("30d"), sum("price", "30d")))
SHOPS, BATCHES = 40, 150
AT = to_us(START + timedelta(days=1))


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "lmdb":
        yield f"lmdb:{tmp_path}/online"
        return
    server = RedisServer(tmp_path / "redis").start()
    yield f"{server.url}?timeout_ms=5000"  # the machine may be busy: this is no test of waits
    server.stop()


def read_on(url: str, began: Any, ended: Any, answers: Any) -> None:
    """Read until the writer is done; say what was seen."""
    store = open_online(url, readonly=True)
    service = Service("all", (*VIEW.features, *MOVING.features))
    many, one = VectorReader(service, [VIEW, MOVING], store), OnlineReader(service, [VIEW, MOVING], store)
    began.wait(60)
    keys, last, reads, wrong = {"shop": list(range(SHOPS))}, -1.0, 0, []
    while True:
        done = ended.is_set()
        found = many.read(keys, (), AT)
        prices, rows = found.column("shop:price"), found.column("moving:count_30d")
        if len(set(prices)) != 1 or len(set(rows)) != 1:
            wrong.append(f"two moments in one read: {sorted(set(map(str, prices)))}, {sorted(set(rows))}")
        now = -1.0 if prices[0] is None else prices[0]
        if prices[0] is not None and found.column("shop:city")[0] != f"city {int(prices[0])}":
            wrong.append(f"price {prices[0]} with {found.column('shop:city')[0]!r}")
        single = one.read({"shop": 3}, {}, AT).values
        if now < last or (single[0] or 0.0) < now:
            wrong.append(f"back from {last} to {now}, then {single[0]}")
        last, reads = now, reads + 1
        if done:
            break
    answers.put((last, reads, wrong[:3]))


def test_readers_see_whole_batches_only_and_never_an_older_one(url: str) -> None:
    processes = multiprocessing.get_context("spawn")
    began, ended, answers = processes.Barrier(4), processes.Event(), processes.Queue()
    readers = [processes.Process(target=read_on, args=(url, began, ended, answers)) for _ in range(3)]
    for one in readers:
        one.start()
    began.wait(60)
    store = open_online(url)
    for batch in range(BATCHES):
        at = START + timedelta(seconds=batch)
        rows = pl.DataFrame({"shop": range(SHOPS), "price": float(batch), "city": f"city {batch}", "at": at})
        for view in (VIEW, MOVING):
            push(view, rows, store)
    ended.set()
    found = [answers.get(timeout=60) for _ in readers]
    for one in readers:
        one.join(20)
    store.close()
    for last, reads, wrong in found:
        assert not wrong
        assert last == BATCHES - 1
        assert reads > 3, "they read while it wrote"


def count_on(url: str, began: Any, ended: Any, answers: Any) -> None:
    """Read windows while late rows rewrite what they span; say what was seen."""
    store = open_online(url, readonly=True)
    many = VectorReader(Service("moving", MOVING.features), [MOVING], store)
    began.wait(60)
    keys, last, reads, wrong = {"shop": [0, 1]}, 0.0, 0, []
    while True:
        done = ended.is_set()
        found = many.read(keys, (), AT)
        rows, total = (found.column(name) for name in MOVING.features)
        if [value or 0.0 for value in total] != rows:
            wrong.append(f"{rows} rows of price 1 add up to {total}")
        if rows[0] < last:
            wrong.append(f"back from {last} to {rows[0]}")
        last, reads = rows[0], reads + 1
        if done:
            break
    answers.put((last, reads, wrong[:3]))


def test_rows_that_are_rewritten_are_never_mixed_with_older_ones(url: str) -> None:
    processes = multiprocessing.get_context("spawn")
    began, ended, answers = processes.Barrier(3), processes.Event(), processes.Queue()
    readers = [processes.Process(target=count_on, args=(url, began, ended, answers)) for _ in range(2)]
    for one in readers:
        one.start()
    began.wait(60)
    store = open_online(url)
    seconds = random.Random(7).sample(range(80_000), 3000)
    for batch in range(0, len(seconds), 10):
        times = [START + timedelta(seconds=second) for second in seconds[batch : batch + 10]]
        rows = pl.DataFrame({"shop": [0, 1] * 10, "price": 1.0, "at": [at for at in times for _ in (0, 1)]})
        push(MOVING, rows, store, history_s=None)
    ended.set()
    found = [answers.get(timeout=60) for _ in readers]
    for one in readers:
        one.join(20)
    store.close()
    for last, reads, wrong in found:
        assert not wrong
        assert last == len(seconds)
        assert reads > 3, "they read while it wrote"


def test_an_event_loop_goes_on_while_a_redis_hangs(tmp_path: Path) -> None:
    """The wait is bounded and in a thread; a read that comes right after does not wait at all."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0?timeout_ms=300"
        settings = f'[project]\nname = "p"\ndefinitions = ["defs.py"]\n\n[stores]\nonline = "{url}"\n'
        (tmp_path / "flyball.toml").write_text(settings)
        (tmp_path / "defs.py").write_text(
            "from flyball.features import View\n"
            'shop = View("shop", ("shop",), "sales", "at", columns=("price",), defaults={"price": 9.0})\n'
            'bare = View("bare", ("shop",), "sales", "at", columns=("price",))\n'
        )
        ws = Workspace.open(tmp_path)

        async def ask() -> tuple[int, float]:
            reading = asyncio.create_task(get_online_features_async({"shop": ["a"]}, "shop:price", ws=ws))
            ticks = 0
            while not reading.done():
                await asyncio.sleep(0.001)
                ticks += 1
            found = (await reading).to_dict(keys=False)
            assert found == {"shop:price": [9.0]}
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await get_online_features_async({"shop": ["a"]}, "bare:price", ws=ws)
            return ticks, time.monotonic() - began

        ticks, took_s = asyncio.run(ask())
        assert ticks > 20
        assert took_s < 0.25, "it rests"
