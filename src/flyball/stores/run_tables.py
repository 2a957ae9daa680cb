"""The tables of runs' data, beside the ledger on the same engine: too many rows to be events.

``runs``: one row a run, the head that is searched. ``run_facts``: the latest of each param, metric and tag.
``run_points``: histories, as packed blocks (:mod:`flyball.stores.points`). ``run_summaries``: the facts of an ended run as
one row, for lists. ``artifacts``: which bytes an owner has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flyball.stores.engine import text
from flyball.stores.metadata import meta
from flyball.stores.prepared import upsert_of

_long_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

RUNS = sa.Table(
    "runs",
    meta,
    sa.Column("id", text(40), primary_key=True),
    sa.Column("experiment", text(40), nullable=False),
    sa.Column("name", text(1000), nullable=False),
    sa.Column("pipeline", text(300), nullable=False),
    sa.Column("status", text(20), nullable=False),
    sa.Column("started_us", sa.BigInteger, nullable=False),
    sa.Column("ended_us", sa.BigInteger),
    sa.Column("deleted_us", sa.BigInteger),
    sa.Column("actor", text(300), nullable=False),
    sa.Column("parent", text(40), nullable=False, index=True),
    sa.Column("process", text(300), nullable=False),
    sa.Index("ix_runs_experiment_started_us", "experiment", "started_us"),
    sa.Index("ix_runs_status_process", "status", "process"),
)
FACTS = sa.Table(
    "run_facts",
    meta,
    sa.Column("run", text(40), primary_key=True),
    sa.Column("kind", text(8), primary_key=True),  # param, metric, tag
    sa.Column("name", text(250), primary_key=True),
    sa.Column(
        "text", _long_text
    ),  # of a metric only what a number can't say on both engines: nan, inf, -inf, -0.0
    sa.Column("number", sa.Double),  # of a param: when its text is one; null for NaN
    sa.Column("step", sa.BigInteger),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column(
        "points", sa.BigInteger, nullable=False
    ),  # of a metric: how many there are, in how many blocks,
    sa.Column("block", sa.Integer, nullable=False),  # the last one's number
    sa.Column("tail", sa.Integer, nullable=False),  # and how many points it has
    sa.Column("head", sa.LargeBinary),  # the last block's chain
    # Covers a filter on a metric: no row of a run that fails it is looked at.
    sa.Index("ix_run_facts_number", "kind", "name", "number", "run"),
    sqlite_with_rowid=False,
)
POINTS = sa.Table(
    "run_points",
    meta,
    sa.Column("run", text(40), primary_key=True),
    sa.Column("name", text(250), primary_key=True),
    sa.Column("block", sa.Integer, primary_key=True),
    sa.Column("n", sa.Integer, nullable=False),
    sa.Column("least_step", sa.BigInteger, nullable=False),
    sa.Column("last_step", sa.BigInteger, nullable=False),
    sa.Column("first_us", sa.BigInteger, nullable=False),
    sa.Column("last_us", sa.BigInteger, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("before", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
)
SUMMARIES = sa.Table(
    "run_summaries",
    meta,
    sa.Column("run", text(40), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
ARTIFACTS = sa.Table(
    "artifacts",
    meta,
    sa.Column("owner", text(300), primary_key=True),
    sa.Column("path", text(500), primary_key=True),
    sa.Column("digest", text(80), nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)

ROWS_AT_ONCE = 10_000
_NAMES_AT_ONCE = 500  # of an IN: SQLite takes 32,766 variables, and long lists plan badly


_UPSERTS = {table.name: upsert_of(table) for table in (RUNS, FACTS, POINTS, SUMMARIES, ARTIFACTS)}


def upsert(connection: Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Write whole rows; one with a key that exists takes the place of the other."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        _UPSERTS[table.name].run_many(connection, rows[start : start + ROWS_AT_ONCE])


def in_parts(names: Iterable[str]) -> Iterable[list[str]]:
    """Names in lists short enough for an ``IN``."""
    found = list(names)
    return (found[start : start + _NAMES_AT_ONCE] for start in range(0, len(found), _NAMES_AT_ONCE))


def rows_of(connection: Connection, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
    """All rows as the driver gives them: 50,000 facts cost 30 ms instead of 50, since no row object is made."""
    result = connection.execute(query)
    cursor = result.cursor
    assert cursor is not None
    found = list(cursor.fetchall())
    result.close()
    return found
