"""The ledger: one append-only table of events, one of lineage edges, and a projection of records that can be rebuilt.

One implementation for SQLite and PostgreSQL (SQLAlchemy Core; :mod:`flyball.stores.engine` opens either). Everything
that changes state goes through :meth:`Ledger.transaction`, so a change of several records is one commit: a process
killed at any instant leaves all of it or none, and nothing that was committed is lost. Only a machine that loses its
power may lose the last commits of an SQLite ledger; PostgreSQL's survive that too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from blake3 import blake3
from sqlalchemy.engine import Connection, Engine

from flyball.core.clock import Clock, SystemClock, from_us, to_us
from flyball.core.events import Edge, Event, Sets
from flyball.core.ids import new_id
from flyball.errors import Conflict, NotFound, Unavailable, nearest
from flyball.stores.engine import (
    check_names,
    close_engine,
    connection_to_read,
    connection_to_write,
    errors,
    lock_writers,
    open_engine,
    starts_with,
    text,
)
from flyball.stores.prepared import Prepared, insert_once, upsert_of

T = TypeVar("T")
SCHEMA_VERSION = "0002"

meta = sa.MetaData()
EVENTS = sa.Table(
    "events",
    meta,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    sa.Column("id", text(40), nullable=False, unique=True),
    sa.Column("at_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("kind", text(80), nullable=False, index=True),
    sa.Column("subject", text(300), nullable=False, index=True),
    sa.Column("actor", text(300), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("sets", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),  # digest of this event and of all before it
)
EDGES = sa.Table(
    "edges",
    meta,
    sa.Column("made", text(300), primary_key=True),
    sa.Column("of", text(300), primary_key=True, index=True),
    sa.Column("role", text(80), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
)
RECORDS = sa.Table(
    "records",
    meta,
    sa.Column("noun", text(40), primary_key=True),
    sa.Column("key", text(300), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("made_seq", sa.BigInteger, nullable=False),
    sa.Column("set_seq", sa.BigInteger, nullable=False, index=True),
)
LEASES = sa.Table(
    "leases",
    meta,
    sa.Column("name", text(80), primary_key=True),
    sa.Column("holder", text(200), nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
)

# An event's edges lie in its body under a name that no caller gives, so that the chain covers them and no schema
# changed for it; events written before have none there.
EDGES_KEY = "$edges"

_encode = msgspec.json.Encoder(order="deterministic").encode
_sets_decoder = msgspec.json.Decoder(tuple[Sets, ...])
_body_decoder = msgspec.json.Decoder(dict[str, Any])


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind)
    return _decoders[kind]


class Transaction:
    """One atomic change: read, decide, append. Nothing is visible to others until the block ends."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self.last = ""  # id of the last event appended

    @property
    def connection(self) -> Connection:
        """The connection of this transaction, for a store whose tables lie on the same engine: one commit for both."""
        return self._connection

    def alone(self, name: str) -> None:
        """Be alone with the writers of that name too (see :meth:`Ledger.writing`), until this transaction ends."""
        lock_writers(self._connection, name)

    def now(self) -> datetime:
        """The time by the ledger's clock, for records that carry the time of their own event."""
        return self._clock.now()

    def append(
        self,
        kind: str,
        subject: str,
        *,
        actor: str,
        sets: Iterable[tuple[str, str, Any]] = (),
        edges: Iterable[Edge] = (),
        body: dict[str, Any] | None = None,
        at: datetime | None = None,
    ) -> Event:
        """Write one event with the records ``(noun, key, record or None)`` it sets and the edges it adds."""
        changed = tuple(
            Sets(noun, key, None if r is None else msgspec.to_builtins(r)) for noun, key, r in sets
        )
        when = at or self._clock.now()
        added = tuple(dict.fromkeys(edges))
        linked = (name for edge in added for name in (edge.made, edge.of))
        check_names([subject, actor, *(one.key for one in changed), *linked])
        event = Event(
            id=new_id("evt", when),
            at=when,
            kind=kind,
            subject=subject,
            actor=actor,
            body=body or {},
            sets=changed,
            edges=added,
        )
        row = {
            "id": event.id,
            "at_us": to_us(when),
            "kind": kind,
            "subject": subject,
            "actor": actor,
            "body": _encode(
                event.body | {EDGES_KEY: [[e.made, e.of, e.role] for e in added]} if added else event.body
            ),
            "sets": _encode(changed),
        }
        before = _NEWEST_CHAIN.run(self._connection, {}).scalar()
        row["chain"] = _link(before or b"", row)
        added_event = _ADD_EVENT.run(self._connection, row)
        by_row = self._connection.dialect.name == "sqlite"  # before 3.35 it has no RETURNING
        seq = int(added_event.lastrowid if by_row else added_event.scalar_one())
        _project(self._connection, changed, seq)
        _add_edges(self._connection, added, seq)
        self.last = event.id
        return msgspec.structs.replace(event, seq=seq)

    def find(self, noun: str, key: str, kind: type[T]) -> T | None:
        """The record as this transaction sees it, or ``None``."""
        return _find(self._connection, noun, key, kind)

    def ls(self, noun: str, kind: type[T], prefix: str = "") -> list[T]:
        """Records of one noun, oldest first."""
        return _ls(self._connection, noun, kind, prefix)

    def next_number(self, noun: str, name: str) -> int:
        """The number after the highest of ``name@N``; safe, since writers are serialised."""
        keys = self._connection.execute(
            sa.select(RECORDS.c.key).where(RECORDS.c.noun == noun, starts_with(RECORDS.c.key, f"{name}@"))
        ).scalars()
        return max((int(key.rpartition("@")[2]) for key in keys), default=0) + 1


class Ledger:
    """Events, edges and the records folded from them.

    >>> ledger = Ledger.open("sqlite://")                     # in memory, for an example
    >>> with ledger.transaction() as tx:
    ...     _ = tx.append("note.made", "hello", actor="person:ann", sets=[("note", "hello", {"text": "hi"})])
    >>> ledger.get("note", "hello", dict)
    {'text': 'hi'}
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @classmethod
    def open(cls, url: str, clock: Clock | None = None) -> Ledger:
        """Open (and, when it is new or older, migrate) the ledger at an SQLAlchemy URL."""
        engine = open_engine(url)
        try:
            with errors(str(engine.url)):
                _migrate(engine)
        except BaseException:
            close_engine(engine)
            raise
        return cls(engine, clock or SystemClock())

    @property
    def url(self) -> str:
        return str(self._engine.url)

    @property
    def clock(self) -> Clock:
        """Tells the time of its events."""
        return self._clock

    def close(self) -> None:
        close_engine(self._engine)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Serialised with every other writer; commits when the block ends, leaves nothing when it raises."""
        written = ""
        try:
            with self.writing() as connection:
                tx = Transaction(connection, self._clock)
                yield tx
                written = tx.last
        except Unavailable:
            if not written or not self._kept(written):
                raise

    def _kept(self, event: str) -> bool:
        """Whether an event is there although its commit failed: the server may have gone between doing and saying so."""
        try:
            with (
                self.writing() as connection
            ):  # waits for the lost connection's own end, should it still be at it
                return (
                    connection.execute(sa.select(EVENTS.c.seq).where(EVENTS.c.id == event)).first()
                    is not None
                )
        except Unavailable as error:
            raise Unavailable(
                f"{error.what}, and whether the last change was kept can't be asked",
                "look whether it is there before you do it again",
                event=event,
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with, one snapshot while the block lasts; the driver's errors come out as ours."""
        with connection_to_read(self._engine) as connection:
            yield connection

    @contextmanager
    def writing(self, alone: str = "") -> Iterator[Connection]:
        """A connection to write with and no event: for tables whose rows are too many to be events (points of runs).

        Commits when the block ends, leaves nothing when it raises. Serialised with every other writer, or, with
        ``alone``, only with those who say the same (a run's id: PostgreSQL then lets two runs write at once; SQLite
        has one writer at a time whatever is said).
        """
        with connection_to_write(self._engine, alone) as connection:
            yield connection

    def find(self, noun: str, key: str, kind: type[T]) -> T | None:
        """The record now, or ``None``."""
        with connection_to_read(self._engine, queries=1) as connection:
            return _find(connection, noun, key, kind)

    def get(self, noun: str, key: str, kind: type[T]) -> T:
        """The record now; when there is none, :class:`NotFound` names those there are."""
        found = self.find(noun, key, kind)
        if found is None:
            raise NotFound(f"no {noun} {key!r}", nearest(key, self.keys(noun)), noun=noun, key=key)
        return found

    def keys(self, noun: str) -> list[str]:
        """Keys of one noun, oldest first."""
        with connection_to_read(self._engine, queries=1) as connection:
            return list(
                connection.execute(
                    sa.select(RECORDS.c.key)
                    .where(RECORDS.c.noun == noun)
                    .order_by(RECORDS.c.made_seq, RECORDS.c.key)
                ).scalars()
            )

    def ls(self, noun: str, kind: type[T], prefix: str = "") -> list[T]:
        """Records of one noun whose key starts with ``prefix``, oldest first."""
        with connection_to_read(self._engine, queries=1) as connection:
            return _ls(connection, noun, kind, prefix)

    def events(
        self,
        *,
        kind: str = "",
        subject: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        after_seq: int = 0,
    ) -> list[Event]:
        """Events in the order they were written; ``kind`` and ``subject`` are prefixes, ``until`` is exclusive."""
        query = sa.select(EVENTS).where(EVENTS.c.seq > after_seq).order_by(EVENTS.c.seq)
        if kind:
            query = query.where(starts_with(EVENTS.c.kind, kind))
        if subject:
            query = query.where(starts_with(EVENTS.c.subject, subject))
        if since:
            query = query.where(EVENTS.c.at_us >= to_us(since))
        if until:
            query = query.where(EVENTS.c.at_us < to_us(until))
        with connection_to_read(self._engine, queries=1) as connection:
            return [_event(row) for row in connection.execute(query)]

    def made_from(self, made: str) -> list[Edge]:
        """Edges up: what ``made`` was made from."""
        return self._edges(EDGES.c.made == made)

    def made_with(self, of: str) -> list[Edge]:
        """Edges down: what was made from ``of``."""
        return self._edges(EDGES.c.of == of)

    def _edges(self, where: sa.ColumnElement[bool]) -> list[Edge]:
        with connection_to_read(self._engine, queries=1) as connection:
            rows = connection.execute(sa.select(EDGES).where(where).order_by(EDGES.c.seq, EDGES.c.of))
            return [Edge(row.made, row.of, row.role) for row in rows]

    def lease(self, name: str, holder: str, for_s: float) -> bool:
        """Take or renew a lease; ``False`` while another holds it. It ends by itself, so a killed holder blocks no one.

        Leases run on the machine's own time, whatever clock decides things.
        """
        now = to_us(SystemClock().now())
        with self.writing() as connection:
            row = connection.execute(sa.select(LEASES).where(LEASES.c.name == name)).first()
            if row is not None and row.holder != holder and row.until_us > now:
                return False
            values = {"holder": holder, "until_us": now + int(for_s * 1e6)}
            if row is None:
                connection.execute(LEASES.insert().values(name=name, **values))
            else:
                connection.execute(LEASES.update().where(LEASES.c.name == name).values(**values))
        return True

    def release(self, name: str, holder: str) -> None:
        """Give a lease back early; nothing happens when it is not ours."""
        with self.writing() as connection:
            connection.execute(LEASES.delete().where(LEASES.c.name == name, LEASES.c.holder == holder))

    def verify(self, noun: str, key: str) -> str:
        """Recheck a record against the event that set it, and that event against the chain: "" or what is wrong."""
        with self.reading() as connection:
            where = sa.and_(RECORDS.c.noun == noun, RECORDS.c.key == key)
            record = connection.execute(sa.select(RECORDS).where(where)).first()
            if record is None:
                return f"{noun} {key} is gone from the ledger"
            event = connection.execute(sa.select(EVENTS).where(EVENTS.c.seq == record.set_seq)).first()
            if event is None:
                return f"the event that set {noun} {key} is gone from the ledger"
            made = connection.execute(
                sa.select(EVENTS.c.sets).where(EVENTS.c.seq == record.made_seq)
            ).scalar()
            before = connection.execute(
                sa.select(EVENTS.c.chain)
                .where(EVENTS.c.seq < event.seq)
                .order_by(EVENTS.c.seq.desc())
                .limit(1)
            ).scalar()
        if _link(before or b"", dict(event._mapping)) != event.chain:
            return f"event {event.id} (which set {noun} {key}) has changed since it was written"
        if made is None or all((one.noun, one.key) != (noun, key) for one in _sets_decoder.decode(made)):
            return f"the event that made {noun} {key} is not the one the ledger names"
        for one in _sets_decoder.decode(event.sets):
            if (one.noun, one.key) == (noun, key) and _encode(one.content) == record.content:
                return ""
        return f"the record {noun} {key} differs from the event that set it"

    def verify_event(self, seq: int) -> str:
        """Recheck one event against the chain: "" or what is wrong."""
        with self.reading() as connection:
            event = connection.execute(sa.select(EVENTS).where(EVENTS.c.seq == seq)).first()
            before = connection.execute(
                sa.select(EVENTS.c.chain).where(EVENTS.c.seq < seq).order_by(EVENTS.c.seq.desc()).limit(1)
            ).scalar()
        if event is None:
            return f"event number {seq} is gone from the ledger"
        changed = _link(before or b"", dict(event._mapping)) != event.chain
        return f"event {event.id} has changed since it was written" if changed else ""

    def rebuild(self) -> int:
        """Fold every event again into an empty projection; returns the number of events. State is never elsewhere."""
        with self.writing() as connection:
            connection.execute(RECORDS.delete())
            rows = connection.execute(
                sa.select(EVENTS.c.seq, EVENTS.c.sets, EVENTS.c.body).order_by(EVENTS.c.seq)
            ).all()
            for seq, sets, body in rows:
                _project(connection, _sets_decoder.decode(sets), seq)
                added = [Edge(*edge) for edge in _body_decoder.decode(body).get(EDGES_KEY, ())]
                _add_edges(connection, added, seq)
        return len(rows)


def _link(before: bytes, row: Mapping[str, Any]) -> bytes:
    """The chain's next digest: one changed byte in any event, or an event taken out, breaks it from there on."""
    head = _encode([row["id"], row["at_us"], row["kind"], row["subject"], row["actor"]])
    return blake3(before + head + row["body"] + row["sets"]).digest()


# Compiled once: building these four for each event took two thirds of a transaction's CPU.
_NEWEST_CHAIN = Prepared(
    sa.select(EVENTS.c.chain).order_by(EVENTS.c.seq.desc()).limit(sa.literal_column("1"))
)
_RECORD = Prepared(
    sa.select(RECORDS.c.content).where(
        RECORDS.c.noun == sa.bindparam("noun"), RECORDS.c.key == sa.bindparam("key")
    )
)
_SET_RECORD = upsert_of(RECORDS, kept=("made_seq",))
_ADD_EDGE = insert_once(EDGES)


def _event_insert(dialect: str) -> Any:
    columns = [column for column in EVENTS.columns if column.name != "seq"]
    insert = EVENTS.insert().values({one.name: sa.bindparam(one.name, type_=one.type) for one in columns})
    return insert if dialect == "sqlite" else insert.returning(EVENTS.c.seq)


_ADD_EVENT = Prepared(_event_insert)


def _project(connection: Connection, changed: Sequence[Sets], seq: int) -> None:
    for one in changed:
        if one.content is None:
            connection.execute(RECORDS.delete().where(RECORDS.c.noun == one.noun, RECORDS.c.key == one.key))
            continue
        content = _encode(one.content)
        row = {"noun": one.noun, "key": one.key, "content": content, "made_seq": seq, "set_seq": seq}
        _SET_RECORD.run(connection, row)


def _add_edges(connection: Connection, edges: Sequence[Edge], seq: int) -> None:
    if edges:
        rows = [{"made": edge.made, "of": edge.of, "role": edge.role, "seq": seq} for edge in edges]
        _ADD_EDGE.run_many(connection, rows)


def _find(connection: Connection, noun: str, key: str, kind: type[T]) -> T | None:
    content = _RECORD.run(connection, {"noun": noun, "key": key}).scalar()
    return None if content is None else _decoder(kind).decode(content)


def _ls(connection: Connection, noun: str, kind: type[T], prefix: str) -> list[T]:
    query = sa.select(RECORDS.c.content).where(RECORDS.c.noun == noun)
    if prefix:
        query = query.where(starts_with(RECORDS.c.key, prefix))
    query = query.order_by(RECORDS.c.made_seq, RECORDS.c.key)
    return [_decoder(kind).decode(content) for content in connection.execute(query).scalars()]


def _event(row: Any) -> Event:
    body = _body_decoder.decode(row.body)
    edges = tuple(Edge(*edge) for edge in body.pop(EDGES_KEY, ()))
    return Event(
        id=row.id,
        at=from_us(row.at_us),
        kind=row.kind,
        subject=row.subject,
        actor=row.actor,
        body=body,
        sets=_sets_decoder.decode(row.sets),
        edges=edges,
        seq=row.seq,
    )


def _migrate(engine: Engine) -> None:
    """Alembic, and only when the version differs: importing it costs 80 ms that a command line would feel."""
    inspector = sa.inspect(engine)
    if inspector.has_table("alembic_version"):
        with engine.connect() as connection:
            found = connection.execute(sa.text("select version_num from alembic_version")).scalar()
        if found == SCHEMA_VERSION:
            return
        if found is not None and found > SCHEMA_VERSION:
            raise Conflict(
                f"this ledger has schema {found}, newer than ours ({SCHEMA_VERSION})",
                "pip install --upgrade flyball",
            )
    from flyball.stores.migrate import upgrade

    upgrade(engine)
