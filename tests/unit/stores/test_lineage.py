"""The ledger read for lineage: many keys at a time, cycles, parts and versions, on each engine."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.core.events import Edge
from flyball.core.lineage import Direction
from flyball.stores.lineage import LedgerReader
from flyball.stores.metadata import Ledger


def wrote(ledger: Ledger, *edges: tuple[str, str, str]) -> None:
    with ledger.transaction() as tx:
        tx.append("test.wrote", "x", actor="x", edges=[Edge(*edge) for edge in edges])


def closure(ledger: Ledger, key: str, direction: Direction) -> set[tuple[str, str]]:
    with ledger.reading() as connection:
        return {(row.made, row.of) for row in LedgerReader(connection).closure([key], direction)}


def test_all_edges_behind_a_thing_come_at_once_and_a_cycle_ends(ledger: Ledger) -> None:
    wrote(ledger, ("m", "r", "run"), ("r", "d", "input"), ("d", "r", "made by"), ("z", "q", "input"))
    assert closure(ledger, "m", "up") == {("m", "r"), ("r", "d"), ("d", "r")}
    assert closure(ledger, "d", "down") == {("r", "d"), ("d", "r"), ("m", "r")}


def test_the_past_of_equal_bytes_is_not_followed_upwards(ledger: Ledger) -> None:
    wrote(ledger, ("model:m@1", "b3:x", "artifact"), ("b3:x", "run_other", "output:fit"))
    assert closure(ledger, "model:m@1", "up") == {("model:m@1", "b3:x")}
    assert closure(ledger, "b3:x", "up") == {("b3:x", "run_other")}
    assert closure(ledger, "run_other", "down") == {("b3:x", "run_other"), ("model:m@1", "b3:x")}


def test_the_next_version_of_data_was_not_made_from_this_one(ledger: Ledger) -> None:
    wrote(ledger, ("snapshot:f@2", "snapshot:f@1", "parent"), ("run_1", "snapshot:f@2", "input:f"))
    assert closure(ledger, "snapshot:f@1", "down") == set()
    assert closure(ledger, "run_1", "up") == {("run_1", "snapshot:f@2")}


def test_more_keys_than_one_query_takes(ledger: Ledger) -> None:
    wrote(ledger, *((f"b3:{number}", "run_1", f"output:{number}") for number in range(4500)))
    with ledger.reading() as connection:
        reader = LedgerReader(connection)
        assert len(reader.edges([f"b3:{number}" for number in range(4500)], "up")) == 4500
        assert len(reader.closure(["run_1"], "down")) == 4500


def test_records_of_several_nouns_come_together_and_what_is_not_there_is_left_out(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.append("x", "x", actor="x", sets=[("run", "r", {"a": 1}), ("code", "c", {"b": 2})])
    with ledger.reading() as connection:
        reader = LedgerReader(connection)
        found = reader.records([("run", "r"), ("code", "c"), ("code", "gone")])
        assert found == {("run", "r"): b'{"a":1}', ("code", "c"): b'{"b":2}'}
        assert [stored.key for stored in reader.all_of(["run", "code"])] == ["c", "r"]
        assert reader.count() == {"code": 1, "run": 1}


names = st.sampled_from(["a", "b", "c", "d", "e"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(names, names), max_size=14), names, st.sampled_from(["up", "down"]))
def test_the_closure_is_that_of_brute_force(
    links: list[tuple[str, str]], start: str, direction: Direction
) -> None:
    ledger = Ledger.open("sqlite://")
    wrote(ledger, *((made, of, "input") for made, of in links))
    expected: set[tuple[str, str]] = set()
    reached, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        for made, of in links:
            source, target = (made, of) if direction == "up" else (of, made)
            if source == here:
                expected.add((made, of))
                if target not in reached:
                    reached.add(target)
                    waiting.append(target)
    assert closure(ledger, start, direction) == expected
    ledger.close()
