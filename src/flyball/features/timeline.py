"""Entity rows from a range of time, without an entity frame: each event once, or all keys seen so far at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.features.definitions import View
from flyball.features.entity_rows import TIME
from flyball.features.events import Frame, keys_of, said_of, taken_from, times_us

_READY = "when the row is visible, in microseconds"
_MOST_ROWS = 1 << 30


def rows_between(
    views: Iterable[View],
    source_for: Callable[[View], Frame],
    *,
    start: datetime,
    end: datetime,
    every: timedelta | None = None,
    at: str = "at",
) -> pl.DataFrame:
    """Rows ``(keys..., at)`` in order of time, then key, with ``start <= at <= end``.

    Without ``every``: one row for each instant at which some row of a key became visible (happened and known): the
    training set has a row whenever its features may have changed. With ``every``: at ``start``, ``start + every``, ...,
    each key of which something was visible by then. Views of fewer keys than others are joined to the rows of those.
    """
    used = list(views)
    keys = tuple(dict.fromkeys(name for view in used for name in view.entity))
    spine = [view for view in used if set(view.entity) == set(keys)]
    if not spine:
        entities = sorted({", ".join(view.entity) for view in used})
        raise Invalid(
            f"no view has all keys: {'; '.join(entities)}" if entities else "no view is asked for",
            "which belong together, only entity rows can say: give some, with all these keys",
        )
    if end < start:
        raise Invalid(f"the range ends at {end}, before it starts at {start}", "swap them")
    if every is not None and every <= timedelta(0):
        raise Invalid(f"every is {every}", "a step is longer than nothing, like timedelta(days=1)")
    low, high = to_us(start), to_us(end)
    parts = [_visible(view, source_for(view), keys, high) for view in spine]
    for part in parts[1:]:
        _same_types(parts[0], part, spine)
    seen = pl.concat(parts)
    if every is None:
        rows = seen.filter(pl.col(_READY) >= low).unique()
    else:
        first = seen.group_by(keys).agg(pl.col(_READY).min())
        step = every // timedelta(microseconds=1)
        steps = (high - low) // step + 1
        found = first.collect(engine="streaming")
        if found.height * steps > _MOST_ROWS:
            raise Invalid(
                f"{found.height:,} keys at {steps:,} steps are {found.height * steps:,} rows",
                "take a longer step or a shorter range",
            )
        grid = pl.LazyFrame({"step": pl.int_range(low, high + 1, step, eager=True)})
        rows = grid.join(found.lazy(), how="cross").filter(pl.col(_READY) <= pl.col("step"))
        rows = rows.select(*keys, pl.col("step").alias(_READY))
    frame = rows.sort(_READY, *keys).collect(engine="streaming")
    return frame.select(*keys, pl.col(_READY).cast(TIME).alias(at))


def _visible(view: View, source: Frame, keys: Sequence[str], until_us: int) -> pl.LazyFrame:
    """Distinct (keys, from when visible) of a view's rows, as far as ``until_us``."""
    frame = taken_from(view, source).lazy()
    schema = frame.collect_schema()
    empty = pl.DataFrame(schema=schema)
    cast = keys_of(empty, view.entity, said_of(view)).schema
    for name in (view.happened, view.known):
        times_us(empty[name], said_of(view))
    ready = pl.max_horizontal(_us(schema, view.happened), _us(schema, view.known))
    return (
        frame.drop_nulls([*view.entity, view.happened, view.known])
        .select(*(pl.col(name).cast(cast[name]) for name in keys), ready.alias(_READY))
        .filter(pl.col(_READY) <= until_us)
        .unique()
    )


def _us(schema: Mapping[str, Any], name: str) -> pl.Expr:
    if isinstance(schema[name], pl.Datetime):
        return pl.col(name).dt.cast_time_unit("us").to_physical()
    return pl.col(name).cast(pl.Datetime("us")).to_physical()


def _same_types(one: pl.LazyFrame, other: pl.LazyFrame, views: Sequence[View]) -> None:
    first, second = one.collect_schema(), other.collect_schema()
    for name, dtype in first.items():
        if second[name] != dtype:
            names = ", ".join(view.name for view in views)
            raise Invalid(
                f"key {name!r} is {dtype} in one and {second[name]} in another of {names}", "cast one of them"
            )
