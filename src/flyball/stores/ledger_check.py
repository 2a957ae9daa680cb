"""The ledger rechecked: records against the events that set them, events against the chain, edges against the events
that wrote them, and the database against itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from blake3 import blake3
from sqlalchemy.engine import Connection

from flyball.core.events import Sets
from flyball.stores.engine import starts_with
from flyball.stores.lineage import EdgeRow, batches
from flyball.stores.metadata import EDGES, EDGES_KEY, EVENTS, RECORDS, _encode, _link

_sets = msgspec.json.Decoder(tuple[Sets, ...])
_body = msgspec.json.Decoder(dict[str, Any])


class Wanted(NamedTuple):
    """What of the ledger stands behind one thing."""

    records: tuple[tuple[str, str], ...] = ()  # (noun, key)
    subjects: tuple[str, ...] = ()  # every event about it, and about SUBJECT/…
    seqs: tuple[int, ...] = ()  # events known by number


class _Checked(msgspec.Struct):
    """An event, rechecked."""

    id: str
    subject: str
    problem: str
    sets: tuple[Sets, ...] = ()
    edges: frozenset[tuple[str, str, str]] | None = None  # None: written before events listed their edges
    text: bytes = b""


def check(
    connection: Connection, wanted: Mapping[str, Wanted], edges: Iterable[EdgeRow] = ()
) -> tuple[dict[str, list[str]], int]:
    """What is wrong, by the name of the thing, and how many objects were looked at.

    An event must follow from the one before it, a record be what its event set, and an edge be one that its event lists;
    and the other way round: what an event set or wrote must be there, unless a later one took it away.
    """
    check = _Check(connection)
    records = check.records({one for want in wanted.values() for one in want.records})
    by_subject = check.seqs_of({one for want in wanted.values() for one in want.subjects})
    known = list(edges)
    seqs = {one.seq for one in known} | {seq for want in wanted.values() for seq in want.seqs}
    seqs |= {seq for row in records.values() for seq in (row.made_seq, row.set_seq)}
    seqs |= {seq for found in by_subject.values() for seq in found}
    events = check.events(seqs)
    check.history = _history(events)
    check.listing = min((seq for seq, one in events.items() if one.edges is not None), default=sys.maxsize)
    named: dict[int, set[str]] = {}
    for name, want in wanted.items():
        for noun, key in want.records:
            check.note(name, check.record(noun, key, records.get((noun, key)), events))
        for seq in (*want.seqs, *(seq for subject in want.subjects for seq in by_subject[subject])):
            found = events.get(seq)
            check.note(name, found.problem if found else f"event number {seq} is gone from the ledger")
            named.setdefault(seq, set()).add(name)
        for record in want.records:
            row = records.get(record)
            for seq in () if row is None else (row.made_seq, row.set_seq):
                named.setdefault(seq, set()).add(name)
    for edge in known:
        check.edge(edge, events.get(edge.seq))
    check.listed(events)
    check.kept(events, named)
    return check.problems, check.objects + len(events) + len(known) + len(records)


class _Check:
    """Queries by the handful, and what they found."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.problems: dict[str, list[str]] = {}
        self.history: dict[tuple[str, str], list[tuple[int, bool]]] = {}
        self.listing = 0  # number of the first event, of those looked at, that lists its edges
        self.objects = 0

    def note(self, name: str, problem: str) -> None:
        if problem and problem not in self.problems.setdefault(name, []):
            self.problems[name].append(problem)

    def records(self, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        found: dict[tuple[str, str], Any] = {}
        for noun in sorted({noun for noun, _ in wanted}):
            for keys in batches(sorted(key for other, key in wanted if other == noun)):
                query = sa.select(RECORDS).where(RECORDS.c.noun == noun, RECORDS.c.key.in_(keys))
                found |= {(row.noun, row.key): row for row in self._connection.execute(query)}
        return found

    def seqs_of(self, subjects: set[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {subject: [] for subject in subjects}
        for some in batches(sorted(subjects)):
            query = sa.select(EVENTS.c.seq, EVENTS.c.subject).where(EVENTS.c.subject.in_(some))
            for seq, subject in self._connection.execute(query):
                found[subject].append(seq)
        for subject in subjects:
            if subject.startswith("run_"):  # a pipeline's steps: run_…/node
                query = sa.select(EVENTS.c.seq).where(starts_with(EVENTS.c.subject, f"{subject}/"))
                found[subject] += self._connection.execute(query).scalars()
        return found

    def events(self, seqs: set[int]) -> dict[int, _Checked]:
        earlier = EVENTS.alias()
        before = (
            sa.select(earlier.c.chain)
            .where(earlier.c.seq < EVENTS.c.seq)
            .order_by(earlier.c.seq.desc())
            .limit(1)
            .scalar_subquery()
        )
        found: dict[int, _Checked] = {}
        for some in batches(sorted(seqs)):
            query = sa.select(EVENTS, before.label("before")).where(EVENTS.c.seq.in_(some))
            for row in self._connection.execute(query):
                found[row.seq] = check_event(row, row.before)
        return found

    def record(self, noun: str, key: str, row: Any, events: dict[int, _Checked]) -> str:
        if row is None:
            return f"{noun} {key} is gone from the ledger"
        event, made = events.get(row.set_seq), events.get(row.made_seq)
        if event is None:
            return f"the event that set {noun} {key} is gone from the ledger"
        if event.problem:
            return f"{event.problem}; it set {noun} {key}"
        if made is None or (
            not made.problem and all((one.noun, one.key) != (noun, key) for one in made.sets)
        ):
            return f"the event that made {noun} {key} is not the one the ledger names"
        changes = self.history.get((noun, key), [])
        begun = [seq for seq, gone in changes if seq < row.made_seq and not gone]
        ended = [seq for seq, gone in changes if seq < row.made_seq and gone]
        if begun and max(begun) > max(ended, default=0):
            return f"an earlier event made {noun} {key} than the one the ledger names"
        if any(seq > row.set_seq for seq, _ in changes):
            return f"the record {noun} {key} is not what the last event set"
        for one in event.sets:
            if (one.noun, one.key) == (noun, key) and _encode(one.content) == row.content:
                return ""
        return f"the record {noun} {key} differs from the event that set it"

    def edge(self, edge: EdgeRow, event: _Checked | None) -> None:
        name = f"edge {edge.made} from {edge.of} ({edge.role})"
        if event is None:
            problem = f"the event of {name} is gone from the ledger"
        elif event.edges is not None:
            problem = "" if edge[:3] in event.edges else f"{name} is not one that event {event.id} wrote"
        elif edge.seq > self.listing:
            problem = f"{name} is not one that event {event.id} wrote"
        else:
            problem = "" if _mentions(event, edge.made) else f"{name} is of no event that speaks of it"
        for end in (edge.made, edge.of):
            self.note(end, problem)

    def kept(self, events: dict[int, _Checked], named: dict[int, set[str]]) -> None:
        """Every record that one of these events set is there, as it set it or as a later one did."""
        there = self.records(set(self.history))
        absent: dict[tuple[str, str], int] = {}
        for record, changes in self.history.items():
            seq, gone = changes[-1]
            row = there.get(record)
            problem = ""
            if row is None and not gone:
                absent[record] = seq
            elif row is not None and row.set_seq < seq:
                problem = f"the record {record[0]} {record[1]} is not what event {events[seq].id} set"
            elif row is not None and row.set_seq == seq:
                content = next(one.content for one in events[seq].sets if (one.noun, one.key) == record)
                if content is None or _encode(content) != row.content:
                    problem = f"the record {record[0]} {record[1]} differs from the event that set it"
            for name in named.get(seq, ()):
                self.note(name, problem)
        removed = self._removed() if absent else {}
        for record, seq in absent.items():
            if removed.get(record, 0) < seq:
                for name in named.get(seq, ()):
                    self.note(name, f"{record[0]} {record[1]}, which event {events[seq].id} set, is gone")
        self.objects += len(self.history)

    def _removed(self) -> dict[tuple[str, str], int]:
        """Records that were taken away, and when last: asked for only when one is not there."""
        holds_null = sa.func.instr if self._connection.dialect.name == "sqlite" else _position
        query = sa.select(EVENTS.c.seq, EVENTS.c.sets).where(holds_null(EVENTS.c.sets, b'"content":null') > 0)
        found: dict[tuple[str, str], int] = {}
        for seq, sets in self._connection.execute(query.order_by(EVENTS.c.seq)):
            try:
                gone = [one for one in _sets.decode(sets) if one.content is None]
            except msgspec.MsgspecError:
                continue
            found |= {(one.noun, one.key): seq for one in gone}
        return found

    def listed(self, events: dict[int, _Checked]) -> None:
        """What events list must be there, written by them or by an earlier one."""
        listed = {edge: one for one in events.values() if not one.problem for edge in one.edges or ()}
        there: dict[tuple[str, str, str], int] = {}
        for some in batches(made for made, _, _ in listed):
            query = sa.select(EDGES.c.made, EDGES.c.of, EDGES.c.role, EDGES.c.seq)
            rows = self._connection.execute(query.where(EDGES.c.made.in_(some)))
            there |= {(made, of, role): seq for made, of, role, seq in rows}
        for edge, event in listed.items():
            if edge not in there:
                made, of, role = edge
                for end in (made, of):
                    self.note(
                        end, f"edge {made} from {of} ({role}), which event {event.id} wrote, is not there"
                    )
        self.objects += len(listed)


def _history(events: dict[int, _Checked]) -> dict[tuple[str, str], list[tuple[int, bool]]]:
    """When each record was set, or (True) taken away, as far as these events say."""
    found: dict[tuple[str, str], list[tuple[int, bool]]] = {}
    for seq in sorted(events):
        for one in events[seq].sets:
            found.setdefault((one.noun, one.key), []).append((seq, one.content is None))
    return found


def _position(where: Any, what: bytes) -> Any:
    return sa.func.position(sa.literal(what, sa.LargeBinary).op("IN")(where))


def check_event(row: Any, before: bytes | None) -> _Checked:
    """An event's row against the chain of the one before it."""
    checked = _Checked(str(row.id), str(row.subject), "")
    try:
        holds = _link(before or b"", dict(row._mapping)) == row.chain
        sets, body = _sets.decode(row.sets), _body.decode(row.body)
    except (msgspec.MsgspecError, TypeError, ValueError):
        holds, sets, body = False, (), {}
    if not holds:
        checked.problem = f"event {row.id} has changed since it was written"
        return checked
    checked.sets = sets
    if EDGES_KEY in body:
        checked.edges = frozenset((made, of, role) for made, of, role in body[EDGES_KEY])
    else:
        checked.text = row.body + row.sets
    return checked


def _mentions(event: _Checked, made: str) -> bool:
    """Whether an event from before events listed their edges speaks of ``made``."""
    bare = made.partition(":")[2] if made.partition(":")[0] in ("model", "snapshot", "service") else made
    subject = event.subject
    return subject in (made, bare) or made.partition("#")[0] == subject or bare.encode() in event.text


def check_all(connection: Connection) -> tuple[list[str], int]:
    """The whole ledger: every event in order, and the records and edges that follow from them, in one pass."""
    problems: list[str] = []
    expected: dict[tuple[str, str], tuple[bytes, int, int]] = {}
    edges: dict[tuple[str, str, str], int] = {}
    before, objects, unlisted = None, 0, False
    for row in connection.execution_options(yield_per=1000).execute(sa.select(EVENTS).order_by(EVENTS.c.seq)):
        checked = check_event(row, before)
        before = row.chain
        objects += 1
        if checked.problem:
            problems.append(checked.problem)
            unlisted = True  # what it set is not known: its records are compared with nothing
            continue
        for one in checked.sets:
            where = (one.noun, one.key)
            if one.content is None:
                expected.pop(where, None)
                continue
            made = expected[where][1] if where in expected else row.seq
            expected[where] = (blake3(_encode(one.content)).digest(), made, row.seq)
        for edge in checked.edges or ():
            edges.setdefault(edge, row.seq)
    broken = bool(problems)
    for row in connection.execute(sa.select(RECORDS)):
        objects += 1
        found = expected.pop((row.noun, row.key), None)
        if found is None:
            if not broken:
                problems.append(f"the record {row.noun} {row.key} was set by no event")
        elif found != (blake3(row.content).digest(), row.made_seq, row.set_seq) and not broken:
            problems.append(f"the record {row.noun} {row.key} differs from the event that set it")
    problems += [f"{noun} {key} is gone from the ledger" for noun, key in expected]
    listing = min(edges.values(), default=0)  # edges written before events listed theirs can't be told
    for made, of, role, seq in connection.execute(sa.select(EDGES)):
        objects += 1
        if edges.pop((made, of, role), None) != seq and seq >= listing and not unlisted:
            problems.append(f"edge {made} from {of} ({role}) is not one that its event wrote")
    problems += [f"edge {made} from {of} ({role}) is not there" for made, of, role in edges]
    return problems, objects


def check_database(connection: Connection) -> list[str]:
    """What SQLite says of its own file: pages, indexes against their tables. Nothing to ask elsewhere."""
    if connection.dialect.name != "sqlite":
        return []
    try:
        rows = list(connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars())
    except sa.exc.DatabaseError as error:
        return [f"the ledger's file can't be read: {error.orig}"]
    return [] if rows == ["ok"] else [f"the ledger's file: {row}" for row in rows]
