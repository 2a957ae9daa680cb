"""A feed: offline files that are the log, views that follow it, batches set aside."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.service import feed_files, feeds
from flyball.service.features import views
from flyball.service.feeds import Feed
from flyball.service.sources import offline
from flyball.service.workspace import Workspace
from tests import feeding
from tests.feeding import START, event, full_disk, table


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    ws = feeding.project(tmp_path / "p")
    yield ws
    feeding.close(ws)


def agree(ws: Workspace, count: int = 60) -> None:
    """Online is what the offline table gives point-in-time."""
    asked = feeding.questions(count)
    rows = Feed(ws, "clicks").history()
    lazily = offline(ws, "clicks").select(rows.columns).collect()
    assert lazily.equals(rows)
    assert feeding.online(ws, views(ws), asked) == feeding.offline(views(ws), asked, rows)


def test_rows_land_offline_and_online_and_say_what_they_were(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    first = feed.ingest(table([event(n) for n in range(40)]), now=START)
    assert [(one.view, one.new, one.duplicates, one.late) for one in first.views] == [
        ("spent", 40, 0, 0),
        ("pages", 40, 0, 0),
    ]
    again = feed.ingest(table([event(n) for n in range(30, 60)]), now=START)
    assert [(one.new, one.duplicates, one.late) for one in again.views] == [(20, 10, 9), (20, 10, 9)]
    agree(ws)


def test_what_was_killed_between_the_file_and_the_store_is_brought_by_the_next_batch(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    feed.ingest(table([event(n) for n in range(20)]), now=START)
    with feed.files.held():  # the file is there, the process is gone
        feed.files.write(table([event(n) for n in range(20, 40)]), feeds.Head(), durable=False)
    Feed(ws, "clicks").ingest(table([event(n) for n in range(40, 60)]), now=START)
    agree(ws)


@pytest.mark.parametrize("slice_rows", [7, 1_000_000])
def test_a_view_whose_rows_are_gone_is_filled_from_the_files_again(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    monkeypatch.setattr(feeds, "_SLICE_ROWS", slice_rows)
    feed = Feed(ws, "clicks")
    for begin in (0, 20, 40):
        feed.ingest(table([event(n) for n in range(begin, begin + 20)]), now=START)
    for view in feed.views:
        ws.online.clear(view.stored_as)
    assert [landed.new for landed in Feed(ws, "clicks").catch_up()] == [60, 60]
    assert [landed.new for landed in Feed(ws, "clicks").catch_up()] == [0, 0]
    agree(ws)


def test_files_become_one_with_a_snapshot_and_nothing_comes_twice(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    for begin in (0, 20):
        feed.ingest(
            table([event(n) for n in range(begin, begin + 20)]), now=START, positions={"0": str(begin)}
        )
    assert feed.snapshot().rows == 40
    assert [file.name for file in feed.files.files()] == ["00000002.all.parquet"]
    assert feed.positions() == {"0": "20"}
    feed = Feed(ws, "clicks")
    feed.ingest(table([event(n) for n in range(40, 60)]), now=START)
    assert [feed.followed(view).rows for view in feed.views] == [60, 60]
    assert feed.positions() == {"0": "20"}
    agree(ws)


def test_another_table_in_place_of_the_old_one_is_read_from_its_start(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    for begin in (0, 20):
        feed.ingest(table([event(n) for n in range(begin, begin + 20)]), now=START)
    for file in feed.files.tables.folder.iterdir():
        file.unlink()
    feed = Feed(ws, "clicks")
    for begin in (0, 20, 40):
        feed.ingest(table([event(n) for n in range(begin, begin + 20)]), now=START)
    assert [feed.followed(view).rows for view in feed.views] == [60, 60]
    agree(ws)


def test_a_batch_that_breaks_the_contract_is_set_aside_whole_and_its_position_kept(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    feed.ingest(table([event(n) for n in range(20)]), now=START)
    bad = table([event(n) for n in range(20, 40)]).with_columns(amount=pl.lit(1e6))
    taken = feed.ingest(bad, now=START, positions={"0": "39"})
    assert not taken.accepted
    assert "amount" in taken.because
    assert feed.positions() == {"0": "39"}
    assert feed.history().height == 20
    feed.ingest(table([event(n) for n in range(40, 60)]), now=START)
    agree(ws)


def test_a_contract_of_a_view_holds_its_derived_rows(tmp_path: Path) -> None:
    more = feeding.DEFINITIONS + 'cheap = Contract("spent", [between("amount", 0, 50)])\n'
    ws = feeding.project(tmp_path / "q", definitions=more)
    taken = Feed(ws, "clicks").ingest(table([{**event(0), "amount": 70.0}]), now=START)
    assert not taken.accepted
    assert "amount" in taken.because
    feeding.close(ws)


def test_a_repeated_batch_with_a_name_is_taken_once(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    rows = table([event(n) for n in range(10)])
    feed.ingest(rows, now=START, batch="b1", durable=True)
    assert "came before" in Feed(ws, "clicks").ingest(rows, now=START, batch="b1").because
    assert feed.history().height == 10


def test_to_one_side_alone(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    feed.ingest(table([event(0)]), now=START, to="offline")
    assert feed.catch_up()[0].new == 0
    feed.ingest(table([event(1)]), now=START, to="online")
    assert feed.history()["id"].to_list() == [0]
    asked = pl.DataFrame({"user": ["u0", "u2"], "page": [0, 1], "at": [feeding.START.replace(hour=1)] * 2})
    assert [row[2] for row in feeding.online(ws, views(ws), asked)] == [0.0, 1.0]


def test_a_wrong_column_is_named_before_anything_is_written(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    with pytest.raises(Invalid, match="'id'"):
        feed.ingest(table([event(0)]).rename({"id": "number"}), now=START)
    assert feed.files.files() == []


def test_a_new_view_of_a_column_that_came_later_has_nulls_before(ws: Workspace, tmp_path: Path) -> None:
    Feed(ws, "clicks").ingest(table([event(n) for n in range(10)]), now=START)
    feeding.close(ws)
    more = feeding.DEFINITIONS + 'mood = View("mood", ("user",), clicks, columns=("mood",))\n'
    ws = feeding.project(tmp_path / "p", definitions=more)
    feed = Feed(ws, "clicks")
    feed.ingest(table([event(10)]).with_columns(mood=pl.lit(1.0)), now=START)
    assert {view.name: feed.followed(view).rows for view in feed.views} == {
        "spent": 11,
        "pages": 11,
        "mood": 11,
    }
    agree(ws)
    feeding.close(ws)


def test_a_source_that_nothing_reads_names_the_nearest(ws: Workspace) -> None:
    with pytest.raises(NotFound, match="click") as error:
        Feed(ws, "click")
    assert "clicks" in error.value.hint


def test_a_full_disk_is_said_and_leaves_nothing_half_written(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    feed.ingest(table([event(n) for n in range(20)]), now=START)
    with full_disk(500), pytest.raises(Unavailable, match=r"00000002\.parquet|disk|large"):
        feed.ingest(table([event(n) for n in range(20, 60)]), now=START)
    assert [file.name for file in feed.files.files()] == ["00000001.parquet"]
    assert feed.ingest(table([event(n) for n in range(20, 60)]), now=START).views[0].new == 40
    agree(ws)


def test_an_online_store_that_is_full_gets_the_rows_when_it_is_not(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    feed.ingest(table([event(n) for n in range(20)]), now=START)
    many = table([event(n, users=5000) for n in range(20, 6000)])
    with full_disk(150_000), pytest.raises(Unavailable, match=r"full|large|answer"):
        feed.ingest(many, now=START)
    assert feed.history().height == 6000  # kept: the next batch brings it online, with its own
    landed = Feed(ws, "clicks").catch_up()
    assert [one.new for one in landed] == [5980, 5980]


def test_many_small_files_become_one_that_counts_as_they_did(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_files, "_MANY", 4)
    feed = Feed(ws, "clicks")
    for begin in range(0, 60, 6):
        feed.ingest(
            table([event(n) for n in range(begin, begin + 6)]), now=START, positions={"0": str(begin)}
        )
        with feed.files.held():
            feed.files.compact()
    assert [file.name for file in feed.files.files()] == [
        "00000008.all.parquet",
        "00000009.parquet",
        "00000010.parquet",
    ]
    assert Feed(ws, "clicks").positions() == {"0": "54"}
    assert [one.new for one in Feed(ws, "clicks").catch_up()] == [0, 0]
    ws.online.clear(views(ws)["spent"].stored_as)
    assert Feed(ws, "clicks").catch_up()[0].new == 60
    agree(ws)


def test_files_that_a_killed_merge_left_do_not_count(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_files, "_MANY", 4)
    feed = Feed(ws, "clicks")
    for begin in range(0, 60, 15):
        feed.ingest(table([event(n) for n in range(begin, begin + 15)]), now=START)
    kept = {path.name: path.read_bytes() for path in (ws.tables_dir / "sources" / "clicks").glob("0*")}
    with feed.files.held():
        feed.files.compact()
    for name, content in kept.items():  # killed before the first was removed
        (ws.tables_dir / "sources" / "clicks" / name).write_bytes(content)
    assert Feed(ws, "clicks").history().height == 60
    agree(ws)
