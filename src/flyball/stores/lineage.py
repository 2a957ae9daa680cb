"""The ledger read for lineage: edges both ways, records and events, many keys at a time.

A graph of a hundred thousand edges costs a handful of queries, never one a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flyball.core.events import Event
from flyball.core.lineage import PARTS, Direction
from flyball.stores.engine import starts_with
from flyball.stores.metadata import EDGES, EVENTS, RECORDS, _event

T = TypeVar("T")
_AT_ONCE = 2000  # keys of one IN (...): far below every engine's bound


class EdgeRow(NamedTuple):
    """An edge as it lies in the ledger, with the event that wrote it."""

    made: str
    of: str
    role: str
    seq: int


class Stored(NamedTuple):
    """A record as it lies in the ledger."""

    noun: str
    key: str
    content: bytes


class LedgerReader:
    """Reads through one connection (one snapshot of the ledger), by the handful."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def edges(self, keys: Iterable[str], direction: Direction) -> list[EdgeRow]:
        """The edges one step up or down from these."""
        here = EDGES.c.made if direction == "up" else EDGES.c.of
        return self._edges(here.in_, keys)

    def closure(self, keys: Iterable[str], direction: Direction) -> list[EdgeRow]:
        """All edges behind these, however far: one recursive query, on which a cycle ends by itself.

        Going up it ends at what is only a part (the bytes of a model, a file of a snapshot): that another run once
        made the same bytes is not this one's past. A snapshot's link to the version before it is no step at all.
        """
        here, there = (EDGES.c.made, EDGES.c.of) if direction == "up" else (EDGES.c.of, EDGES.c.made)
        passes = ~_before() if direction == "down" else ~sa.or_(_before(), _part())

        def behind(some: list[str]) -> sa.ColumnElement[bool]:
            reached = sa.select(there.label("name")).where(here.in_(some), passes).cte(recursive=True)
            reached = reached.union(
                sa.select(there).select_from(EDGES.join(reached, here == reached.c.name)).where(passes)
            )
            return sa.and_(~_before(), sa.or_(here.in_(some), here.in_(sa.select(reached.c.name))))

        return self._edges(behind, keys)

    def _edges(self, where: object, keys: Iterable[str]) -> list[EdgeRow]:
        found: dict[EdgeRow, None] = {}
        for some in batches(keys):
            query = sa.select(EDGES.c.made, EDGES.c.of, EDGES.c.role, EDGES.c.seq).where(where(some))  # type: ignore[operator]  # a function of the keys
            for row in self.connection.execute(query):
                found[EdgeRow(*row)] = None
        return sorted(found, key=lambda one: (one.seq, one.of, one.made, one.role))

    def records(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
        """Contents by (noun, key); what is not there is left out."""
        by_noun: dict[str, list[str]] = {}
        for noun, key in wanted:
            by_noun.setdefault(noun, []).append(key)
        found: dict[tuple[str, str], bytes] = {}
        for noun, keys in by_noun.items():
            for some in batches(keys):
                query = sa.select(RECORDS.c.key, RECORDS.c.content)
                rows = self.connection.execute(query.where(RECORDS.c.noun == noun, RECORDS.c.key.in_(some)))
                found |= {(noun, key): content for key, content in rows}
        return found

    def all_of(self, nouns: Iterable[str], prefix: str = "") -> Iterator[Stored]:
        """Every record of some nouns, oldest first."""
        query = sa.select(RECORDS.c.noun, RECORDS.c.key, RECORDS.c.content)
        where = sa.and_(RECORDS.c.noun.in_(list(nouns)), starts_with(RECORDS.c.key, prefix))
        for row in self.connection.execute(query.where(where).order_by(RECORDS.c.made_seq, RECORDS.c.key)):
            yield Stored(*row)

    def keys(self, noun: str, prefix: str = "") -> list[str]:
        """Keys of one noun, oldest first."""
        query = sa.select(RECORDS.c.key).where(RECORDS.c.noun == noun, starts_with(RECORDS.c.key, prefix))
        return list(self.connection.execute(query.order_by(RECORDS.c.made_seq, RECORDS.c.key)).scalars())

    def count(self) -> dict[str, int]:
        """How many records of each noun there are."""
        query = sa.select(RECORDS.c.noun, sa.func.count()).group_by(RECORDS.c.noun).order_by(RECORDS.c.noun)
        return {row.noun: row[1] for row in self.connection.execute(query)}

    def of_kind(self, kind: str) -> list[tuple[int, str]]:
        """Number and subject of the events whose kind begins so."""
        query = sa.select(EVENTS.c.seq, EVENTS.c.subject).where(starts_with(EVENTS.c.kind, kind))
        return [(seq, subject) for seq, subject in self.connection.execute(query)]

    def routes(self, endpoint: str = "") -> list[Event]:
        """Every event that set a route, oldest first: of one endpoint, or of all. One that can't be read is left out."""
        query = sa.select(EVENTS).where(starts_with(EVENTS.c.kind, "route."))
        if endpoint:
            query = query.where(EVENTS.c.subject == endpoint)
        found: list[Event] = []
        for row in self.connection.execute(query.order_by(EVENTS.c.seq)):
            try:
                found.append(_event(row))
            except (msgspec.MsgspecError, TypeError, ValueError):
                continue  # --verify names it
        return found


def _part() -> sa.ColumnElement[bool]:
    return sa.or_(EDGES.c.role.in_(PARTS), *(starts_with(EDGES.c.role, f"{part}:") for part in PARTS))


def _before() -> sa.ColumnElement[bool]:
    return sa.and_(EDGES.c.role == "parent", starts_with(EDGES.c.made, "snapshot:"))


def batches(keys: Iterable[T]) -> Iterator[list[T]]:
    """Distinct keys in lists short enough for one query."""
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), _AT_ONCE):
        yield distinct[start : start + _AT_ONCE]
