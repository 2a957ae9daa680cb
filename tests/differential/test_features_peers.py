"""Our joins against peers that many have checked: Polars' as-of join, NumPy over each window."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from flyball.features import View, Window, point_in_time

pytestmark = pytest.mark.differential
T = datetime(2013, 1, 1, tzinfo=UTC)


def table(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "key": rng.integers(0, 40, rows),
            "s": rng.choice(10_000_000, rows, replace=False),
            "x": rng.normal(size=rows),
        }
    )
    return frame.select("key", "x", at=pl.lit(T) + pl.duration(seconds="s")).sort("at")


@pytest.mark.parametrize("ttl_s", [None, 3600])
def test_latest_values_are_those_of_an_as_of_join(ttl_s: int | None) -> None:
    events, asked = table(20_000, 1), table(5_000, 2).drop("x")
    view = View("v", ("key",), "events", "at", "at", ("x",), (), ttl_s)
    ours = point_in_time(asked, "at", [view], {"events": events})
    peer = asked.join_asof(
        events, on="at", by="key", strategy="backward", tolerance=None if ttl_s is None else "1h"
    )
    assert ours["v:x"].equals(peer["x"], null_equal=True)


def test_windows_are_those_numpy_computes_one_by_one() -> None:
    events, asked = table(20_000, 3), table(500, 4).drop("x")
    functions = {
        "sum": np.sum,
        "mean": np.mean,
        "std": lambda x: np.std(x, ddof=1),
        "min": np.min,
        "max": np.max,
    }
    windows = tuple(Window(name, "x", name, 7 * 86400) for name in functions)  # type: ignore[arg-type] # its literals
    ours = point_in_time(
        asked, "at", [View("v", ("key",), "events", "at", "at", (), windows)], {"events": events}
    )
    keys, times = events["key"].to_numpy(), events["at"].dt.epoch("us").to_numpy()
    for row in ours.with_columns(us=pl.col("at").dt.epoch("us")).iter_rows(named=True):
        inside = (keys == row["key"]) & (times > row["us"] - 7 * 86400 * 10**6) & (times <= row["us"])
        values = events["x"].to_numpy()[inside]
        for name, function in functions.items():
            if len(values) > 1:
                assert row[f"v:{name}"] == pytest.approx(function(values), rel=1e-9, abs=1e-12)
            elif len(values) == 0:
                assert row[f"v:{name}"] is None
