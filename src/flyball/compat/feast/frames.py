"""Rows that come in, whatever frame they are: pandas, Polars, Arrow, or columns and rows as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flyball.errors import Invalid

if TYPE_CHECKING:
    import polars as pl

    from flyball.features.definitions import View

EVENT_TIME = "event_timestamp"


def as_polars(rows: Any, *, times: Sequence[str] = ()) -> pl.DataFrame:
    """A Polars frame of them; texts in the columns ``times`` are read as times, in UTC where they name no zone."""
    import polars as pl

    if isinstance(rows, pl.LazyFrame):
        rows = rows.collect()
    if not isinstance(rows, pl.DataFrame):
        try:
            if hasattr(rows, "iloc"):  # pandas: the index carries nothing that Feast would take
                rows = pl.from_pandas(rows)
            elif hasattr(rows, "column_names") and hasattr(rows, "schema"):
                rows = pl.from_arrow(rows)
            else:
                rows = pl.DataFrame(rows, infer_schema_length=None, strict=False)
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            raise Invalid(
                f"the rows can't be read as a table: {error}", "columns of one length each"
            ) from error
    texts = [name for name in dict.fromkeys(times) if rows.schema.get(name) == pl.String]
    try:
        read = [pl.col(name).str.to_datetime(time_unit="us", time_zone="UTC") for name in texts]
        found: pl.DataFrame = rows.with_columns(read)
        return found
    except pl.exceptions.PolarsError as error:
        raise Invalid(
            f"column {texts[0]!r} holds a text that is no time: {error}", "like 2024-01-01T00:00:00Z"
        ) from error


def rows_of_view(view: View, rows: Any) -> pl.DataFrame:
    """Rows of a view's source, from what Feast calls its clocks: ``event_timestamp``, and ``created``, which may be null."""
    import polars as pl

    found = as_polars(rows)
    names = found.columns
    renamed = {EVENT_TIME: view.happened} if EVENT_TIME in names and view.happened not in names else {}
    if view.known != view.happened and "created" in names and view.known not in names:
        renamed["created"] = view.known
    found = as_polars(found.rename(renamed), times=(view.happened, view.known))
    if view.happened not in found.columns or view.known == view.happened:
        return found
    if view.known not in found.columns:
        return found.with_columns(pl.col(view.happened).alias(view.known))
    return found.with_columns(pl.coalesce(view.known, view.happened))


def columns_of(rows: Any) -> list[str]:
    """The names of a frame's columns; none of a path or query, which nobody has read yet."""
    if isinstance(rows, Mapping):
        return list(map(str, rows))
    if hasattr(rows, "column_names"):
        return list(map(str, rows.column_names))
    if hasattr(rows, "collect_schema"):
        return list(rows.collect_schema().names())
    return [str(name) for name in getattr(rows, "columns", ())]
