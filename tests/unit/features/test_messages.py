"""JSON to rows: by what views need, bad ones told apart."""

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.features import View, mean
from flyball.features.messages import Schema

AT = datetime(2026, 3, 1, tzinfo=UTC)
VIEW = View(
    "v", ("user", "shop"), "s", "at", "known", ("amount", "city", "count", "ok"), (mean("amount", "1h"),),
    types={"city": "BYTES", "count": "INT64", "ok": "BOOL"}, row_id=("id",),
)  # fmt: skip
ROW = {"user": "u1", "shop": 7, "at": "2026-03-01T00:00:00Z", "known": "2026-03-01T00:00:00+00:00",
       "amount": 5, "city": "Rome", "count": 3, "ok": True, "id": 9}  # fmt: skip


def test_types_are_those_of_the_views() -> None:
    rows, bad = Schema([VIEW]).frame([ROW, {**ROW, "amount": None, "city": None}])
    assert bad == []
    assert rows.schema == {
        "user": pl.String, "shop": pl.Int64, "at": pl.Datetime("us", "UTC"), "known": pl.Datetime("us", "UTC"),
        "id": pl.Int64, "amount": pl.Float64, "city": pl.String, "count": pl.Int64, "ok": pl.Boolean,
    }  # fmt: skip
    assert rows["amount"].to_list() == [5.0, None]


@pytest.mark.parametrize(
    "time",
    ["2026-03-01T00:00:00", "2026-03-01T01:00:00+01:00", 1772323200, 1772323200.0, 1772323200000, 1772323200000000,
     1772323200000000000, AT],
)  # fmt: skip
def test_a_time_may_be_written_in_many_ways(time: object) -> None:
    rows, _ = Schema([VIEW]).frame([{**ROW, "at": time}])
    assert rows["at"].to_list() == [AT]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"user": None}, "user"),
        ({"user": 5}, "user"),
        ({"shop": "seven"}, "shop"),
        ({"amount": "5"}, "amount"),
        ({"amount": True}, "amount"),
        ({"count": 1.5}, "count"),
        ({"at": None}, "at"),
        ({"at": "soon"}, "at"),
    ],
)
def test_a_wrong_field_is_named_and_the_others_go_on(change: dict[str, Any], said: str) -> None:
    rows, bad = Schema([VIEW]).frame([ROW, {**ROW, **change}, ROW])
    assert rows.height == 2
    assert [one.place for one in bad] == [1]
    assert said in bad[0].reason


def test_a_missing_field_is_named() -> None:
    without = {name: value for name, value in ROW.items() if name != "shop"}
    _, bad = Schema([VIEW]).frame([ROW, without])
    assert bad[0].reason == "it lacks `shop`"


def test_known_is_when_it_arrived_when_the_sender_does_not_say() -> None:
    without = {name: value for name, value in ROW.items() if name != "known"}
    rows, _ = Schema([VIEW]).frame([without], [to_us(AT) + 5])
    assert rows["known"].to_list() == [AT.replace(microsecond=5)]
    _, bad = Schema([VIEW]).frame([without])
    assert "known" in bad[0].reason


def test_a_clock_that_is_ahead_is_named() -> None:
    _, bad = Schema([VIEW]).frame([ROW], latest_us=to_us(AT) - 1)
    assert "`known` is in the future" in bad[0].reason


def test_what_no_view_needs_is_kept_as_it_comes() -> None:
    rows, _ = Schema([VIEW]).frame([{**ROW, "n": 1, "deep": {"a": [1]}, "yes": True}, {**ROW, "n": 2.5}])
    assert rows["n"].to_list() == [1.0, 2.5]
    assert rows["deep"].to_list() == ['{"a":[1]}', None]
    assert rows["yes"].to_list() == [True, None]


def test_the_types_of_the_table_so_far_stand() -> None:
    schema = Schema([VIEW], {"user": pl.Int64, "shop": pl.Int64})
    _, bad = schema.frame([ROW])
    assert "user" in bad[0].reason
    rows, _ = schema.frame([{**ROW, "user": "5", "amount": "2.5"}], texts=True)
    assert rows.select("user", "amount").row(0) == (5, 2.5)


def test_one_column_of_two_types_is_refused() -> None:
    other = View("w", ("user",), "s", "at", "known", ("city",))
    with pytest.raises(Invalid, match="'city'"):
        Schema([VIEW, other])
