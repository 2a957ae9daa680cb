"""The flights of 2013 as they became known: schedule, landings, weather, planes. See ``data/PROVENANCE.md``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from typing import Any

import msgspec
import numpy as np
import polars as pl

from flyball.core.clock import to_us
from flyball.serve.client import Request

LATE_AFTER_MIN = 15
ASKED_BEFORE = timedelta(hours=1)
SINCE = datetime(2012, 12, 31, tzinfo=UTC)  # from when the planes' table is known
REQUEST = ("minute_of_day", "weekday", "distance", "sched_minutes")
ENTITIES = ("carrier", "origin", "dest", "tailnum")


class Year(msgspec.Struct, frozen=True):
    """Four frames: ``schedule`` (every flight, by asked_at), ``landings`` (by landed_at), ``weather``, ``planes``."""

    schedule: pl.DataFrame
    landings: pl.DataFrame
    weather: pl.DataFrame
    planes: pl.DataFrame

    def asked(self, since: datetime, until: datetime, one_in: int) -> pl.DataFrame:
        """The flights that are asked about: one in ``one_in``, by their number, within ``[since, until)``."""
        chosen = self.schedule.filter(
            pl.col("asked_at").is_between(since, until, closed="left") & (pl.col("flight_id") % one_in == 0)
        )
        return chosen.select("asked_at", "landed_at", "late", *ENTITIES, *REQUEST)


def read(name: str) -> pl.DataFrame:
    """One of the Parquet files in the package."""
    with as_file(files("flyball.demo") / "data" / f"{name}.parquet") as path:
        return pl.read_parquet(path)


def load() -> Year:
    """The year, with the columns that requests and feature views use."""
    local = pl.col("sched_dep_at").dt.convert_time_zone("America/New_York")
    minutes = pl.col("sched_minutes").cast(pl.Int64) + pl.col("arr_delay")
    schedule = (
        read("flights")
        .with_row_index("flight_id")
        .with_columns(
            pl.col("flight_id").cast(pl.Int64),
            asked_at=pl.col("sched_dep_at") - ASKED_BEFORE,
            landed_at=pl.col("sched_dep_at") + pl.duration(minutes=minutes),
            minute_of_day=local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute(),
            weekday=local.dt.weekday().cast(pl.Int64),
            day=local.dt.date(),
            late=(pl.col("arr_delay") > LATE_AFTER_MIN),
        )
        .sort("asked_at", "flight_id")
    )
    # A reading is published when its hour begins; temperatures are in Fahrenheit.
    weather = read("weather").with_columns(known=pl.col("happened")).sort("known", "origin")
    planes = read("planes").with_columns(since=pl.lit(SINCE).cast(pl.Datetime("us", "UTC")))
    landings = (
        schedule.filter(pl.col("landed_at").is_not_null()).drop("late", "day").sort("landed_at", "flight_id")
    )
    return Year(schedule, landings, weather, planes)


class Feedable:
    """A frame in the order of its clock, cut by time with two look-ups instead of a filter over the year."""

    def __init__(self, rows: pl.DataFrame, clock: str) -> None:
        self.rows = rows
        self._known_us = rows[clock].dt.epoch("us").to_numpy()

    def between(self, after: datetime | None, until: datetime) -> pl.DataFrame:
        """Rows that became known in ``(after, until]``."""
        first = 0 if after is None else int(np.searchsorted(self._known_us, to_us(after), "right"))
        return self.rows[first : int(np.searchsorted(self._known_us, to_us(until), "right"))]


def in_celsius(weather: pl.DataFrame) -> pl.DataFrame:
    """The same readings from a provider that changed its unit without a word."""
    return weather.with_columns(((pl.col(name) - 32.0) / 1.8).cast(pl.Float32) for name in ("temp", "dewp"))


def request_of(row: dict[str, Any]) -> Request:
    """The request about one flight: who flies where, and what the schedule says."""
    return Request(
        "delays",
        entities={name: row[name] for name in ENTITIES},
        features={name: row[name] for name in REQUEST},
        at=row["asked_at"],
    )
