"""A project with a feed, for tests of what fills its views."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from flyball.core.clock import ManualClock, to_us
from flyball.features import OnlineReader, Service, View, point_in_time
from flyball.service.workspace import Workspace

START = datetime(2026, 3, 1, tzinfo=UTC)
DEFINITIONS = """
from flyball.checks.expectations import Contract, between
from flyball.features import Service, Source, View, count, mean, sum

clicks = Source("clicks", "{url}", happened="at", known="known")
spent = View("spent", ("user",), clicks, columns=("amount",), windows=(sum("amount", "1h"), count("1h")), row_id=("id",))
pages = View("pages", ("user", "page"), clicks, windows=(mean("amount", "10m"), count("10m")))
sane = Contract("clicks", [between("amount", 0, 1000)])
"""


def project(root: Path, url: str = "push:", definitions: str = DEFINITIONS) -> Workspace:
    """A workspace whose clock stands a day after START."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "flyball.toml").write_text('[project]\nname = "p"\ndefinitions = ["defs.py"]\n')
    (root / "defs.py").write_text(definitions.replace("{url}", url))
    return Workspace.open(root, clock=ManualClock(START + timedelta(days=1)))


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that: what a full disk does to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def close(ws: Workspace) -> None:
    """Let go of the stores that were opened."""
    for name in ("ledger", "online"):
        if name in ws.__dict__:
            ws.__dict__.pop(name).close()


def event(number: int, *, users: int = 5, late: int = 0) -> dict[str, Any]:
    """The n-th click, as JSON: whole amounts, so that sums are exact in any order."""
    at = START + timedelta(seconds=20 * number - late)
    return {
        "id": number,
        "user": f"u{number * 7 % users}",
        "page": number % 3,
        "at": at.isoformat(),
        "known": (START + timedelta(seconds=20 * number)).isoformat(),
        "amount": float(number * 37 % 101),
    }


def table(events: list[dict[str, Any]]) -> pl.DataFrame:
    """The same as a frame."""
    frame = pl.DataFrame(events)
    return frame.with_columns(pl.col("at", "known").str.to_datetime("%Y-%m-%dT%H:%M:%S%z", time_unit="us"))


def online(ws: Workspace, views: Mapping[str, View], asked: pl.DataFrame) -> list[list[Any]]:
    """Every feature of the views for each asked row, from the online store."""
    names = tuple(name for view in views.values() for name in view.features)
    reader = OnlineReader(Service("all", names), views, ws.online)
    return [reader.read(row, {}, to_us(row["at"])).values for row in asked.iter_rows(named=True)]


def offline(views: Mapping[str, View], asked: pl.DataFrame, rows: pl.DataFrame) -> list[list[Any]]:
    """The same, point-in-time, from all rows."""
    names = [name for view in views.values() for name in view.features]
    found = point_in_time(asked, "at", list(views.values()), {"clicks": rows})
    return [list(row) for row in found.select(names).rows()]


def questions(until: int, users: int = 5) -> pl.DataFrame:
    """Each user and page at several times."""
    rows = [
        {"user": f"u{user}", "page": page, "at": START + timedelta(seconds=20 * at + 7)}
        for user in range(users + 1)
        for page in (0, 2)
        for at in (until // 3, until // 2, until, until + 100)
    ]
    return pl.DataFrame(rows)
