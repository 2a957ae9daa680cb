"""When is a mean of recent days far from that of earlier ones? Few days, alike to their neighbours, looked at daily."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_SIGMAS = 3.0  # a day counts as at most this far from the reference's median
MONTHS = 4000  # simulated


def bounded(values: Floats) -> tuple[Floats, tuple[float, float]]:
    """Values pulled in to 3 robust deviations from their median, and those two bounds."""
    centre = float(np.median(values))
    reach = MOST_SIGMAS * max(
        1.4826 * float(np.median(np.abs(values - centre))), 1e-9 * max(abs(centre), 1e-9)
    )
    return np.clip(values, centre - reach, centre + reach), (centre - reach, centre + reach)


def likeness(values: Floats, days: NDArray[np.int64]) -> float:
    """Correlation of a day with the day before, made up for what few days hide ((1 + 3 r) / n), within [0, 0.8]."""
    apart = values - values.mean()
    next_to = np.diff(days) == 1
    variance = float((apart**2).mean())
    if variance == 0.0 or not next_to.any():
        return 0.0
    r = float((apart[1:] * apart[:-1])[next_to].mean()) / variance
    return min(0.8, max(0.0, r + (1.0 + 3.0 * r) / values.size))


def studentised(mean: float | Floats, count: int, reference: Floats, likeness: Floats) -> Floats:
    """Difference of means in standard errors; one row of ``reference`` each."""
    size = reference.shape[1]
    spread = reference.std(axis=1, ddof=1) * np.sqrt((1 + likeness) / (1 - likeness) * (1 / count + 1 / size))
    apart = np.asarray(mean - reference.mean(axis=1), dtype=np.float64)
    least = 1e-9 * np.maximum(np.abs(reference).max(axis=1), 1e-9)  # days that never vary: any change is far
    found: Floats = apart / np.maximum(spread, least)
    return found


@lru_cache(maxsize=256)
def threshold(
    reference_days: int, days: int, likeness: float, *, looks: int, rate: float, both_sides: bool, seed: int
) -> float:
    """What the statistic exceeds in a share ``rate`` of months without any change, looked at every day.

    Months are simulated with days as alike as the reference's (AR(1), normal), the likeness estimated anew in each.
    """
    rng = np.random.default_rng(seed)
    total = reference_days + days + looks - 1
    noise = rng.standard_normal((MONTHS, total))
    path = np.empty_like(noise)
    path[:, 0] = noise[:, 0]
    for day in range(1, total):
        path[:, day] = likeness * path[:, day - 1] + math.sqrt(1.0 - likeness**2) * noise[:, day]
    reference = path[:, :reference_days]
    apart = reference - reference.mean(axis=1, keepdims=True)
    r = (apart[:, 1:] * apart[:, :-1]).mean(axis=1) / (apart**2).mean(axis=1)
    alike = np.clip(r + (1.0 + 3.0 * r) / reference_days, 0.0, 0.8)
    sums = np.cumsum(path[:, reference_days - 1 :], axis=1)
    means = (sums[:, days:] - sums[:, :-days]) / days  # (months, looks)
    statistics = np.stack(
        [studentised(means[:, look], days, reference, alike) for look in range(looks)], axis=1
    )
    worst = np.abs(statistics).max(axis=1) if both_sides else statistics.max(axis=1)
    return float(np.quantile(worst, 1.0 - rate))
