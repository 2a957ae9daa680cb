"""One way to the rows of any source: its URL, what was pushed, a snapshot; what changed is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from flyball.errors import Conflict, Invalid, NotFound
from flyball.features import Source, View
from flyball.features.sources import open_rows
from flyball.service.feeds import Feed
from flyball.service.sources import accept, described, offline, sources, used
from flyball.service.workspace import Workspace
from flyball.stores.metadata import Ledger
from flyball.versions import data

NOW = datetime(2013, 4, 2, tzinfo=UTC)
DEFINITIONS = """
from flyball.features import Source, View, mean

landings = Source("landings", "parquet:in/*.parquet", happened="at", owner="ann")
delays = View("delays", ("carrier",), landings, windows=(mean("delay", "3h"),))
pushed = View("pushed", ("carrier",), "arrivals", happened="at", known="at", windows=(mean("delay", "3h"),))
kept = View("kept", ("carrier",), Source("kept", "data:flights@1", happened="at"), windows=(mean("delay", "3h"),))
"""


def rows(*delays: float, begin: int = 0) -> pl.DataFrame:
    at = [NOW.replace(day=1, hour=9, tzinfo=None) + timedelta(minutes=begin + n) for n in range(len(delays))]
    return pl.DataFrame({"carrier": ["UA"] * len(delays), "at": at, "delay": list(delays), "gate": "B"})


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "flyball.toml").write_text('[project]\nname = "p"\ndefinitions = ["defs.py"]\n')
    (tmp_path / "defs.py").write_text(DEFINITIONS)
    (tmp_path / "in").mkdir()
    rows(1.0, 2.0).write_parquet(tmp_path / "in" / "1.parquet")
    opened = Workspace.open(tmp_path)
    yield opened
    ledger: Ledger = opened.ledger
    ledger.close()
    opened.online.close()


def delays_of(frame: pl.LazyFrame) -> list[float]:
    return frame.collect()["delay"].to_list()


def test_a_defined_source_is_read_at_its_url_and_pushed_rows_come_after(ws: Workspace) -> None:
    assert delays_of(offline(ws, "delays")) == [1.0, 2.0]
    aware = rows(7.0).with_columns(pl.col("at").dt.replace_time_zone("UTC"), delay=pl.lit(7, pl.Int32))
    Feed(ws, "landings").ingest(aware, now=NOW)
    found = offline(ws, "delays").collect()
    assert found.columns == ["carrier", "at", "delay"]
    assert found["delay"].to_list() == [1.0, 2.0, 7.0]
    assert found["at"].to_list()[2] == found["at"].to_list()[0]
    assert delays_of(offline(ws, "landings", columns=("delay",))) == [1.0, 2.0, 7.0]
    known = datetime(2013, 4, 1, 9, tzinfo=UTC)
    assert delays_of(offline(ws, "landings", since=known)) == [2.0]
    assert delays_of(offline(ws, "landings", until=known)) == [1.0, 7.0]


def test_without_a_definition_the_feed_comes_first_and_then_the_newest_snapshot(ws: Workspace) -> None:
    with pytest.raises(
        NotFound, match=r"source 'arrivals' has brought nothing yet[\s\S]*features push arrivals"
    ):
        offline(ws, "pushed")
    data.add(ws.ledger, ws.blobs, "arrivals", rows(3.0), actor="x")
    data.add(ws.ledger, ws.blobs, "arrivals", rows(4.0), actor="x")
    assert delays_of(offline(ws, "pushed")) == [4.0]
    assert used(ws, "pushed").version == "arrivals@2"
    Feed(ws, "arrivals").ingest(rows(5.0), now=NOW)
    assert delays_of(offline(ws, "pushed")) == [5.0]


def test_a_snapshot_by_its_number_stays_that(ws: Workspace) -> None:
    with pytest.raises(NotFound, match="source 'kept' reads snapshot 'flights@1', and there is none"):
        offline(ws, "kept")
    data.add(ws.ledger, ws.blobs, "flights", rows(3.0), actor="x")
    data.add(ws.ledger, ws.blobs, "flights", rows(4.0), actor="x")
    assert delays_of(offline(ws, "kept")) == [3.0]


def test_an_unknown_name_names_the_nearest(ws: Workspace) -> None:
    with pytest.raises(
        NotFound, match=r"no source, feed or snapshot 'landigs'[\s\S]*did you mean 'landings'"
    ):
        offline(ws, "landigs")
    with pytest.raises(NotFound, match=r"no source 'landigs'"):
        sources("landigs", ws=ws)


def test_a_type_that_changed_is_said_with_what_it_was_until_it_is_accepted(ws: Workspace) -> None:
    offline(ws, "delays")
    file = ws.root / "in" / "1.parquet"
    rows(1.0).with_columns(delay=pl.lit("late")).write_parquet(file)
    with pytest.raises(
        Conflict, match=r"'delay' was Float64 in landings@1, and is String now[\s\S]*features accept landings"
    ) as caught:
        offline(ws, "delays")
    assert caught.value.facts == {"source": "landings", "column": "delay", "was": "Float64", "now": "String"}
    assert delays_of(offline(ws, "delays", columns=("at", "carrier")).with_columns(delay=0)) == [0]
    assert accept("landings", ws=ws) == {"source": "landings@2", "changes": {"delay": "Float64 -> String"}}
    assert delays_of(offline(ws, "delays")) == ["late"]


def test_a_zone_that_came_or_went_is_a_change_and_a_wider_number_is_none(ws: Workspace) -> None:
    offline(ws, "delays")
    file = ws.root / "in" / "1.parquet"
    rows(1.0).with_columns(pl.col("delay").cast(pl.Int16)).write_parquet(file)
    assert delays_of(offline(ws, "delays")) == [1]
    rows(1.0).with_columns(pl.col("at").dt.replace_time_zone("America/New_York")).write_parquet(file)
    with pytest.raises(Conflict, match=r"'at' was Datetime\(.*None\) in .*, and is Datetime\(.*New_York"):
        offline(ws, "delays")


def test_a_column_that_is_gone_is_refused_where_it_is_needed(ws: Workspace) -> None:
    offline(ws, "delays")
    file = ws.root / "in" / "1.parquet"
    rows(1.0).drop("gate").write_parquet(file)
    assert delays_of(offline(ws, "delays")) == [1.0]
    rows(1.0).drop("delay").write_parquet(file)
    with pytest.raises(Conflict, match="has lost column 'delay', which was Float64 in landings@1"):
        offline(ws, "delays")


def test_a_source_that_vanished_is_named(ws: Workspace) -> None:
    offline(ws, "delays")
    (ws.root / "in" / "1.parquet").unlink()
    with pytest.raises(NotFound, match=r"source 'landings' \(.*/in/\*\.parquet\) is gone"):
        offline(ws, "delays")
    (found,) = sources("landings", ws=ws)
    assert "is gone" in found.problem


def test_files_of_two_schemas_are_refused_by_column(ws: Workspace) -> None:
    rows(3.0).with_columns(delay=pl.lit("x")).write_parquet(ws.root / "in" / "2.parquet")
    with pytest.raises(
        Invalid,
        match=r"source 'landings' .*do not have one schema: column .delay. is Float64 in 1.parquet, and String in 2.parquet",
    ):
        offline(ws, "delays").collect()


def test_a_file_that_is_half_written_is_said(ws: Workspace) -> None:
    (ws.root / "in" / "1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(Invalid, match=r"source 'landings' .* can't be read"):
        offline(ws, "delays").collect()


def test_pushed_rows_of_another_type_are_refused_by_column(ws: Workspace) -> None:
    feed = Feed(ws, "landings")
    feed.files.write(rows(1.0).with_columns(carrier=pl.lit(7)), feed.files.newest()[1], durable=False)
    with pytest.raises(Invalid, match="column 'carrier' is String there, and Int32 in rows that were pushed"):
        offline(ws, "delays")


def test_the_same_bytes_are_the_same_record_and_others_the_next(ws: Workspace) -> None:
    first = used(ws, "delays")
    assert used(ws, "delays") == first
    assert (first.ref, first.file_count, first.kind) == ("landings@1", 1, "files")
    rows(3.0).write_parquet(ws.root / "in" / "2.parquet")
    second = used(ws, "delays")
    assert (second.ref, second.file_count) == ("landings@2", 2)
    assert ws.ledger.keys("source") == ["landings@1", "landings@2"]
    Feed(ws, "landings").ingest(rows(5.0), now=NOW)
    assert used(ws, "delays").ref == "landings@3"


def test_every_source_is_listed_with_its_readers_and_its_problem(ws: Workspace) -> None:
    Feed(ws, "arrivals").ingest(rows(5.0, 6.0), now=NOW)
    found = {one.name: one for one in described(ws)}
    assert sorted(found) == ["arrivals", "kept", "landings"]
    assert (found["landings"].kind, found["landings"].rows, found["landings"].views) == (
        "files",
        2,
        ("delays",),
    )
    assert (found["arrivals"].kind, found["arrivals"].pushed) == ("push", 2)
    assert "there is none" in found["kept"].problem
    assert found["landings"].changed is not None


def test_texts_of_a_view_stay_texts_in_csv(ws: Workspace) -> None:
    (ws.root / "in" / "1.csv").write_text("carrier,at,code\nUA,2013-04-01T09:00:00Z,007\n")
    source = Source("codes", "csv:in/1.csv", happened="at")
    view = View("codes", ("carrier",), source, columns=("code",), types={"code": "BYTES"})
    (ws.root / "defs.py").write_text(
        "from flyball.features import Source, View\n"
        "codes = View('codes', ('carrier',), Source('codes', 'csv:in/1.csv', happened='at'), columns=('code',), "
        "types={'code': 'BYTES'})\n"
    )
    again = Workspace.open(ws.root)
    for _ in range(2):  # what was recorded at first is what is read again
        assert offline(again, view).collect()["code"].to_list() == ["007"]
        assert offline(again, "codes").collect()["code"].to_list() == ["007"]
        assert used(again, "codes").columns["code"] == "String"
    (ws.root / "in" / "1.csv").write_text("carrier,at\nUA,2013-04-01T09:00:00Z\n")
    with pytest.raises(Conflict, match="has lost column 'code'"):
        offline(again, view)
    again.ledger.close()


def test_files_of_a_query_that_are_gone_are_said(ws: Workspace) -> None:
    with pytest.raises(NotFound, match=r"source .none. is gone: .*No files found"):
        open_rows(Source("none", "duckdb:", query="SELECT * FROM 'nothing/*.csv'"), ws.root)
