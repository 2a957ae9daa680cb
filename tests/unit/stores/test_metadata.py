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
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.core.events import Edge
from flyball.errors import Conflict, Invalid, NotFound, Unavailable
from flyball.stores.metadata import EVENTS, RECORDS, Ledger


def change(ledger: Ledger, statement: str) -> None:
    """What no one may do: change the tables behind the ledger's back."""
    with ledger.writing() as connection:
        connection.exec_driver_sql(statement)


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
    ledger: Ledger,
) -> None:
    edges = [Edge("run_1", "flights@3", "input"), Edge("run_1", "b3:c", "code")]
    note(ledger, "a", {}, edges=edges, body={"because": "asked"})
    (event,) = ledger.events()
    assert event.edges == tuple(edges)
    assert event.body == {"because": "asked"}
    change(ledger, "delete from edges")
    ledger.rebuild()
    assert set(ledger.made_from("run_1")) == set(edges)
    with ledger.writing() as connection:
        body = connection.execute(sa.select(EVENTS.c.body)).scalar_one()
        connection.execute(EVENTS.update().values(body=body.replace(b"flights@3", b"flights@4")))
    assert "has changed since it was written" in ledger.verify_event(event.seq)


def test_one_changed_byte_is_found_wherever_it_is(ledger: Ledger) -> None:
    for key in "abc":
        note(ledger, key, {"n": 1})
    assert [ledger.verify("note", key) for key in "abc"] == ["", "", ""]
    with ledger.writing() as connection:
        connection.execute(RECORDS.update().where(RECORDS.c.key == "a").values(content=b'{"n":2}'))
    change(ledger, "update events set actor = 'person:bob' where subject = 'b'")
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


def test_a_writer_killed_in_a_transaction_leaves_whole_events_only(ledger_url: str) -> None:
    code = f"""
import os, signal
from flyball.stores.metadata import Ledger
ledger = Ledger.open({ledger_url!r})
for n in range(10):
    with ledger.transaction() as tx:
        tx.append("note.made", str(n), actor="x", sets=[("note", f"{{n}}-{{i}}", {{}}) for i in range(5)])
        if n == 7:
            os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    ledger = Ledger.open(ledger_url)
    note(ledger, "next", {})  # its locks went with it
    assert len(ledger.events(subject="7")) == 0
    assert len(ledger.events()) == 8
    assert len(ledger.keys("note")) == 36
    ledger.close()


def test_two_processes_that_open_a_new_ledger_at_once_both_succeed(ledger_url: str) -> None:
    code = f"from flyball.stores.metadata import Ledger; Ledger.open({ledger_url!r}).close()"
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


def test_prefixes_are_taken_letter_for_letter(ledger: Ledger) -> None:
    for key in ("delays@1", "Delays@9", "delays_x@7", "delays%@8", "delays@@3", "é@2"):
        note(ledger, key, {"key": key})
    assert [one["key"] for one in ledger.ls("note", dict, "delays@")] == ["delays@1", "delays@@3"]
    assert [one["key"] for one in ledger.ls("note", dict, "D")] == ["Delays@9"]
    assert [one["key"] for one in ledger.ls("note", dict, "delays_")] == ["delays_x@7"]
    assert [event.subject for event in ledger.events(subject="é")] == ["é@2"]
    with ledger.transaction() as tx:
        assert tx.next_number("note", "Delays") == 10


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("aA@_%é\ud7ff\ue000\U0010ffff", max_size=4), max_size=8),
    st.text("aA\U0010ffff%é", max_size=3),
)
def test_a_prefix_finds_what_python_says_begins_with_it(ledger: Ledger, keys: list[str], prefix: str) -> None:
    with ledger.writing() as connection:
        connection.execute(RECORDS.delete())
    for key in keys:
        note(ledger, key, {"key": key})
    assert {one["key"] for one in ledger.ls("note", dict, prefix)} == {
        k for k in keys if k.startswith(prefix)
    }


def test_a_name_too_long_or_with_a_nul_is_refused_on_both_engines(ledger: Ledger) -> None:
    for name in ("x" * 301, "a\0b"):
        for more in ({}, {"edges": [Edge("a", name, "from")]}):
            with pytest.raises(Invalid, match="can't hold that text"):
                note(ledger, "fine" if more else name, {}, **more)
    assert ledger.events() == []
    note(ledger, "x" * 300, {})


def test_a_reader_sees_one_snapshot_while_others_write(ledger: Ledger) -> None:
    note(ledger, "a", {})
    with ledger.reading() as connection:
        count = sa.select(sa.func.count()).select_from(EVENTS)
        assert connection.execute(count).scalar() == 1
        note(ledger, "b", {})
        assert connection.execute(count).scalar() == 1
    assert len(ledger.events()) == 2


def test_writers_of_one_name_are_serialised(ledger: Ledger) -> None:
    note(ledger, "run", {"n": 0})
    where = sa.and_(RECORDS.c.noun == "note", RECORDS.c.key == "run")

    def write() -> None:
        for _ in range(20):
            with ledger.writing(alone="run_1") as connection:
                seen = int(connection.execute(sa.select(RECORDS.c.set_seq).where(where)).scalar_one())
                connection.execute(RECORDS.update().where(where).values(set_seq=seen + 1))

    before = 1
    with ledger.writing() as connection:
        connection.execute(RECORDS.update().where(where).values(set_seq=before))
    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ledger.reading() as connection:
        assert connection.execute(sa.select(RECORDS.c.set_seq).where(where)).scalar() == before + 60


def test_an_unknown_engine_or_user_is_named() -> None:
    with pytest.raises(Invalid, match="can't lie in mysql"):
        Ledger.open("mysql://root@localhost/x")


def test_forty_threads_that_read_while_they_write_do_not_starve_one_another(ledger: Ledger) -> None:
    failed: list[BaseException] = []

    def write(me: int) -> None:
        try:
            for n in range(3):
                with ledger.transaction() as tx:
                    ledger.find("note", "a", dict)  # a second connection, while it has the first
                    tx.append("note.made", "a", actor="x", sets=[("note", f"a{me}", {"n": n})])
                with ledger.reading(), ledger.reading():
                    ledger.find("note", "a", dict)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=write, args=(me,)) for me in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(ledger.events()) == 120
