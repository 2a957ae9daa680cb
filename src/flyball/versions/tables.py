"""What is in a snapshot's tables: schema, row count and per-column statistics, in one lazy pass of Polars."""

from __future__ import annotations

import io
import re
from typing import Any

import polars as pl

from flyball.errors import Invalid

NULLS = ["", "NA", "null"]  # what CSV files write for "nothing"; R's NA is in the flights of the demo


def is_table(path: str) -> bool:
    """Whether a file of this name is read as a table."""
    return path.endswith((".parquet", ".csv"))


def scan(path: str, data: bytes) -> pl.LazyFrame:
    """A lazy frame over a table's bytes."""
    try:
        if path.endswith(".parquet"):
            return pl.scan_parquet(io.BytesIO(data))
        return pl.read_csv(
            io.BytesIO(data), null_values=NULLS, try_parse_dates=True, infer_schema_length=10_000
        ).lazy()
    except pl.exceptions.NoDataError:
        return pl.LazyFrame()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Invalid(
            f"{path} can't be read as a table: {error}", "is it a whole Parquet or CSV file?"
        ) from error


def describe(tables: dict[str, pl.LazyFrame]) -> tuple[dict[str, str], int | None, dict[str, dict[str, Any]]]:
    """Schema, rows and statistics of tables by path; columns carry ``path:`` in front where schemas differ."""
    if not tables:
        return {}, None, {}
    schemas = {path: _schema(path, table) for path, table in tables.items()}
    if len({tuple(schema.items()) for schema in schemas.values()}) == 1:
        schema = next(iter(schemas.values()))
        rows, statistics = _statistics(pl.concat(list(tables.values())), schema)
        return {name: str(kind) for name, kind in schema.items()}, rows, statistics
    total = 0
    all_columns: dict[str, str] = {}
    all_statistics: dict[str, dict[str, Any]] = {}
    for path, table in tables.items():
        rows, statistics = _statistics(table, schemas[path])
        total += rows
        all_columns |= {f"{path}:{name}": str(kind) for name, kind in schemas[path].items()}
        all_statistics |= {f"{path}:{name}": facts for name, facts in statistics.items()}
    return all_columns, total, all_statistics


def _schema(path: str, table: pl.LazyFrame) -> pl.Schema:
    try:
        return table.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Invalid(
            f"{path} can't be read as a table: {error}", "is it a whole Parquet or CSV file?"
        ) from error


def _statistics(table: pl.LazyFrame, schema: pl.Schema) -> tuple[int, dict[str, dict[str, Any]]]:
    asked = [pl.len().alias("rows")]
    for name, kind in schema.items():
        column = pl.col(f"^{re.escape(name)}$")  # a name such as "^a$" would be read as a pattern
        asked.append(column.null_count().alias(f"nulls:{name}"))
        if kind.is_numeric() or kind.is_temporal() or kind in {pl.String, pl.Boolean}:
            asked += [column.min().alias(f"min:{name}"), column.max().alias(f"max:{name}")]
        if kind.is_numeric() or kind == pl.Boolean:
            asked.append(column.mean().alias(f"mean:{name}"))
    answer = table.select(asked).collect().row(0, named=True)
    rows = int(answer.pop("rows"))
    statistics: dict[str, dict[str, Any]] = {name: {} for name in schema}
    for key, value in answer.items():
        fact, _, name = key.partition(":")
        statistics[name][fact] = value if isinstance(value, int | float | str | None) else str(value)
    return rows, statistics
