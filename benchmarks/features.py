"""Features for training beside bare Polars and NumPy, and for one request beside a bare LMDB read. The answers of both
sides are compared before anything is timed.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import flights
from benchmarks.measure import Row, cpu_s, timed
from benchmarks.peers.vectors import Vectors, ViewPlaces, write
from flyball.core.clock import to_us
from flyball.features import Service, View, mean
from flyball.features.offline import point_in_time
from flyball.features.online import OnlineReader
from flyball.stores.online import open_online

_LANDED: Any = {"source": "landings", "happened": "landed_at", "known": "landed_at"}
_HOURS = (3, 24, 168)
_TIME_BITS = 52  # microseconds since 1970 fit until 2112; the key's number stands above them


def measured(repeats: int) -> list[Row]:
    """Two joins of all flights of the year, and two reads of one vector."""
    return [*_offline(repeats), *_online(repeats)]


def _offline(repeats: int) -> list[Row]:
    asked = flights.year().schedule.select("asked_at", "carrier", "tailnum").drop_nulls()
    landed = flights.year().landings
    rows = f"{asked.height:,} rows"
    latest = View("aircraft", ("tailnum",), **_LANDED, columns=("arr_delay",))
    windows = View(
        "carrier", ("carrier",), **_LANDED, row_id=("flight_id",),
        windows=tuple(mean("arr_delay", f"{hours}h") for hours in _HOURS),
    )  # fmt: skip
    ours_latest = partial(point_in_time, asked, "asked_at", [latest], {"landings": landed})
    ours_windows = partial(point_in_time, asked, "asked_at", [windows], {"landings": landed})
    bare_latest = partial(_join_asof, asked, landed)
    bare_windows = partial(_prefix_sums, asked, landed)
    equal = (ours_latest()[latest.features[0]] == bare_latest()["arr_delay"].cast(float)).fill_null(True)
    assert equal.mean() > 0.999, "two landings of one aircraft in one minute may differ, no more"  # type: ignore[operator]  # a share
    for name, wanted in zip(windows.features, bare_windows(), strict=True):
        np.testing.assert_allclose(ours_windows()[name].to_numpy(), wanted, rtol=1e-9, atol=1e-9)
    share = partial(timed, repeats=repeats, unit="ms", per_s=1000.0)
    return [
        share(f"latest value, {rows}, beside join_asof", ours_latest, bare_latest),
        share(f"3 windows, {rows}, beside searchsorted", ours_windows, bare_windows),
    ]


def _join_asof(asked: pl.DataFrame, landed: pl.DataFrame) -> pl.DataFrame:
    """Both are in order of time already; the join is told so."""
    return asked.join_asof(
        landed.select("tailnum", "landed_at", "arr_delay"),
        left_on="asked_at",
        right_on="landed_at",
        by="tailnum",
        check_sortedness=False,
    )


def _prefix_sums(asked: pl.DataFrame, landed: pl.DataFrame) -> list[np.ndarray[Any, Any]]:
    """Means over windows as differences of running sums, for one key of texts and no null."""
    kind = pl.Enum(landed["carrier"].unique().sort())
    had = _places(landed["carrier"].cast(kind), landed["landed_at"])
    of = _places(asked["carrier"].cast(kind), asked["asked_at"])
    order = np.argsort(had, kind="stable")
    had = had[order]
    sums = np.concatenate(([0.0], np.cumsum(landed["arr_delay"].to_numpy()[order], dtype=np.float64)))
    last = np.searchsorted(had, of, "right")
    found = []
    for hours in _HOURS:
        first = np.searchsorted(had, of - hours * 3_600_000_000, "right")
        with np.errstate(invalid="ignore"):
            found.append((sums[last] - sums[first]) / (last - first))
    return found


def _places(keys: pl.Series, times: pl.Series) -> np.ndarray[Any, Any]:
    codes = keys.to_physical().to_numpy().astype(np.int64)
    places: np.ndarray[Any, Any] = (codes << _TIME_BITS) + times.to_physical().to_numpy()
    return places


def _online(repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        filled = flights.online(Path(folder) / "online")
        made = flights.definitions()
        aircraft = Service("latest", features=made.aircraft.features)
        store = open_online(filled.url, readonly=True)
        one = OnlineReader(aircraft, made.VIEWS, store)
        rows = []
        for what, reader, service in (
            ("one latest value, beside one LMDB get", one, aircraft),
            ("24 features of 8 views, beside 8 LMDB gets", filled.reader, made.delay),
        ):
            rows.append(_reads(what, reader, service, filled, Path(folder) / service.name, repeats))
        store.close()
        filled.reader.store.close()
        return rows


def _reads(
    what: str, reader: OnlineReader, service: Service, filled: flights.Online, folder: Path, repeats: int
) -> Row:
    at_us = to_us(flights.AT)
    requests = filled.requests if service.request else [{}] * len(filled.requests)
    asked = list(zip(filled.entities, requests, strict=True))
    vectors = [reader.read(entities, request, at_us).values for entities, request in asked]
    places = view_places(service)
    write(folder, places, zip(filled.entities, vectors, strict=True))
    bare = Vectors(folder, places)

    def ours() -> None:
        for entities, request in asked:
            reader.read(entities, request, at_us)

    def beside() -> None:
        for entities, request in asked:
            vector = [*map(request.get, service.features)]
            bare.read(entities, vector)

    for (entities, request), wanted in zip(asked, vectors, strict=True):
        vector: list[Any] = [*map(request.get, service.features)]
        bare.read(entities, vector)
        np.testing.assert_equal(np.array(vector, dtype=float), np.array(wanted, dtype=float))
    per_s = 1e6 / len(asked)
    row = timed(what, ours, beside, repeats=repeats, unit="us CPU/read", per_s=per_s, clock=cpu_s)
    bare.close()
    return row


def view_places(service: Service) -> list[ViewPlaces]:
    """Where the values of each view stand in the service's vector."""
    found = []
    for view in service.uses(flights.definitions().VIEWS):
        slots = [slot for slot, name in enumerate(service.features) if name.startswith(f"{view.name}:")]
        found.append(ViewPlaces(view.name, view.entity, tuple(slots)))
    return found
