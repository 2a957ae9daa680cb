"""All of a ledger's tables from one engine to another, row for row; and what two of them must have in common.

Tables are found in the database itself, so those of every store on the engine come along. Leases stay behind: they
belong to the machines that hold them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from blake3 import blake3
from sqlalchemy.engine import Connection

from flyball.errors import Unavailable
from flyball.stores.engine import by_code_point

_ROWS_AT_ONCE = 500
_LEFT_BEHIND = ("alembic_version", "leases")
_pack = msgspec.msgpack.Encoder().encode


class TableSeal(msgspec.Struct, frozen=True):
    """How many rows a table has, and the digest of all of them in order of their key."""

    table: str
    rows: int
    digest: str


def tables_of(connection: Connection) -> list[sa.Table]:
    """The tables that there are, by name."""
    found = sa.MetaData()
    found.reflect(connection, only=lambda name, _: name not in _LEFT_BEHIND)
    return sorted(found.tables.values(), key=lambda table: table.name)


def copy(source: Connection, target: Connection) -> int:
    """Copy every row into the target's tables, which it empties first; returns how many.

    One transaction of the caller's on either side: the source is one snapshot, the target has all or nothing.
    """
    into = {table.name: table for table in tables_of(target)}
    copied = 0
    _empty(target, into)
    for table in tables_of(source):
        for rows in _batches(source, sa.select(table)):
            target.execute(into[table.name].insert(), [dict(row._mapping) for row in rows])
            copied += len(rows)
    _continue_numbers(target)
    return copied


def seals(connection: Connection) -> list[TableSeal]:
    """Each table's count and digest; equal for equal content, whatever the engine."""
    return [_seal(connection, table) for table in tables_of(connection)]


def head(connection: Connection) -> tuple[int, bytes]:
    """Number and chain of the last event: which history this is, and how far it goes. ``(0, b"")`` when empty."""
    events = _events()
    row = connection.execute(
        sa.select(events.c.seq, events.c.chain).order_by(events.c.seq.desc()).limit(1)
    ).first()
    return (0, b"") if row is None else (int(row.seq), bytes(row.chain))


def chain_at(connection: Connection, seq: int) -> bytes | None:
    """The chain at one event; ``None`` when there is no such event."""
    events = _events()
    found = connection.execute(sa.select(events.c.chain).where(events.c.seq == seq)).scalar()
    return None if found is None else bytes(found)


def save_as_sqlite(connection: Connection, path: Path) -> None:
    """What this connection sees, as one SQLite file that stands alone; from either engine, while others write."""
    if connection.dialect.name == "sqlite":
        raw: Any = connection.connection.driver_connection
        try:
            with closing(sqlite3.connect(path)) as target:
                raw.backup(target)  # in one step: a snapshot, and in WAL mode nobody waits for it
                target.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            raise Unavailable(
                f"the ledger can't be copied to {path}: {error}", "is the disk full?"
            ) from error
        return
    from flyball.stores.metadata import Ledger

    ledger = Ledger.open(f"sqlite:///{path}")
    try:
        with ledger.writing() as target_connection:
            copy(connection, target_connection)
    finally:
        ledger.close()
    with closing(sqlite3.connect(path)) as target:
        target.execute("PRAGMA journal_mode=DELETE")  # the log is folded in: one file
    path.with_name(path.name + ".lock").unlink(missing_ok=True)


def _empty(connection: Connection, tables: dict[str, sa.Table]) -> None:
    """Take out every row; on a server at once, whatever their number, and back again when the transaction fails."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(connection.dialect.identifier_preparer.format_table(one) for one in tables.values())
        connection.exec_driver_sql(f"TRUNCATE {names}")
        return
    for table in tables.values():
        connection.execute(table.delete())


def _seal(connection: Connection, table: sa.Table) -> TableSeal:
    order = [
        by_code_point(column) if isinstance(column.type, sa.String) else column
        for column in table.primary_key.columns
    ]
    names = sorted(column.name for column in table.columns)
    query = sa.select(*(table.c[name] for name in names)).order_by(*order)
    hashed, count = blake3(), 0
    for rows in _batches(connection, query):
        for row in rows:
            hashed.update(_pack(tuple(row)))
        count += len(rows)
    return TableSeal(table.name, count, "b3:" + hashed.hexdigest())


def _batches(connection: Connection, query: sa.Select[Any]) -> Iterator[Any]:
    result = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query)
    try:
        yield from result.partitions()
    finally:
        result.close()


def _events() -> sa.TableClause:
    return sa.table("events", sa.column("seq"), sa.column("chain"))


def _continue_numbers(connection: Connection) -> None:
    """PostgreSQL's counter of events goes on after the last one; SQLite does that by itself."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('events', 'seq'), greatest(max(seq), 1), max(seq) IS NOT NULL) FROM events"
        )
