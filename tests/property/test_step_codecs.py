"""Whatever a step returns comes back as it was: the same value of the same type."""

from __future__ import annotations

import string
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

from flyball.pipelines.codecs import decode, encode, is_plain

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.timedeltas(min_value=timedelta(days=-100), max_value=timedelta(days=100)),
    st.complex_numbers(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
COLUMNS = st.fixed_dictionaries(
    {
        "number": st.none() | st.integers(-(2**62), 2**62),
        "share": st.none() | st.floats(),
        "word": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
        "at": st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001 (made aware below)
        "day": st.none() | st.dates(date(1900, 1, 1), date(2200, 1, 1)),
        "parts": st.none() | st.lists(st.integers(0, 9), max_size=3),
    }
)
SCHEMA = {
    "number": pl.Int64,
    "share": pl.Float64,
    "word": pl.String,
    "at": pl.Datetime("us"),
    "day": pl.Date,
    "parts": pl.List(pl.Int64),
}


class Score(msgspec.Struct, frozen=True):
    name: str
    value: float
    parts: tuple[int, ...] = ()
    at: datetime | None = None
    more: object = None


def back(value: object) -> object:
    encoded = encode(value)
    assert isinstance(encoded.data, bytes)
    return decode(encoded.codec, encoded.data, encoded.type)


def same(one: object, two: object) -> bool:
    """Equal, of one type throughout, and NaN equal to itself: ``repr`` tells -0.0, 1 and True apart."""
    return type(one) is type(two) and repr(one) == repr(two)


@settings(deadline=None)
@example(datetime(2000, 1, 1, fold=1))  # noqa: DTZ001 (the point: a naive hour that comes twice)
@given(VALUES)
def test_plain_values_come_back_with_their_types(value):
    assert same(back(value), value)
    if is_plain(value):
        assert encode(value).codec == "json"


@settings(deadline=None)
@given(
    st.builds(
        Score,
        name=st.text(max_size=5),
        value=st.floats(),
        parts=st.lists(st.integers(0, 9), max_size=3).map(tuple),
        at=st.none()
        | st.datetimes(
            timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5)), ZoneInfo("America/New_York")])
        ),
        more=VALUES,
    )
)
def test_records_come_back_with_their_types(value):
    found = back(value)
    assert type(found) is Score
    assert repr(msgspec.structs.astuple(found)) == repr(msgspec.structs.astuple(value))


@settings(deadline=None)
@given(st.lists(COLUMNS, max_size=6))
def test_frames_come_back_exactly(rows):
    frame = pl.DataFrame(rows, schema=SCHEMA).with_columns(
        pl.col("at").dt.replace_time_zone("UTC"), pl.col("word").cast(pl.Categorical).alias("category")
    )
    assert_frame_equal(back(frame), frame, check_exact=True)
    assert_frame_equal(back(frame.lazy()).collect(), frame, check_exact=True)
    assert_series_equal(back(frame["share"]), frame["share"], check_exact=True)


@settings(deadline=None)
@given(
    st.sampled_from(["f4", "f8", "i8", "u1", "bool", "M8[us]", "U3", "O"]),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.booleans(),
)
def test_arrays_come_back_exactly(kind, shape, fortran):
    array = np.ones(shape).astype(kind, order="F" if fortran else "C")
    found = back(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


@settings(deadline=None)
@given(st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=3), st.integers(), max_size=5))
def test_a_value_has_one_digest_however_it_was_made(value):
    assert encode(value) == encode(dict(value))
