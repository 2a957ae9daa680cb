"""What is in a snapshot's tables: schema, row count and per-column statistics, in one lazy pass of Polars."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from flyball.errors import Invalid

NULLS = ["", "NA", "null"]  # what CSV files write for "nothing"; R's NA is in the flights of the demo

READ_BYTES = 256 << 20  # a CSV file up to here is parsed once; a larger one is scanned
MOST_TABLES = 200
_CSV: dict[str, Any] = {"null_values": NULLS, "try_parse_dates": True, "infer_schema_length": 10_000}


def is_table(path: str) -> bool:
    """Whether a file of this name is read as a table."""
    return path.endswith((".parquet", ".csv"))


def scan(path: str, source: bytes | Path) -> pl.LazyFrame:
    """A lazy frame over a table's bytes, or over the file that holds them; a large file is read as it is scanned."""
    try:
        if path.endswith(".parquet"):
            return pl.scan_parquet(io.BytesIO(source) if isinstance(source, bytes) else source)
        if isinstance(source, bytes) or source.stat().st_size <= READ_BYTES:
            return pl.read_csv(io.BytesIO(source) if isinstance(source, bytes) else source, **_CSV).lazy()
        return pl.scan_csv(source, **_CSV)
    except pl.exceptions.NoDataError:
        return pl.LazyFrame()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error


def describe(
    sources: Mapping[str, bytes | Path],
) -> tuple[dict[str, str], int | None, dict[str, dict[str, Any]]]:
    """Schema, rows and statistics of tables by path; columns carry ``path:`` in front where schemas differ.

    Of more than a few hundred tables with different columns, only the columns are told.
    """
    if not sources:
        return {}, None, {}
    if len(sources) > MOST_TABLES:
        return _describe_many(sources)
    large = sum(one.stat().st_size for one in sources.values() if isinstance(one, Path)) > READ_BYTES
    tables = {path: scan(path, source) for path, source in sources.items()}
    schemas = {path: _schema(path, table) for path, table in tables.items()}
    if len({tuple(schema.items()) for schema in schemas.values()}) == 1:
        schema = next(iter(schemas.values()))
        rows, statistics = _statistics(pl.concat(list(tables.values())), schema, large=large)
        return {name: str(kind) for name, kind in schema.items()}, rows, statistics
    total = 0
    all_columns: dict[str, str] = {}
    all_statistics: dict[str, dict[str, Any]] = {}
    for path, table in tables.items():
        rows, statistics = _statistics(table, schemas[path], large=large)
        total += rows
        all_columns |= {f"{path}:{name}": str(kind) for name, kind in schemas[path].items()}
        all_statistics |= {f"{path}:{name}": facts for name, facts in statistics.items()}
    return all_columns, total, all_statistics


def _describe_many(
    sources: Mapping[str, bytes | Path],
) -> tuple[dict[str, str], int | None, dict[str, dict[str, Any]]]:
    """Many files of one shape are one scan; when they are not of one shape, the first tells the columns."""
    first, source = next(iter(sources.items()))
    schema = _schema(first, scan(first, source))
    columns = {name: str(kind) for name, kind in schema.items()}
    paths = [one for one in sources.values() if isinstance(one, Path)]
    if len(paths) == len(sources) and len({Path(path).suffix for path in sources}) == 1:
        try:
            table = pl.scan_parquet(paths) if first.endswith(".parquet") else pl.scan_csv(paths, **_CSV)
            return columns, *_statistics(table, schema, large=True)
        except (pl.exceptions.PolarsError, OSError):
            return columns, None, {}
    return columns, None, {}


def _unreadable(path: str, error: Exception) -> Invalid:
    return Invalid(f"{path} can't be read as a table: {error}", "is it a whole Parquet or CSV file?")


def _schema(path: str, table: pl.LazyFrame) -> pl.Schema:
    try:
        return table.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error


def _statistics(
    table: pl.LazyFrame, schema: pl.Schema, *, large: bool = False
) -> tuple[int, dict[str, dict[str, Any]]]:
    asked = [pl.len().alias("rows")]
    for name, kind in schema.items():
        column = pl.col(f"^{re.escape(name)}$")  # a name such as "^a$" would be read as a pattern
        asked.append(column.null_count().alias(f"nulls:{name}"))
        if kind.is_numeric() or kind.is_temporal() or kind in {pl.String, pl.Boolean}:
            asked += [column.min().alias(f"min:{name}"), column.max().alias(f"max:{name}")]
        if kind.is_numeric() or kind == pl.Boolean:
            asked.append(column.mean().alias(f"mean:{name}"))
    answer = table.select(asked).collect(engine="streaming" if large else "auto").row(0, named=True)
    rows = int(answer.pop("rows"))
    statistics: dict[str, dict[str, Any]] = {name: {} for name in schema}
    for key, value in answer.items():
        fact, _, name = key.partition(":")
        statistics[name][fact] = value if isinstance(value, int | float | str | None) else str(value)
    return rows, statistics
