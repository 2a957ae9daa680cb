"""A source's own rows and those that were pushed to it, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import polars as pl

from flyball.errors import Invalid
from flyball.features.sources import chosen
from flyball.features.sources.places import Place
from flyball.features.sources.usable import usable


def together(
    parts: Sequence[pl.LazyFrame],
    place: Place,
    columns: Sequence[str] | None,
    clocks: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
) -> pl.LazyFrame:
    """One below the other; a column that some lack is null there, and one of two kinds is refused."""
    filled = [
        part for part in parts if part.collect_schema().names()
    ]  # a stream marks its place without rows
    if len(filled) > 1:
        same = [_zoned(usable(part, place, clocks)) for part in filled]
        _alike(same, place, columns)
        frame = pl.concat(same, how="diagonal_relaxed")
    else:
        frame = (filled or list(parts))[0]
    return chosen(frame, place, columns, clocks, since, until)


def _zoned(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Times without a zone are UTC's: said here, so that those with one fit beside them."""
    made = [
        pl.col(name).dt.cast_time_unit("us").dt.replace_time_zone("UTC")
        if kind.time_zone is None
        else pl.col(name).dt.cast_time_unit("us").dt.convert_time_zone("UTC")
        for name, kind in frame.collect_schema().items()
        if isinstance(kind, pl.Datetime)
    ]
    return frame.with_columns(made) if made else frame


def _alike(parts: Sequence[pl.LazyFrame], place: Place, columns: Sequence[str] | None) -> None:
    first: dict[str, Any] = {}
    for part in parts:
        for name, kind in part.collect_schema().items():
            was = first.setdefault(name, kind)
            if (columns is None or name in columns) and not _fits(was, kind):
                raise Invalid(
                    f"{place.said}: column {name!r} is {was} there, and {kind} in rows that were pushed",
                    "push it in the source's own type",
                    source=place.name,
                    column=name,
                )


def _fits(one: Any, other: Any) -> bool:
    numbers = one.is_numeric() and other.is_numeric()
    return bool(
        one == other or numbers or pl.Null in (one, other) or {one, other} <= {pl.String, pl.Categorical}
    )


def rows_in(place: Place) -> int | None:
    """How many rows, where the files' own footers say it; ``None`` where they would have to be read."""
    if place.kind in ("delta", "iceberg"):
        from flyball.features.sources.lakes import open_lake

        return int(open_lake(place).frame.select(pl.len()).collect().item())
    if place.kind == "files" and place.format == "parquet":
        from flyball.features.sources.files import scan

        return int(scan(place).select(pl.len()).collect().item())
    return None
