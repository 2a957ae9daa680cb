"""Windows beside Feast's tiles: the same where its hop divides the window; where it does not, it gives lifetime totals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmarks.peers.feast import Feast

from flyball.errors import Invalid
from flyball.features import View, Window, point_in_time
from tests.feast import hours

pytestmark = pytest.mark.differential
US = pl.Datetime("us", "UTC")


def events(folder: Path) -> pl.DataFrame:
    draw = np.random.default_rng(5)
    at = [hours(float(minute) / 60) for minute in np.sort(draw.choice(48 * 60, 300, replace=False)) + 0.5]
    rows = pl.DataFrame({"k": [1] * 300, "at": at, "x": draw.integers(1, 9, 300).astype(float)})
    rows = rows.with_columns(pl.col("at").cast(US))
    rows.write_parquet(folder / "events.parquet")
    return rows


def ours(rows: pl.DataFrame, ends: list[datetime], window: Window) -> list[float | None]:
    view = View("v", ("k",), "events", happened="at", windows=(window,))
    asked = pl.DataFrame({"k": [1] * len(ends), "t": ends}).with_columns(pl.col("t").cast(US))
    return point_in_time(asked, "t", [view], {"events": rows})["v:w"].to_list()


@pytest.mark.parametrize("function", ["sum", "count", "max"])
def test_windows_at_the_ends_of_hops_that_divide_them(feast: Feast, tmp_path: Path, function: str) -> None:
    rows = events(tmp_path)
    asked = {
        "path": tmp_path / "events.parquet",
        "function": function,
        "window_s": 6 * 3600,
        "hop_s": 2 * 3600,
    }
    theirs = feast.call("windows", **asked)
    ends = [datetime.fromisoformat(end).replace(tzinfo=UTC) for end in theirs]
    assert len(ends) == 24
    assert ours(rows, ends, Window("w", "x", function, 6 * 3600)) == list(theirs.values())  # type: ignore[arg-type]  # its literals


def test_a_hop_that_does_not_divide_gives_lifetime_totals_there_and_is_refused_here(
    feast: Feast, tmp_path: Path
) -> None:
    rows = events(tmp_path)
    asked = {"path": tmp_path / "events.parquet", "function": "sum", "window_s": 7 * 3600, "hop_s": 5 * 3600}
    theirs = feast.call("windows", **asked)
    ends = [datetime.fromisoformat(end).replace(tzinfo=UTC) for end in theirs]
    lifetime = [rows.filter(pl.col("at") < end)["x"].sum() for end in ends]
    assert list(theirs.values()) == lifetime  # without an error
    exact = ours(rows, ends, Window("w", "x", "sum", 7 * 3600))
    assert exact == [
        rows.filter(pl.col("at") <= end, pl.col("at") > end - timedelta(hours=7))["x"].sum() for end in ends
    ]
    assert exact != lifetime
    with pytest.raises(Invalid, match="does not divide it"):
        Window("w", "x", "sum", 7 * 3600, 5 * 3600)
