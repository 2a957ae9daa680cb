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
from flyball.features.rows import packed
from flyball.stores.online import OnlineStore, Rows, no_rows

HISTORY_S = 7 * 86400
BATCH_ROWS = 1_000_000  # rows in one transaction: about 0.5 GB at its peak
_SECOND = 1_000_000
_KNOWN, _HAPPENED = "known, in microseconds", "happened, in microseconds"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_NEVER, _EVER = -(1 << 62), 1 << 62
_BINS = 512
_PRIME = 4294967291  # times are added up modulo this: a billion of them fit

Check = Callable[[pl.DataFrame], None]  # raises when a batch must not go online
Seen = Callable[[Rows], None]
Progress = Callable[[int, int], None]  # rows done, rows in all


class Mark(msgspec.Struct, frozen=True):
    """How far a view is filled: all rows of its source that were known by ``until_us``, and what these were."""

    until_us: int
    rows: int  # of the source, known by then
    times: int  # when they happened and became known, added up: another sum, other rows

    @staticmethod
    def named(view: View) -> str:
        """The name of a view's mark in its store."""
        return f"filled:{view.stored_as}"

    @classmethod
    def of(cls, view: View, store: OnlineStore) -> Mark | None:
        """The mark that the last whole batch left; ``None`` for a view never filled, or cleared since."""
        found = store.mark(cls.named(view))
        return None if found is None else msgspec.msgpack.decode(found, type=cls)


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
    frame = _with_times(view, source, all_columns=check is not None)
    mark = Mark.of(view, store)
    reached = mark.until_us if mark is not None else _NEVER
    after = to_us(since) if since is not None else reached
    end = to_us(until) if until is not None else _EVER
    span = _look(frame, after, end, to_us(latest) if latest is not None else _EVER, reached)
    moving = _Moving(view, mark, span, after)
    batches = _batches(frame, span, batch_rows, min(batch_rows, store.batch_rows))

    def take() -> tuple[Rows, int, dict[str, bytes]] | None:
        batch, whole = next(batches, (None, False))
        if batch is None:
            return None
        part = batch.drop(_KNOWN, _HAPPENED)
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
    behind = "" if mark is None else _behind(mark, span)
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


class _Span(msgspec.Struct, frozen=True):
    """The rows to fill, the first and last known time among them, and how many rows lie around."""

    rows: int
    low: int
    high: int
    held_back: int
    rows_before: int
    times_before: int
    rows_marked: int  # known by the mark, as the source is now
    times_marked: int


class _Moving:
    """The mark as it moves with the batches; it stays where it is when the span leaves a gap behind it."""

    def __init__(self, view: View, mark: Mark | None, span: _Span, after: int) -> None:
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
        self._times += int(batch.select(_times()).item())
        until = int(batch[_KNOWN].max())  # type: ignore[arg-type]  # microseconds
        if not whole or not self._joins or (self.until_us is not None and until < self.until_us):
            return {}
        self.until_us = until
        return {self._name: msgspec.msgpack.encode(Mark(until, self._rows, self._times))}


def _behind(mark: Mark, span: _Span) -> str:
    more = span.rows_marked - mark.rows
    if more == 0 and span.times_marked == mark.times:
        return ""
    what = f"{more} more rows" if more > 0 else f"{-more} rows fewer" if more else "rows of other times"
    return (
        f"the source has {what} known by {datetime.fromtimestamp(mark.until_us / _SECOND, UTC).isoformat()}"
    )


def _with_times(view: View, source: Frame, *, all_columns: bool) -> pl.LazyFrame:
    """The columns that a view needs (or all), and both clocks in microseconds beside them; a wrong column is named."""
    frame = source.lazy()
    schema = frame.collect_schema()
    events_of(view, pl.DataFrame(schema=schema))
    needed = [name for name in schema if all_columns or name in view.needed_columns]
    known, happened = (_in_us(schema, name) for name in (view.known, view.happened))
    return frame.select(*needed, known.alias(_KNOWN), happened.alias(_HAPPENED))


def _in_us(schema: Mapping[str, pl.DataType], name: str) -> pl.Expr:
    """Microseconds since 1970, UTC; a time without a zone is read as UTC, a date as its midnight."""
    if schema[name] == pl.Null:
        return pl.lit(None, dtype=pl.Int64)
    if schema[name] == pl.Date:
        return pl.col(name).cast(pl.Datetime("us")).to_physical()
    return pl.col(name).dt.cast_time_unit("us").to_physical()


def _times(where: pl.Expr | None = None) -> pl.Expr:
    times = pl.col(_KNOWN) % _PRIME + pl.col(_HAPPENED).fill_null(0) % _PRIME
    return (times if where is None else times.filter(where)).sum()


def _look(frame: pl.LazyFrame, after: int, until: int, latest: int, reached: int) -> _Span:
    """One pass over both clocks of a source; rows that are known at no time do not exist."""
    known = pl.col(_KNOWN)
    inside = (known > after) & (known <= min(until, latest))
    found = frame.select(
        inside.sum().alias("rows"),
        known.filter(inside).min().fill_null(0).alias("low"),
        known.filter(inside).max().fill_null(0).alias("high"),
        ((known > max(after, latest)) & (known <= until)).sum().alias("held_back"),
        (known <= after).sum().alias("rows_before"),
        _times(known <= after).alias("times_before"),
        (known <= reached).sum().alias("rows_marked"),
        _times(known <= reached).alias("times_marked"),
    )
    return _Span(**found.collect(engine="streaming").row(0, named=True))


def _batches(
    frame: pl.LazyFrame, span: _Span, read_rows: int, batch_rows: int
) -> Iterator[tuple[pl.DataFrame, bool]]:
    """The span in batches by known time, and whether each ends its last instant. Rows of one instant keep their order."""
    for low, high, rows in _parts(frame, span.low, span.high, span.rows, read_rows):
        inside = frame.filter(pl.col(_KNOWN).is_between(low, high))
        if low == high and rows > 2 * read_rows:  # a bulk that became known at once
            yield from _chunks(inside, rows, batch_rows)
            continue
        found = inside.collect(engine="streaming").sort(_KNOWN, maintain_order=True)
        known, begin = found[_KNOWN], 0
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
        frame.filter(pl.col(_KNOWN).is_between(low, high))
        .group_by(((pl.col(_KNOWN) - low) // width).alias("bin"))
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
