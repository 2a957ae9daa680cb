"""A ledger's tables on another engine: the same rows, the same chain, and numbers go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flyball.core.events import Edge
from flyball.stores import transfer
from flyball.stores.metadata import EVENTS, Ledger


def fill(ledger: Ledger, many: int = 7) -> None:
    for n in range(many):
        with ledger.transaction() as tx:
            content: Any = {"n": n, "text": "é\0😀", "share": 0.1 + n}
            tx.append(
                "note.made",
                f"a@{n}",
                actor="x",
                sets=[("note", f"a@{n}", content)],
                edges=[Edge(f"a@{n}", "b3:00", "from")],
            )


def seals(ledger: Ledger) -> list[transfer.TableSeal]:
    with ledger.reading() as connection:
        return transfer.seals(connection)


@pytest.fixture
def other(request: pytest.FixtureRequest, ledger_url: str, tmp_path: Path) -> Any:
    """A second ledger, on the other engine."""
    url = (
        request.getfixturevalue("postgres").new()
        if ledger_url.startswith("sqlite")
        else f"sqlite:///{tmp_path}/other.db"
    )
    opened = Ledger.open(url)
    yield opened
    opened.close()


def test_a_copy_has_every_row_and_its_numbers_go_on(ledger: Ledger, other: Ledger) -> None:
    fill(ledger)
    ledger.lease("governor", "me", 60)
    fill(other, 2)  # what was there is replaced
    with ledger.reading() as source, other.writing() as target:
        transfer.copy(source, target)
        assert transfer.head(source) == transfer.head(target)
    assert seals(ledger) == seals(other)
    assert other.lease("governor", "another", 60)  # leases stay with the machine that took them
    fill(other, 1)
    assert [other.verify_event(event.seq) for event in other.events()] == [""] * 8
    assert other.events()[-1].seq == other.events()[-2].seq + 1


def test_an_empty_ledger_can_be_copied(ledger: Ledger, other: Ledger) -> None:
    with ledger.reading() as source, other.writing() as target:
        assert transfer.copy(source, target) == 0
        assert transfer.head(target) == (0, b"")
    fill(other, 1)
    assert len(other.events()) == 1


def test_a_copy_that_raises_leaves_what_was_there(ledger: Ledger, other: Ledger) -> None:
    fill(ledger)
    fill(other, 2)
    before = seals(other)
    with pytest.raises(RuntimeError), ledger.reading() as source, other.writing() as target:
        transfer.copy(source, target)
        raise RuntimeError
    assert seals(other) == before


def test_seals_differ_by_one_byte(ledger: Ledger) -> None:
    fill(ledger)
    before = seals(ledger)
    with ledger.writing() as connection:
        connection.execute(
            EVENTS.update()
            .where(EVENTS.c.seq == sa.select(sa.func.max(EVENTS.c.seq)).scalar_subquery())
            .values(actor="y")
        )
    assert [a.table for a, b in zip(before, seals(ledger), strict=True) if a != b] == ["events"]


def test_a_saved_file_is_one_whole_ledger_of_a_moment(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger)
    with ledger.reading() as connection:
        transfer.head(connection)  # from here on it sees this moment
        fill(ledger, 1)
        (tmp_path / "saved").mkdir()
        transfer.save_as_sqlite(connection, tmp_path / "saved" / "ledger.db")
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["ledger.db"]
    saved = Ledger.open(f"sqlite:///{tmp_path}/saved/ledger.db")
    assert len(saved.events()) == 7
    assert saved.verify("note", "a@6") == ""
    saved.close()
