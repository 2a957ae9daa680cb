"""A metadata URL as an SQLAlchemy engine: SQLite in a file, or PostgreSQL, with one meaning of reading and writing.

SQLite runs in WAL mode with ``synchronous=NORMAL``: a killed process loses nothing that was committed; a machine that
loses its power may lose the last commits (never the file), since the log is synced when it is checkpointed and not at
each commit. PostgreSQL syncs each commit, so there the power may go as well.

On both a writer is alone while its block lasts (SQLite: its one write lock; PostgreSQL: an advisory lock), a reader
sees one snapshot, text compares by code point, and the driver's errors come out as ours. A server that is gone, hangs
or is behind a network that swallows everything is :class:`Unavailable` within ``?answer_s=60`` of its URL.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flyball.errors import Conflict, FlyballError, Invalid, Refused, Unavailable

_WRITES = "flyball_write"  # the execution option that a writer's connection carries: its lock's name, or True
_LOCKS = 0x666C79  # the first half of PostgreSQL's advisory locks that are ours; the second half says which
_LOCK_S = 10.0  # how long to wait for another writer; ?lock_s= in the URL says otherwise
_ANSWER_S = 60.0  # how long one statement of a server may take; ?answer_s= in the URL says otherwise
_IDLE_S = 600  # a writer whose machine froze in the middle of a transaction holds up the others no longer

# What libpq is told unless the URL says otherwise: a peer that is gone is noticed in seconds, not in hours.
_BOUNDS = {
    "connect_timeout": "5",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "flyball",
}


def open_engine(url: str) -> Engine:
    """The engine of an SQLAlchemy URL; ``postgresql://`` is spoken by psycopg 3."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise Invalid(
            f"{shown(url)!r} is not a metadata URL", "like sqlite:///.flyball/ledger.db or postgresql://…"
        ) from error
    name = parsed.get_backend_name()
    if name == "sqlite":
        return _sqlite(parsed)
    if name in ("postgresql", "postgres"):
        return _postgres(parsed)
    raise Invalid(f"a ledger can't lie in {name}", "sqlite:///… and postgresql://… can hold one")


@contextmanager
def connection_to_read(engine: Engine, *, queries: int = 2) -> Iterator[Connection]:
    """A connection whose every query sees the same snapshot; one for a single query saves a server two round trips."""
    with errors(str(engine.url)), _connected(engine) as connection:
        if engine.dialect.name == "postgresql":
            if queries == 1:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        yield connection


@contextmanager
def connection_to_write(engine: Engine, alone: str = "") -> Iterator[Connection]:
    """A connection that commits when the block ends: alone among all writers, or among those of one name."""
    with errors(str(engine.url)), _turns_of(engine).turn(engine, alone), _connected(engine) as raw:
        connection = raw.execution_options(**{_WRITES: alone or True})
        with connection.begin():
            yield connection


def close_engine(engine: Engine) -> None:
    """Give all its connections back."""
    turns = _known_turns.pop(engine, None)
    if turns is not None:
        turns.spare.dispose()
    engine.dispose()


class _Turns:
    """How the threads of this process share an engine's connections without starving one another.

    Writers queue here, before they take a connection: forty of them waiting inside of the database would hold every
    connection there is, and the one that has the lock may need a second one. That second one comes from a pool of its own.
    """

    def __init__(self, engine: Engine) -> None:
        self.spare = engine.pool.recreate()
        self._writers = threading.Lock()
        self._named = threading.BoundedSemaphore(_NAMED_WRITERS)

    @contextmanager
    def turn(self, engine: Engine, alone: str) -> Iterator[None]:
        """Wait for this process's other writers."""
        queue = self._named if alone and engine.dialect.name == "postgresql" else self._writers
        if not queue.acquire(timeout=6 * _LOCK_S):
            raise Unavailable("this process's other writers did not finish", "nothing was written; try again")
        try:
            yield
        finally:
            queue.release()


_NAMED_WRITERS = 8
_known_turns: weakref.WeakKeyDictionary[Engine, _Turns] = weakref.WeakKeyDictionary()
_making_turns = threading.Lock()
_held = threading.local()


def _turns_of(engine: Engine) -> _Turns:
    found = _known_turns.get(engine)
    if found is None:
        with _making_turns:
            found = _known_turns.setdefault(engine, _Turns(engine))
    return found


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    """A connection; from the spare pool when this thread holds one already (and there is more than one to have)."""
    holding: dict[str, int] = _held.__dict__
    key = str(id(engine))
    again = holding.get(key, 0) > 0 and isinstance(engine.pool, sa.pool.QueuePool)
    taken = Connection(engine, _turns_of(engine).spare.connect()) if again else engine.connect()
    holding[key] = holding.get(key, 0) + 1
    try:
        with taken as connection:
            yield connection
    finally:
        holding[key] -= 1
        if not holding[key]:
            del holding[key]


class by_code_point(FunctionElement[str]):  # noqa: N801 (reads as the SQL function that it is)
    """A text column compared letter by letter, whatever collation the database was made with."""

    inherit_cache = True
    name = "by_code_point"


@compiles(by_code_point)
def _plain(element: Any, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses, **kw))


@compiles(by_code_point, "postgresql")
def _collated(element: Any, compiler: Any, **kw: Any) -> str:
    return f'({compiler.process(element.clauses, **kw)}) COLLATE "C"'


def starts_with(column: Any, prefix: str) -> sa.ColumnElement[bool]:
    """``column`` begins with ``prefix``, letter for letter; an index by code point is used.

    Not ``LIKE``: SQLite's takes ``A`` for ``a``, and neither engine looks an escaped pattern up in an index.
    """
    if not prefix:
        return sa.true()
    exact, after = by_code_point(column), _after(prefix)
    return exact >= prefix if after is None else sa.and_(exact >= prefix, exact < after)


def _after(prefix: str) -> str | None:
    """The least text greater than every text that begins with ``prefix``; ``None`` when there is none.

    >>> _after("delays@"), _after("a\\U0010ffff")
    ('delaysA', 'b')
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code < 0x10FFFF:
            return prefix[:index] + chr(0xE000 if code == 0xD7FF else code + 1)
    return None


def text(letters: int) -> sa.String:
    """A column type for names: at most so many letters, ordered by code point on both engines."""
    return sa.String(letters).with_variant(sa.String(letters, collation="C"), "postgresql")


_LETTERS = 300  # of a name in the ledger


def check_names(names: Iterable[str]) -> None:
    """Names that both engines can hold: SQLite would take any, and the ledger could never move to a server."""
    for name in names:
        if len(name) > _LETTERS or "\0" in name:
            raise Invalid(
                f"the ledger can't hold that text as a name: {name[:60]!r}… ({len(name)} letters)",
                f"at most {_LETTERS} letters, and no NUL",
            )


def shown(url: str) -> str:
    """A URL as messages and records may show it: without its password."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return url


@contextmanager
def errors(url: str) -> Iterator[None]:
    """The driver's errors as ours: what happened to the ledger, and whether trying again helps."""
    name = os.path.basename(url.partition("?")[0]) or url  # noqa: PTH119 (a URL, not a path)
    try:
        yield
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is one
        raise Refused(
            f"a record of the ledger {name} is not what was written: {error}",
            "flyball restore BACKUP brings the last backup back; flyball explain … --verify names what changed",
        ) from error
    except sa.exc.TimeoutError as error:
        raise Unavailable(
            f"the ledger {name} has no connection free: {error.args[0]}",
            "fewer writers at once, or try again",
        ) from error
    except sa.exc.DBAPIError as error:
        raise _ours(error, name) from error


def _ours(error: sa.exc.DBAPIError, name: str) -> FlyballError:
    said = " ".join(str(error.orig).split())
    state = getattr(error.orig, "sqlstate", None) or ""
    if isinstance(error, sa.exc.IntegrityError):
        return Conflict(f"the ledger refused a record that exists: {said}", "reload and try again")
    if state in ("40001", "40P01", "55P03", "57014"):  # serialization, deadlock, lock or statement timeout
        return Unavailable(f"the ledger {name} was busy: {said}", "nothing was written; try again")
    if state.startswith("53") or "full" in said:  # disk full, out of memory, too many connections
        what = "is full" if state in ("53100", "") else f"has no room: {said}"
        return Unavailable(f"the disk of the ledger {name} {what}", "free some space; nothing was lost")
    if state in ("28P01", "28000", "3D000", "42501", "3F000"):
        return Unavailable(f"the ledger {name} does not let us in: {said}", "check user, password, database")
    if isinstance(error, sa.exc.DataError) or "NUL (0x00)" in said:
        return Invalid(f"the ledger {name} can't hold that text or number: {said}", "shorten or mend it")
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated:
        return Unavailable(f"the ledger {name} does not answer: {said}", "is it locked, moved or down?")
    return Unavailable(
        f"the ledger {name} can't be read: {said}", "flyball restore BACKUP brings the last backup back"
    )


def _to_wal(connection: Any, lock_s: float) -> None:
    """Put a database into WAL mode. SQLite does not wait for its lock here when another process makes the same change
    (it answers "locked" at once, whatever the time-out), so we do.
    """
    until = time.monotonic() + lock_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _sqlite(url: URL) -> Engine:
    query = dict(url.query)
    lock_s = float(str(query.pop("lock_s", _LOCK_S)))
    url = url.set(query=query)
    if url.database:
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"the ledger's folder {folder} can't be made: {error.strerror}", "check its rights"
            ) from error
    engine = sa.create_engine(
        url,
        connect_args={"timeout": lock_s, "check_same_thread": False},
        **(
            {"pool_size": 5, "max_overflow": 60, "pool_timeout": _LOCK_S}
            if url.database
            else {"poolclass": sa.pool.StaticPool}  # in memory: one connection is all of it
        ),
    )

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # We say BEGIN ourselves; the driver would begin too late for IMMEDIATE.
        connection.isolation_level = None
        _to_wal(connection, lock_s)
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A writer takes its lock at once: read-then-write under a deferred lock fails instead of waiting.
        write = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    _forget_in_children(engine)
    return engine


def _postgres(url: URL) -> Engine:
    query = dict(url.query)
    answer_s = float(str(query.pop("answer_s", _ANSWER_S)))
    lock_s = float(str(query.pop("lock_s", _LOCK_S)))
    url = url.set(drivername="postgresql+psycopg", query={**_BOUNDS, **query})
    try:
        engine = sa.create_engine(
            url,
            pool_pre_ping=True,
            pool_size=4,
            max_overflow=16,
            pool_timeout=_LOCK_S,
            use_native_hstore=False,
        )
    except ModuleNotFoundError as error:
        raise Unavailable("no driver for PostgreSQL", "pip install 'flyball[postgres]'") from error
    settings = {
        "lock_timeout": int(lock_s * 1000),
        "statement_timeout": int(answer_s * 1000),
        "idle_in_transaction_session_timeout": _IDLE_S * 1000,
    }
    setup = "; ".join(f"SET {name} = {value}" for name, value in settings.items())

    @sa.event.listens_for(engine, "do_connect")
    def _do_connect(_dialect: Any, _record: Any, args: Any, kwargs: Any) -> Any:
        from flyball.stores.postgres import connect

        return connect(answer_s, *args, **kwargs)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # Said here and not in the URL's options: a pooler in between refuses those.
        connection.autocommit = True
        connection.execute(setup)
        connection.autocommit = False

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITES, False)
        if write:
            lock_writers(connection, "" if write is True else write)

    _forget_in_children(engine)
    return engine


def lock_writers(connection: Connection, name: str) -> None:
    """Be alone among the writers of ``name`` until this transaction ends; on SQLite a writer is so anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT pg_advisory_xact_lock(%s, hashtext(coalesce(current_schema(), '') || '/' || %s))",
            (_LOCKS, name),
        )


def _forget_in_children(engine: Engine) -> None:
    """A forked child opens connections of its own: two processes on one socket would read each other's answers."""
    known = weakref.ref(engine)

    def forget() -> None:
        found = known()
        if found is None or isinstance(found.pool, sa.pool.StaticPool):
            return
        _known_turns.pop(found, None)  # its locks may be held by threads that are not here
        _held.__dict__.clear()
        found.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
