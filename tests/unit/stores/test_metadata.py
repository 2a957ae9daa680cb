"""The ledger: one change is one commit, the projection is a fold, one changed byte is found."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.core.clock import ManualClock
from flyball.core.events import Edge
from flyball.errors import Conflict, Invalid, NotFound, Unavailable
from flyball.stores.metadata import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path}/ledger.db", ManualClock(datetime(2013, 4, 1, tzinfo=UTC)))


def note(ledger: Ledger, key: str, content: Any, **more: Any) -> None:
    with ledger.transaction() as tx:
        tx.append("note.made", key, actor="person:ann", sets=[("note", key, content)], **more)


def test_a_record_is_what_the_last_event_set(ledger: Ledger) -> None:
    note(ledger, "a", {"n": 1})
    note(ledger, "a", {"n": 2})
    assert ledger.get("note", "a", dict) == {"n": 2}
    assert [event.sets[0].content for event in ledger.events(kind="note", subject="a")] == [
        {"n": 1},
        {"n": 2},
    ]
    note(ledger, "a", None)
    with pytest.raises(NotFound, match="no note 'a'"):
        ledger.get("note", "a", dict)


def test_a_block_that_raises_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.transaction() as tx:
        tx.append("note.made", "a", actor="x", sets=[("note", "a", {"n": 1})])
        raise RuntimeError
    assert ledger.find("note", "a", dict) is None
    assert ledger.events() == []


def test_numbers_of_concurrent_writers_are_all_different(ledger: Ledger) -> None:
    def write(many: int) -> None:
        for _ in range(many):
            with ledger.transaction() as tx:
                number = tx.next_number("note", "a")
                tx.append("note.made", "a", actor="x", sets=[("note", f"a@{number}", {"n": number})])

    threads = [threading.Thread(target=write, args=(20,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["n"] for one in ledger.ls("note", dict)) == list(range(1, 81))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.none() | st.dictionaries(st.text(max_size=3), st.integers()))
    )
)
def test_rebuilding_gives_the_state_that_was(changes: list[tuple[str, dict[str, int] | None]]) -> None:
    ledger = Ledger.open("sqlite://")
    expected: dict[str, Any] = {}
    for key, content in changes:
        note(ledger, key, content)
        expected[key] = content
    expected = {key: content for key, content in expected.items() if content is not None}
    assert ledger.rebuild() == len(changes)
    assert {key: ledger.get("note", key, dict) for key in ledger.keys("note")} == expected
    ledger.close()


def test_events_are_found_by_kind_subject_and_time(ledger: Ledger) -> None:
    start = datetime(2013, 4, 1, tzinfo=UTC)
    for day in range(3):
        note(ledger, f"k{day}", {}, at=start + timedelta(days=day))
    assert [e.subject for e in ledger.events(since=start + timedelta(days=1))] == ["k1", "k2"]
    assert [e.subject for e in ledger.events(until=start + timedelta(days=1))] == ["k0"]
    assert ledger.events(kind="other") == []


def test_edges_lead_up_and_down_and_are_written_once(ledger: Ledger) -> None:
    for _ in range(2):
        note(ledger, "a", {}, edges=[Edge("run_1", "flights@3", "input")])
    assert ledger.made_from("run_1") == ledger.made_with("flights@3") == [Edge("run_1", "flights@3", "input")]


def test_the_chain_covers_the_edges_of_an_event_and_rebuilding_brings_them_back(
    ledger: Ledger, tmp_path: Path
) -> None:
    edges = [Edge("run_1", "flights@3", "input"), Edge("run_1", "b3:c", "code")]
    note(ledger, "a", {}, edges=edges, body={"because": "asked"})
    (event,) = ledger.events()
    assert event.edges == tuple(edges)
    assert event.body == {"because": "asked"}
    raw = sqlite3.connect(tmp_path / "ledger.db")
    raw.execute("delete from edges")
    raw.commit()
    ledger.rebuild()
    assert set(ledger.made_from("run_1")) == set(edges)
    raw.execute("update events set body = cast(replace(body, 'flights@3', 'flights@4') as blob)")
    raw.commit()
    raw.close()
    assert "has changed since it was written" in ledger.verify_event(event.seq)


def test_one_changed_byte_is_found_wherever_it_is(ledger: Ledger, tmp_path: Path) -> None:
    for key in "abc":
        note(ledger, key, {"n": 1})
    assert [ledger.verify("note", key) for key in "abc"] == ["", "", ""]
    raw = sqlite3.connect(tmp_path / "ledger.db")
    raw.execute("update records set content = ? where key = 'a'", (b'{"n":2}',))
    raw.execute("update events set actor = 'person:bob' where subject = 'b'")
    raw.commit()
    raw.close()
    assert "differs from the event" in ledger.verify("note", "a")
    assert "has changed since it was written" in ledger.verify("note", "b")
    assert ledger.verify("note", "c") == ""
    assert "gone" in ledger.verify("note", "d")


def test_a_lease_has_one_holder_and_ends_by_itself(ledger: Ledger) -> None:
    assert ledger.lease("governor", "one", 60)
    assert not ledger.lease("governor", "two", 60)
    assert ledger.lease("governor", "one", -1)  # renewed, and over at once: as if its holder had been killed
    assert ledger.lease("governor", "two", 60)
    ledger.release("governor", "one")
    assert not ledger.lease("governor", "one", 60)


def test_a_writer_killed_in_a_transaction_leaves_whole_events_only(tmp_path: Path) -> None:
    code = f"""
import os, signal
from flyball.stores.metadata import Ledger
ledger = Ledger.open("sqlite:///{tmp_path}/ledger.db")
for n in range(10):
    with ledger.transaction() as tx:
        tx.append("note.made", str(n), actor="x", sets=[("note", f"{{n}}-{{i}}", {{}}) for i in range(5)])
        if n == 7:
            os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    assert len(ledger.events()) == 7
    assert len(ledger.keys("note")) == 35
    ledger.close()


def test_two_processes_that_open_a_new_ledger_at_once_both_succeed(tmp_path: Path) -> None:
    code = f"from flyball.stores.metadata import Ledger; Ledger.open('sqlite:///{tmp_path}/new/ledger.db')"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]


def test_a_broken_or_newer_ledger_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match="can't be read"):
        Ledger.open(f"sqlite:///{tmp_path}/bad.db")
    Ledger.open(f"sqlite:///{tmp_path}/new.db").close()
    raw = sqlite3.connect(tmp_path / "new.db")
    raw.execute("update alembic_version set version_num = '9999'")
    raw.commit()
    raw.close()
    with pytest.raises(Conflict, match="newer than ours"):
        Ledger.open(f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(Invalid, match="is not a metadata URL"):
        Ledger.open("nonsense")
