"""Has a column moved more than it moves by itself? Distances, and a null made of the reference's own time.

Fixed thresholds cry wolf: the two halves of one January differ by PSI 1.06 in temperature. So the reference is cut into
windows as long as the one watched (whole days in their order, never shuffled rows), each is held against the rest, and
the present must exceed *those* distances at the declared rate. Too little reference for that: an effect-size rule, and
the verdict says "uncalibrated".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyball.stats.combine import benjamini_hochberg
from flyball.stats.distances import LEVELS, Distance, distance_between, known_of, standardised_distance
from flyball.stats.interval import t_upper

MIN_WINDOWS = 4  # below that the reference says nothing about its own variation
_MIN_ROWS = 20
_NEGLIGIBLE: dict[str, float] = {
    "wasserstein": 0.02,
    "ks": 0.01,
    "psi": 0.005,
    "total_variation": 0.01,
}  # never news
_EFFECTS: dict[str, float] = {"wasserstein": 0.5, "ks": 0.25, "psi": 0.5, "total_variation": 0.25}


class Null(msgspec.Struct, frozen=True):
    """How far the reference's own windows lie from the rest of it."""

    distance: Distance
    window_days: int
    distances: tuple[float, ...] = ()

    @property
    def calibrated(self) -> bool:
        return len(self.distances) >= MIN_WINDOWS

    def p_value(self, observed: float, rate: float) -> float | None:
        """Chance of a window this far without drift; ``None`` when uncalibrated.

        With at least 1 / rate windows: the rank, (1 + how many are as far) / (1 + windows). With fewer a rank could
        never reach the rate, so the tail is extrapolated as the prediction of one more draw from a log-normal
        (Student's t on the logs, the scale widened by sqrt(1 + 1/n)): distances are positive and skewed, and with few
        windows the t is so wide that it errs towards silence.
        """
        if not self.calibrated:
            return None
        past = np.array(self.distances)
        n = past.size
        if n + 1 >= 1.0 / rate:
            return float((1 + (past >= observed).sum()) / (1 + n))
        if math.isinf(observed):
            return 0.0
        least = _NEGLIGIBLE[self.distance]
        logs = np.log(np.maximum(past, least))
        spread = max(float(logs.std(ddof=1)), 0.25) * math.sqrt(1.0 + 1.0 / n)
        return t_upper((math.log(max(observed, least)) - float(logs.mean())) / spread, n - 1)


def calibrate(
    values: ArrayLike, days: ArrayLike, *, window_days: int, distance: Distance = "wasserstein"
) -> Null:
    """Cut the reference into windows of ``window_days`` whole days and measure each against the rest.

    ``days`` is the day number of each row. Windows with fewer than 20 rows seen are left out.
    """
    value, day = np.asarray(values), np.asarray(days).astype(np.int64)
    known = known_of(value)
    value, day = value[known], day[known]
    if value.size == 0:
        return Null(distance, window_days)
    window_of = (day - day.min()) // window_days
    whole = (
        int(day.max()) - int(day.min()) + 1
    ) // window_days  # the last, shorter one is only in "the rest"
    found = []
    for window in range(whole):
        inside = window_of == window
        if inside.sum() >= _MIN_ROWS and (~inside).sum() >= _MIN_ROWS:
            found.append(distance_between(distance, value[~inside], value[inside]))
    return Null(distance, window_days, tuple(found))


class ColumnBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one column of the reference: its values in 200 quantiles or shares, and both nulls."""

    null: Null
    missing: Null  # of the share missing
    missing_share: float
    quantiles: tuple[float, ...] = ()
    scale: float = 0.0
    shares: dict[str, float] = {}
    rows: int = 0
    weight: float = 1.0


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One column, now."""

    column: str
    distance: float | None
    p_value: float | None
    typical: float | None  # median distance of the reference's own windows
    missing_share: float
    missing_p_value: float | None
    weight: float
    verdict: Literal["drift", "steady", "uncalibrated drift", "uncalibrated", "too few rows"]


def learn(
    columns: Mapping[str, NDArray[Any]],
    days: ArrayLike,
    *,
    window_days: int,
    weights: Mapping[str, float] | None = None,
) -> dict[str, ColumnBaseline]:
    """What each column of the reference looks like, and how much it moves by itself. ``weights``: importance."""
    found = {}
    day = np.asarray(days)
    for name, given in columns.items():
        value = np.asarray(given)
        numeric = value.dtype.kind in "fiub"
        known = known_of(value)
        seen = value[known].astype(np.float64) if numeric else value[known].astype(str)
        kind: Distance = "wasserstein" if numeric else "total_variation"
        names, counts = (np.array([]), np.array([])) if numeric else np.unique(seen, return_counts=True)
        found[name] = ColumnBaseline(
            null=calibrate(seen, day[known], window_days=window_days, distance=kind),
            missing=_missing_null(~known, day, window_days),
            missing_share=float((~known).mean()) if value.size else 0.0,
            quantiles=tuple(np.quantile(seen, LEVELS).tolist()) if numeric and seen.size else (),
            scale=float(seen.std()) if numeric and seen.size else 0.0,
            shares={str(one): float(count) / seen.size for one, count in zip(names, counts, strict=True)},
            rows=int(seen.size),
            weight=1.0 if weights is None else float(weights.get(name, 0.0)),
        )
    return found


def _missing_null(missing: NDArray[np.bool_], days: NDArray[Any], window_days: int) -> Null:
    """How much the share of missing values moves by itself, between windows and the rest."""
    if missing.size == 0:
        return Null("total_variation", window_days)
    return calibrate(missing.astype(str), days, window_days=window_days, distance="total_variation")


def compare(
    baseline: Mapping[str, ColumnBaseline], present: Mapping[str, NDArray[Any]], *, rate: float = 0.01
) -> list[ColumnDrift]:
    """Each column of the present window against its baseline; at most ``rate`` of the alarms are false.

    Benjamini-Hochberg over the columns, weighted by importance: what the model ignores (weight 0) never alarms. A
    column counts by the smaller of its two p-values (values, share missing), doubled.
    """
    rows = [
        _look(name, column, np.asarray(present[name]), rate)
        for name, column in baseline.items()
        if name in present
    ]
    both = [_both(row) for row in rows]
    tested = [index for index, p in enumerate(both) if p is not None]
    weights = np.array([rows[index].weight for index in tested])
    rejected: list[int] = []
    if tested and weights.any():
        chosen = benjamini_hochberg([both[index] or 0.0 for index in tested], rate, weights)
        rejected = [index for index, no in zip(tested, chosen, strict=True) if no]
    return [
        msgspec.structs.replace(row, verdict="drift") if i in rejected else row for i, row in enumerate(rows)
    ]


def _both(row: ColumnDrift) -> float | None:
    known = [p for p in (row.p_value, row.missing_p_value) if p is not None]
    return min(1.0, 2.0 * min(known)) if known else None


def _look(name: str, column: ColumnBaseline, value: NDArray[Any], finest: float) -> ColumnDrift:
    known = known_of(value)
    missing_share = float((~known).mean()) if value.size else 0.0
    missing_p = None
    if value.size >= _MIN_ROWS:
        missing_p = column.missing.p_value(abs(missing_share - column.missing_share), finest)
    if known.sum() < _MIN_ROWS or column.rows < _MIN_ROWS:
        return ColumnDrift(
            column=name, distance=None, p_value=None, typical=None, missing_share=missing_share,
            missing_p_value=missing_p, weight=column.weight, verdict="too few rows",
        )  # fmt: skip
    distance = _distance_to(column, value[known])
    p = column.null.p_value(distance, finest)
    verdict: Literal["steady", "uncalibrated", "uncalibrated drift"] = "steady"
    if p is None:
        far = distance > _EFFECTS[column.null.distance] and column.weight > 0.0
        verdict = "uncalibrated drift" if far else "uncalibrated"
    typical = float(np.median(column.null.distances)) if column.null.distances else None
    return ColumnDrift(
        column=name, distance=distance, p_value=p, typical=typical, missing_share=missing_share,
        missing_p_value=missing_p, weight=column.weight, verdict=verdict,
    )  # fmt: skip


def _distance_to(column: ColumnBaseline, present: NDArray[Any]) -> float:
    if column.quantiles:
        return standardised_distance(np.array(column.quantiles), column.scale, present.astype(np.float64))
    names, counts = np.unique(present.astype(str), return_counts=True)
    now = dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))
    every = column.shares.keys() | now.keys()
    return float(0.5 * sum(abs(column.shares.get(one, 0.0) - now.get(one, 0.0)) for one in every))
