"""Rechecking the ledger: what follows from what, in whatever column a byte was changed, on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flyball.core.events import Edge
from flyball.stores.ledger_check import Wanted, check, check_all, check_database
from flyball.stores.lineage import LedgerReader
from flyball.stores.metadata import EDGES, EVENTS, RECORDS, Ledger

RUN = Wanted(records=(("run", "run_1"),), subjects=("run_1",))


@pytest.fixture
def story() -> Iterator[Ledger]:
    """In memory; the tests that are about the engine take ``ledger``, which is on each."""
    ledger = told(Ledger.open("sqlite://"))
    yield ledger
    ledger.close()


def told(ledger: Ledger) -> Ledger:
    """A run that was started, read data, and ended; an alias that moved; a step that was collected."""

    def append(kind: str, subject: str, sets: Any = (), edges: Any = ()) -> None:
        with ledger.transaction() as tx:
            tx.append(kind, subject, actor="person:ann", sets=sets, edges=edges)

    edges = [Edge("run_1", "b3:code", "code")]
    append("run.started", "run_1", [("run", "run_1", {"status": "running"})], edges)
    read = [Edge("run_1", "snapshot:f@1", "input:f")]
    append(
        "step.done", "run_1/use", [("step", "s1", {"out": 1}), ("run", "run_1", {"status": "running"})], read
    )
    append("run.done", "run_1", [("run", "run_1", {"status": "done"})])
    append("alias.set", "m@champion", [("alias", "m@champion", {"number": 1})])
    append("alias.set", "m@champion", [("alias", "m@champion", {"number": 2})])
    append("gc.decided", "gc_1", [("step", "s1", None)])
    return ledger


def problems(ledger: Ledger, wanted: Wanted = RUN) -> list[str]:
    with ledger.reading() as connection:
        edges = LedgerReader(connection).edges(["run_1"], "up")
        found, _ = check(connection, {"run_1": wanted}, edges)
        whole, _ = check_all(connection)
    said = [one for some in found.values() for one in some]
    assert bool(said) <= bool(whole), "what one thing's check finds, the check of all finds"
    return said


def change(ledger: Ledger, table: sa.Table, where: Any, **values: Any) -> None:
    with ledger.writing() as connection:
        assert connection.execute(table.update().where(where).values(**values)).rowcount == 1


def test_nothing_is_wrong_with_what_was_not_touched(ledger: Ledger) -> None:
    story = told(ledger)
    assert problems(story) == []
    with story.reading() as connection:
        assert check_all(connection)[0] == []
        assert check_database(connection) == []
        _, objects = check(connection, {"run_1": RUN}, ())
    assert objects >= 6


RECORD, STARTED, EDGE = RECORDS.c.key == "run_1", EVENTS.c.seq == 1, EDGES.c.role == "code"


@pytest.mark.parametrize(
    ("table", "where", "values", "said"),
    [
        (RECORDS, RECORD, {"content": b'{"status":"dome"}'}, "differs from the event that set it"),
        (RECORDS, RECORD, {"content": b'{"status":\xff'}, "differs from the event that set it"),
        (RECORDS, RECORD, {"key": "run_0"}, "run run_1 is gone"),
        (RECORDS, RECORD, {"noun": "sun"}, "run run_1 is gone"),
        (RECORDS, RECORD, {"set_seq": 2}, "is not what the last event set"),
        (RECORDS, RECORD, {"set_seq": 99}, "the event that set run run_1 is gone"),
        (RECORDS, RECORD, {"made_seq": 2}, "an earlier event made run run_1"),
        (RECORDS, RECORD, {"made_seq": 4}, "is not the one the ledger names"),
        (EVENTS, STARTED, {"actor": "person:bob"}, "has changed since it was written"),
        (EVENTS, STARTED, {"kind": "run.begun"}, "has changed since it was written"),
        (EVENTS, STARTED, {"at_us": 1}, "has changed since it was written"),
        (EVENTS, STARTED, {"id": "evt_x"}, "has changed since it was written"),
        (EVENTS, STARTED, {"body": b"{}"}, "has changed since it was written"),
        (EVENTS, STARTED, {"body": b"\xff"}, "has changed since it was written"),
        (EVENTS, STARTED, {"sets": b"[]"}, "has changed since it was written"),
        (EVENTS, STARTED, {"chain": b"x" * 32}, "has changed since it was written"),
        (EVENTS, STARTED, {"seq": 50}, "is gone from the ledger"),
        (EDGES, EDGE, {"made": "run_0"}, "is not there"),
        (EDGES, EDGE, {"of": "b3:cobe"}, "is not there"),
        (EDGES, EDGE, {"role": "node"}, "is not there"),
        (EDGES, EDGE, {"seq": 3}, "is not one that event"),
        (EDGES, EDGE, {"seq": 2}, "is not one that event"),
        (EDGES, EDGE, {"seq": 70}, "is gone from the ledger"),
    ],
)
def test_a_change_in_any_column_is_said(
    story: Ledger, table: sa.Table, where: Any, values: dict[str, Any], said: str
) -> None:
    change(story, table, where, **values)
    assert any(said in one for one in problems(story)), problems(story)


def test_an_event_that_was_taken_out_breaks_the_chain(story: Ledger) -> None:
    with story.writing() as connection:
        connection.execute(EVENTS.delete().where(EVENTS.c.seq == 2))
    assert any("has changed since it was written" in one for one in problems(story))


def test_an_alias_turned_back_is_found_by_the_event_that_set_it_last(story: Ledger) -> None:
    change(story, RECORDS, RECORDS.c.noun == "alias", content=b'{"number":1}', set_seq=4)
    wanted = Wanted(seqs=(5,))
    assert problems(story, wanted) == [
        "the record alias m@champion is not what event " + _id(story, 5) + " set"
    ]


def test_a_record_that_an_event_set_and_none_took_away_must_be_there(ledger: Ledger) -> None:
    story = told(ledger)
    assert problems(story, Wanted(seqs=(2,))) == []  # the step was collected, and the ledger says so
    with story.writing() as connection:
        connection.execute(RECORDS.delete().where(RECORDS.c.noun == "alias"))
    assert problems(story, Wanted(seqs=(5,))) == [
        f"alias m@champion, which event {_id(story, 5)} set, is gone"
    ]


def test_an_edge_from_before_events_listed_theirs_needs_an_event_that_speaks_of_it() -> None:
    ledger = Ledger.open("sqlite://")
    with ledger.transaction() as tx:
        tx.append("run.started", "run_1", actor="x")
    with ledger.writing() as connection:
        connection.execute(EDGES.insert().values(made="run_1", of="b3:old", role="x", seq=1))
        connection.execute(EDGES.insert().values(made="model:m@1", of="b3:old", role="x", seq=1))
    with ledger.reading() as connection:
        old = LedgerReader(connection).edges(["b3:old"], "down")
        found, _ = check(connection, {}, old)
    assert set(found) == {"model:m@1", "b3:old"}
    ledger.close()


def _id(ledger: Ledger, seq: int) -> str:
    return next(event.id for event in ledger.events() if event.seq == seq)
