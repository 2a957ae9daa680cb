"""The flights of the demo as the benchmarks use them: views, requests as of one moment, an online store, a model."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import polars as pl

import flyball.demo
from flyball.core.clock import to_us
from flyball.demo import flights
from flyball.features.filling import materialize
from flyball.features.offline import point_in_time
from flyball.features.online import OnlineReader
from flyball.models.export import export
from flyball.stores.online import open_online

AT = datetime(2013, 4, 1, tzinfo=UTC)  # every request is asked as of this moment
_DAYS = 28  # of the past that the online store is filled with


class Online(msgspec.Struct, frozen=True):
    """A filled store, and what is asked of it."""

    url: str
    reader: OnlineReader
    entities: list[dict[str, Any]]
    requests: list[dict[str, Any]]


@cache
def year() -> flights.Year:
    """The year, read once."""
    return flights.load()


@cache
def definitions() -> ModuleType:
    """The demo project's ``features.py``: ``VIEWS`` and the service ``delay`` of 24 features."""
    path = Path(flyball.demo.__file__).parent / "project" / "features.py"
    spec = importlib.util.spec_from_file_location("flyball_demo_features", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources() -> dict[str, pl.DataFrame]:
    """What the views read, by name."""
    return {"landings": year().landings, "weather": year().weather, "planes": year().planes}


def online(folder: Path, count: int = 500) -> Online:
    """Fill a store in ``folder`` with the weeks before :data:`AT`; ask about the flights that follow."""
    url, made = f"lmdb:{folder}", definitions()
    store = open_online(url)
    for view in made.VIEWS:
        since = None if view.source == "planes" else AT - timedelta(days=_DAYS)
        materialize(view, sources()[view.source], store, since=since, until=AT)
    asked = year().schedule.filter(pl.col("asked_at") >= AT, pl.col("tailnum").is_not_null()).head(count)
    return Online(
        url,
        OnlineReader(made.delay, made.VIEWS, store),
        asked.select(flights.ENTITIES).to_dicts(),
        asked.select(flights.REQUEST).to_dicts(),
    )


def vectors(filled: Online) -> list[list[float | None]]:
    """The 24 features of every request, from the online store."""
    pairs = zip(filled.entities, filled.requests, strict=True)
    return [filled.reader.read(entities, request, to_us(AT)).values for entities, request in pairs]


def model_onnx(rows: int = 10_000) -> bytes:
    """Gradient-boosted trees (80 rounds, 24 features) on flights before :data:`AT`, as their proved ONNX export."""
    boosted: Any = import_module("sklearn.ensemble").HistGradientBoostingClassifier  # untyped
    threadpool_limits = import_module("threadpoolctl").threadpool_limits

    past = year().landings.filter(pl.col("landed_at") < AT)
    sample = past.gather(np.linspace(0, past.height - 1, rows).astype(int))
    made = definitions()
    frame = point_in_time(sample, "asked_at", made.VIEWS, sources(), service=made.delay)
    x = frame.select(made.delay.features).to_numpy().astype(np.float32)
    y = (frame["arr_delay"] > flights.LATE_AFTER_MIN).to_numpy()
    with threadpool_limits(1):
        model = boosted(max_iter=80, max_leaf_nodes=15, early_stopping=False).fit(x, y)
    exported = export(model, x[:1000])
    assert exported.onnx is not None, exported.facts
    return exported.onnx
