"""Filling the online store: push what just arrived, fill in what the offline tables hold.

How far a view is filled is a mark in the store, set in the same transaction as the rows: killed at any instant, the next
run goes on where the last whole batch ended, and a batch that comes again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, overload

import msgspec
import polars as pl

from flyball import bound
from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.features.definitions import View
from flyball.features.events import Frame, events_of
from flyball.features.reach import (
    EARLIEST,
    HAPPENED,
    KNOWN,
    LATEST,
    Mark,
    Reach,
    reach_of,
    times_sum,
    what_changed,
    with_times,
)
from flyball.features.rows import packed
from flyball.stores.online import OnlineStore, Rows, no_rows

HISTORY_S = 7 * 86400
BATCH_ROWS = 1_000_000  # rows in one transaction: about 0.5 GB at its peak
_SECOND = 1_000_000
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_BINS = 512

Check = Callable[[pl.DataFrame], None]  # raises when a batch must not go online
Seen = Callable[[Rows], None]
Progress = Callable[[int, int], None]  # rows done, rows in all


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """What one filling did. Times in microseconds since 1970, UTC."""

    rows: int = 0  # read from the source
    new: int = 0  # were not in the store yet
    held_back: int = 0  # known later than the clock allows: they are taken when their time has come
    until_us: int | None = None  # filled up to this known time; None when nothing is
    behind: str = ""  # how the source changed among rows that were filled before


@overload
def push(
    view: View,
    rows: pl.DataFrame,
    store: OnlineStore,
    *,
    history_s: int | None = HISTORY_S,
    marks: Mapping[str, bytes] | None = None,
) -> int: ...


@overload
def push(view: str, rows: Any, **options: Any) -> Any: ...


def push(
    view: View | str,
    rows: Any,
    store: OnlineStore | None = None,
    *,
    history_s: int | None = HISTORY_S,
    marks: Mapping[str, bytes] | None = None,
    **options: Any,
) -> Any:
    """Add rows of a view's source to the store, all or none; returns how many were new.

    A row pushed twice counts once; order does not matter. Reads stay right for every t from ``history_s`` before the
    oldest known time of the newest batch; what only an earlier t could need may be dropped. ``None`` keeps all.
    ``marks`` are set in the same transaction, also when no row is left.

    The name of a source or view in place of the view, and no store: rows of the project, offline and online, as
    ``flyball features push`` takes them (a list of dictionaries, or a frame of any library).
    """
    if isinstance(view, str):
        return bound("filling", "push")(view, rows, **options)
    if store is None:
        raise Invalid(f"view {view.name!r}: push needs a store", f"or push({view.name!r}, rows)")
    return put(view, packed(events_of(view, rows)), store, history_s=history_s, marks=marks)


@overload
def materialize(
    view: View,
    source: Frame,
    store: OnlineStore,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    history_s: int | None = HISTORY_S,
) -> int: ...


@overload
def materialize(view: str = "", **options: Any) -> Any: ...


def materialize(
    view: View | str = "",
    source: Frame | None = None,
    store: OnlineStore | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    history_s: int | None = HISTORY_S,
    **options: Any,
) -> Any:
    """Bring rows that became known in ``(since, until]`` into the store, wherever its mark stands; returns how many
    were new. May be repeated or resumed at any point.

    Names of views (or nothing: all) in place of the view: those of the project, from where each was left, as
    ``flyball features materialize`` does.
    """
    if isinstance(view, str):
        times = {"since": since, "until": until}
        said = {name: one.isoformat() for name, one in times.items() if one is not None}
        return bound("filling", "materialize")(view, **said, **options)
    if source is None or store is None:
        raise Invalid(
            f"view {view.name!r}: materialize needs a source and a store", f"or materialize({view.name!r})"
        )
    return fill(view, source, store, since=since or _BEGINNING, until=until, history_s=history_s).new


def fill(
    view: View,
    source: Frame,
    store: OnlineStore,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    latest: datetime | None = None,
    history_s: int | None = HISTORY_S,
    batch_rows: int = BATCH_ROWS,
    check: Check | None = None,
    seen: Seen | None = None,
    progress: Progress | None = None,
) -> Filled:
    """Bring what became known since the view's mark into the store, in batches by known time, and move the mark.

    ``since`` goes back (or ahead) to another time than the mark's: a back-fill. The mark then moves only when no gap
    is left behind it. Rows known after ``latest`` are held back and counted: a clock that is ahead must not push the
    mark over rows still to come. ``check`` sees each batch, all columns of it, before it is written; what it raises
    ends the filling there.
    Memory is that of a batch or two, whatever the source's size.
    """
    frame = with_times(view, source, all_columns=check is not None)
    mark = Mark.of(view, store)
    reached = mark.until_us if mark is not None else EARLIEST
    after = to_us(since) if since is not None else reached
    end = to_us(until) if until is not None else LATEST
    span = reach_of(frame, after, end, to_us(latest) if latest is not None else LATEST, reached)
    moving = _Moving(view, mark, span, after)
    batches = _batches(frame, span, batch_rows, min(batch_rows, store.batch_rows))

    def take() -> tuple[Rows, int, dict[str, bytes]] | None:
        batch, whole = next(batches, (None, False))
        if batch is None:
            return None
        part = batch.drop(KNOWN, HAPPENED)
        if check is not None:
            check(part)
        return packed(events_of(view, part)), part.height, moving.past(batch, whole)

    done = new = 0
    with ThreadPoolExecutor(
        1, "filling"
    ) as ahead:  # makes the next batch ready while the store takes this one
        taken = ahead.submit(take).result()
        while taken is not None:
            rows, height, marks = taken
            counted = ahead.submit(seen, rows) if seen is not None else None
            following = ahead.submit(take)
            new += put(view, rows, store, history_s=history_s, marks=marks)
            done += height
            if progress is not None:
                progress(done, span.rows)
            if counted is not None:
                counted.result()
            taken = following.result()
    behind = "" if mark is None else what_changed(mark, span)
    return Filled(rows=done, new=new, held_back=span.held_back, until_us=moving.until_us, behind=behind)


def expire(view: View, store: OnlineStore, *, as_of: datetime, history_s: int = HISTORY_S) -> int:
    """Drop rows of all keys that no read from ``history_s`` before ``as_of`` on can need; returns how many."""
    oldest = to_us(as_of) - history_s * _SECOND
    return store.expire(view.stored_as, oldest - view.longest_s * _SECOND, as_of_us=oldest)


def put(
    view: View,
    rows: Rows,
    store: OnlineStore,
    *,
    history_s: int | None = HISTORY_S,
    marks: Mapping[str, bytes] | None = None,
) -> int:
    """:func:`push` for rows that are packed already."""
    if len(rows.codes) == 0:
        return store.append(view.stored_as, no_rows(), marks=marks) if marks else 0
    keep_us = None if history_s is None else (history_s + view.longest_s) * _SECOND
    rows = msgspec.structs.replace(rows, sums=bool(view.windows))
    return store.append(view.stored_as, rows, keep_us=keep_us, marks=marks or {})


class _Moving:
    """The mark as it moves with the batches; it stays where it is when the span leaves a gap behind it."""

    def __init__(self, view: View, mark: Mark | None, span: Reach, after: int) -> None:
        self._name = Mark.named(view)
        self._rows, self._times = span.rows_before, span.times_before
        if (
            mark is not None and after == mark.until_us
        ):  # what came late stays missing until it is back-filled
            self._rows, self._times = mark.rows, mark.times
        self._joins = span.rows_before == 0 if mark is None else after <= mark.until_us
        self.until_us = None if mark is None else mark.until_us

    def past(self, batch: pl.DataFrame, whole: bool) -> dict[str, bytes]:
        """The mark to set with a batch; none while more rows of its last instant are to come."""
        self._rows += batch.height
        self._times += int(batch.select(times_sum()).item())
        until = int(batch[KNOWN].max())  # type: ignore[arg-type]  # microseconds
        if not whole or not self._joins or (self.until_us is not None and until < self.until_us):
            return {}
        self.until_us = until
        return {self._name: msgspec.msgpack.encode(Mark(until, self._rows, self._times))}


def _batches(
    frame: pl.LazyFrame, span: Reach, read_rows: int, batch_rows: int
) -> Iterator[tuple[pl.DataFrame, bool]]:
    """The span in batches by known time, and whether each ends its last instant. Rows of one instant keep their order."""
    for low, high, rows in _parts(frame, span.low, span.high, span.rows, read_rows):
        inside = frame.filter(pl.col(KNOWN).is_between(low, high))
        if low == high and rows > 2 * read_rows:  # a bulk that became known at once
            yield from _chunks(inside, rows, batch_rows)
            continue
        found = inside.collect(engine="streaming").sort(KNOWN, maintain_order=True)
        known, begin = found[KNOWN], 0
        while begin < found.height:
            end = found.height
            if end - begin > batch_rows:
                last = known[begin + batch_rows - 1]
                end = int(known.search_sorted(last, side="right"))
            yield found[begin:end], True
            begin = end


def _chunks(inside: pl.LazyFrame, rows: int, batch_rows: int) -> Iterator[tuple[pl.DataFrame, bool]]:
    left = rows
    for chunk in inside.collect_batches(chunk_size=batch_rows, maintain_order=True, engine="streaming"):
        left -= chunk.height
        yield chunk, left <= 0


def _parts(
    frame: pl.LazyFrame, low: int, high: int, rows: int, batch_rows: int
) -> Iterator[tuple[int, int, int]]:
    """Ranges ``low, high, rows`` of known times, in order: each of at most twice ``batch_rows``, or of one instant.

    By counting in bins, a pass for each range that is too crowded, so that no list of all times is held.
    """
    if rows == 0:
        return
    if rows <= 2 * batch_rows or low == high:
        yield low, high, rows
        return
    width = (high - low) // _BINS + 1
    bins = (
        frame.filter(pl.col(KNOWN).is_between(low, high))
        .group_by(((pl.col(KNOWN) - low) // width).alias("bin"))
        .agg(pl.len().alias("rows"))
        .collect(engine="streaming")
        .sort("bin")
    )
    begins, total = low, 0
    for number, count in bins.iter_rows():
        first = low + number * width
        last = min(first + width - 1, high)
        if total and total + count > batch_rows:
            yield begins, first - 1, total
            begins, total = first, 0
        if count > 2 * batch_rows:
            yield from _parts(frame, first, last, count, batch_rows)
            begins = last + 1
        else:
            total += count
    if total:
        yield begins, high, total
