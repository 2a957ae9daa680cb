"""A row of expressions beside the function one would write by hand, and beside numba; the same in batch beside Polars.

The answers of both sides are compared before anything is timed: over plain rows bit by bit, over nulls as null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from benchmarks.measure import Row, timed
from flyball.features.expressions import Expr, apply, col, compile_row, when

_ROWS, _BATCH = 20_000, 1_000_000
_HANDFUL: dict[str, Expr] = {
    "ratio": col("amount") / col("mean_30d"),
    "excess": (col("amount") - col("mean_30d")).clip(0, 1000),
    "large": col("amount") > 3 * col("mean_30d") + 10,
    "log_amount": col("amount").log1p(),
    "often": when(col("count_7d") > 20).then(2).when(col("count_7d") > 5).then(1).otherwise(0),
}
_MIXED: dict[str, Expr] = {
    **_HANDFUL,
    "home": col("country").str.lower().is_in(["us", "ca"]),
    "kind": col("kind").map({"food": 1, "travel": 2, "cash": 3}, default=0),
    "local_hour": col("at").dt.hour("America/New_York"),
}
_NAMES = ["amount", "mean_30d", "count_7d", "country", "kind", "at"]
_KINDS = {"food": 1.0, "travel": 2.0, "cash": 3.0}
_ZONE = ZoneInfo("America/New_York")


def measured(repeats: int) -> list[Row]:
    """Microseconds a row for a handful of numeric expressions and for eight of all kinds; milliseconds in batch."""
    rows = _rows()
    numeric = [row[:3] for row in rows]
    ours = compile_row(_HANDFUL, _NAMES[:3])
    mixed = compile_row(_MIXED, _NAMES)
    fast = compile_row(_HANDFUL, _NAMES[:3], engine="numba")
    for row in rows[:2000]:
        assert ours(row[:3]) == _handful(row[:3])
        assert mixed(row) == _mixed(row)
        assert all(
            math.isclose(a, b, rel_tol=1e-12) for a, b in zip(ours(row[:3]), fast(row[:3]), strict=True)
        )
    assert ours([1.0, None, 3.0]) == _handful([1.0, None, 3.0]) == (None, None, None, math.log1p(1.0), 0.0)
    each = partial(timed, repeats=repeats, unit="us", per_s=1e6 / _ROWS)
    frame = _frame()
    assert apply(frame.head(1000), _HANDFUL)["ratio"].equals(_by_polars(frame.head(1000))["ratio"])
    return [
        each("5 expressions of a row, beside a function by hand", _run(ours, numeric), _run(_handful, numeric)),
        each("8 expressions of a row, beside a function by hand", _run(mixed, rows), _run(_mixed, rows)),
        each("5 expressions of a row, beside numba", _run(ours, numeric), _run(fast, numeric)),
        timed(
            f"5 expressions of {_BATCH:,} rows, beside bare Polars", partial(apply, frame, _HANDFUL),
            partial(_by_polars, frame), repeats=repeats, unit="ms", per_s=1000.0,
        ),
    ]  # fmt: skip


def _run(function: Callable[[Any], Any], rows: Sequence[Any]) -> Callable[[], None]:
    def work() -> None:
        for row in rows:
            function(row)

    return work


def _rows() -> list[list[Any]]:
    random = np.random.default_rng(0)
    amounts, means = random.gamma(2, 50, _ROWS).tolist(), random.gamma(2, 50, _ROWS).tolist()
    counts = random.poisson(8, _ROWS).astype(float).tolist()
    countries = random.choice(["US", "CA", "DE", "fr"], _ROWS).tolist()
    kinds = random.choice([*_KINDS, "other"], _ROWS).tolist()
    start = 1_362_900_000
    times = (
        pl.Series(random.integers(start, start + 30 * 86400, _ROWS) * 1_000_000)
        .cast(pl.Datetime("us", "UTC"))
        .to_list()
    )
    return [list(row) for row in zip(amounts, means, counts, countries, kinds, times, strict=True)]


def _handful(row: Sequence[Any]) -> tuple[Any, ...]:
    """What one would write by hand, nulls minded."""
    amount, mean, count = row
    ratio = amount / mean if amount is not None and mean else None
    excess = min(max(amount - mean, 0.0), 1000.0) if amount is not None and mean is not None else None
    large = amount > 3.0 * mean + 10.0 if amount is not None and mean is not None else None
    log_amount = math.log1p(amount) if amount is not None and amount > -1.0 else None
    often = 2.0 if count is not None and count > 20.0 else 1.0 if count is not None and count > 5.0 else 0.0
    return ratio, excess, large, log_amount, often


def _mixed(row: Sequence[Any]) -> tuple[Any, ...]:
    country, kind, at = row[3], row[4], row[5]
    return (
        *_handful(row[:3]),
        country.lower() in ("us", "ca") if country is not None else None,
        _KINDS.get(kind, 0.0) if kind is not None else None,
        float(at.astimezone(_ZONE).hour) if at is not None else None,
    )


def _frame() -> pl.DataFrame:
    random = np.random.default_rng(1)
    return pl.DataFrame({
        "amount": random.gamma(2, 50, _BATCH), "mean_30d": random.gamma(2, 50, _BATCH),
        "count_7d": random.poisson(8, _BATCH).astype(float),
    })  # fmt: skip


def _by_polars(frame: pl.DataFrame) -> pl.DataFrame:
    """Bare Polars, which minds neither infinities nor divisors of 0."""
    amount, mean, count = pl.col("amount"), pl.col("mean_30d"), pl.col("count_7d")
    return frame.with_columns(
        ratio=amount / mean, excess=(amount - mean).clip(0, 1000), large=amount > 3 * mean + 10, log_amount=amount.log1p(),
        often=pl.when(count > 20).then(2.0).when(count > 5).then(1.0).otherwise(0.0),
    )  # fmt: skip
