"""Whatever people have their entity rows in, as one Polars frame with one time column in microseconds, UTC.

Nothing is imported to find out what was given: who has a frame has its library loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import polars as pl

from flyball.errors import Invalid, NotFound, nearest

TIME = pl.Datetime("us", "UTC")
AT = ("at", "event_timestamp")  # what a time column is called when nobody says
_SCANS = {
    ".parquet": pl.scan_parquet,
    ".csv": lambda path: pl.scan_csv(path, try_parse_dates=True),
    ".ndjson": pl.scan_ndjson,
    ".jsonl": pl.scan_ndjson,
    ".arrow": pl.scan_ipc,
    ".feather": pl.scan_ipc,
}
_QUERY = ("select", "with", "from", "values", "(")


class NaiveTimes(UserWarning):
    """Times without a zone were read as UTC. Give them one, and nobody has to guess."""


def is_query(given: Any) -> bool:
    """Whether this is the text of an SQL query, and no path."""
    if not isinstance(given, str):
        return False
    first = given.split(None, 1)[0].lower() if given.strip() else ""
    names_table = Path(given).suffix.lower() in _SCANS  # "with space.csv"; no query ends so
    return (
        first.startswith(_QUERY) and len(given.split(None, 1)) > 1 and not names_table and not is_file(given)
    )


def is_file(path: str | Path) -> bool:
    """Whether something of that name is there; a query of a few hundred letters is no name, and no error either."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def table_of(given: Any, said: str = "the entity rows") -> pl.DataFrame | pl.LazyFrame:
    """A frame of Polars, pandas or Arrow, a DuckDB relation, rows as dicts, or a Parquet, CSV, JSON or Arrow file.

    >>> table_of({"carrier": ["UA"]}).columns
    ['carrier']
    """
    if isinstance(given, pl.DataFrame | pl.LazyFrame):
        return given
    if isinstance(given, str | Path):
        return _scan(Path(given), said)
    library = type(given).__module__.partition(".")[0].lstrip("_")
    try:
        if library == "pandas" and hasattr(given, "columns"):
            return pl.from_pandas(given, include_index=any(name is not None for name in given.index.names))
        if library == "duckdb":
            found: pl.DataFrame = given.pl()
            return found
        if hasattr(given, "__arrow_c_stream__"):
            return pl.DataFrame(given)
        if isinstance(given, Mapping) or (
            isinstance(given, Sequence) and all(isinstance(row, Mapping) for row in given)
        ):
            return pl.DataFrame(given, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise Invalid(f"{said} can't become a table: {error}", "give every column one type") from error
    raise Invalid(
        f"{said} are a {type(given).__name__}",
        "give a Polars, pandas or Arrow frame, a DuckDB relation, the path of a file, or an SQL query",
    )


def _scan(path: Path, said: str) -> pl.LazyFrame:
    ending = path.suffix.lower()
    if ending not in _SCANS:
        raise Invalid(
            f"{said}: {str(path)!r} is neither a table nor a query",
            f"a table ends with {', '.join(_SCANS)}; a query begins with SELECT, WITH or FROM",
        )
    if "*" not in path.name and not path.exists():
        beside = [one.name for one in path.parent.glob(f"*{ending}")] if path.parent.is_dir() else []
        raise NotFound(f"{said}: no file {str(path)!r}", nearest(path.name, beside), path=str(path))
    frame = _SCANS[ending](path)
    try:
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Invalid(
            f"{said}: {str(path)!r} can't be read: {error}", "is it what its ending says?"
        ) from error
    return frame


def time_column(schema: Mapping[str, Any], at: str | datetime | None, said: str = "the entity rows") -> str:
    """Which column says when each row asks: the one given, else ``at``, ``event_timestamp`` or the only time."""
    names = list(schema)
    if isinstance(at, str):
        if at not in schema:
            raise Invalid(f"{said} have no column {at!r}", nearest(at, names), column=at)
        return at
    times = [name for name, dtype in schema.items() if dtype == pl.Date or isinstance(dtype, pl.Datetime)]
    for name in AT:
        if name in schema and (
            name in times or not times
        ):  # beside a time, texts called so are something else
            return name
    if len(times) == 1:
        return times[0]
    hint = (
        f"say which: at={times[0]!r}" if times else "add a column 'at', or give at=datetime(...) for all rows"
    )
    raise Invalid(f"{said} have {'several times' if times else 'no time'}, none of them named 'at'", hint)


def in_utc(frame: pl.DataFrame, at: str, said: str = "the entity rows") -> pl.DataFrame:
    """The frame with its time column in microseconds, UTC; times without a zone are read as UTC, with a warning."""
    dtype = frame.schema[at]
    if dtype == TIME:
        return frame
    if dtype == pl.Null:
        return frame.with_columns(pl.col(at).cast(TIME))
    if dtype == pl.String:
        return frame.with_columns(_parsed(frame[at], said))
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return frame.with_columns(pl.col(at).dt.convert_time_zone("UTC").dt.cast_time_unit("us"))
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        if dtype != pl.Date and frame[at].null_count() < frame.height:
            _warn(at, said)
        return frame.with_columns(pl.col(at).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    raise Invalid(
        f"{said}: {at!r} is {dtype}, not a time",
        f"for seconds since 1970: pl.from_epoch({at!r}, time_unit='s')",
        column=at,
    )


def as_moment(at: datetime, said: str = "at") -> datetime:
    """A moment in UTC; without a zone it is read as UTC, with a warning."""
    if at.tzinfo is None:
        _warn(at.isoformat(), said)
        return at.replace(tzinfo=UTC)
    return at.astimezone(UTC)


def moment_of(given: Any) -> datetime:
    """One moment from a datetime, a date (its midnight), NumPy's or pandas' own, or ISO 8601.

    >>> moment_of("2013-04-01"), moment_of(date(2013, 4, 1))
    (datetime.datetime(2013, 4, 1, 0, 0), datetime.datetime(2013, 4, 1, 0, 0))
    """
    found: Any = parsed_moment(given) if isinstance(given, str) else given
    if hasattr(found, "astype"):
        found = found.astype("datetime64[us]").item()
    if type(found) is date:
        return datetime.combine(found, time())
    if not isinstance(found, datetime) or str(found) == "NaT":  # pandas' is a datetime
        raise Invalid(
            f"{given!r} is not a time", "like 2013-04-01T09:00:00Z, or datetime(2013, 4, 1, tzinfo=UTC)"
        )
    return found


def parsed_moment(text: str) -> datetime | None:
    """ISO 8601 as a moment; ``None`` for another text."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _parsed(texts: pl.Series, said: str) -> pl.Series:
    """ISO 8601; each text may have its own offset."""
    try:
        plain = texts.str.strip_chars()
        zoned = plain.str.contains(r"(?:[zZ]|[+-]\d\d:?\d\d)$") & plain.str.contains(":")
        found = plain.str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
    except pl.exceptions.PolarsError as error:
        wrong = next((text for text in texts.drop_nulls() if parsed_moment(text.strip()) is None), None)
        held = "texts of several forms" if wrong is None else f"texts that are no times, like {wrong!r}"
        raise Invalid(
            f"{said}: {texts.name!r} holds {held}",
            "ISO 8601 is read, like 2013-04-01T09:00:00Z; parse others first",
            column=texts.name,
        ) from error
    if not zoned.fill_null(value=True).all():
        _warn(texts.name, said)
    return found


def _warn(name: str, said: str) -> None:
    warnings.warn(f"{said}: {name!r} has no time zone and is read as UTC", NaiveTimes, stacklevel=3)
