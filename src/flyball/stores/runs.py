"""Runs' data on the ledger's engine: heads that are searched, facts, and histories of metrics.

    RunStore(ledger)
    .write(run, *, params={}, metrics=[Point], tags={}, series={name: Series}, once=False, actor="")   one transaction
    .untag(run, names, *, actor="") -> int
    .head(run) -> Head, or NotFound                  .heads([ids]) -> dict[id, Head]
    .facts([ids]) -> dict[id, Facts(params: {name: text}, metrics: {name: Latest(value, step, at_us, points)}, tags)]
    .history(run, name, *, after=0, limit=None, sampled=None) -> Series(steps, times_us, values), in logged order
    .search(RunQuery) -> Page(runs: [Found(head, facts)], token)          .count(RunQuery) -> int
    .columns(RunQuery) -> (head rows, [Group(places, params, metrics, tags)])     columns, for frames
    .running() -> [Head]                             those with a process
    .delete(run, *, actor) / .restore(run, *, actor) -> Head            soft; an event each
    .children(run) -> [ids]                          .verify(run) -> [what is not what was written]

    Point(name, value, step=0, at_us=None)           at_us: now, when left out
    RunQuery(where=(SQL conditions), order=(Order(kind, name, descending)), experiments=None or [ids],
             view="active" | "deleted" | "all", limit=100 or None, token="")
    Order(kind: "attribute" | "metric" | "param" | "tag", name, descending=False)

``flyball.track.query`` makes a RunQuery from text. :func:`flyball.stores.run_seal.put_head` writes the head in the
transaction that sets the record. Writing to a run that has ended seals it again, with an event; to a deleted one is Invalid.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flyball.core.clock import to_us
from flyball.core.records import Run
from flyball.errors import Conflict, Invalid, NotFound
from flyball.stores import run_facts, run_summaries
from flyball.stores.engine import by_code_point
from flyball.stores.points import EMPTY, Series, joined, series_of, unpack
from flyball.stores.points import sampled as thinned
from flyball.stores.prepared import Prepared
from flyball.stores.run_check import problems
from flyball.stores.run_facts import Facts, Latest
from flyball.stores.run_seal import changing, put_head
from flyball.stores.run_summaries import Group
from flyball.stores.run_tables import FACTS, POINTS, RUNS, SUMMARIES, in_parts, rows_of

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger

__all__ = [
    "Facts",
    "Found",
    "Head",
    "Latest",
    "Order",
    "Page",
    "Point",
    "RunQuery",
    "RunStore",
    "Series",
    "series_of",
]


class Point(msgspec.Struct, frozen=True):
    """One value of one metric; without a time it is now."""

    name: str
    value: float
    step: int = 0
    at_us: int | None = None


class Head(msgspec.Struct, frozen=True):
    """What a run is found by, apart from its facts."""

    id: str
    experiment: str
    name: str
    pipeline: str
    status: str
    started_us: int
    ended_us: int | None
    deleted_us: int | None
    actor: str
    parent: str
    process: str


class Found(msgspec.Struct, frozen=True):
    """One run that a search found."""

    head: Head
    facts: Facts


class Order(msgspec.Struct, frozen=True):
    """What to sort by; runs that lack it come last, before them those where it is NaN."""

    kind: Literal["attribute", "metric", "param", "tag"]
    name: str  # of an attribute: a column of the heads
    descending: bool = False
    as_number: bool = False  # a param by its number


class RunQuery(msgspec.Struct, frozen=True, eq=False):
    """Which runs, in which order, and how many; the newest first when nothing is said."""

    where: Sequence[sa.ColumnElement[bool]] = ()
    order: Sequence[Order] = ()
    experiments: Sequence[str] | None = None
    view: Literal["active", "deleted", "all"] = "active"
    limit: int | None = 100
    token: str = ""


class Page(msgspec.Struct, frozen=True):
    """A part of what was found; the token asks for the next, and is empty at the end."""

    runs: list[Found]
    token: str = ""


_HEADS = len(RUNS.c)
_WITH_SUMMARY = (*RUNS.c, SUMMARIES.c.content)


# Asked each time a run starts; ``>`` and not ``!=`` so that the index is used past the runs without a process.
_RUNNING = Prepared(
    sa.select(*RUNS.c).where(
        RUNS.c.status == sa.literal_column("'running'"), RUNS.c.process > sa.literal_column("''")
    )
)


class RunStore:
    """Heads, facts and histories of runs.

    >>> store = RunStore(ledger)                                                        # doctest: +SKIP
    >>> store.write("run_1", metrics=[Point("auc", 0.77, step=1)], tags={"by": "ann"})  # doctest: +SKIP
    >>> store.facts(["run_1"])["run_1"].metrics["auc"].value                            # doctest: +SKIP
    0.77
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def write(
        self,
        run: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Iterable[Point] = (),
        tags: Mapping[str, Any] | None = None,
        series: Mapping[str, Series] | None = None,
        once: bool = False,
        actor: str = "",
    ) -> None:
        """Write all of it or none: params (each once), points of metrics, tags (the last value counts).

        ``once`` leaves out points that are there already, so that a batch may be sent again.
        """
        now_us = to_us(self._ledger.clock.now())
        grouped = dict(series or {})
        for name, points in _by_name(metrics).items():
            one = series_of(
                [point.value for point in points],
                [point.step for point in points],
                [now_us if point.at_us is None else point.at_us for point in points],
            )
            grouped[name] = joined((grouped[name], one)) if name in grouped else one
        with changing(self._ledger, run, actor) as connection:
            if params:
                run_facts.add_texts(connection, run, "param", params, now_us)
            if tags:
                run_facts.add_texts(connection, run, "tag", tags, now_us)
            if grouped:
                run_facts.add_points(connection, run, grouped, once=once)

    def untag(self, run: str, names: Iterable[str], *, actor: str = "") -> int:
        """Take tags away; how many there were."""
        gone = 0
        with changing(self._ledger, run, actor) as connection:
            for part in in_parts(names):
                where = sa.and_(FACTS.c.run == run, FACTS.c.kind == "tag", FACTS.c.name.in_(part))
                gone += connection.execute(FACTS.delete().where(where)).rowcount
        return gone

    def head(self, run: str) -> Head:
        """The head of a run, or :class:`NotFound`."""
        found = self.heads([run])
        if run not in found:
            raise NotFound(f"no run {run!r}", "flyball runs ls names them", noun="run", key=run)
        return found[run]

    def heads(self, runs: Iterable[str]) -> dict[str, Head]:
        """Heads by id, of those there are."""
        with self._ledger.reading() as connection:
            return {
                row[0]: Head(*row)
                for part in in_parts(runs)
                for row in rows_of(connection, sa.select(*RUNS.c).where(RUNS.c.id.in_(part)))
            }

    def facts(self, runs: Iterable[str]) -> dict[str, Facts]:
        """Params, latest metrics and tags by run; a run without any has empty ones."""
        wanted = list(runs)
        with self._ledger.reading() as connection:
            found = run_facts.facts_of(connection, wanted)
        return {run: found.get(run) or Facts() for run in wanted}

    def history(
        self, run: str, name: str, *, after: int = 0, limit: int | None = None, sampled: int | None = None
    ) -> Series:
        """A metric's points in the order they were logged: all, ``limit`` from the ``after``-th on, or thinned."""
        sizes = sa.select(POINTS.c.block, POINTS.c.n).where(POINTS.c.run == run, POINTS.c.name == name)
        parts: list[Series] = []
        with self._ledger.reading() as connection:
            start = 0
            wanted: list[int] = []
            skip = 0
            for block, n in rows_of(connection, sizes.order_by(POINTS.c.block)):
                if start + n > after and (limit is None or start < after + limit):
                    if not wanted:
                        skip = after - start
                    wanted.append(block)
                start += n
            if wanted:
                query = sa.select(POINTS.c.content, POINTS.c.n).where(
                    POINTS.c.run == run,
                    POINTS.c.name == name,
                    POINTS.c.block.between(wanted[0], wanted[-1]),
                )
                for content, n in rows_of(connection, query.order_by(POINTS.c.block)):
                    parts.append(unpack(bytes(content), n))
        found = joined(parts) if parts else EMPTY
        if parts:
            skip = max(skip, 0)
            found = found[skip : None if limit is None else skip + limit]
        return found if sampled is None else thinned(found, sampled)

    def search(self, query: RunQuery) -> Page:
        """Runs that match, with their facts, and a token for the next page."""
        offset = _offset(query)
        statement = _statement(query, _WITH_SUMMARY)
        if offset:
            statement = statement.offset(offset)
        if query.limit is not None or offset:
            statement = statement.limit(2**62 if query.limit is None else query.limit + 1)
        with self._ledger.reading() as connection:
            rows = rows_of(connection, statement)
            more = query.limit is not None and len(rows) > query.limit
            rows = rows[: query.limit] if more else rows
            facts = run_facts.facts_of(connection, [row[0] for row in rows if row[_HEADS] is None])
        found = [
            Found(
                Head(*row[:_HEADS]),
                facts.get(row[0]) or Facts() if row[_HEADS] is None else run_summaries.unpack(row[_HEADS]),
            )
            for row in rows
        ]
        return Page(found, _token(offset + len(found)) if more else "")

    def count(self, query: RunQuery) -> int:
        """How many match, whatever the limit."""
        with self._ledger.reading() as connection:
            inner = _statement(msgspec.structs.replace(query, order=()), (RUNS.c.id,)).order_by(None)
            return int(
                connection.execute(sa.select(sa.func.count()).select_from(inner.subquery())).scalar_one()
            )

    def columns(self, query: RunQuery) -> tuple[list[tuple[Any, ...]], list[Group]]:
        """Rows of heads in order, and their facts as columns, a group for each set of names: what a frame is made of."""
        statement = _statement(query, _WITH_SUMMARY)
        if query.limit is not None:
            statement = statement.limit(query.limit)
        with self._ledger.reading() as connection:
            rows = rows_of(connection, statement)
            facts = run_facts.facts_of(connection, [row[0] for row in rows if row[_HEADS] is None])
        contents = [row[_HEADS] or run_summaries.pack(facts.get(row[0]) or Facts()) for row in rows]
        return rows, run_summaries.groups(contents)

    def running(self) -> list[Head]:
        """Runs that go on in a process we were told of."""
        with self._ledger.reading() as connection:
            return [Head(*row) for row in _RUNNING.rows(connection, {})]

    def children(self, run: str) -> list[str]:
        """Runs that were started inside this one, oldest first."""
        query = sa.select(RUNS.c.id).where(RUNS.c.parent == run).order_by(RUNS.c.started_us, RUNS.c.id)
        with self._ledger.reading() as connection:
            return [row[0] for row in rows_of(connection, query)]

    def delete(self, run: str, *, actor: str) -> Head:
        """Take a run out of sight; everything of it stays and :meth:`restore` brings it back. Twice changes nothing."""
        return self._set_deleted(run, actor, True)

    def restore(self, run: str, *, actor: str) -> Head:
        """Bring a deleted run back."""
        return self._set_deleted(run, actor, False)

    def verify(self, run: str) -> list[str]:
        """Recompute every chain of blocks, every latest value and the seal: what is not what was written."""
        return problems(self._ledger, run)

    def _set_deleted(self, run: str, actor: str, deleted: bool) -> Head:
        with self._ledger.transaction() as tx:
            tx.alone(run)
            found = tx.find("run", run, Run)
            if found is None:
                raise NotFound(f"no run {run!r}", "flyball runs ls names them", noun="run", key=run)
            if (found.deleted is not None) == deleted:
                return _head_row(tx.connection, run)
            changed = msgspec.structs.replace(found, deleted=tx.now() if deleted else None)
            kind = "run.deleted" if deleted else "run.restored"
            tx.append(kind, run, actor=actor, sets=[("run", run, changed)])
            put_head(tx, changed)
            return _head_row(tx.connection, run)


def _head_row(connection: Connection, run: str) -> Head:
    row = connection.execute(sa.select(*RUNS.c).where(RUNS.c.id == run)).first()
    if row is None:
        raise Conflict(f"run {run} is gone from the table of runs", "flyball restore BACKUP brings it back")
    return Head(*row)


def _by_name(metrics: Iterable[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in metrics:
        found.setdefault(point.name, []).append(point)
    return found


# How runs stand, in the order of MLflow's words for it: FAILED, FINISHED, KILLED, RUNNING, SCHEDULED.
_STANDING = sa.case(
    {"failed": 0, "refused": 0, "done": 1, "killed": 2, "running": 3, "scheduled": 4},
    value=RUNS.c.status,
    else_=5,
)


def _statement(query: RunQuery, columns: Any) -> sa.Select[Any]:
    selected = list(columns)
    source: Any = RUNS
    if any(one is SUMMARIES.c.content for one in selected):
        source = RUNS.outerjoin(SUMMARIES, SUMMARIES.c.run == RUNS.c.id)
    order: list[sa.ColumnElement[Any]] = []
    for number, one in enumerate(query.order):
        column: Any
        if one.kind == "attribute":
            column = _STANDING if one.name == "status" else RUNS.c[one.name]
        else:
            side = FACTS.alias(f"order_{number}")
            source = source.outerjoin(
                side,
                sa.and_(side.c.run == RUNS.c.id, side.c.kind == one.kind, side.c.name == one.name),
            )
            column = side.c.number if one.kind == "metric" or one.as_number else side.c.text
        if one.kind == "metric":
            order.append(sa.case((side.c.run.is_(None), 2), (column.is_(None), 1), else_=0))
        else:
            order.append(sa.case((column.is_(None), 1), else_=0))
        # The key of a text by code point: the same order on both engines.
        key = by_code_point(column) if isinstance(column.type, sa.String) else column
        order.append(key.desc() if one.descending else key)
        selected += [order[-2].label(f"absent_{number}"), column.label(f"key_{number}")]
    if not any(one.kind == "attribute" and one.name == "started_us" for one in query.order):
        order.append(RUNS.c.started_us.desc())
    order.append(RUNS.c.id)
    statement = sa.select(*selected).select_from(source).where(*query.where).order_by(*order)
    if query.experiments is not None:
        statement = statement.where(RUNS.c.experiment.in_(list(query.experiments)))
    if query.view != "all":
        gone = RUNS.c.deleted_us
        statement = statement.where(gone.is_(None) if query.view == "active" else gone.is_not(None))
    return statement


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode({"offset": offset})).decode()


def _offset(query: RunQuery) -> int:
    if not query.token:
        return 0
    try:
        return int(msgspec.json.decode(base64.urlsafe_b64decode(query.token), type=dict[str, int])["offset"])
    except (ValueError, KeyError, binascii.Error, msgspec.DecodeError) as error:
        raise Invalid(f"{query.token!r:.80} is not a page token", "give back the one you got") from error
