"""Training data from a project: what entity rows may come as, what comes back, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from flyball.core.clock import ManualClock
from flyball.errors import FlyballError, Invalid, NotFound, Unavailable
from flyball.features.entity_rows import NaiveTimes
from flyball.service import data, explain
from flyball.service.training import get_historical_features, join
from flyball.service.verb import table
from flyball.service.workspace import Workspace

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFINITIONS = """
from flyball.features import Service, Source, View, count, mean

sales = Source("sales", "parquet:sales.parquet", happened="at", known="told")
shop = View("shop", ("shop",), sales, columns=("price", "city", "pieces", "open"), ttl_s=3600,
            types={"city": "BYTES", "pieces": "INT64", "open": "BOOL"}, windows=(count("3h"), mean("price", "3h")))
till = View("till", ("shop", "till"), sales, columns=("price",))
area = View("area", ("area",), "areas", happened="since", columns=("people",))
prices = Service("prices", ("till:price", "shop:city"))
"""
FEATURES = ["shop:price", "shop:city", "shop:pieces", "shop:open", "shop:count_3h"]


def minutes(*ago: int) -> list[datetime]:
    return [NOON - timedelta(minutes=one) for one in ago]


SALES = pl.DataFrame(
    {
        "shop": ["a", "a", "b", "a"],
        "till": [1, 2, 1, 1],
        "at": minutes(30, 20, 90, 10),
        "told": minutes(30, 20, 90, -5),  # the last sale is told five minutes after noon
        "price": [1.5, 2.5, 3.5, 9.0],
        "city": ["Ulm", "Köln", "Rom", "Ulm"],
        "pieces": [1, None, 3, 4],
        "open": [True, False, None, True],
    }
)
ASKED = pl.DataFrame(
    {
        "label": [0, 1, 1, 0, 2],
        "shop": ["a", "b", "a", "a", None],
        "till": [1, 1, 2, 1, 1],
        "at": [NOON, NOON, NOON, NOON + timedelta(minutes=5), NOON],
    }
)
FOUND: dict[str, list[Any]] = {
    "shop:price": [2.5, None, 2.5, 9.0, None],
    "shop:city": ["Köln", None, "Köln", "Ulm", None],
    "shop:pieces": [None, None, None, 4, None],
    "shop:open": [False, None, False, True, None],
    "shop:count_3h": [2.0, 1.0, 2.0, 3.0, 0.0],
}


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "flyball.toml").write_text('[project]\nname = "p"\ndefinitions = ["defs.py"]\n')
    (tmp_path / "defs.py").write_text(DEFINITIONS)
    SALES.write_parquet(tmp_path / "sales.parquet")
    ws = Workspace.open(tmp_path, clock=ManualClock(NOON + timedelta(hours=1)))
    yield ws
    ws.ledger.close()


def test_every_row_comes_back_once_in_order_with_all_columns_and_typed_features(ws: Workspace) -> None:
    twice = pl.concat([ASKED, ASKED])
    found = get_historical_features(twice, FEATURES, ws=ws).to_polars()
    assert found.select(ASKED.columns).equals(twice)
    assert found.select(FEATURES).to_dict(as_series=False) == {name: two + two for name, two in FOUND.items()}
    assert [str(found.schema[name]) for name in FEATURES] == [
        "Float64",
        "String",
        "Int64",
        "Boolean",
        "Float64",
    ]
    assert found.schema["at"] == pl.Datetime("us", "UTC")


def as_file(frame: pl.DataFrame, path: Path) -> Path:
    write = frame.write_csv if path.suffix == ".csv" else frame.write_parquet
    write(path)
    return path


KINDS: dict[str, Callable[[pl.DataFrame, Path], Any]] = {
    "polars": lambda frame, _: frame,
    "lazy": lambda frame, _: frame.lazy(),
    "pandas": lambda frame, _: frame.to_pandas(),
    "arrow": lambda frame, _: frame.to_arrow(),
    "batch": lambda frame, _: frame.to_arrow().combine_chunks().to_batches()[0],
    "dicts": lambda frame, _: frame.to_dicts(),
    "lists": lambda frame, _: frame.to_dict(as_series=False),
    "parquet": lambda frame, folder: as_file(frame, folder / "asked.parquet"),
    "text path": lambda frame, folder: str(as_file(frame, folder / "asked.parquet")),
    "csv": lambda frame, folder: as_file(frame, folder / "asked.csv"),
    "query": lambda frame, folder: f"select * from '{as_file(frame, folder / 'asked.parquet')}'",
}


@pytest.mark.parametrize("kind", KINDS)
def test_entity_rows_come_as_whatever_people_have(ws: Workspace, tmp_path: Path, kind: str) -> None:
    found = get_historical_features(KINDS[kind](ASKED, tmp_path), FEATURES, ws=ws)
    assert found.to_polars().select(FEATURES).to_dict(as_series=False) == FOUND


def test_a_duckdb_relation_is_a_table_too(ws: Workspace) -> None:
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.register("asked", ASKED.to_arrow())
    found = get_historical_features(connection.sql("from asked"), FEATURES, ws=ws).to_polars()
    assert found.select(FEATURES).to_dict(as_series=False) == FOUND


def test_a_query_reads_the_projects_sources_and_snapshots(ws: Workspace) -> None:
    data.add_frame("labels", ASKED, ws=ws)
    query = "select l.*, s.n from labels l left join (select shop, count(*) as n from sales group by 1) s using (shop)"
    found = get_historical_features(query + " order by l.at, label, till", ["shop:price"], ws=ws).to_polars()
    assert found.select("label", "shop", "n", "shop:price").rows() == [
        (0, "a", 3, 2.5), (1, "b", 1, None), (1, "a", 3, 2.5), (2, None, None, None), (0, "a", 3, 9.0),
    ]  # fmt: skip


def test_the_answer_is_a_frame_of_any_library_or_a_file(ws: Workspace, tmp_path: Path) -> None:
    made = get_historical_features(ASKED, FEATURES, ws=ws)
    frame = made.to_df()
    assert isinstance(frame, pd.DataFrame)
    assert frame["shop:city"].tolist()[0] == "Köln"
    assert len(frame) == 5
    assert isinstance(made.to_arrow(), pa.lib.Table)
    assert made.to_arrow().num_rows == 5
    assert pl.read_parquet(made.to_parquet(tmp_path / "new" / "set.parquet")).equals(made.to_polars())
    assert made.features == tuple(FEATURES)


def test_a_file_is_written_in_slices_like_the_whole(ws: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    path.write_text("what was there before")
    get_historical_features(ASKED.lazy(), FEATURES, ws=ws).to_parquet(path, rows_at_once=2)
    assert pl.read_parquet(path).equals(get_historical_features(ASKED, FEATURES, ws=ws).to_polars())
    assert sorted(one for one in os.listdir(tmp_path) if "set" in one) == ["set.parquet"]  # noqa: PTH208


def test_a_failed_join_leaves_the_file_as_it_was(ws: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    path.write_text("what was there before")
    (tmp_path / "sales.parquet").unlink()
    with pytest.raises(FlyballError, match="sales"):
        get_historical_features(ASKED, FEATURES, ws=ws).to_parquet(path)
    assert path.read_text() == "what was there before"
    assert [one.name for one in tmp_path.glob(".set*")] == []


def test_naive_times_are_read_as_utc_with_a_warning(ws: Workspace) -> None:
    naive = ASKED.with_columns(pl.col("at").dt.replace_time_zone(None))
    with pytest.warns(NaiveTimes, match="'at' has no time zone"):
        found = get_historical_features(naive, FEATURES, ws=ws).to_polars()
    assert found.select("at", *FEATURES).equals(
        get_historical_features(ASKED, FEATURES, ws=ws).to_polars().select("at", *FEATURES)
    )


@pytest.mark.parametrize(
    "at",
    [
        pl.col("at").dt.convert_time_zone("America/New_York"),
        pl.col("at").dt.cast_time_unit("ns"),
        pl.col("at").dt.cast_time_unit("ms"),
        pl.col("at").dt.to_string("%Y-%m-%dT%H:%M:%SZ"),
    ],
)
def test_any_zone_and_unit_is_answered_in_microseconds_utc(ws: Workspace, at: pl.Expr) -> None:
    found = get_historical_features(ASKED.with_columns(at.alias("at")), FEATURES, ws=ws).to_polars()
    assert found["at"].equals(ASKED["at"])
    assert found.schema["at"] == pl.Datetime("us", "UTC")
    assert found.select(FEATURES).to_dict(as_series=False) == FOUND


def test_the_time_column_is_found_by_name_or_type_or_given(ws: Workspace) -> None:
    for name in ("event_timestamp", "asked"):
        renamed = ASKED.rename({"at": name})
        assert get_historical_features(renamed, ["shop:price"], ws=ws).to_polars().columns[3] == name
    airport = ASKED.rename({"at": "event_timestamp"}).with_columns(at=pl.lit("JFK"))
    by_name = get_historical_features(airport, FEATURES, ws=ws).to_polars()
    assert by_name["shop:price"].to_list() == FOUND["shop:price"]
    two = ASKED.with_columns(other=pl.col("at") - timedelta(hours=2))
    at_other = get_historical_features(two, ["shop:price"], at="other", ws=ws).to_polars()
    assert at_other["shop:price"].to_list() == [None] * 5
    moment = get_historical_features(ASKED.drop("at"), ["shop:price"], at=NOON, ws=ws).to_polars()
    assert moment["shop:price"].to_list() == [2.5, None, 2.5, 2.5, None]
    with pytest.raises(Invalid, match="several times"):
        get_historical_features(two.rename({"at": "this"}), ["shop:price"], ws=ws).to_polars()
    with pytest.raises(Invalid, match="no time"):
        get_historical_features(ASKED.drop("at"), ["shop:price"], ws=ws).to_polars()


def test_without_entity_rows_each_event_is_one_when_it_became_visible(ws: Workspace) -> None:
    made = get_historical_features(features=FEATURES, start=NOON - timedelta(hours=2), ws=ws)
    found = made.to_polars()
    assert found.select("shop", "at").rows() == [
        (shop, at) for shop, at in zip("baaa", minutes(90, 30, 20, -5), strict=True)
    ]
    assert found["shop:price"].to_list() == [3.5, 1.5, 2.5, 9.0]
    earlier = get_historical_features(features=FEATURES, start=NOON - timedelta(hours=2), end=NOON, ws=ws)
    assert earlier.to_polars().height == 3


def test_with_steps_each_key_seen_so_far_is_a_row_at_each(ws: Workspace) -> None:
    made = get_historical_features(
        features="prices", start="2026-03-01T11:00:00Z", end=NOON, every="30m", at="event_timestamp", ws=ws
    )
    found = made.to_polars()
    assert found.select("shop", "till", "event_timestamp", "till:price").rows() == [
        ("b", 1, minutes(60)[0], 3.5),
        ("a", 1, minutes(30)[0], 1.5),
        ("b", 1, minutes(30)[0], 3.5),
        ("a", 1, NOON, 1.5),
        ("a", 2, NOON, 2.5),
        ("b", 1, NOON, 3.5),
    ]


def test_a_service_and_feasts_names(ws: Workspace) -> None:
    asked = ASKED.head(1)
    assert get_historical_features(asked, "prices", ws=ws).to_polars().columns[4:] == [
        "till:price",
        "shop:city",
    ]
    long = get_historical_features(asked, "prices", full_feature_names=True, ws=ws).to_polars()
    assert long.columns[4:] == ["till__price", "shop__city"]
    short = get_historical_features(asked, "prices", full_feature_names=False, ws=ws).to_polars()
    assert short.columns[4:] == ["price", "city"]
    with pytest.raises(Invalid, match="would both be called 'price'"):
        get_historical_features(asked, ["till:price", "shop:price"], full_feature_names=False, ws=ws)


def test_sources_may_be_given_in_place_of_the_projects(ws: Workspace) -> None:
    dearer = SALES.with_columns(pl.col("price") * 10).to_pandas()
    found = get_historical_features(ASKED, ["shop:price"], sources={"sales": dearer}, ws=ws).to_polars()
    assert found["shop:price"].to_list() == [25.0, None, 25.0, 90.0, None]


def test_a_saved_set_says_which_views_and_sources_made_it(ws: Workspace) -> None:
    made = get_historical_features(ASKED, FEATURES, ws=ws)
    snapshot = made.save("training")
    assert data.open("training@1", ws=ws).frame().equals(made.to_polars())
    text = explain.explain(snapshot.ref, ws=ws).as_text()
    assert "shop@1" in text
    assert "sales@" in text
    assert made.save("training").ref == "training@1"  # the same rows are the same snapshot
    assert explain.explain("training@1", verify=True, ws=ws).exit_code == 0
    assert explain.explain(".", verify=True, ws=ws).exit_code == 0


def test_a_set_made_of_a_snapshot_names_it(ws: Workspace) -> None:
    data.add_frame("areas", pl.DataFrame({"area": ["x"], "since": minutes(60), "people": [5]}), ws=ws)
    asked = pl.DataFrame({"area": ["x", "y"], "at": [NOON, NOON]})
    made = get_historical_features(asked, ["area:people"], ws=ws)
    assert made.to_polars()["area:people"].to_list() == [5.0, None]
    made.save("by_area")
    assert "areas@1" in explain.explain("by_area@1", ws=ws).as_text()


@pytest.mark.parametrize(
    ("asked", "features", "error", "said"),
    [
        (ASKED, ["shop:prise"], NotFound, "shop:prise"),
        (ASKED, ["shap:price"], NotFound, "shap"),
        (ASKED, "price", NotFound, "prices"),
        (ASKED, [], Invalid, "no feature"),
        (ASKED.drop("shop"), ["shop:price"], Invalid, "lack key 'shop'"),
        (ASKED.with_columns(shop=1), ["shop:price"], Invalid, "cast one of them"),
        (ASKED.with_columns(shop=1.5), ["shop:price"], Invalid, "keys are text or whole numbers"),
        (ASKED.with_columns(at=7), ["shop:price"], Invalid, "not a time"),
        (ASKED.with_columns(at=pl.lit("noon")), ["shop:price"], Invalid, "no times, like 'noon'"),
        (ASKED.rename({"label": "shop:price"}), ["shop:price"], Invalid, "rename the column"),
        ("nowhere.parquet", ["shop:price"], NotFound, "nowhere.parquet"),
        ("what is this", ["shop:price"], Invalid, "neither a table nor a query"),
        ("select * from salez", ["shop:price"], NotFound, "sales"),
        ("select nothing from sales", ["shop:price"], Invalid, "does not run"),
        (7, ["shop:price"], Invalid, "are a int"),
    ],
)
def test_what_is_wrong_is_named(
    ws: Workspace, asked: Any, features: Any, error: type[FlyballError], said: str
) -> None:
    with pytest.raises(error) as caught:
        get_historical_features(asked, features, ws=ws).to_polars()
    assert said in f"{caught.value.what} {caught.value.hint}"


def test_ranges_that_make_no_sense_are_refused(ws: Workspace) -> None:
    def ask(**how: Any) -> None:
        get_historical_features(features=how.pop("features", ["shop:price"]), ws=ws, **how).to_polars()

    with pytest.raises(Invalid, match="neither entity rows nor start"):
        ask()
    with pytest.raises(Invalid, match="before it starts"):
        ask(start=NOON, end=NOON - timedelta(days=1))
    with pytest.raises(Invalid, match="longer than nothing"):
        ask(start=NOON, every=timedelta(0))
    with pytest.raises(Invalid, match="both given"):
        get_historical_features(ASKED, ["shop:price"], start=NOON, ws=ws)
    data.add_frame("areas", pl.DataFrame({"area": ["x"], "since": minutes(60), "people": [5]}), ws=ws)
    with pytest.raises(Invalid, match="no view has all keys"):
        ask(features=["shop:price", "area:people"], start=NOON)
    with pytest.warns(NaiveTimes):
        ask(start="2026-03-01T11:00:00", end=NOON)


def test_nothing_is_read_before_it_is_asked_for(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "sales.parquet").unlink()
    with warnings.catch_warnings():
        made = get_historical_features(ASKED, FEATURES, ws=ws)
    assert "shop:price" in repr(made)


def test_the_verb_writes_saves_or_shows(ws: Workspace, tmp_path: Path) -> None:
    assert table()["features join"].local == ("entities", "out")  # a query can read any file of this machine
    asked = str(as_file(ASKED, tmp_path / "asked.parquet"))
    shown = join(asked, features=["shop:price,shop:city"], rows=2, ws=ws)
    assert [row["shop:price"] for row in shown] == [2.5, None]
    assert len(join("", features=["prices"], start="2026-03-01T10:00:00Z", ws=ws)) == 4
    out = join(asked, features=["prices"], out=str(tmp_path / "set.parquet"), ws=ws)
    assert out == {"path": str(tmp_path / "set.parquet"), "rows": 5, "features": 2}
    assert join(asked, features=["prices"], save="set", ws=ws).ref == "set@1"


DERIVED = """
from flyball.features import OnDemand, RequestField, Service, Source, View, col

sales = Source("sales", "parquet:sales.parquet", happened="at", known="told")
big = View("big", ("shop",), sales, columns=("each", "price"), derived={"each": col("price") / col("pieces")},
           where=col("price") > 2)
worth = OnDemand("worth", {"more": col("offer") - col("big:price")})
twice = OnDemand("twice", {"more": col("worth:more") * 2})
"""


def test_derived_columns_filters_and_on_demand_features_are_joined_too(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "defs.py").write_text(DERIVED)
    asked = ASKED.with_columns(offer=pl.Series([10.0, 5.0, None, 1.0, 1.0]))
    found = get_historical_features(asked, ["twice:more", "worth:more", "big:each"], ws=ws).to_polars()
    assert found.columns == [*asked.columns, "twice:more", "worth:more", "big:each"]
    assert found["big:each"].to_list() == [None, 3.5 / 3, None, 2.25, None]
    assert found["worth:more"].to_list() == [7.5, 1.5, None, -8.0, None]
    assert found["twice:more"].to_list() == [15.0, 3.0, None, -16.0, None]
    with pytest.raises(Invalid, match="lack request field 'offer'"):
        get_historical_features(ASKED, ["worth:more"], ws=ws).to_polars()
    with pytest.raises(Invalid, match="brings no request fields: offer"):
        get_historical_features(features=["worth:more"], start=NOON, ws=ws)


FULL = """
import resource, signal, sys
import polars as pl
from flyball.errors import Unavailable
from flyball.service.training import get_historical_features
from flyball.service.workspace import Workspace

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ws = Workspace.open(sys.argv[1])
asked = pl.read_parquet(sys.argv[2])
made = get_historical_features(asked, ["shop:price"], memory_bytes=0, ws=ws)
made.to_polars() if sys.argv[3] == "write" else None
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    made.to_parquet(sys.argv[4])
except Unavailable as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("when", "said"), [("write", "the training set can't be written"), ("join", "can't be spilled")]
)
def test_a_full_disk_leaves_nothing_half_written(ws: Workspace, tmp_path: Path, when: str, said: str) -> None:
    many = pl.DataFrame({"shop": [str(one) for one in range(3000)], "at": NOON})
    sales = many.select("shop", "at", told="at", price=1.5, city=pl.lit("Ulm"), pieces=1, open=True, till=1)
    sales.write_parquet(tmp_path / "sales.parquet")
    as_file(many, tmp_path / "asked.parquet")
    get_historical_features(many.head(1), ["shop:price"], ws=ws).to_polars()  # the ledger is there
    out = tmp_path / "out" / "set.parquet"
    command = [sys.executable, "-c", FULL, str(tmp_path), str(tmp_path / "asked.parquet"), when, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert said in done.stdout, done.stderr
    assert not out.exists()
    assert list(out.parent.iterdir()) == []


def test_one_moment_for_all_rows_is_a_time_of_any_kind_or_refused(ws: Workspace) -> None:
    rows = ASKED.with_columns(when=pl.lit(NOON - timedelta(days=400))).drop("at")  # must not be taken instead
    midnight = datetime.fromisoformat("2026-03-02")
    kinds: list[Any] = [
        "2026-03-02",
        midnight,
        midnight.date(),
        np.datetime64("2026-03-02"),
        pd.Timestamp(midnight),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaiveTimes)
        for kind in kinds:
            found = get_historical_features(rows, ["shop:count_3h"], at=kind, ws=ws).to_polars()
            assert found["at"].to_list() == [midnight.replace(tzinfo=UTC)] * len(rows), kind
    for wrong in (1_700_000_000, np.datetime64("NaT"), pd.NaT):
        with pytest.raises(Invalid, match="is not a time"):
            get_historical_features(rows, ["shop:count_3h"], at=wrong, ws=ws)


def test_ranges_take_dates_and_refuse_what_is_no_step(ws: Workspace) -> None:
    start: Any = (NOON - timedelta(days=1)).date()
    with pytest.warns(NaiveTimes):
        assert get_historical_features(features=["shop:price"], start=start, ws=ws).to_polars().height > 0
    wrong: Any = 3600.0
    with pytest.raises(Invalid, match=r"3600\.0 is not a duration"):
        get_historical_features(features=["shop:price"], start=NOON, every=wrong, ws=ws)
    with pytest.raises(Invalid, match="'shop' is a key"):
        get_historical_features(features=["shop:price"], start=NOON, at="shop", ws=ws)
    with pytest.raises(Invalid, match="at= is a moment"):
        get_historical_features(features=["shop:price"], start=NOON, at="2026-03-01", ws=ws)


def test_a_long_query_is_no_file_name_and_a_file_may_be_called_like_a_query(
    ws: Workspace, tmp_path: Path
) -> None:
    query = "select * from '" + str(as_file(ASKED, tmp_path / "asked.parquet")) + "'"
    query += " where shop is not null or " + " or ".join(f"shop = '{'x' * 50}{one}'" for one in range(10))
    assert get_historical_features(query, FEATURES, ws=ws).to_polars().height == 4
    as_file(ASKED, tmp_path / "with space.parquet")
    assert get_historical_features("with space.parquet", FEATURES, ws=ws).to_polars().height == 5
    with pytest.raises(NotFound, match=r"no file 'select this\.csv'"):
        get_historical_features("select this.csv", FEATURES, ws=ws).to_polars()


def test_columns_in_an_index_of_pandas_count(ws: Workspace) -> None:
    asked = ASKED.to_pandas().set_index(["shop", "at"])
    found = get_historical_features(asked, FEATURES, ws=ws).to_polars()
    assert found.select(FEATURES).to_dict(as_series=False) == FOUND


def test_rows_for_a_source_that_nothing_reads_are_refused(ws: Workspace) -> None:
    with pytest.raises(NotFound, match="reads source 'sale'") as caught:
        get_historical_features(ASKED, FEATURES, sources={"sale": SALES}, ws=ws)
    assert "did you mean 'sales'?" in caught.value.hint


def test_two_features_of_one_long_name_are_refused(ws: Workspace, tmp_path: Path) -> None:
    views = [
        f'{one} = View("{one}", "s s".split()[:1], sales, columns=("{two}",))\n'
        for one, two in [("a", "b__c"), ("a__b", "c")]
    ]
    (tmp_path / "defs.py").write_text(DEFINITIONS + "".join(views))
    with pytest.raises(Invalid, match="would both be called 'a__b__c'"):
        get_historical_features(ASKED, ["a:b__c", "a__b:c"], full_feature_names=True, ws=ws)


def test_a_folder_is_no_file_to_write_to(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is a folder"):
        join(features=["shop:price"], start="2026-02-28T00:00Z", out=str(tmp_path), ws=ws)


def test_the_first_text_that_is_no_time_is_shown(ws: Workspace) -> None:
    asked = ASKED.head(2).with_columns(at=pl.Series(["2026-03-01T12:00:00Z", "noon"]))
    with pytest.raises(Invalid, match="like 'noon'"):
        get_historical_features(asked, FEATURES, ws=ws).to_polars()


def test_a_saved_set_says_where_its_entity_rows_came_from(ws: Workspace, tmp_path: Path) -> None:
    query = f"select * from '{as_file(ASKED, tmp_path / 'asked.parquet')}'"
    for name, given in (("by_query", query), ("by_file", tmp_path / "asked.parquet")):
        kept = get_historical_features(given, ["shop:price"], ws=ws).save(name)
        assert kept.source["entities"] == str(given)
    kept = get_historical_features(
        features=["shop:price"], start="2026-03-01T00:00Z", every="1h", ws=ws
    ).save("steps")
    assert kept.source["entities"] == "from 2026-03-01T00:00Z to now every 1h"


@pytest.mark.parametrize("library", ["pyarrow", "pandas"])
def test_a_library_that_is_not_installed_is_named(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    made = get_historical_features(ASKED, FEATURES, ws=ws)
    made.to_polars()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Invalid, match=f"{library} is not installed"):
        made.to_df()
    if library == "pyarrow":
        with pytest.raises(Unavailable, match="needs DuckDB and pyarrow"):
            get_historical_features("select * from sales", FEATURES, ws=ws).to_polars()
