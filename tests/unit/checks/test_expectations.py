"""Contracts: what holds, what is broken, and how plainly it is said."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import msgspec
import polars as pl
import pytest

from flyball.checks.expectations import (
    Contract,
    Expected,
    between,
    fresh,
    has_columns,
    in_set,
    matches,
    mean_between,
    no_future,
    not_null,
    null_share_near,
    ordered,
    quantile_between,
    require,
    row_count,
    step_at_most,
    unique,
    validate,
)
from flyball.checks.report import to_junit, to_markdown
from flyball.checks.results import Result
from flyball.errors import Invalid, Refused

NOW = datetime(2013, 7, 16, 12, tzinfo=UTC)
ROWS = pl.DataFrame(
    {
        "flight": [1, 2, 3, 3],
        "origin": ["EWR", "JFK", "LGA", None],
        "tail": ["N1", "N22", "bad", "N4"],
        "temp": [70.0, float("nan"), None, 90.0],
        "left": [NOW - timedelta(hours=h) for h in (4, 3, 2, 1)],
        "landed": [NOW - timedelta(hours=h) for h in (3, 2, 3, 0)],
        "day": [date(2013, 7, 16)] * 4,
    }
)


def look(one: Expected, rows: pl.DataFrame = ROWS, previous: pl.DataFrame | None = None) -> Result:
    return validate(rows, Contract("flights", [one]), now=NOW, previous=previous).results[0]


@pytest.mark.parametrize(
    ("one", "passed", "observed", "failing", "first_row"),
    [
        (has_columns(("flight", "origin")), True, 0, 0, None),
        (
            has_columns({"flight": "number", "left": "time", "origin": "text", "day": "Date"}),
            True,
            0,
            0,
            None,
        ),
        (has_columns({"flight": "text", "wind": ""}), False, 2, 0, None),
        (not_null("temp"), False, 0.5, 2, 1),
        (not_null("temp", share=0.5), True, 0.5, 2, 1),
        (between("temp", 0, 80), False, 0.25, 1, 3),
        (between("temp", low=60), True, 0.0, 0, None),
        (in_set("origin", ("EWR", "JFK")), False, 0.25, 1, 2),
        (in_set("flight", (1, 2, 3)), True, 0.0, 0, None),
        (unique("flight"), False, 0.5, 2, 2),
        (unique(("flight", "origin")), True, 0.0, 0, None),
        (matches("tail", "^N[0-9]+$"), False, 0.25, 1, 2),
        (ordered("left", "landed"), False, 0.25, 1, 2),
        (no_future("landed"), True, 0.0, 0, None),
        (no_future("day"), True, 0.0, 0, None),
        (row_count(1, 4), True, 4, 0, None),
        (row_count(5), False, 4, 0, None),
        (mean_between("temp", 79, 81), True, 80.0, 0, None),
        (mean_between("temp", 0, 1), False, 80.0, 0, None),
        (quantile_between("temp", 0.5, 75, 85), True, 80.0, 0, None),
        (quantile_between("temp", 1.0, 0, 85), False, 90.0, 0, None),
        (null_share_near("temp", reference=0.5), True, 0.5, 0, None),
        (null_share_near("temp", reference=0.1), False, 0.5, 0, None),
        (fresh("left", within_s=3600), True, 3600.0, 0, None),
        (fresh("left", within_s=60), False, 3600.0, 0, None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_each_expectation(
    one: Expected, passed: bool, observed: float, failing: int, first_row: int | None
) -> None:
    result = look(one)
    assert (result.passed, result.observed, result.failing) == (passed, pytest.approx(observed), failing), (
        result.message
    )
    assert (result.first or {}).get("row") == first_row
    assert result.message


def test_a_time_in_the_future_is_found_whatever_its_zone() -> None:
    later = pl.DataFrame({"at": [NOW + timedelta(minutes=1)]})
    assert not look(no_future("at"), later).passed
    assert look(no_future("at", slack_s=120), later).passed
    new_york = later.with_columns(pl.col("at").dt.convert_time_zone("America/New_York"))
    assert not look(no_future("at"), new_york).passed
    bare = later.with_columns(pl.col("at").dt.replace_time_zone(None).dt.cast_time_unit("ns"))
    assert not look(no_future("at"), bare).passed


def test_a_missing_column_is_a_broken_expectation_that_names_the_nearest() -> None:
    result = validate(ROWS, Contract("flights", [between("tempp", 0, 100), row_count(1)]), now=NOW)
    assert [one.passed for one in result.results] == [False, True]
    assert "no column 'tempp'; did you mean 'temp'?" in result.failed[0].message


def test_a_column_of_the_wrong_kind_is_a_broken_expectation() -> None:
    assert look(between("origin", 0, 1)).message == "origin: origin is String, a number is needed"
    assert not look(fresh("flight", 60)).passed
    assert not look(in_set("temp", ("hot",))).passed


def test_an_empty_table_says_so() -> None:
    empty = validate(ROWS.clear(), Contract("flights", [between("temp", 0, 1)]), now=NOW)
    assert not empty.passed
    assert empty.failed[0].message.startswith("the table is empty: 0 rows, columns flight, origin")
    assert validate(ROWS.clear(), Contract("flights", [], may_be_empty=True)).passed


def test_a_column_of_nulls_only_has_no_mean() -> None:
    result = look(mean_between("x", 0, 1), pl.DataFrame({"x": [None, None]}, schema={"x": pl.Float64}))
    assert (result.passed, result.message) == (False, "x: no value to take the mean of")


def test_all_expectations_are_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    collect = pl.LazyFrame.collect
    monkeypatch.setattr(
        pl.LazyFrame, "collect", lambda self, **more: calls.append(1) or collect(self, **more)
    )
    many = Contract(
        "x", [not_null("flight"), between("temp", 0, 99), unique("flight"), mean_between("temp", 0, 99)]
    )
    validate(ROWS, many)
    assert len(calls) == 1


def readings(
    temps: list[float | None], start: datetime, origins: tuple[str, ...] = ("EWR", "JFK", "LGA")
) -> pl.DataFrame:
    """Hourly readings, the airports in turn; a temperature each hour, with a little of each place's own."""
    rows = [
        {
            "origin": origin,
            "at": start + timedelta(hours=hour),
            "temp": None if temp is None else temp + place,
        }
        for hour, temp in enumerate(temps)
        for place, origin in enumerate(("EWR", "JFK", "LGA"))
    ]
    return pl.DataFrame(
        rows, schema={"origin": pl.String, "at": pl.Datetime("us", "UTC"), "temp": pl.Float64}
    )


STEP = step_at_most("temp", 15, at="at", by="origin", per_hour=2, most=30)
UNIT = step_at_most("temp", 15, at="at", by="origin", per_hour=2, most=30, against="accepted", share=0.5)
GOOD = readings([82, 84, 85], NOW - timedelta(hours=6))


def test_celsius_is_caught_at_once_and_for_as_long_as_it_lasts() -> None:
    for hours_later in (0, 3, 24, 48):
        celsius = readings([29, 29.5, 28], NOW + timedelta(hours=hours_later))
        for rule in (STEP, UNIT):
            found = look(rule, celsius, GOOD)
            assert not found.passed, hours_later
            assert found.observed > 30
    assert look(UNIT, readings([29, 29.5, 28], NOW), GOOD).failing == 9
    assert look(STEP, readings([29, 29.5, 28], NOW), GOOD).failing == 3


def test_fahrenheit_that_comes_back_is_accepted() -> None:
    for rule in (STEP, UNIT):
        assert look(rule, readings([80, 79], NOW + timedelta(hours=48)), GOOD).passed


def test_a_single_odd_reading_is_told_from_a_changed_unit_and_does_not_taint_the_next_batch() -> None:
    odd = readings([83, 84, 83], NOW).with_columns(
        temp=pl.when((pl.col("origin") == "EWR") & (pl.col("at") == NOW + timedelta(hours=2)))
        .then(13.1)
        .otherwise(pl.col("temp"))
    )
    assert look(UNIT, odd, GOOD).passed
    assert look(UNIT, odd, GOOD).failing == 1
    assert not look(STEP, odd, GOOD).passed
    after = readings([82, 81], NOW + timedelta(hours=3))
    assert look(UNIT, after, odd).passed
    assert look(STEP, after, odd).passed


def test_a_step_needs_something_before_it_and_skips_nulls() -> None:
    assert look(STEP, readings([20], NOW)).passed
    assert "no value before any" in look(STEP, readings([20], NOW)).message
    gap = readings([80, None, None, 20], NOW)
    assert look(STEP, gap, None).failing == 3
    assert look(STEP, readings([80, 20], NOW)).observed == 60.0


def test_a_longer_gap_allows_a_larger_step_up_to_the_most() -> None:
    assert not look(STEP, readings([60], NOW - timedelta(hours=3)), GOOD).passed
    assert look(STEP, readings([60], NOW + timedelta(hours=3)), GOOD).passed
    assert not look(STEP, readings([50], NOW + timedelta(hours=300)), GOOD).passed


def test_steps_without_a_key_follow_the_time_not_the_order_of_rows() -> None:
    rows = pl.DataFrame({"at": [NOW + timedelta(hours=h) for h in (2, 0, 1)], "x": [3.0, 1.0, 2.0]})
    rule = step_at_most("x", 1.0, at="at")
    assert look(rule, rows).passed
    found = look(rule, rows, pl.DataFrame({"at": [NOW - timedelta(hours=1)], "x": [-9.0]}))
    assert (found.failing, (found.first or {})["row"]) == (1, 1)


def test_many_steps_at_once_point_at_the_right_rows() -> None:
    cold = readings([29, 29.5], NOW)
    rules = [STEP, UNIT, step_at_most("temp", 1, at="at", by="origin"), in_set("origin", ("EWR", "JFK"))]
    found = validate(cold, Contract("weather", rules), now=NOW, previous=GOOD)
    assert [(one.first or {})["row"] for one in found.results] == [0, 0, 0, 2]


def test_a_contract_survives_being_stored_and_its_digest_is_of_its_content() -> None:
    contract = Contract(
        "flights", [not_null("temp"), between("temp", 0, 1), STEP, has_columns(("a",)), unique("x")]
    )
    again = msgspec.json.decode(msgspec.json.encode(contract), type=Contract)
    assert again == contract
    assert again.digest == contract.digest == Contract("flights", list(contract.expectations)).digest
    assert (
        Contract("flights", [between("temp", 0, 2)]).digest
        != Contract("flights", [between("temp", 0, 1)]).digest
    )


def test_require_refuses_with_a_readable_report() -> None:
    contract = Contract("flights", [between("temp", 0, 80), not_null("flight")])
    with pytest.raises(Refused, match="flights breaks its contract: 1 of 2 expectations") as refused:
        require(ROWS, contract)
    assert "✗ between: temp: 1 of 4 rows lie outside [0, 80]; first: row 3, temp=90.0" in refused.value.hint
    assert refused.value.facts["verdict"]["passed"] is False
    assert msgspec.json.encode(refused.value.as_json())
    assert require(ROWS, Contract("flights", [not_null("flight")])).passed


def test_what_needs_the_present_says_so() -> None:
    with pytest.raises(Invalid, match="fresh needs the present time"):
        validate(ROWS, Contract("flights", [fresh("left", 60)]))


def test_a_pattern_that_is_none_is_refused_when_it_is_written() -> None:
    with pytest.raises(Invalid, match="not a regular expression"):
        matches("tail", "[")


def test_reports_show_every_expectation() -> None:
    result = validate(ROWS, Contract("flights", [between("temp", 0, 80), not_null("flight")]))
    assert "| ✗ | between | temp | 0.2500 | in [0, 80] | 1 |" in to_markdown(result)
    assert 'tests="2" failures="1"' in to_junit(result)
