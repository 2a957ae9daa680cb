"""Processes that die, a Ray cluster that loses a machine, back-fills from many workers: nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.core.records import Report
from flyball.errors import Unavailable
from flyball.features import OnlineReader, Service
from flyball.features.distributed import fill as fill_by_many
from flyball.features.filling import fill
from flyball.features.pools import opened
from flyball.features.reach import Mark
from flyball.service.filling import materialize
from flyball.stores.online import OnlineStore, open_online
from tests import feeding
from tests.feeding import event, table
from tests.redis_servers import RedisServer
from tests.unit.features.test_distributed import START, VIEW, tables

pytestmark = pytest.mark.integration


def test_a_process_that_is_killed_is_replaced_and_one_that_always_dies_is_said(tmp_path: Path) -> None:
    with opened("processes:2") as pool:
        cuts = [partial(_die_once, tmp_path / str(n), n) for n in range(3)]
        assert pool.run(cuts, [_values, _values]) == [[0, 1, 2], [100, 101, 102]]
        with pytest.raises(Unavailable, match="processes died 4 times"):
            pool.run([_die], [_values])


def test_a_backfill_by_processes_leaves_what_one_leaves(tmp_path: Path) -> None:
    source, _ = tables(400)
    source.write_parquet(tmp_path / "rows.parquet")
    lazy = pl.scan_parquet(tmp_path / "rows.parquet")
    alone, many = (open_online(f"lmdb:{tmp_path}/{name}") for name in ("alone", "many"))
    half = START + timedelta(hours=30)
    for until in (half, None):
        one = fill(VIEW, lazy, alone, until=until, history_s=None)
        two = fill_by_many(
            VIEW, lazy, f"lmdb:{tmp_path}/many", compute="processes:2", until=until, history_s=None
        )
        assert one == two
        assert two.rows > 0
        assert Mark.of(VIEW, alone) == Mark.of(VIEW, many)
    again = fill_by_many(VIEW, lazy, f"lmdb:{tmp_path}/many", compute="processes:1", history_s=None)
    assert (again.rows, again.new) == (0, 0)
    whole = fill_by_many(
        VIEW,
        lazy,
        f"lmdb:{tmp_path}/many",
        compute="processes:1",
        since=START - timedelta(days=1),
        history_s=None,
    )
    assert (whole.rows, whole.new) == (source.height, 0)
    alone.close()
    many.close()


def test_the_report_of_a_filling_by_processes_is_that_of_one(tmp_path: Path) -> None:
    table([event(n) for n in range(400)]).write_parquet(tmp_path / "clicks.parquet")
    definitions = feeding.DEFINITIONS.partition("sane =")[0]  # contracts are held batch by batch, by one
    facts = []
    for compute in ("", "processes:2"):
        ws = feeding.project(
            tmp_path / f"p{len(facts)}", f"parquet:{tmp_path}/clicks.parquet", definitions=definitions
        )
        (found,) = materialize("spent", compute=compute, ws=ws)
        assert found.report is not None
        report = ws.ledger.get("report", found.report, Report)
        report.evidence["columns"][0].pop("quantiles")
        facts.append((report.summary, report.passed, report.evidence))
        feeding.close(ws)
    (one, many) = ({**evidence, "columns": evidence["columns"][0]} for _, _, evidence in facts)
    assert facts[0][:2] == facts[1][:2]
    numbers, others = one.pop("columns"), many.pop("columns")
    assert numbers.keys() == others.keys()
    for name, value in numbers.items():  # sums are taken in another order
        near = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        assert others[name] == near, name
    assert one == many


def test_many_workers_fill_one_redis_with_what_one_brings(tmp_path: Path) -> None:
    source, entities = tables(4000, 80)
    source.write_parquet(tmp_path / "rows.parquet")
    lazy = pl.scan_parquet(tmp_path / "rows.parquet")
    server = RedisServer(tmp_path / "redis").start()
    try:
        alone = open_online(f"lmdb:{tmp_path}/alone")
        one = fill(VIEW, lazy, alone, history_s=None)
        two = fill_by_many(VIEW, lazy, server.url, compute="processes:3", history_s=None)
        assert one == two
        there = open_online(server.url)
        assert Mark.of(VIEW, there) == Mark.of(VIEW, alone)
        assert answers(there, entities) == answers(alone, entities)
        alone.close()
        there.close()
    finally:
        server.stop()


def answers(store: OnlineStore, entities: pl.DataFrame) -> list[list[Any]]:
    """Every feature of the view for each row that asks for a key, from a store."""
    reader = OnlineReader(Service("all", VIEW.features), [VIEW], store)
    return [
        reader.read(row, {}, to_us(row["t"])).values for row in entities.drop_nulls().iter_rows(named=True)
    ]


def _die() -> list[pl.DataFrame]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _die_once(mark: Path, n: int) -> list[pl.DataFrame]:
    if not mark.exists():
        mark.touch()
        _die()
    return [pl.DataFrame({"n": [n]}), pl.DataFrame({"n": [100 + n]})]


def _values(frames: list[pl.DataFrame]) -> list[int]:
    return [value for frame in frames for value in frame["n"].to_list()]
