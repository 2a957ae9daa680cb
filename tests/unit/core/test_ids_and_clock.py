"""Ids sort as their times do; clocks do not go back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.core.clock import ManualClock, from_us, parse_time, to_us
from flyball.core.ids import new_id, time_of
from flyball.errors import Invalid

times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001


@given(times, times)
def test_ids_sort_as_their_times_do(one: datetime, two: datetime) -> None:
    first, second = new_id("x", one), new_id("x", two)
    assert time_of(first) == one.replace(microsecond=one.microsecond // 1000 * 1000)
    if to_us(one) // 1000 < to_us(two) // 1000:
        assert first < second


def test_ids_of_one_instant_differ() -> None:
    at = datetime(2013, 4, 1, tzinfo=UTC)
    assert len({new_id("p", at) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["", "p_", "p_123", "p_" + "u" * 26, "x" * 25])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not a Flyball id"):
        time_of(text)


@given(times)
def test_microseconds_are_exact_both_ways(at: datetime) -> None:
    assert from_us(to_us(at)) == at


def test_a_clock_does_not_go_back() -> None:
    clock = ManualClock(datetime(2013, 1, 1, tzinfo=UTC))
    clock.advance(timedelta(days=1))
    with pytest.raises(ValueError, match="does not go back"):
        clock.set(datetime(2013, 1, 1, tzinfo=UTC))


def test_a_naive_time_is_refused_and_a_zone_is_converted() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        to_us(datetime(2013, 1, 1))  # noqa: DTZ001
    east = datetime(2013, 1, 1, 3, tzinfo=timezone(timedelta(hours=3)))
    assert from_us(to_us(east)) == datetime(2013, 1, 1, tzinfo=UTC)
    assert parse_time("2013-01-01T00:00:00-05:00") == datetime(2013, 1, 1, 5, tzinfo=UTC)
