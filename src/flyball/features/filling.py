"""Filling the online store: push what just arrived, materialize what the offline tables hold."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from flyball.core.clock import to_us
from flyball.features.definitions import View
from flyball.features.events import Frame, events_of
from flyball.stores.online import OnlineStore, Rows, pack_key

HISTORY_S = 7 * 86400
_BATCH = 1_000_000  # rows in one transaction: about 0.5 GB at its peak
_SECOND = 1_000_000


def push(view: View, rows: pl.DataFrame, store: OnlineStore, *, history_s: int | None = HISTORY_S) -> int:
    """Add rows of a view's source to the store, all or none; returns how many were new.

    A row pushed twice counts once; order does not matter. Reads stay right for every t from ``history_s`` before the
    oldest known time of the newest batch; what only an earlier t could need may be dropped. ``None`` keeps all.
    """
    events = events_of(view, rows)
    if len(events) == 0:
        return 0
    columns = [events.keys[name].to_list() for name in view.entity]
    places: dict[tuple[object, ...], int] = {}
    codes = np.fromiter(
        (places.setdefault(key, len(places)) for key in zip(*columns, strict=True)),
        dtype=np.int64,
        count=len(events),
    )
    keys = [pack_key(key) for key in places]
    batch = Rows(keys, codes, events.happened, events.known, events.row_ids, events.values)
    keep_us = None if history_s is None else (history_s + view.longest_s) * _SECOND
    return store.append(view.stored_as, batch, keep_us=keep_us)


def materialize(
    view: View,
    source: Frame,
    store: OnlineStore,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    history_s: int | None = HISTORY_S,
) -> int:
    """Bring rows that became known in ``(since, until]`` into the store; returns how many were new.

    May be repeated or resumed at any point. In batches by known time, each whole or absent.
    """
    frame = source.lazy()
    zone = frame.collect_schema().get(view.known)
    known = pl.col(view.known)
    if isinstance(zone, pl.Datetime):  # a time without a zone is read as UTC; both sides as UTC microseconds
        known = known.dt.cast_time_unit("us").to_physical()
    elif zone == pl.Date:
        known = known.cast(pl.Datetime("us")).to_physical()
    if since is not None:
        frame = frame.filter(known > to_us(since))
    if until is not None:
        frame = frame.filter(known <= to_us(until))
    needed = dict.fromkeys((*view.entity, view.happened, view.known, *view.row_id, *view.stored_columns))
    present = [name for name in needed if name in frame.collect_schema().names()]  # push names what lacks
    rows = frame.select(present).collect()
    if len(rows) > _BATCH:
        rows = rows.sort(view.known)
    return sum(push(view, part, store, history_s=history_s) for part in rows.iter_slices(_BATCH))


def expire(view: View, store: OnlineStore, *, as_of: datetime, history_s: int = HISTORY_S) -> int:
    """Drop rows of all keys that no read from ``history_s`` before ``as_of`` on can need; returns how many."""
    oldest = to_us(as_of) - history_s * _SECOND
    return store.expire(view.stored_as, oldest - view.longest_s * _SECOND, as_of_us=oldest)
