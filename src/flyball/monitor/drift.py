"""Have the inputs moved? The features that were answered on, against the sample the model learned from.

Learned once for each champion (:func:`learn`), compared at each look (:func:`drift`): a column alarms only beyond the
reference's own variation in time, weighted by how much the model uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from flyball.errors import Invalid
from flyball.stats.drift import MIN_WINDOWS, ColumnBaseline, ColumnDrift, compare
from flyball.stats.drift import learn as learn_columns

Features = pl.DataFrame | pl.Series | NDArray[Any] | Mapping[str, NDArray[Any]]


class Baseline(msgspec.Struct, frozen=True):
    """What the inputs looked like, and how much they move by themselves in a window of so many days. Serialisable."""

    columns: dict[str, ColumnBaseline]
    window_days: int
    rows: int

    @property
    def calibrated(self) -> bool:
        return any(one.null.calibrated for one in self.columns.values())


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One look at all columns. ``moved`` is ``None`` when the reference can't say."""

    moved: bool | None
    columns: tuple[ColumnDrift, ...]  # those that moved first, then by distance
    moved_weight: float  # share of the importance that moved
    rows: int
    window_days: int
    rate: float
    because: str


def learn(
    features: Features,
    days: ArrayLike,
    *,
    window_days: int,
    names: Sequence[str] = (),
    importance: Mapping[str, float] | None = None,
) -> Baseline:
    """The baseline of a training sample; ``days`` is the day number of each row, ``names`` those of a matrix."""
    columns = columns_of(features, names)
    rows = len(np.asarray(days))
    if any(one.shape[0] != rows for one in columns.values()):
        raise Invalid(f"{rows} days but columns of another length", "give the day of each row of the sample")
    return Baseline(
        learn_columns(columns, days, window_days=window_days, weights=importance), window_days, rows
    )


def drift(baseline: Baseline, features: Features, *, rate: float = 0.01, names: Sequence[str] = ()) -> Drift:
    """The features of the present window against the baseline; of the alarms at most ``rate`` are false."""
    columns = columns_of(features, names)
    found = compare(baseline.columns, columns, rate=rate)
    found.sort(key=lambda one: (one.verdict != "drift", -(one.distance or 0.0)))
    moved = [one for one in found if one.verdict == "drift"]
    weight = sum(one.weight for one in found) or 1.0
    rows = max((one.shape[0] for one in columns.values()), default=0)
    said: bool | None = bool(moved)
    if not moved and not any(one.p_value is not None for one in found):
        said = None
    return Drift(
        moved=said,
        columns=tuple(found),
        moved_weight=sum(one.weight for one in moved) / weight,
        rows=rows,
        window_days=baseline.window_days,
        rate=rate,
        because=_sentence(found, moved, said, baseline, rows),
    )


def _sentence(
    found: Sequence[ColumnDrift],
    moved: Sequence[ColumnDrift],
    said: bool | None,
    baseline: Baseline,
    rows: int,
) -> str:
    if said is None and rows and not baseline.calibrated:
        far = [one.column for one in found if one.verdict == "uncalibrated drift"]
        shown = f"; far by effect size: {', '.join(far)}" if far else ""
        return f"uncalibrated: the reference has fewer than {MIN_WINDOWS} windows of {baseline.window_days} days{shown}"
    if said is None:
        return f"not enough data: {rows} rows"
    if not moved:
        return f"none of {len(found)} columns moved beyond the reference's own variation"
    shown = ", ".join(
        f"{one.column} ({one.distance:.2f}, by itself {one.typical:.2f})"
        for one in moved[:5]
        if one.distance is not None and one.typical is not None
    )
    return f"{len(moved)} of {len(found)} columns moved beyond their own variation: {shown}"


def columns_of(features: Features, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Columns by name, from a frame, a matrix with ``names``, or the log's column of lists with ``names``."""
    if isinstance(features, pl.DataFrame):
        return {name: _array(features[name]) for name in features.columns}
    if isinstance(features, Mapping):
        return {name: np.asarray(one) for name, one in features.items()}
    if isinstance(features, pl.Series):
        wide = len(names)
        rows = [[np.nan] * wide if row is None else row for row in features.to_list()]
        features = np.array(rows, dtype=np.float64).reshape(-1, wide)
    if features.ndim != 2 or features.shape[1] != len(names):
        raise Invalid(
            f"features of shape {features.shape} but {len(names)} names", "name every column, in order"
        )
    return {name: features[:, index] for index, name in enumerate(names)}


def _array(column: pl.Series) -> NDArray[Any]:
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return np.asarray(column.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    return np.array(column.cast(pl.String).to_list(), dtype=object)
