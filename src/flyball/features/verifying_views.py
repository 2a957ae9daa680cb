"""A view online against offline: generated events pushed into a store of its own, asked about at every edge."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from flyball.core.clock import to_us
from flyball.features.definitions import View
from flyball.features.expressions.kinds import check_derived, column_kinds, condition
from flyball.features.expressions.meaning import LARGEST
from flyball.features.filling import push
from flyball.features.offline import point_in_time
from flyball.features.online import OnlineReader
from flyball.features.services import Service
from flyball.features.verifying import Disagreement, equal, generated, literals_of
from flyball.stores.online import open_online

_START = datetime(2013, 3, 1, tzinfo=UTC)
_DTYPES = {"n": pl.Float64(), "b": pl.Boolean(), "s": pl.String(), "t": pl.Datetime("us", "UTC")}
_KINDS = {"BYTES": "s", "BOOL": "b"}
_TOLERANCE = 1e-9  # relative: running sums online, sums of runs offline
_LARGE = 1e6  # a sum of 1e15 and 0.1 has other last digits in another order: no two ways need agree on those
_MOST_EVENTS, _MOST_QUESTIONS = 600, 400


def disagreement_online(view: View, rows: int, chance: random.Random) -> tuple[int, Disagreement | None]:
    """How many questions were answered both ways, and the first that was not answered alike."""
    events = events_for(view, min(rows, _MOST_EVENTS), chance)
    asked = _questions(view, events, min(rows, _MOST_QUESTIONS), chance)
    service = Service("verify", view.features)
    offline = point_in_time(asked, "__at", [view], {view.source: events})
    with tempfile.TemporaryDirectory(prefix="flyball-verify-") as folder:
        store = open_online(f"lmdb:{Path(folder) / 'online'}?map_bytes=1073741824")
        try:
            for batch in _batches(events, chance):
                push(view, batch, store, history_s=None)
            reader = OnlineReader(service, [view], store)
            for at, row in enumerate(asked.iter_rows(named=True)):
                entities = {name: row[name] for name in view.entity}
                online = reader.read(entities, {}, to_us(row["__at"])).values
                for name, value in zip(view.features, online, strict=True):
                    expected = offline[name][at]
                    if not _alike(value, expected):
                        shown = {
                            **entities,
                            "as of": row["__at"].isoformat(),
                            "events of this key": _of_key(events, entities),
                        }
                        answers = {"online": value, "offline": expected}
                        return len(asked), Disagreement(name, _said(view, name), shown, answers)
        finally:
            store.close()
    return len(asked), None


def events_for(view: View, rows: int, chance: random.Random) -> pl.DataFrame:
    """Events of a few keys: out of order, late, with ties in both clocks and rows that come twice."""
    expressions = [*view.derived.values(), *([view.where] if view.where is not None else [])]
    types = {name: kind for name, kind in view.types.items() if name not in view.derived}
    clocks = dict.fromkeys((view.happened, view.known), "t")
    source = [name for name in view.needed_columns if name not in (*view.entity, *clocks)]
    known = {**types, **clocks}
    known |= check_derived(view.derived, view.where, {**view.types, **clocks})
    if view.where is not None:
        known |= condition(view.where, known)
    used = column_kinds(expressions, known)
    kinds = {name: _KINDS.get(types.get(name, ""), used.get(name, "n")) for name in source}
    literals = [one for expression in expressions for one in literals_of(expression)]
    made = generated(kinds, rows, chance, literals)
    spans = sorted({window.window_s for window in view.windows} | {view.ttl_s or 600})
    for row in made:
        happened = _START + timedelta(
            seconds=chance.choice(spans) * chance.choice((0, 0.25, 0.5, 1, 1, 1.5, 2, 3))
        )
        late = timedelta(seconds=chance.choice((0, 0, 0, 0, 1, 30, spans[0], spans[-1])))
        row[view.known], row[view.happened] = happened + late, happened
        for name, value in row.items():
            if isinstance(value, float) and _LARGE < abs(value) <= LARGEST:
                row[name] = math.fmod(value, _LARGE)
        for place, name in enumerate(view.entity):
            row[name] = (
                chance.choice(("a", "a", "b", "ü"))
                if view.types.get(name) not in ("INT64", "INT32")
                else place + chance.randrange(2)
            )
        for name in view.row_id:
            if name in kinds:
                row[name] = chance.choice((1.0, 2.0)) if kinds[name] == "n" else row[name]
    made += [dict(row) for row in made[:: max(len(made) // 10, 1)]]
    columns = {**{name: _DTYPES[kind] for name, kind in kinds.items()}, **dict.fromkeys(clocks, _DTYPES["t"])}
    for name in view.entity:
        columns[name] = pl.Int64() if view.types.get(name) in ("INT64", "INT32") else pl.String()
    for name in view.row_id:
        if columns.get(name) == pl.Float64():
            columns[name] = pl.Int64()
    series = [_series(name, [row[name] for row in made], dtype) for name, dtype in columns.items()]
    return pl.DataFrame(series)


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    if dtype == pl.Int64():
        values = [None if value is None else int(value) for value in values]
    return pl.Series(name, values, dtype=dtype)


def _questions(view: View, events: pl.DataFrame, count: int, chance: random.Random) -> pl.DataFrame:
    """Entity rows at the clocks of events, at the ends of windows and of the ttl, a microsecond before and after."""
    spans = [0, *(window.window_s for window in view.windows), *([view.ttl_s] if view.ttl_s else [])]
    asked = []
    for _ in range(count):
        row = events.row(chance.randrange(len(events)), named=True)
        clock = row[chance.choice((view.happened, view.known))]
        moved = timedelta(seconds=chance.choice(spans), microseconds=chance.choice((-1, 0, 0, 1)))
        asked.append({**{name: row[name] for name in view.entity}, "__at": clock + moved})
    schema = {**{name: events.schema[name] for name in view.entity}, "__at": pl.Datetime("us", "UTC")}
    return pl.DataFrame(asked, schema=schema)


def _batches(events: pl.DataFrame, chance: random.Random) -> list[pl.DataFrame]:
    """The events in the order of the table, in batches of uneven size: ties keep their order of arrival."""
    found, at = [], 0
    while at < len(events):
        size = chance.choice((1, 7, 50, 200))
        found.append(events[at : at + size])
        at += size
    return found


def _alike(online: Any, offline: Any) -> bool:
    if isinstance(online, bool) and isinstance(offline, float):
        offline = offline != 0.0
    elif isinstance(online, int) and isinstance(offline, float):
        online, offline = (
            float(online),
            float(math.trunc(offline)),
        )  # a column declared whole is cut, as in training sets
    if isinstance(online, float) and isinstance(offline, float):
        return abs(online - offline) <= _TOLERANCE * max(abs(online), abs(offline), 1e-3) or equal(
            online, offline
        )
    return equal(online, offline)


def _of_key(events: pl.DataFrame, entities: Mapping[str, Any]) -> int:
    return events.filter(
        *(
            pl.col(name).eq_missing(pl.lit(value, dtype=events.schema[name]))
            for name, value in entities.items()
        )
    ).height


def _said(view: View, feature: str) -> str:
    name = feature.partition(":")[2]
    window = next((one for one in view.windows if one.name == name), None)
    return (
        repr(window)
        if window is not None
        else f"the latest {name}" + (f" within {view.ttl_s} s" if view.ttl_s else "")
    )
