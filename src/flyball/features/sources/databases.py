"""Rows of SQL tables and queries, batch by batch: only the columns that are asked for, only rows that are wanted.

What a database says of its types stands; where it says nothing (an expression in SQLite) all its values are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from polars.io.plugins import register_io_source

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.features.sources.places import Place

_ROWS = 50_000  # of one batch
_NAME = re.compile(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*){0,2}")
_OF_POSTGRES: dict[int, Any] = {
    16: pl.Boolean, 20: pl.Int64, 21: pl.Int16, 23: pl.Int32, 26: pl.Int64, 700: pl.Float32, 701: pl.Float64,
    25: pl.String, 1042: pl.String, 1043: pl.String, 19: pl.String, 18: pl.String, 1082: pl.Date,
    1114: pl.Datetime("us"), 1184: pl.Datetime("us", "UTC"), 2950: pl.String, 1083: pl.Time, 17: pl.Binary,
}  # fmt: skip
_NUMERIC = 1700
_CONNECT_S = 10
_PLAIN = {"no_parameters": True}  # a % in a query is a %


class Wanted:
    """The SQL of what is asked: columns by name, and rows known in ``(since, until]``."""

    def __init__(self, place: Place, known: str, since: datetime | None, until: datetime | None) -> None:
        self.place, self.known, self.since, self.until = place, known, since, until

    @property
    def inner(self) -> str:
        query = self.place.query
        return query if _NAME.fullmatch(query) else f"({query})"

    def sql(self, columns: Sequence[str] | None, rows: int | None, schema: dict[str, Any]) -> str:
        """One SELECT; the order of the inner query's rows is kept by every database known to us."""
        chosen = ", ".join(map(quoted, schema if columns is None else columns)) or "1"
        parts = [f"SELECT {chosen} FROM {self.inner} AS source_rows"]
        kind = schema.get(self.known)
        if isinstance(kind, pl.Datetime):
            bounds = ((">", self.since), ("<=", self.until))
            said = [
                f"{quoted(self.known)} {sign} {_literal(at, kind)}" for sign, at in bounds if at is not None
            ]
            parts += [f"WHERE {' AND '.join(said)}"] if said else []
        if rows is not None:
            parts.append(f"LIMIT {rows}")
        return " ".join(parts)


def quoted(name: str) -> str:
    """A column's name inside SQL."""
    return '"' + name.replace('"', '""') + '"'


def _literal(at: datetime, kind: pl.Datetime) -> str:
    utc = at.astimezone(UTC) if at.tzinfo else at
    text = utc.replace(tzinfo=None).isoformat(" ", "microseconds")
    return f"TIMESTAMPTZ '{text}+00'" if kind.time_zone else f"TIMESTAMP '{text}'"


def scan(
    place: Place, root: Path, *, known: str = "", since: datetime | None = None, until: datetime | None = None
) -> pl.LazyFrame:
    """The rows of a table or query; each time the frame is collected the database is asked anew."""
    wanted = Wanted(place, known, since, until)
    engine: _DuckDB | _Other = _DuckDB(place, root) if place.kind == "duckdb" else _Other(place)
    with engine.answers():
        schema = engine.schema(wanted)

    def rows(
        columns: list[str] | None, predicate: pl.Expr | None, count: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        limit = None if predicate is not None else count
        kinds = {name: schema[name] for name in (schema if columns is None else columns)}
        left = count
        with engine.answers():
            for batch in engine.batches(wanted.sql(columns, limit, schema), kinds):
                found = batch if predicate is None else batch.filter(predicate)
                found = found if left is None else found.head(left)
                yield found
                if left is not None:
                    left -= found.height
                    if left <= 0:
                        return

    return register_io_source(rows, schema=schema, explain_name=place.said)


def count(place: Place, root: Path) -> int:
    """How many rows there are now: the database counts."""
    engine: _DuckDB | _Other = _DuckDB(place, root) if place.kind == "duckdb" else _Other(place)
    with engine.answers():
        return engine.one(f"SELECT count(*) FROM {Wanted(place, '', None, None).inner} AS source_rows")


class _DuckDB:
    """A file of DuckDB's, opened to read; several processes may, while none writes."""

    def __init__(self, place: Place, root: Path) -> None:
        self.place, self.root = place, root
        try:
            import duckdb
        except ModuleNotFoundError as error:
            raise Invalid(
                f"{place.said} needs DuckDB, which is not installed", "pip install 'flyball[duckdb]'"
            ) from error
        self.duckdb: Any = duckdb
        if place.where and not Path(place.where).is_file():
            raise NotFound(f"{place.said} is gone: no file {place.where}", "check the source's URL")

    def _open(self) -> Any:
        connection = self.duckdb.connect(self.place.where or ":memory:", read_only=bool(self.place.where))
        connection.execute(f"SET file_search_path = '{str(self.root).replace(chr(39), chr(39) * 2)}'")
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    @contextmanager
    def answers(self) -> Iterator[None]:
        try:
            yield
        except self.duckdb.IOException as error:
            if "No files found" in str(error):
                raise NotFound(f"{self.place.said} is gone: {_first(error)}", "check the query") from error
            raise Unavailable(
                f"{self.place.said} can't be read: {error}", "is another writing it?"
            ) from error
        except self.duckdb.CatalogException as error:
            raise NotFound(
                f"{self.place.said} is gone: {_first(error)}", "check the source's query"
            ) from error
        except self.duckdb.Error as error:
            raise Invalid(f"{self.place.said} refuses the query: {_first(error)}", _TRY) from error

    def schema(self, wanted: Wanted) -> dict[str, Any]:
        with self._open() as connection:
            relation = connection.sql(f"SELECT * FROM {wanted.inner} AS source_rows LIMIT 0")
            return dict(pl.scan_arrow_c_stream(relation).collect_schema())

    def batches(self, sql: str, kinds: dict[str, Any]) -> Iterator[pl.DataFrame]:
        with self._open() as connection:
            stream = pl.scan_arrow_c_stream(connection.sql(sql))
            yield from stream.collect_batches(chunk_size=_ROWS)

    def one(self, sql: str) -> int:
        with self._open() as connection:
            return int(connection.execute(sql).fetchone()[0])


class _Other:
    """Any database that SQLAlchemy speaks to; rows come by a cursor on the server where there is one."""

    def __init__(self, place: Place) -> None:
        self.place = place
        try:
            url = sa.make_url(place.where)
        except sa.exc.ArgumentError as error:
            raise Invalid(
                f"source {place.name!r}: its URL is not that of a database",
                "like postgresql://user@host/name",
            ) from error
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
            raise NotFound(f"{place.said} is gone: no file {url.database}", "check the source's URL")
        try:
            timely = {"connect_timeout": _CONNECT_S} if url.get_backend_name() == "postgresql" else {}
            given = {} if "connect_timeout" in url.query else timely
            self.engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=given)
        except ModuleNotFoundError as error:
            line = "flyball[postgres]" if error.name and error.name.startswith("psycopg") else error.name
            raise Invalid(
                f"{place.said} needs {error.name}, which is not installed", f"pip install '{line}'"
            ) from error
        except sa.exc.NoSuchModuleError as error:
            raise Invalid(
                f"source {place.name!r}: SQLAlchemy knows no database {url.drivername!r}", _TRY
            ) from error

    @contextmanager
    def answers(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            said = _first(getattr(error, "orig", None) or error)
            if _is_missing(said):
                raise NotFound(f"{self.place.said} is gone: {said}", "check the source's query") from error
            connected = not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
            if connected or self.engine.dialect.name == "sqlite":
                raise Invalid(f"{self.place.said} refuses the query: {said}", _TRY) from error
            raise Unavailable(f"{self.place.said} does not answer: {said}", "is it up?") from error

    def schema(self, wanted: Wanted) -> dict[str, Any]:
        with self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                return _sqlite_schema(connection, wanted.inner, self.place)
            result = connection.exec_driver_sql(
                f"SELECT * FROM {wanted.inner} AS source_rows LIMIT 0", execution_options=_PLAIN
            )
            cursor: Any = result.cursor
            described = list(cursor.description)
            if connection.dialect.name == "postgresql":
                return {one.name: _postgres_type(one) for one in described}
            sample = connection.execute(sa.text(f"SELECT * FROM {wanted.inner} AS source_rows LIMIT {_ROWS}"))
            names = [str(one[0]) for one in described]
            rows = [tuple(row) for row in sample]
            return dict(pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None).schema)

    def batches(self, sql: str, kinds: dict[str, Any]) -> Iterator[pl.DataFrame]:
        convert = _converters(kinds, self.engine.dialect.name)
        with self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TIME ZONE 'UTC'")
            streamed = {**_PLAIN, "stream_results": True, "max_row_buffer": _ROWS}
            result = connection.exec_driver_sql(sql, execution_options=streamed)
            for part in result.partitions(_ROWS):
                if kinds:
                    yield _frame(part, kinds, convert, self.place)
                else:
                    yield pl.DataFrame(height=len(part))

    def one(self, sql: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.exec_driver_sql(sql, execution_options=_PLAIN).scalar_one())


def _frame(
    rows: Sequence[Any], kinds: dict[str, Any], convert: dict[str, Callable[[Any], Any]], place: Place
) -> pl.DataFrame:
    columns = []
    for (name, kind), values in zip(kinds.items(), zip(*rows, strict=True), strict=True):
        made: Any = values
        if name in convert:
            made = [None if value is None else convert[name](value) for value in values]
        try:
            columns.append(pl.Series(name, made, dtype=kind, strict=True))
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
            raise Invalid(
                f"{place.said}: column {name!r} is {kind}, and holds something else: {_first(error)}",
                "cast it in the source's query",
                source=place.name,
                column=name,
            ) from error
    return pl.DataFrame(columns)


def _converters(kinds: dict[str, Any], dialect: str) -> dict[str, Callable[[Any], Any]]:
    """What the driver gives in another shape than the column's type has: numbers of any precision, ids, SQLite's all."""
    found: dict[str, Callable[[Any], Any]] = {}
    for name, kind in kinds.items():
        if kind == pl.Float64:
            found[name] = float
        elif dialect == "sqlite" and kind == pl.Boolean:
            found[name] = bool
        elif kind == pl.Int64 and dialect == "postgresql":
            found[name] = int
        elif kind == pl.String and dialect == "postgresql":
            found[name] = str
    return found


def _postgres_type(column: Any) -> Any:
    if column.type_code == _NUMERIC:
        whole = column.scale == 0 and (column.precision or 99) <= 18
        return pl.Int64 if whole else pl.Float64
    return _OF_POSTGRES.get(column.type_code, pl.String)


def _sqlite_schema(connection: Any, inner: str, place: Place) -> dict[str, Any]:
    """Declared types of plain columns; of expressions, what their values are."""
    connection.exec_driver_sql(f"CREATE TEMP VIEW source_rows_of AS SELECT * FROM {inner}")
    try:
        listed = connection.exec_driver_sql("PRAGMA table_info(source_rows_of)").fetchall()
        declared = {str(row[1]): _declared(str(row[2])) for row in listed}
        unknown = [name for name, kind in declared.items() if kind is None]
        asked = ", ".join(f"group_concat(DISTINCT typeof({quoted(name)}))" for name in unknown)
        if unknown:
            seen = connection.exec_driver_sql(f"SELECT {asked} FROM source_rows_of").fetchone()
            for name, kinds in zip(unknown, seen, strict=True):
                declared[name] = _of_values(set((kinds or "").split(",")) - {"null", ""}, name, place)
    finally:
        connection.exec_driver_sql("DROP VIEW source_rows_of")
    return declared


def _declared(kind: str) -> Any:
    """SQLite's own rules of affinity, after the names that say more; times stay texts until they are a clock."""
    kind = kind.upper()
    if "BOOL" in kind:
        return pl.Boolean
    if "INT" in kind:
        return pl.Int64
    if any(part in kind for part in ("CHAR", "CLOB", "TEXT")):
        return pl.String
    if any(part in kind for part in ("REAL", "FLOA", "DOUB", "DEC", "NUMERIC")):
        return pl.Float64
    return None


def _of_values(kinds: set[str], name: str, place: Place) -> Any:
    match sorted(kinds):
        case []:
            return pl.Null
        case ["integer"]:
            return pl.Int64
        case ["real"] | ["integer", "real"]:
            return pl.Float64
        case ["text"]:
            return pl.String
        case ["blob"]:
            return pl.Binary
    raise Invalid(
        f"{place.said}: column {name!r} holds {' and '.join(sorted(kinds))}",
        f"cast it in the source's query: CAST({name} AS REAL) AS {name}",
        source=place.name,
        column=name,
    )


def _is_missing(said: str) -> bool:
    return "no such table" in said or ("relation" in said and "does not exist" in said)


def _first(error: object) -> str:
    return str(error).strip().partition("\n")[0]


_TRY = "try it in the database's own shell"
