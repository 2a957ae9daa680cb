"""Training data: the value of every feature as it was known at the time of every row.

>>> from datetime import datetime
>>> from flyball.features import View, mean
>>> at = [datetime(2013, 4, 1, 9), datetime(2013, 4, 1, 11)]
>>> landed = pl.DataFrame({"carrier": ["UA", "UA"], "at": at, "delay": [10, 30]})
>>> view = View("carrier", ("carrier",), "landed", happened="at", known="at", windows=(mean("delay", "3h"),))
>>> asked = pl.DataFrame({"carrier": ["UA", "UA"], "t": [datetime(2013, 4, 1, 11), datetime(2013, 4, 1, 12)]})
>>> point_in_time(asked, "t", [view], {"landed": landed})["carrier:delay_mean_3h"].to_list()
[20.0, 30.0]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from flyball.errors import Invalid, nearest
from flyball.features.cover import Axis, cover_count, cover_max, cover_sum, newest
from flyball.features.definitions import Service, View, Window, by_name
from flyball.features.events import Events, Frame, events_of, keys_of, source_of, times_us
from flyball.stores.online_chunks import NEVER, Floats, Ints, bare_rows, in_order

_SECOND = 1_000_000


def point_in_time(
    entities: pl.DataFrame,
    at: str,
    views: Iterable[View] | Mapping[str, View],
    sources: Mapping[str, Frame],
    *,
    service: Service | None = None,
) -> pl.DataFrame:
    """Every row of ``entities`` once, in order, with a Float64 column per feature (``view:feature``) as of its ``at``.

    With a service: only its features, in its order, and its request fields must be columns already. As of t only rows
    with ``happened <= t`` and ``known <= t`` exist; see :mod:`flyball.features.definitions`. A row whose ``at`` or key
    is null gets nothing (counts 0). A column of the same name is replaced.
    """
    used = list(by_name(views).values()) if service is None else list(service.uses(views))
    wanted = [feature for view in used for feature in view.features]
    if service is not None:
        wanted = [feature for feature in service.features if ":" in feature]
        for field in service.request:
            if field.name not in entities.columns:
                raise Invalid(
                    f"the entity rows lack request field {field.name!r}",
                    nearest(field.name, entities.columns),
                    field=field.name,
                )
    if at not in entities.columns:
        raise Invalid(f"the entity rows have no column {at!r}", nearest(at, entities.columns), column=at)
    times = np.where(entities[at].is_null().to_numpy(), NEVER, times_us(entities[at], "the entity rows"))
    columns: dict[str, Floats] = {}
    for view in used:
        names = [name for name in view.features if name in wanted]
        columns.update(_answers(view, names, entities, times, events_of(view, source_of(view, sources))))
    return entities.with_columns(
        pl.Series(name, columns[name], dtype=pl.Float64).fill_nan(None) for name in wanted
    )


def _answers(
    view: View, names: list[str], entities: pl.DataFrame, times: Ints, events: Events
) -> dict[str, Floats]:
    """The named features of one view for all entity rows; NaN is null."""
    keys = keys_of(entities, view.entity, "the entity rows")
    asked, codes = _codes(view, keys, events.keys)
    asked, times = np.where(times == NEVER, -1, asked), np.maximum(times, 0)
    rows = bare_rows(events.happened, events.known, events.row_ids, events.values)
    order = in_order(codes, rows)
    codes, rows = codes[order], rows[order]
    happened, ready = rows.view(np.int64)[:, 0].copy(), rows.view(np.int64)[:, :2].max(axis=1)
    axis = Axis(asked, times)
    left = axis.place(codes, ready)
    local = {name.partition(":")[2]: name for name in names}
    found: dict[str, Floats] = {}
    if any(column in local for column in view.columns):
        best = newest(axis, codes, left)
        if view.ttl_s is not None and len(rows):
            best[(best >= 0) & (axis.times - happened[best] > view.ttl_s * _SECOND)] = -1
        for column in view.columns:
            if column in local:
                values = rows[:, 3 + view.stored_columns.index(column)]
                found[local[column]] = axis.in_asked_order(_pick(values, best))
    rights: dict[int, Ints] = {}
    for window in view.windows:
        if window.name in local:
            if window.window_s not in rights:
                ends = axis.place(codes, happened + window.window_s * _SECOND)
                rights[window.window_s] = np.maximum(ends, left)
            column_at = -1 if window.column is None else 3 + view.stored_columns.index(window.column)
            values = rows[:, column_at] if window.column is not None else np.zeros(len(rows))
            answer = _aggregate(
                window, len(axis), values, codes=codes, left=left, right=rights[window.window_s]
            )
            found[local[window.name]] = axis.in_asked_order(answer)
    return found


def _aggregate(window: Window, size: int, values: Floats, *, codes: Ints, left: Ints, right: Ints) -> Floats:
    """One window for all sorted questions; the same formulas as online, on sums that are exact for whole numbers."""
    some = ~np.isnan(values)
    if not some.all():
        codes, left, right, values = codes[some], left[some], right[some], values[some]
    match window.function:
        case "count":
            return cover_count(size, left, right).astype(np.float64)
        case "min":
            return -cover_max(size, left, right, -values, nothing=np.nan)
        case "max":
            return cover_max(size, left, right, values, nothing=np.nan)
        case "last":
            best = cover_max(size, left, right, np.arange(len(values), dtype=np.int64), nothing=-1)
            return _pick(values, best)
    count = cover_count(size, left, right).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if window.function == "std":
            shifted = values - _centres(codes, values)
            total = cover_sum(size, left, right, shifted)
            squares = cover_sum(size, left, right, shifted * shifted)
            spread = np.maximum(count * squares - total * total, 0.0)
            return np.where(count > 1, np.sqrt(spread / (count * (count - 1.0))), np.nan)
        total = np.where(count > 0, cover_sum(size, left, right, values), np.nan)
        return total / count if window.function == "mean" else total


def _centres(codes: Ints, values: Floats) -> Floats:
    """A whole number near the median of each row's key: squares of what is left stay small, whole numbers stay whole.

    The median and not the mean, which one outlier would move away from all other values.
    """
    if len(values) == 0:
        return values
    order = np.lexsort((values, codes))
    ends = np.cumsum(np.bincount(codes))
    begins = np.concatenate(([0], ends[:-1]))
    middles = np.rint(values[order][np.minimum((begins + ends) // 2, len(values) - 1)])
    return np.where(np.abs(middles) < 2**40, middles, 0.0)[codes] + 0.0


def _pick(values: Floats, best: Ints) -> Floats:
    if len(values) == 0:
        return np.full(len(best), np.nan)
    return np.where(best >= 0, values[best], np.nan)


def _codes(view: View, asked: pl.DataFrame, had: pl.DataFrame) -> tuple[Ints, Ints]:
    """Whole numbers for keys: of the questions (-1 when no row has that key) and of the rows."""
    for name in view.entity:
        if asked.schema[name] != had.schema[name] and asked[name].null_count() < len(asked) and len(had):
            raise Invalid(
                f"key {name!r} of view {view.name!r} is {had.schema[name]} in the source, "
                f"{asked.schema[name]} in the entity rows",
                "cast one of them",
                column=name,
            )
    if len(had) == 0 or any(asked[name].null_count() == len(asked) for name in view.entity):
        return np.full(len(asked), -1, dtype=np.int64), np.zeros(len(had), dtype=np.int64)
    distinct = had.unique().with_row_index("__code")
    on = list(view.entity)
    # Left joins keep each row of the left once and in order, since the right side is distinct.
    of_asked = asked.join(distinct, on=on, how="left", maintain_order="left")["__code"]
    of_had = had.join(distinct, on=on, how="left", maintain_order="left")["__code"]
    return (
        of_asked.cast(pl.Int64).fill_null(-1).to_numpy().astype(np.int64),
        of_had.cast(pl.Int64).to_numpy().astype(np.int64),
    )
