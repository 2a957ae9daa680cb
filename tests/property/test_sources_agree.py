"""The same rows, from every kind of place that needs no server, are the same features."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from flyball.features import View, approx_distinct, count, last, mean, point_in_time
from flyball.features.sources import open_rows
from tests.unit.features.test_sources import KINDS, _sqlite_query

START = datetime(2013, 4, 1, tzinfo=UTC)
VIEW = View(
    "all",
    ("carrier",),
    "landings",
    happened="landed_at",
    known="known_at",
    columns=("delay", "note"),
    windows=(mean("delay", "1h"), count("2h"), last("seats", "3h"), approx_distinct("note", "1d")),
    types={"note": "BYTES"},
    ttl_s=7200,
)
_moments = st.integers(0, 400).map(lambda n: START + timedelta(seconds=37 * n, microseconds=n % 3 * 250_000))
_row = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["UA", "AA", "B'6", 'quo"te', "é,;"]),
        "landed_at": _moments,
        "known_at": _moments,
        "delay": st.none() | st.floats(-1e12, 1e12, allow_nan=False) | st.integers(-50, 50).map(float),
        "seats": st.integers(-(2**40), 2**40),
        "note": st.none() | st.sampled_from(["x", "late, very", "it's", "100%", "ü"]),
    }
)


@settings(max_examples=6, deadline=None)
@given(rows=st.lists(_row, min_size=1, max_size=40), asked=st.lists(_moments, min_size=1, max_size=8))
def test_every_place_gives_the_same_features(rows: list[dict[str, object]], asked: list[datetime]) -> None:
    utc = pl.Datetime("us", "UTC")
    schema = {
        "carrier": pl.String, "landed_at": utc, "known_at": utc, "delay": pl.Float64, "seats": pl.Int64, "note": pl.String,
    }  # fmt: skip
    # A row without nulls: CSV, JSON and SQLite's expressions have no types but those of their values.
    full = {"carrier": "ZZ", "landed_at": START, "known_at": START, "delay": 0.5, "seats": 1, "note": "x"}
    frame = pl.DataFrame([full, *rows], schema=schema)
    entities = pl.DataFrame(
        [{"carrier": one, "t": at} for at in asked for one in ("UA", "B'6", "nobody")],
        schema={"carrier": pl.String, "t": utc},
    )
    expected = point_in_time(entities, "t", [VIEW], {"landings": frame})
    for kind in (one for one in KINDS if one is not _sqlite_query):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            found = open_rows(
                kind(place, frame), place, columns=VIEW.needed_columns, clocks=("landed_at", "known_at")
            )
            answer = point_in_time(entities, "t", [VIEW], {"landings": found})
        assert_frame_equal(answer, expected, check_exact=True)
