"""Types that features are made of: texts in a clock become times, decimals numbers; rows by when they became known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl

from flyball.features.sources.places import Place


def usable(frame: pl.LazyFrame, place: Place, clocks: tuple[str, ...]) -> pl.LazyFrame:
    """Decimals as whole numbers or floats, clocks as times in UTC; all else as it is."""
    made = []
    for name, kind in frame.collect_schema().items():
        column = pl.col(name)
        if isinstance(kind, pl.Decimal):
            made.append(column.cast(pl.Int64 if kind.scale == 0 else pl.Float64))
        elif name in clocks and kind == pl.String:
            made.append(
                column.str.strip_chars().str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
            )
        elif name in clocks and isinstance(kind, pl.Datetime) and kind.time_unit != "us":
            made.append(column.dt.cast_time_unit("us"))
    return frame.with_columns(made) if made else frame


def between(frame: pl.LazyFrame, known: str, since: datetime | None, until: datetime | None) -> pl.LazyFrame:
    """Rows known in ``(since, until]``: a comparison that Parquet's own statistics answer for whole row groups."""
    if not known or (since is None and until is None):
        return frame
    kind = frame.collect_schema().get(known)
    if since is not None:
        frame = frame.filter(pl.col(known) > bound(since, kind))
    return frame if until is None else frame.filter(pl.col(known) <= bound(until, kind))


def bound(at: datetime, kind: Any) -> pl.Expr:
    """A time as a literal of the column's own type; without a zone it is UTC's."""
    utc = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).replace(tzinfo=None)
    literal = pl.lit(utc, pl.Datetime("us"))
    if kind == pl.Date:
        return literal
    zone = getattr(kind, "time_zone", None)
    return literal.dt.replace_time_zone("UTC").dt.convert_time_zone(zone) if zone else literal
