"""How far a view is filled, and what its source holds before, in and beyond a span of known times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import polars as pl

from flyball.features.definitions import View
from flyball.features.events import Frame, events_of
from flyball.stores.online import OnlineStore

KNOWN, HAPPENED = "known, in microseconds", "happened, in microseconds"
EARLIEST, LATEST = -(1 << 62), 1 << 62
_SECOND = 1_000_000
_PRIME = 4294967291  # times are added up modulo this: a billion of them fit


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


class Reach(msgspec.Struct, frozen=True):
    """The rows to fill, the first and last known time among them, and how many rows lie around."""

    rows: int
    low: int
    high: int
    held_back: int
    rows_before: int
    times_before: int
    rows_marked: int  # known by the mark, as the source is now
    times_marked: int


def what_changed(mark: Mark, span: Reach) -> str:
    """How the source changed among the rows that were filled before, for people; empty when it did not."""
    more = span.rows_marked - mark.rows
    if more == 0 and span.times_marked == mark.times:
        return ""
    what = f"{more} more rows" if more > 0 else f"{-more} rows fewer" if more else "rows of other times"
    return (
        f"the source has {what} known by {datetime.fromtimestamp(mark.until_us / _SECOND, UTC).isoformat()}"
    )


def with_times(view: View, source: Frame, *, all_columns: bool) -> pl.LazyFrame:
    """The columns that a view needs (or all), and both clocks in microseconds beside them; a wrong column is named."""
    frame = source.lazy()
    schema = frame.collect_schema()
    events_of(view, pl.DataFrame(schema=schema))
    needed = [name for name in schema if all_columns or name in view.needed_columns]
    known, happened = (_in_us(schema, name) for name in (view.known, view.happened))
    return frame.select(*needed, known.alias(KNOWN), happened.alias(HAPPENED))


def _in_us(schema: Mapping[str, pl.DataType], name: str) -> pl.Expr:
    """Microseconds since 1970, UTC; a time without a zone is read as UTC, a date as its midnight."""
    if schema[name] == pl.Null:
        return pl.lit(None, dtype=pl.Int64)
    if schema[name] == pl.Date:
        return pl.col(name).cast(pl.Datetime("us")).to_physical()
    return pl.col(name).dt.cast_time_unit("us").to_physical()


def times_sum(where: pl.Expr | None = None) -> pl.Expr:
    """Both clocks of the rows, added up: what :attr:`Mark.times` holds."""
    times = pl.col(KNOWN) % _PRIME + pl.col(HAPPENED).fill_null(0) % _PRIME
    return (times if where is None else times.filter(where)).sum()


def reach_of(frame: pl.LazyFrame, after: int, until: int, latest: int, reached: int) -> Reach:
    """One pass over both clocks of a source; rows that are known at no time do not exist."""
    known = pl.col(KNOWN)
    inside = (known > after) & (known <= min(until, latest))
    found = frame.select(
        inside.sum().alias("rows"),
        known.filter(inside).min().fill_null(0).alias("low"),
        known.filter(inside).max().fill_null(0).alias("high"),
        ((known > max(after, latest)) & (known <= until)).sum().alias("held_back"),
        (known <= after).sum().alias("rows_before"),
        times_sum(known <= after).alias("times_before"),
        (known <= reached).sum().alias("rows_marked"),
        times_sum(known <= reached).alias("times_marked"),
    )
    return Reach(**found.collect(engine="streaming").row(0, named=True))
