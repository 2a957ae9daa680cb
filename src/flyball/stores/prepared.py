"""Statements that are compiled once for each engine: what runs for every batch of a run should cost what the driver does.

Measured on SQLite (CPU a statement): building a Core statement 60 to 200 us (an upsert), its cache key 30 us, executing
it 60 us; the same text through ``exec_driver_sql`` 15 us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, CursorResult


class Prepared:
    """A Core statement with named parameters and no expanding ``IN``, as the text that the driver takes.

    >>> one = Prepared(sa.select(sa.bindparam("a", type_=sa.Integer) + 1))
    >>> with sa.create_engine("sqlite://").connect() as connection:
    ...     one.run(connection, {"a": 2}).scalar()
    3
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._texts: dict[str, tuple[str, tuple[str, ...] | None, dict[str, Any]]] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it once."""
        text, places, fixed = self._text(connection)
        given = {**fixed, **values} if fixed else values
        if places is None:
            return connection.exec_driver_sql(text, dict(given))
        return connection.exec_driver_sql(text, tuple([given[name] for name in places]))

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute it and take all rows as the driver gives them."""
        result = self.run(connection, values)
        cursor = result.cursor
        assert cursor is not None
        found = list(cursor.fetchall())
        result.close()
        return found

    def run_many(self, connection: Connection, values: Sequence[Mapping[str, Any]]) -> None:
        """Execute it for each of many."""
        text, places, _ = self._text(connection)
        if places is None:
            connection.exec_driver_sql(text, [dict(one) for one in values])
        else:
            connection.exec_driver_sql(text, [tuple([one[name] for name in places]) for one in values])

    def _text(self, connection: Connection) -> tuple[str, tuple[str, ...] | None, dict[str, Any]]:
        dialect = connection.dialect
        found = self._texts.get(dialect.name)
        if found is None:
            statement = self._statement(dialect.name) if callable(self._statement) else self._statement
            compiled: Any = statement.compile(dialect=dialect)
            places = tuple(compiled.positiontup) if compiled.positional else None
            # Constants that the statement brings itself: SQLAlchemy makes parameters of them.
            fixed = {name: value for name, value in compiled.params.items() if value is not None}
            found = self._texts[dialect.name] = (str(compiled), places, fixed)
        return found


def upsert_of(table: sa.Table, kept: Sequence[str] = ()) -> Prepared:
    """Insert rows of a table with all of its columns; one with a key that exists takes the place of the other.

    Of columns that are ``kept`` the first value stays.
    """
    keys = [column.name for column in table.primary_key]

    def statement(dialect: str) -> Any:
        insert = _insert(table, dialect)
        rest = {
            column.name: insert.excluded[column.name]
            for column in table.columns
            if column.name not in (*keys, *kept)
        }
        return insert.on_conflict_do_update(index_elements=keys, set_=rest)

    return Prepared(statement)


def insert_once(table: sa.Table) -> Prepared:
    """Insert rows of a table; one with a key that exists is left as it is."""
    return Prepared(lambda dialect: _insert(table, dialect).on_conflict_do_nothing())


def _insert(table: sa.Table, dialect: str) -> Any:
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    return insert.values({one.name: sa.bindparam(one.name, type_=one.type) for one in table.columns})
