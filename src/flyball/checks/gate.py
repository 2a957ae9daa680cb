"""May this model take over? Thresholds, the champion on the same newest rows, and no slice left behind.

Pure: arrays in, a verdict out, the same for the same seed. "Not enough data" is a refusal with that reason.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyball.errors import Invalid, nearest
from flyball.stats import quality
from flyball.stats.interval import Interval

Floats = NDArray[np.float64]
Loss = Literal["log_loss", "brier", "absolute_error", "squared_error"]

_MOST_SLICES = 50
_OF_NUMBERS = ("mae", "rmse", "bias")
_OF_BINARY = (
    "auc", "log_loss", "brier", "calibration_gap", "expected_calibration_error", "accuracy", "precision", "recall",
)  # fmt: skip
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class GatePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger must show. Losses count in the unit of ``compare_metric``; lower is better."""

    thresholds: dict[str, str] = {}  # {"auc": ">= 0.65", "calibration_gap": "<= 0.05"}
    compare_metric: Loss = "log_loss"
    must_beat: bool = (
        True  # better than the champion beyond doubt; else: not worse by more than the tolerance
    )
    tolerance: float = 0.0
    level: float = 0.9  # of the two-sided interval, so that "beyond doubt" errs one time in twenty
    slice_max_loss: float | None = 0.02  # a slice may lose this much to the champion
    slice_min_rows: int = 200
    min_rows: int = 500
    min_positive: int = 50
    min_days: int = quality.MIN_BLOCKS
    threshold: float = 0.5  # from which probability on accuracy, precision and recall count a yes
    draws: int = 2000

    def __post_init__(self) -> None:
        for metric, condition in self.thresholds.items():
            _condition(metric, condition)


class SliceResult(msgspec.Struct, frozen=True, kw_only=True):
    """One slice: its own loss, and how much it loses (above 0) or gains against the champion."""

    name: str  # "origin=JFK"
    rows: int
    loss: float
    difference: Interval | None = None
    refused: bool = False
    because: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's answer, with everything it rests on. ``refused_by`` is empty when it passed."""

    passed: bool
    because: tuple[str, ...]  # every sentence, for and against
    refused_by: tuple[str, ...]
    metrics: dict[str, float | None]
    champion_metrics: dict[str, float | None] | None
    difference: Interval | None  # challenger minus champion; below 0 is better
    slices: tuple[SliceResult, ...]
    rows: int
    positives: int | None
    days: int
    compare_metric: str

    @property
    def summary(self) -> str:
        """One line for people."""
        return (
            "passed: " + "; ".join(self.because) if self.passed else "refused: " + "; ".join(self.refused_by)
        )


def evaluate(
    y: ArrayLike,
    challenger: ArrayLike,
    champion: ArrayLike | None,
    days: ArrayLike,
    *,
    slices: Mapping[str, ArrayLike] | None = None,
    policy: GatePolicy | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a challenger's predictions on the newest labelled rows; ``champion`` are the champion's on the same rows.

    ``days`` is the day of each row: days are what the comparison resamples. ``slices`` are columns whose every value
    is looked at by itself.

    >>> rng = np.random.default_rng(7)
    >>> y = (rng.random(6000) < 0.3).astype(float)
    >>> good, poor = np.where(y > 0, 0.5, 0.2), np.full(6000, 0.3)
    >>> evaluate(y, good, poor, np.arange(6000) // 500).passed, evaluate(y, poor, good, np.arange(6000) // 500).passed
    (True, False)
    """
    policy = policy or GatePolicy()
    outcome, given = _array(y, "y"), _array(challenger, "challenger")
    other = None if champion is None else _array(champion, "champion")
    day = np.asarray(days)
    _paired(outcome, challenger=given, champion=other, days=day)
    binary = bool(np.isin(outcome, (0.0, 1.0)).all())
    metrics = metrics_of(outcome, given, binary=binary, threshold=policy.threshold)
    for_it: list[str] = []
    against = _enough(outcome, given, day, binary, policy)
    difference: Interval | None = None
    cut: tuple[SliceResult, ...] = ()
    if not against:
        _thresholds(metrics, policy, for_it, against)
        if other is None:
            for_it.append("there is no champion to compare with")
        elif not np.isfinite(other).all():
            broken = int((~np.isfinite(other)).sum())
            for_it.append(f"the champion answers {broken} rows with no number: not compared")
        else:
            losses, others = (loss_of(policy.compare_metric, outcome, p) for p in (given, other))
            how: dict[str, Any] = {"draws": policy.draws, "seed": seed}
            difference = quality.paired_difference(losses, others, day, level=policy.level, **how)
            _compare(difference, policy, for_it, against)
            cut = _slices(losses, others, day, slices or {}, policy=policy, seed=seed)
            _say_slices(cut, policy, for_it, against)
    of_champion = None
    if other is not None:
        of_champion = metrics_of(outcome, other, binary=binary, threshold=policy.threshold)
    return Verdict(
        passed=not against,
        because=(*for_it, *against),
        refused_by=tuple(against),
        metrics=metrics,
        champion_metrics=of_champion,
        difference=difference,
        slices=cut,
        rows=int(outcome.size),
        positives=int(outcome.sum()) if binary else None,
        days=int(np.unique(day).size),
        compare_metric=policy.compare_metric,
    )


def metrics_of(y: Floats, p: Floats, *, binary: bool, threshold: float = 0.5) -> dict[str, float | None]:
    """Every figure that a threshold may name; ``None`` where there is nothing to compute it from."""
    if not np.isfinite(p).all():
        return dict.fromkeys(_OF_BINARY if binary else _OF_NUMBERS)
    if not binary:
        error = p - y
        found: dict[str, float | None] = {
            "mae": float(np.abs(error).mean()),
            "rmse": math.sqrt(float((error**2).mean())),
            "bias": float(error.mean()),
        }
    else:
        cut = quality.at_threshold(y, p, threshold)
        found = {
            "auc": quality.auc(y, p),
            "log_loss": quality.log_loss(y, p),
            "brier": quality.brier(y, p),
            "calibration_gap": quality.calibration_gap(y, p),
            "expected_calibration_error": quality.expected_calibration_error(y, p),
            "accuracy": cut.accuracy,
            "precision": cut.precision,
            "recall": cut.recall,
        }
    return {
        name: None if value is None or not math.isfinite(value) else value for name, value in found.items()
    }


def loss_of(metric: Loss, y: Floats, p: Floats) -> Floats:
    """One loss a row; lower is better."""
    if metric == "log_loss":
        return quality.log_losses(y, p)
    error: Floats = np.abs(p - y)
    return error if metric == "absolute_error" else error**2


def _enough(y: Floats, p: Floats, days: NDArray[Any], binary: bool, policy: GatePolicy) -> list[str]:
    missing = []
    if y.size < policy.min_rows:
        missing.append(f"not enough data: {y.size} labelled rows, {policy.min_rows} are needed")
    elif binary and min(y.sum(), y.size - y.sum()) < policy.min_positive:
        rarer = int(min(y.sum(), y.size - y.sum()))
        missing.append(f"not enough data: {rarer} rows of the rarer class, {policy.min_positive} are needed")
    if np.unique(days).size < policy.min_days:
        missing.append(f"not enough data: {np.unique(days).size} days, {policy.min_days} are needed")
    if not np.isfinite(p).all():
        missing.append(f"the challenger answers {int((~np.isfinite(p)).sum())} rows with no number")
    return missing


def _thresholds(
    metrics: dict[str, float | None], policy: GatePolicy, for_it: list[str], against: list[str]
) -> None:
    for metric, condition in policy.thresholds.items():
        sign, limit = _condition(metric, condition)
        if metric not in metrics:
            raise Invalid(f"no metric {metric!r} for these labels", nearest(metric, list(metrics)))
        value = metrics[metric]
        if value is None:
            against.append(f"{metric} is unknown, {condition} is needed")
        elif _OPERATORS[sign](abs(value) if metric in ("calibration_gap", "bias") else value, limit):
            for_it.append(f"{metric} {value:.4f} is {condition}")
        else:
            against.append(f"{metric} {value:.4f} is not {condition}")


def _condition(metric: str, condition: str) -> tuple[str, float]:
    found = re.fullmatch(r"\s*(>=|<=|>|<)\s*(-?[0-9.]+(?:[eE]-?\d+)?)\s*", condition)
    if found is None:
        raise Invalid(f"the threshold of {metric} is {condition!r}", 'write it like ">= 0.65"')
    return found[1], float(found[2])


def _compare(difference: Interval, policy: GatePolicy, for_it: list[str], against: list[str]) -> None:
    said = f"{policy.compare_metric} against the champion: {difference}"
    if difference.high is None:
        against.append(f"not enough data: {said}")
    elif policy.must_beat:
        better = difference.high < 0.0
        (for_it if better else against).append(f"{said}, {'better' if better else 'not better'} beyond doubt")
    else:
        worse = difference.high > policy.tolerance
        limit = f"worse by less than {policy.tolerance:g}"
        (against if worse else for_it).append(f"{said}, {'not surely' if worse else 'surely'} {limit}")


def _slices(
    losses: Floats,
    champion: Floats,
    days: NDArray[Any],
    slices: Mapping[str, ArrayLike],
    *,
    policy: GatePolicy,
    seed: int,
) -> tuple[SliceResult, ...]:
    """Each value of each column, largest first; intervals at ``1 - (1 - level) / count``, for so many are looked at."""
    members: list[tuple[str, NDArray[np.bool_]]] = []
    for column, given in slices.items():
        values = np.asarray(given).astype(str)
        if values.shape != losses.shape:
            raise Invalid(
                f"slice {column!r} has shape {values.shape}, {losses.size} rows", "one value per row"
            )
        members += [(f"{column}={value}", values == value) for value in np.unique(values)]
    members.sort(key=lambda one: -int(one[1].sum()))
    members = members[:_MOST_SLICES]
    judged = max(1, sum(int(inside.sum()) >= policy.slice_min_rows for _, inside in members))
    level = 1.0 - (1.0 - policy.level) / judged
    found = []
    for name, inside in members:
        rows, loss = int(inside.sum()), float(losses[inside].mean())
        if rows < policy.slice_min_rows:
            because = f"not enough data: {rows} rows, {policy.slice_min_rows} are needed"
            found.append(SliceResult(name=name, rows=rows, loss=loss, because=because))
            continue
        difference = quality.paired_difference(
            losses[inside], champion[inside], days[inside], level=level, draws=policy.draws, seed=seed
        )
        mean, low, limit = difference.mean or 0.0, difference.low, policy.slice_max_loss
        refused = limit is not None and mean > limit and (low is None or low > 0.0)
        because = f"loses {mean:+.4f} to the champion, more than {limit:g}" if refused else ""
        found.append(
            SliceResult(
                name=name, rows=rows, loss=loss, difference=difference, refused=refused, because=because
            )
        )
    return tuple(found)


def _say_slices(
    slices: tuple[SliceResult, ...], policy: GatePolicy, for_it: list[str], against: list[str]
) -> None:
    judged = [one for one in slices if one.difference is not None]
    if policy.slice_max_loss is None or not judged:
        return
    looked = f"of {len(judged)} slices looked at, intervals widened for so many"
    worst = max(judged, key=lambda one: (one.difference.mean or 0.0) if one.difference else 0.0)
    for one in (one for one in judged if one.refused):
        against.append(f"slice {one.name} {one.because}: {one.difference} ({looked})")
    if not any(one.refused for one in judged):
        for_it.append(f"no slice loses more than {policy.slice_max_loss:g} beyond doubt; worst {worst.name}: "
                      f"{worst.difference} ({looked})")  # fmt: skip


def _paired(outcome: Floats, **arrays: NDArray[Any] | None) -> None:
    for name, array in arrays.items():
        if array is not None and array.shape != outcome.shape:
            raise Invalid(f"{outcome.size} labels but {name} has shape {array.shape}", "one value per row")


def _array(values: ArrayLike, name: str) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise Invalid(f"{name} has shape {found.shape}", "give one number per row")
    if name == "y" and np.isnan(found).any():
        raise Invalid(
            f"{int(np.isnan(found).sum())} labels are missing", "keep only rows whose label is known"
        )
    return found
