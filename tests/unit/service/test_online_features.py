"""Features of entities now: what may be asked with, what is answered, and what a store that is down does."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from flyball.core.clock import ManualClock
from flyball.errors import Invalid, NotFound, Unavailable
from flyball.features import push
from flyball.features.online import OnlineReader
from flyball.service.features import apply, known, live_views, service_of, views
from flyball.service.online_features import get, get_online_features, get_online_features_async
from flyball.service.verb import table
from flyball.service.workspace import Workspace

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFINITIONS = """
from flyball.features import RequestField, Service, View, count, mean

shop = View("shop", ("shop",), "sales", happened="at", columns=("price", "city", "pieces"), ttl_s=3600,
            types={"city": "BYTES", "pieces": "INT64"}, windows=(mean("price", "3h"), count("3h")),
            defaults={"price": 9.5})
till = View("till", ("shop", "till"), "sales", happened="at", columns=("price",))
bare = View("bare", ("shop",), "sales", happened="at", columns=("price",))
prices = Service("prices", ("shop:price", "shop:city", "till:price"))
asked = Service("asked", ("amount", "shop:price"), (RequestField("amount"),))
"""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    (tmp_path / "flyball.toml").write_text('[project]\nname = "p"\ndefinitions = ["defs.py"]\n')
    (tmp_path / "defs.py").write_text(DEFINITIONS)
    ws = Workspace.open(tmp_path, clock=ManualClock(NOW))
    rows = pl.DataFrame(
        {
            "shop": ["a", "a", "b", "7"],
            "till": [1, 2, 1, 1],
            "at": [NOW - timedelta(minutes=minutes) for minutes in (5, 10, 90, 1)],
            "price": [1.5, 2.5, 3.5, None],
            "city": ["Ulm", "Ulm", "Köln", None],
            "pieces": [1, 2, 3, None],
        }
    )
    for view in views(ws).values():
        push(view, rows, ws.online)
    return ws


ROWS = [
    {"shop": "a", "till": 2},
    {"shop": "b", "till": 1},
    {"shop": "z", "till": 1},
    {"shop": "7", "till": 1},
]
ANSWER = {
    "shop": ["a", "b", "z", "7"],
    "till": [2, 1, 1, 1],
    "shop:price": [1.5, None, None, None],
    "shop:city": ["Ulm", None, None, None],
    "till:price": [2.5, 3.5, None, None],
}


def test_each_value_says_how_it_came_about_and_when(ws: Workspace) -> None:
    found = get_online_features(ROWS, "prices", ws=ws)
    assert found.to_dict() == ANSWER
    assert found.status("shop:price") == ["PRESENT", "OUTSIDE_TTL", "NOT_FOUND", "NULL"]
    assert found.times("shop:price") == ["2026-03-01T11:55:00Z", None, None, None]
    np.testing.assert_array_equal(found.to_numpy()[:, 2], [2.5, 3.5, math.nan, math.nan])


@pytest.mark.parametrize(
    "shape",
    [
        lambda frame: frame.to_dicts(),
        lambda frame: frame.to_dict(as_series=False),
        lambda frame: frame,
        lambda frame: frame.lazy(),
        lambda frame: frame.to_pandas(),
        lambda frame: frame.to_arrow(),
        lambda frame: {name: frame[name].to_numpy() for name in frame.columns},
        lambda frame: [{"shop": row["shop"], "till": np.int32(row["till"])} for row in frame.to_dicts()],
    ],
)
def test_entity_rows_come_in_any_shape(ws: Workspace, shape: Any) -> None:
    rows = pl.DataFrame(ROWS).with_columns(label=pl.lit(1))
    found = get_online_features(shape(rows), "prices", ws=ws)
    assert found.to_dict() == ANSWER


def test_the_answer_goes_to_any_library_in_its_types(ws: Workspace) -> None:
    found = get_online_features({"shop": ["a", "z"]}, ["shop:city", "shop:pieces", "shop:count_3h"], ws=ws)
    wanted = {
        "shop": ["a", "z"],
        "shop:city": ["Ulm", None],
        "shop:pieces": [1, None],
        "shop:count_3h": [2.0, 0.0],
    }
    assert found.to_dict() == wanted
    frame = found.to_polars()
    assert frame.to_dict(as_series=False) == wanted
    assert frame.dtypes == [pl.String, pl.String, pl.Int64, pl.Float64]
    assert found.to_arrow().to_pydict() == wanted
    assert isinstance(found.to_df(), pd.DataFrame)
    assert found.to_df()["shop:city"].isna().tolist() == [False, True]


def test_request_fields_stand_beside_the_keys(ws: Workspace) -> None:
    found = get_online_features([{"shop": "a", "amount": 3}], "asked", ws=ws)
    assert found.to_dict(keys=False) == {"amount": [3.0], "shop:price": [1.5]}


def test_as_of_a_time_in_the_past(ws: Workspace) -> None:
    for at in (NOW - timedelta(minutes=7), "2026-03-01T11:53:00Z"):
        assert get_online_features({"shop": ["a"]}, "shop:price", at=at, ws=ws).to_dict()["shop:price"] == [
            2.5
        ]
    with pytest.raises(Invalid, match="without a time zone"):
        get_online_features({"shop": ["a"]}, "shop:price", at=NOW.replace(tzinfo=None), ws=ws)


@pytest.mark.parametrize(
    ("rows", "features", "error", "named"),
    [
        ([{"shop": "a"}], ["shop:prise"], NotFound, "shop:price"),
        ([{"shop": "a"}], ["shap:price"], NotFound, "'shop'"),
        ([{"shop": "a"}], "price", NotFound, "'prices'"),
        ([{"shop": "a"}, {"shap": "a"}], ["shop:price"], Invalid, "row 1: the request lacks entity 'shop'"),
        ({"shap": ["a"]}, ["shop:price"], Invalid, "lacks entity 'shop'"),
        ([{"shop": "a"}, {"shop": 1.5}], ["shop:price"], Invalid, "row 1: entity 'shop' is 1.5"),
        ({"shop": "a"}, ["shop:price"], Invalid, "one value, not a column"),
        ({"shop": ["a", "b"], "till": [1]}, "prices", Invalid, "differ in length: shop 2, till 1"),
        ([{"shop": "a"}], "asked", Invalid, "row 0: the request lacks field 'amount'"),
        ([{"shop": "a", "amount": "x"}], "asked", Invalid, "row 0: request field 'amount' is 'x'"),
        (["a"], "prices", Invalid, "entity row 0 is a str"),
        (7, "prices", Invalid, "entity rows are a int"),
    ],
)
def test_what_is_wrong_is_named(
    ws: Workspace, rows: Any, features: Any, error: type[Exception], named: str
) -> None:
    with pytest.raises(error) as raised:
        get_online_features(rows, features, ws=ws)
    assert named in str(raised.value)


def test_nothing_asked_is_nothing_answered(ws: Workspace) -> None:
    assert get_online_features([], "prices", ws=ws).to_numpy().shape == (0, 3)


def test_the_same_from_a_program_with_an_event_loop(ws: Workspace) -> None:
    assert asyncio.run(get_online_features_async(ROWS, "prices", ws=ws)).to_dict() == ANSWER


def test_a_store_that_does_not_answer_gives_declared_defaults_and_rests(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def fails() -> None:
        asked.append(1)
        raise Unavailable("redis is down")

    monkeypatch.setattr(ws.online, "begin", fails)
    for _ in range(3):
        found = get_online_features({"shop": ["a"]}, ["shop:price", "shop:city"], ws=ws)
        assert found.to_dict(keys=False) == {"shop:price": [9.5], "shop:city": [None]}
        assert found.status("shop:price") == found.status("shop:city") == ["UNANSWERED"]
        with pytest.raises(Unavailable):
            get_online_features({"shop": ["a"]}, "bare:price", ws=ws)
    assert len(asked) == 1
    assert "redis is down" in str([record.__dict__ for record in caplog.records])


def test_the_verb_shows_entities_features_and_statuses(ws: Workspace) -> None:
    found = get("shop:price,till:price", {"shop": "a,z", "till": "2"}, ws=ws)
    assert [(row["shop"], row["feature"], row["value"], row["status"]) for row in found] == [
        ("a", "shop:price", 1.5, "PRESENT"),
        ("a", "till:price", 2.5, "PRESENT"),
        ("z", "shop:price", None, "NOT_FOUND"),
        ("z", "till:price", None, "NOT_FOUND"),
    ]
    assert get("shop:price", {"shop": "7"}, ws=ws)[0]["status"] == "NULL", "a text that looks like a number"
    assert table()["features get"].function is get


def test_the_verb_reads_entities_from_a_file(ws: Workspace, tmp_path: Path) -> None:
    pl.DataFrame(ROWS).write_csv(tmp_path / "rows.csv")
    assert len(get("prices", rows=str(tmp_path / "rows.csv"), ws=ws)) == 12
    with pytest.raises(Invalid, match="is no table"):
        get("prices", rows="rows.txt", ws=ws)
    with pytest.raises(Invalid, match="can't be read"):
        get("prices", rows=str(tmp_path / "none.csv"), ws=ws)


def test_applying_tells_the_workers_and_what_is_gone_or_named_by_version(
    ws: Workspace, tmp_path: Path
) -> None:
    apply(ws=ws)
    told = ws.plan.features
    assert (sorted(told.services), sorted(told.views)) == (["asked", "prices"], ["bare", "shop", "till"])
    changed = DEFINITIONS.replace('columns=("price",))\nbare', 'columns=("pieces",))\nbare')
    changed = changed.replace("bare = View", "#").replace('"till:price"', '"till@1:price", "till:pieces"')
    (tmp_path / "defs.py").write_text(changed)
    ws.__dict__.pop("definitions")
    apply(True, ws=ws)
    assert ws.plan.features == told, "a plan only shows"
    apply(ws=ws)
    told = ws.plan.features
    assert sorted(told.views) == ["shop", "till", "till@1"]
    assert (told.views["till"]["columns"], told.views["till@1"]["columns"]) == (["pieces"], ["price"])
    assert {view.stored_as for view in live_views(ws)} >= {view.stored_as for view in views(ws).values()}
    assert "till@1" in {view.name for view in live_views(ws)}
    found = get_online_features([{"shop": "a", "till": 2}], ["till@1:price"], ws=ws)
    assert found.to_dict(keys=False) == {"till@1:price": [2.5]}


def test_a_number_that_no_source_can_hold_is_no_key(ws: Workspace) -> None:
    for wrong in (2**70, -(2**70)):
        with pytest.raises(Invalid, match="at most 63 bits") as caught:
            get_online_features([{"shop": "a", "till": wrong}], "prices", ws=ws)
        assert caught.value.facts["field"] == "till"
        for asked in ("prices", ["bare:price"]):  # as a worker reads: of two views, and of one
            reader = OnlineReader(service_of(ws, asked), known(ws), ws.online)
            with pytest.raises(Invalid, match="at most 63 bits"):
                reader.read({"shop": wrong, "till": 1}, {}, 0)


def test_rows_features_and_times_of_other_kinds_are_taken_or_named(ws: Workspace) -> None:
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.sql("select 'a' as shop, 2 as till")
    assert get_online_features(relation, "prices", ws=ws).to_dict()["till:price"] == [2.5]
    some: Any = {"bare:price"}
    assert get_online_features([{"shop": "a"}], some, ws=ws).to_dict()["bare:price"] == [1.5]
    asked: list[tuple[Any, Any, Any]] = [
        (pd.Series(["a"]), ["bare:price"], None),
        ([{"shop": "a"}], [["bare:price"]], None),
        ([{"shop": "a"}], ["bare:price"], NOW.date()),
        ([{"shop": "a"}], ["bare:price"], 1_700_000_000),
    ]
    for rows, features, at in asked:
        with pytest.raises(Invalid):
            get_online_features(rows, features, at=at, ws=ws)
