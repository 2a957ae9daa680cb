"""The verbs that fill the online store."""

from collections.abc import Iterator
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flyball import features
from flyball.api import _call
from flyball.core.records import Report
from flyball.errors import Invalid, NotFound, Refused, Unavailable
from flyball.heal.incidents import open_of
from flyball.service.features import views
from flyball.service.feeds import Feed
from flyball.service.filling import materialize, push, stats
from flyball.service.verb import plain
from flyball.service.verb import table as table_of_verbs
from flyball.service.workspace import Workspace
from tests import feeding
from tests.feeding import START, event, full_disk, table


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    ws = feeding.project(tmp_path / "p", url=f"parquet:{tmp_path}/clicks.parquet")
    yield ws
    feeding.close(ws)


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Workspace]:
    ws = feeding.project(tmp_path / "f")
    yield ws
    feeding.close(ws)


def write(tmp_path: Path, numbers: range, **more: Any) -> pl.DataFrame:
    rows = table([event(n) for n in numbers]).with_columns(**more)
    rows.write_parquet(tmp_path / "clicks.parquet")
    return rows


def agree(ws: Workspace, rows: pl.DataFrame, count: int = 60) -> None:
    asked = feeding.questions(count)
    assert feeding.online(ws, views(ws), asked) == feeding.offline(views(ws), asked, rows)


def test_a_table_is_filled_from_where_the_last_run_ended(ws: Workspace, tmp_path: Path) -> None:
    write(tmp_path, range(40))
    first = materialize(ws=ws)
    assert [(one.view, one.rows, one.new) for one in first] == [("spent", 40, 40), ("pages", 40, 40)]
    rows = write(tmp_path, range(60))
    assert [(one.rows, one.new) for one in materialize("spent,pages", ws=ws)] == [(20, 20), (20, 20)]
    assert [(one.rows, one.report) for one in materialize(ws=ws)] == [(0, None), (0, None)]
    agree(ws, rows)


def test_a_source_that_changed_behind_the_mark_is_said_until_it_is_filled_again(
    ws: Workspace, tmp_path: Path
) -> None:
    write(tmp_path, range(10, 40))
    materialize(ws=ws)
    rows = write(tmp_path, range(60))
    (said, _) = materialize(ws=ws)
    assert "10 more rows" in said.note
    assert "--rebuild" in said.note
    (said, _) = materialize(ws=ws)
    assert "10 more rows" in said.note
    assert [(one.rows, one.note) for one in materialize(rebuild=True, ws=ws)] == [(60, ""), (60, "")]
    agree(ws, rows)


def test_a_range_is_back_filled_and_no_gap_is_taken_for_filled(ws: Workspace, tmp_path: Path) -> None:
    rows = write(tmp_path, range(60))
    middle = (START + timedelta(seconds=20 * 30)).isoformat()
    (found,) = materialize("spent", since=middle, ws=ws)
    assert (found.rows, found.until) == (29, None)
    assert [one.new for one in materialize(until=middle, ws=ws)] == [31, 31]
    assert [one.new for one in materialize(ws=ws)] == [0, 29]
    agree(ws, rows)


def test_a_range_that_ends_before_it_begins_is_refused(ws: Workspace) -> None:
    with pytest.raises(Invalid, match="before it begins"):
        materialize("spent", since="2026-12-01", until="2026-11-01", ws=ws)


def test_rows_known_in_the_future_are_held_back_until_their_time(ws: Workspace, tmp_path: Path) -> None:
    ahead = pl.when(pl.col("id") == 5).then(pl.col("known") + pl.duration(days=3)).otherwise("known")
    rows = write(tmp_path, range(60), known=ahead)
    (found, _) = materialize(ws=ws)
    assert (found.rows, found.held_back) == (59, 1)
    ws.clock.set(START + timedelta(days=4))  # type: ignore[attr-defined]  # a clock that a test sets
    assert [one.new for one in materialize(ws=ws)] == [1, 1]
    agree(ws, rows)


def test_a_bad_batch_stays_out_and_the_last_good_values_serve(ws: Workspace, tmp_path: Path) -> None:
    good = write(tmp_path, range(40))
    materialize(ws=ws)
    write(tmp_path, range(60), amount=pl.when(pl.col("id") == 50).then(1e6).otherwise("amount"))
    with pytest.raises(Refused, match=r"contract broken: amount: 1 of 20 rows") as error:
        materialize(ws=ws)
    assert ws.ledger.get("report", error.value.facts["report"], Report).kind == "contract"
    assert len(open_of(ws.ledger, "upstream_data_bug", "clicks")) == 1
    agree(ws, good)
    rows = write(tmp_path, range(60))
    assert [one.new for one in materialize(ws=ws)] == [20, 20]
    assert not open_of(ws.ledger, "upstream_data_bug", "clicks")
    agree(ws, rows)


def test_every_filling_leaves_the_statistics_of_what_it_brought(ws: Workspace, tmp_path: Path) -> None:
    write(tmp_path, range(40))
    materialize("spent", ws=ws)
    rows = write(tmp_path, range(60), amount=pl.when(pl.col("id") > 49).then(None).otherwise("amount"))
    ws.clock.set(START + timedelta(days=2))  # type: ignore[attr-defined]  # a clock that a test sets
    materialize("spent", ws=ws)
    newest, before = stats("spent", ws=ws)
    assert (newest["rows"], newest["keys"], newest["null_share"]) == (20, 5, 0.5)
    assert newest["mean"] == rows[40:]["amount"].mean()
    assert before["p50"] == rows[:40]["amount"].median()
    assert before["newest"] == rows[39]["at"].item().isoformat()


def test_a_feed_is_followed_by_its_files(fed: Workspace) -> None:
    Feed(fed, "clicks").ingest(table([event(n) for n in range(60)]), now=START)
    fed.online.clear(views(fed)["spent"].stored_as)
    assert [(one.view, one.rows) for one in materialize(ws=fed)] == [("spent", 60), ("pages", 0)]
    assert [one.rows for one in materialize(rebuild=True, ws=fed)] == [60, 60]
    agree(fed, Feed(fed, "clicks").history())


def test_pushed_rows_are_read_by_the_schema_and_land_on_both_sides(fed: Workspace) -> None:
    rows = [event(n) for n in range(60)]
    taken = push("clicks", rows[:40], ws=fed)
    assert [one.new for one in taken.views] == [40, 40]
    assert [one.new for one in push("spent", rows[40:], batch="b", ws=fed).views] == [20, 20]
    assert push("spent", rows[40:], batch="b", ws=fed).views == ()
    assert (
        Feed(fed, "clicks")
        .history()
        .drop("id", "page")
        .equals(table(rows).drop("id", "page").select("user", "at", "known", "amount"))
    )
    agree(fed, table(rows))


def test_a_pushed_row_without_known_became_known_now(fed: Workspace) -> None:
    row = event(0)
    del row["known"]
    push("clicks", [row], ws=fed)
    assert Feed(fed, "clicks").history()["known"].to_list() == [fed.clock.now()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount": "much"}, "amount"),
        ({"user": None}, "user"),
        ({"at": "yesterday"}, "at"),
        ({"known": (START + timedelta(days=2)).isoformat()}, "known in the future"),
    ],
)
def test_a_pushed_row_that_is_wrong_is_named_and_none_is_taken(
    fed: Workspace, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        push("clicks", [event(0), {**event(1), **change}], ws=fed)
    assert Feed(fed, "clicks").files.files() == []


def test_a_pushed_batch_that_breaks_the_contract_is_refused_with_its_report(fed: Workspace) -> None:
    with pytest.raises(Refused, match="amount") as error:
        push("clicks", [{**event(0), "amount": -5}], ws=fed)
    assert fed.ledger.get("report", error.value.facts["report"], Report).evidence["batch"]


def test_files_are_pushed(fed: Workspace, tmp_path: Path) -> None:
    rows = table([event(n) for n in range(60)])
    rows[:30].write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.ndjson").write_text(pl.DataFrame([event(n) for n in range(30, 60)]).write_ndjson())
    assert push("clicks", file=f"{tmp_path}/a.parquet", ws=fed).rows == 30
    assert push("clicks", file=f"{tmp_path}/b.ndjson", ws=fed).rows == 30
    agree(fed, rows)
    with pytest.raises(Invalid, match="xlsx"):
        push("clicks", file="a.xlsx", ws=fed)


def test_unknown_names_say_what_is_near(fed: Workspace) -> None:
    with pytest.raises(NotFound, match="spend") as error:
        materialize("spend", ws=fed)
    assert "spent" in error.value.hint
    with pytest.raises(NotFound, match="click"):
        push("click", [event(0)], ws=fed)
    with pytest.raises(Invalid, match="sideways"):
        push("clicks", [event(0)], to="sideways", ws=fed)


def test_the_features_part_pushes_and_materializes_by_name(fed: Workspace) -> None:
    copy_context().run(_by_name, fed)


def _by_name(fed: Workspace) -> None:
    fed.use()
    assert features.push("clicks", [event(n) for n in range(30)]).rows == 30
    assert features.push("spent", table([event(n) for n in range(30, 60)]).to_pandas(), batch="b").rows == 30
    assert [one.rows for one in features.materialize("spent", rebuild=True)] == [60]
    agree(fed, table([event(n) for n in range(60)]))
    with pytest.raises(Invalid, match="needs a store"):
        features.push(views(fed)["spent"], table([event(0)]))  # type: ignore[call-overload]  # what a person may try


def test_a_text_is_read_back_as_a_text_and_a_command_line_spells_numbers(tmp_path: Path) -> None:
    more = feeding.DEFINITIONS.replace(
        'columns=("amount",)', 'columns=("amount", "city"), types={"city": "BYTES"}'
    )
    ws = feeding.project(tmp_path / "t", definitions=more)
    spelt = {name: str(value) for name, value in event(0).items()}
    push("clicks", {**spelt, "city": "Bern"}, ws=ws)
    asked = pl.DataFrame({"user": ["u0"], "page": [0], "at": [START + timedelta(hours=1)]})
    assert feeding.online(ws, views(ws), asked)[0][:2] == [0.0, "Bern"]
    (facts,) = [one for one in _filled(ws) if one["column"] == "city"]
    assert facts["distinct"] == 1
    feeding.close(ws)


def _filled(ws: Workspace) -> list[dict[str, Any]]:
    materialize("spent", rebuild=True, ws=ws)
    return stats("spent", ws=ws)


def test_over_http_rows_come_as_json_and_no_file_of_the_server_is_read(fed: Workspace) -> None:
    verbs = table_of_verbs()
    rows = [event(n) for n in range(60)]
    taken = plain(_call(verbs["features push"], {"name": "clicks", "rows": rows}, fed))
    assert [one["new"] for one in taken["views"]] == [60, 60]
    with pytest.raises(Invalid, match="'file'"):
        _call(verbs["features push"], {"name": "clicks", "file": "/etc/passwd"}, fed)
    (filled,) = _call(verbs["features materialize"], {"name": "spent", "rebuild": True}, fed)
    assert filled.rows == 60
    assert _call(verbs["features stats"], {"view": "spent"}, fed)[0]["rows"] == 60


def test_a_disk_that_is_full_is_said_and_the_filling_goes_on_when_it_is_not(
    ws: Workspace, tmp_path: Path
) -> None:
    write(tmp_path, range(60))
    materialize(ws=ws)
    rows = table([event(n, users=5) for n in range(60)] + [event(n, users=9999) for n in range(60, 4000)])
    rows.write_parquet(tmp_path / "clicks.parquet")
    with full_disk(100_000), pytest.raises(Unavailable, match=r"full|large|answer"):
        materialize("pages", ws=ws)
    assert [one.rows for one in materialize(ws=ws)] == [3940, 3940]
    agree(ws, rows, 4000)


def test_a_contract_of_a_view_stops_that_view_alone(tmp_path: Path) -> None:
    more = feeding.DEFINITIONS + 'cheap = Contract("spent", [between("amount", 0, 50)])\n'
    ws = feeding.project(tmp_path / "v", url=f"parquet:{tmp_path}/clicks.parquet", definitions=more)
    write(tmp_path, range(60))
    with pytest.raises(Refused, match="spent: contract broken: amount") as error:
        materialize(ws=ws)
    assert [one["new"] for one in error.value.facts["views"]] == [0, 60]
    feeding.close(ws)


def test_rebuilding_sets_a_corrupt_store_aside(ws: Workspace, tmp_path: Path) -> None:
    write(tmp_path, range(60))
    materialize(ws=ws)
    ws.online.close()
    ws.__dict__.pop("online")
    folder = Path(ws.online_url.removeprefix("lmdb:"))
    file = folder / "data.mdb"
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(Unavailable, match="corrupt"):
        materialize(ws=ws)
    assert [one.rows for one in materialize(rebuild=True, ws=ws)] == [60, 60]
    assert [*folder.parent.glob(f"{folder.name}.aside-*")]
