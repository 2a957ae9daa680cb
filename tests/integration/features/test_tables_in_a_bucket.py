"""What is pushed, kept in a bucket: the feed's own tests again there, and two machines that write at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flyball.errors import Conflict, Unavailable
from flyball.features.sources.seeing import FILES
from flyball.service.backup import backup
from flyball.service.feeds import Feed
from flyball.service.restore import restore
from flyball.service.sources import described, offline, used
from flyball.service.workspace import Workspace
from flyball.stores.tables import Tables
from tests import feeding
from tests.feeding import START, event, table
from tests.s3 import S3
from tests.unit.service import test_feeds

pytestmark = pytest.mark.integration


@pytest.fixture
def url(s3: S3) -> str:
    """The URL of an empty prefix."""
    return s3.new()


@pytest.fixture
def ws(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("FLYBALL_STORES__TABLES", url)
    opened = feeding.project(tmp_path / "p")
    yield opened
    feeding.close(opened)


@pytest.mark.parametrize(
    "test",
    [
        test_feeds.test_rows_land_offline_and_online_and_say_what_they_were,
        test_feeds.test_what_was_killed_between_the_file_and_the_store_is_brought_by_the_next_batch,
        test_feeds.test_files_become_one_with_a_snapshot_and_nothing_comes_twice,
        test_feeds.test_a_batch_that_breaks_the_contract_is_set_aside_whole_and_its_position_kept,
        test_feeds.test_a_repeated_batch_with_a_name_is_taken_once,
    ],
)
def test_the_feed_is_the_same_in_a_bucket(test: Callable[[Workspace], None], ws: Workspace) -> None:
    test(ws)
    assert ws.tables.folder is None
    assert not (ws.state / "tables" / "sources").exists()
    assert ws.tables.at("sources").folders() == ["clicks"]


def test_its_rows_are_a_source_and_say_which_bytes_they_are(ws: Workspace) -> None:
    feed = Feed(ws, "clicks")
    rows = table([event(n) for n in range(40)])
    for part in rows.iter_slices(15):
        feed.ingest(part, now=START)
    needed = ["user", "at", "known", "amount", "id"]
    assert_frame_equal(offline(ws, "spent").select(needed).collect(), rows.select(needed))
    some = offline(ws, "spent", since=rows["known"][9], until=rows["known"][19]).collect()
    assert some["id"].to_list() == list(range(10, 20))
    seen = used(ws, "spent")
    assert (seen.kind, seen.file_count) == ("push", 3)
    assert len(seen.files) <= FILES
    assert seen.files[0].path.endswith("/sources/clicks/00000001.parquet")
    assert "hidden" not in repr(seen)
    (one,) = described(ws)
    assert (one.pushed, one.problem) == (40, "")


def test_a_table_is_there_whole_or_not_at_all(url: str, tmp_path: Path) -> None:
    tables = Tables.open(url, state=tmp_path).at("sources/x")
    rows = pl.DataFrame({"n": range(1000)})
    assert tables.files() == []
    assert tables.get("a.parquet") is None
    tables.write("a.parquet", rows, metadata={"made by": "a test"})
    (one,) = tables.files()
    assert one.metadata()["made by"] == "a test"
    assert_frame_equal(one.read(), rows)
    assert one.scan().select(pl.col("n").sum()).collect().item() == 499_500
    assert one.schema() == {"n": pl.Int64}
    assert one.size_bytes > 100
    assert tables.has("a.parquet")
    one.delete()
    one.delete()
    assert not tables.has("a.parquet")
    assert Tables.open(url).at("sources").folders() == []


def test_the_second_of_two_machines_learns_of_the_first(s3: S3, tmp_path: Path) -> None:
    url = s3.new()
    ours, theirs = (Tables.open(url, state=tmp_path / name).at("sources/x") for name in ("a", "b"))
    with ours.held(), theirs.held():
        ours.write("00000001.parquet", pl.DataFrame({"n": [1]}), new=True)
        with pytest.raises(Conflict, match="is there already"):
            theirs.write("00000001.parquet", pl.DataFrame({"n": [2]}), new=True)
    assert ours.files()[0].read()["n"].to_list() == [1]


def _fed(ws: Workspace, begin: int, end: int) -> None:
    feed = Feed(ws, "clicks")
    for part in table([event(n) for n in range(begin, end)]).iter_slices(10):
        feed.ingest(part, now=START)
    with ws.ledger.transaction() as tx:
        tx.append("test.fed", "clicks", actor="tests", at=START)


def test_a_backup_holds_them_and_a_copy_has_them_in_a_folder(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fed(ws, 0, 30)
    ws.tables.at("dead/clicks").put("00000004.ndjson", b"{")
    rows = Feed(ws, "clicks").history()
    backup(str(tmp_path / "b.tar"), ws=ws)
    monkeypatch.delenv("FLYBALL_STORES__TABLES")
    restore(str(tmp_path / "b.tar"), into=str(tmp_path / "copy"))
    copy = Workspace.open(tmp_path / "copy")
    assert copy.tables.folder is not None
    assert_frame_equal(Feed(copy, "clicks").history(), rows)
    assert copy.tables.at("dead/clicks").get("00000004.ndjson") == b"{"
    feeding.close(copy)


def test_a_backup_brings_back_what_the_bucket_lost_and_what_came_since_only_goes_with_force(
    ws: Workspace, tmp_path: Path
) -> None:
    _fed(ws, 0, 30)
    rows = Feed(ws, "clicks").history()
    backup(str(tmp_path / "b.tar"), ws=ws)
    tables = ws.tables.at("sources/clicks")
    tables.delete("00000002.parquet")
    done = restore(str(tmp_path / "b.tar"), ws=ws)
    assert any(note.startswith("3 tables put into s3://") for note in done.notes)
    feeding.close(ws)
    assert_frame_equal(Feed(ws, "clicks").history(), rows)
    Feed(ws, "clicks").ingest(table([event(n) for n in range(30, 40)]), now=START)
    feeding.close(ws)
    with pytest.raises(
        Conflict, match=r"1 files that are not in the backup, as sources/clicks/00000004.parquet"
    ):
        restore(str(tmp_path / "b.tar"), ws=ws)
    assert Feed(ws, "clicks").history().height == 40
    feeding.close(ws)
    restore(str(tmp_path / "b.tar"), force=True, ws=ws)
    feeding.close(ws)
    assert_frame_equal(Feed(ws, "clicks").history(), rows)
    assert tables.has("00000003.parquet")
    assert not tables.has("00000004.parquet")


def test_files_that_are_merged_during_a_backup_are_in_it_in_their_new_shape(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fed(ws, 0, 30)
    rows, feed = Feed(ws, "clicks").history(), Feed(ws, "clicks")
    real = Tables.fetch

    def fetch(tables: Tables, name: str, target: Path) -> bool:
        if name.endswith("00000002.parquet"):
            feed.files.merge(rows)
        return real(tables, name, target)

    monkeypatch.setattr(Tables, "fetch", fetch)
    backup(str(tmp_path / "b.tar"), ws=ws)
    monkeypatch.delenv("FLYBALL_STORES__TABLES")
    restore(str(tmp_path / "b.tar"), into=str(tmp_path / "copy"))
    copy = Workspace.open(tmp_path / "copy")
    assert_frame_equal(Feed(copy, "clicks").history(), rows)
    feeding.close(copy)


def test_a_bucket_that_went_away_is_said_and_nothing_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3() as server:
        monkeypatch.setenv("FLYBALL_STORES__TABLES", server.new("&retry_timeout_s=1"))
        ws = feeding.project(tmp_path / "p")
        feed = Feed(ws, "clicks")
        feed.ingest(table([event(n) for n in range(5)]), now=START)
    before = ws.online.views()
    with pytest.raises(Unavailable, match=r"does not answer") as caught:
        feed.ingest(table([event(n) for n in range(5, 9)]), now=START)
    assert "hidden" not in str(caught.value)
    assert ws.online.views() == before
    feeding.close(ws)
