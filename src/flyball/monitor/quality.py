"""Quality with its uncertainty, and the alarm that compares a champion with its own variation from day to day.

Days, not rows, are what varies: a storm makes a thousand rows bad at once. So the alarm works on one figure a day,
bounds what a single extreme day can do, allows for days that resemble their neighbours, and takes its threshold from
simulated months in which nothing has changed, looked at every day. One number is declared: false alarms a month.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from flyball.errors import Invalid
from flyball.monitor import significance
from flyball.monitor.windows import DayStats, Window
from flyball.stats import quality as measures
from flyball.stats.interval import Interval

Metric = str | Callable[[DayStats], float | None]

MIN_REFERENCE_DAYS = 10


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good the predictions of a window were, as far as labels have come."""

    since: str
    until: str  # the last day, included
    n: int
    labelled: int
    coverage: float
    waiting: int
    auc: Interval
    log_loss: Interval
    calibration_gap: Interval  # mean predicted minus mean actual
    brier: float | None
    accuracy: float | None
    because: str = ""  # why figures are missing


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the trailing window is worse than the reference beyond its own variation; ``None``: can't be said."""

    fell: bool | None
    statistic: float | None  # in standard errors
    threshold: float | None
    window_mean: float | None
    reference_mean: float | None
    days: int
    reference_days: int
    effective_days: float  # of the window, allowing for likeness of neighbours
    rate: float
    metric: str
    since: str = ""
    until: str = ""
    because: str = ""


class Shock(msgspec.Struct, frozen=True, kw_only=True):
    """One extreme day."""

    day: str
    number: int
    metric: str
    value: float
    typical: float  # median of the days before
    sigmas: float


def quality(window: Window, *, level: float = 0.95, threshold: float = 0.5, seed: int = 0) -> Quality:
    """AUC, log loss and calibration of a window, with intervals from resampled days, and label coverage."""
    y, p, day = window.y, window.score, window.day
    brier = measures.brier(y, p)
    return Quality(
        since=window.first,
        until=window.last,
        n=window.n,
        labelled=int(y.size),
        coverage=window.coverage,
        waiting=window.waiting,
        auc=measures.bootstrap_auc_difference(y, p, None, day, level=level, seed=seed),
        log_loss=measures.block_mean(measures.log_losses(y, p), day, level=level, seed=seed),
        calibration_gap=measures.block_mean(p - y, day, level=level, seed=seed),
        brier=None if math.isnan(brier) else brier,
        accuracy=measures.at_threshold(y, p, threshold).accuracy,
        because="" if y.size else f"none of {window.n} predictions has a label yet",
    )


def trailing_alarm(
    daily: Sequence[DayStats],
    reference: Sequence[DayStats],
    window_days: int,
    rate: float,
    *,
    metric: Metric = "log_loss",
    looks: int = 30,
    min_rows: int = 20,
    min_coverage: float = 0.5,
    both_sides: bool = False,
    seed: int = 0,
) -> Alarm:
    """Is the mean of the last ``window_days`` days above the reference's, beyond what its days show by themselves?

    ``rate``: false alarms in ``looks`` daily looks (a month), on average over references. ``metric``: a field of
    :class:`DayStats` (higher is worse) or a function of it. ``both_sides`` also alarms below, for calibration.

    The statistic is the difference of the two means in standard errors, days bounded to 3 robust deviations from the
    reference's median, both counts divided by ``(1 + r) / (1 - r)`` for days that resemble the day before (r). The
    threshold is the ``1 - rate`` quantile of its maximum over ``looks`` overlapping windows when nothing changes.
    """
    if window_days < 1 or not 0.0 < rate < 1.0:
        raise Invalid(f"window_days {window_days}, rate {rate}", "e.g. window_days=21, rate=0.1 a month")
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    past = _usable(reference, metric, min_rows, min_coverage)
    last = max((one.number for one in daily), default=0)
    recent = _usable(
        [one for one in daily if one.number > last - window_days], metric, min_rows, min_coverage
    )
    numbers = [number for number, _ in recent]
    known: dict[str, Any] = {"days": len(recent), "reference_days": len(past), "rate": rate, "metric": name}
    if len(past) < MIN_REFERENCE_DAYS:
        return _unsaid(f"{len(past)} reference days, {MIN_REFERENCE_DAYS} are needed", known)
    if len(recent) < max(1, math.ceil(0.6 * window_days)):
        return _unsaid(f"{len(recent)} of {window_days} days have {min_rows} labels", known)
    days, values = np.array([number for number, _ in past]), np.array([value for _, value in past])
    bounded, (low, high) = significance.bounded(values)
    now = np.clip([value for _, value in recent], low, high)
    likeness = significance.likeness(bounded, days)
    statistic = float(
        significance.studentised(now.mean(), now.size, bounded[None, :], np.array([likeness]))[0]
    )
    threshold = significance.threshold(
        len(past), len(recent), round(likeness, 1), looks=looks, rate=rate, both_sides=both_sides, seed=seed
    )
    fell = (abs(statistic) if both_sides else statistic) >= threshold
    return Alarm(
        fell=fell,
        statistic=statistic,
        threshold=threshold,
        window_mean=float(now.mean()),
        reference_mean=float(bounded.mean()),
        effective_days=now.size * (1.0 - likeness) / (1.0 + likeness),
        since=next(one.day for one in daily if one.number == numbers[0]),
        until=next(one.day for one in daily if one.number == numbers[-1]),
        because=f"{name} {now.mean():.4f} over {now.size} days against {bounded.mean():.4f} over {len(past)}: "
        f"{statistic:+.1f} standard errors, {threshold:.1f} happens by itself {rate:g} times a month",
        **known,
    )


def shocks(
    daily: Sequence[DayStats],
    *,
    sigmas: float = 3.5,
    metric: Metric = "mean_actual",
    recent_days: int = 28,
    min_rows: int = 20,
    min_coverage: float = 0.5,
    both_sides: bool = False,
) -> list[Shock]:
    """Days that lie far from the days before them, by a robust z; a storm is an incident, not drift.

    Median and MAD of up to ``recent_days`` earlier days (at least 7), to which the sampling noise of a share is added.
    """
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    rows = {one.number: one for one in daily}
    usable = _usable(daily, metric, min_rows, min_coverage)
    found = []
    for index, (number, value) in enumerate(usable):
        before = np.array([one for day, one in usable[:index] if day >= number - recent_days])
        if before.size < 7:
            continue
        typical = float(np.median(before))
        spread = 1.4826 * float(np.median(np.abs(before - typical)))
        noise = typical * (1.0 - typical) / max(rows[number].labelled, 1) if name == "mean_actual" else 0.0
        scale = math.sqrt(spread**2 + max(noise, (0.02 * typical) ** 2))
        z = (value - typical) / scale if scale > 0.0 else (math.inf if value > typical else 0.0)
        if (abs(z) if both_sides else z) > sigmas:
            found.append(
                Shock(
                    day=rows[number].day, number=number, metric=name, value=value, typical=typical, sigmas=z
                )
            )
    return found


def _usable(
    daily: Sequence[DayStats], metric: Metric, min_rows: int, min_coverage: float
) -> list[tuple[int, float]]:
    """Day number and figure, in order, of days with enough labels.

    The labels of a day do not come in any order (a late flight lands late), so a day that still waits for more than
    ``1 - min_coverage`` of its labels says nothing yet.
    """
    found = []
    for one in sorted(daily, key=lambda one: one.number):
        if one.labelled < max(min_rows, min_coverage * (one.labelled + one.waiting)):
            continue
        value = getattr(one, metric) if isinstance(metric, str) else metric(one)
        if value is not None and math.isfinite(value):
            found.append((one.number, float(value)))
    return found


def _unsaid(because: str, known: dict[str, Any]) -> Alarm:
    return Alarm(
        fell=None, statistic=None, threshold=None, window_mean=None, reference_mean=None, effective_days=0.0,
        because=f"not enough data: {because}", **known,
    )  # fmt: skip
