"""Recheck a run's rows: every chain of blocks, every latest value, the summary, and the seal. One flipped byte is found."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flyball.core.records import Run
from flyball.stores import run_facts, run_summaries
from flyball.stores.engine import by_code_point
from flyball.stores.points import link, unpack
from flyball.stores.run_seal import head_of
from flyball.stores.run_tables import FACTS, POINTS, RUNS, SUMMARIES

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger


def problems(ledger: Ledger, run: str) -> list[str]:
    """What of a run's rows is not what was written; empty when every byte holds."""
    record = ledger.find("run", run, Run)
    if record is None:
        return [f"run {run} is gone from the ledger"]
    with ledger.reading() as connection:
        head = connection.execute(sa.select(RUNS).where(RUNS.c.id == run)).first()
        if head is None:
            return [f"run {run} is gone from the table of runs"]
        found = [
            f"{name} of run {run} differs from its record"
            for name, value in head_of(record).items()
            if head._mapping[name] != value
        ]
        found += _facts(connection, run)
        facts, seal = run_facts.sealed(connection, run)
        summary = connection.execute(sa.select(SUMMARIES.c.content).where(SUMMARIES.c.run == run)).scalar()
    if summary is not None and bytes(summary) != run_summaries.pack(facts):
        found.append(f"the summary of run {run} is not what its facts say")
    if record.seal and seal != record.seal:
        found.append(f"params, tags, metrics or artifacts of run {run} have changed since it was sealed")
    return found


def _facts(connection: Connection, run: str) -> Iterator[str]:
    metrics: dict[str, Any] = {}
    for row in connection.execute(sa.select(FACTS).where(FACTS.c.run == run)):
        if row.kind == "metric":
            metrics[row.name] = row
        elif row.kind == "param" and row.number != run_facts.number_of(row.text):
            yield f"the param {row.name} of run {run} has changed"
    # All blocks in one pass, a part at a time: a query for each of 30,000 metrics took 12 s.
    blocks = (
        sa.select(POINTS).where(POINTS.c.run == run).order_by(by_code_point(POINTS.c.name), POINTS.c.block)
    )
    parts = connection.execute(blocks.execution_options(yield_per=64))
    for name, history in groupby(parts, key=lambda block: block.name):
        fact = metrics.pop(name, None)
        if fact is None:
            yield f"the metric {name} of run {run} is gone, its points are there"
        elif problem := _history(fact, history):
            yield problem
    for name in metrics:
        yield f"the history of {name} of run {run} is gone"


def _history(fact: Any, blocks: Iterator[Any]) -> str:
    what = f"the history of {fact.name} of run {fact.run}"
    before, points, number, tail = b"", 0, -1, 0
    latest: run_facts.Latest | None = None
    for block in blocks:
        content = bytes(block.content)
        number += 1
        if (
            block.block != number
            or bytes(block.before) != before
            or len(content) != 24 * block.n
            or link(before, fact.run, fact.name, block.block, content) != bytes(block.chain)
        ):
            return f"block {block.block} of {what} has changed"
        series = unpack(content, block.n)
        if any(block._mapping[name] != value for name, value in run_facts.bounds(series).items()):
            return f"block {block.block} of {what} has changed"
        value, step, at = run_facts.latest_of(series, latest)
        latest = run_facts.Latest(value, step, at, 0)
        before, points, tail = bytes(block.chain), points + block.n, block.n
    if (fact.block, fact.points, fact.tail, bytes(fact.head or b"")) != (number, points, tail, before):
        return f"{what} lacks blocks, or has other ones than it had"
    shown = (repr(run_facts.value_of(fact.number, fact.text)), fact.step, fact.at_us)
    if latest is None or shown != (repr(latest.value), latest.step, latest.at_us):
        return f"the latest {fact.name} of run {fact.run} is not what its history says"
    return ""
