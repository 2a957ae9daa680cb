"""An interval to show while the numbers are still coming in (F8). For the picture; decisions use e-processes.

``d +- sigma sqrt(2 (n r^2 + 1) / (n^2 r^2) log(sqrt(n r^2 + 1) / alpha))``: Waudby-Smith et al., "Time-uniform central
limit theory". It holds at all times together once n is large enough for the central limit theorem.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from flyball.stats.interval import Interval


class Moments(msgspec.Struct, frozen=True):
    """Count, sum and sum of squares of a stream: additive over workers and hours.

    >>> seen = Moments().add([0.0, 1.0]).merge(Moments().add([1.0]))
    >>> seen.n, round(seen.mean, 3)
    (3, 0.667)
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, x: ArrayLike) -> Moments:
        values = np.asarray(x, dtype=np.float64).ravel()
        return self.merge(Moments(values.size, float(values.sum()), float((values**2).sum())))

    def merge(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else math.nan

    @property
    def variance(self) -> float:
        return max(0.0, self.squares / self.n - self.mean**2) if self.n else math.nan


def confidence_sequence(seen: Moments, *, alpha: float = 0.05, tightest_at: int = 1000) -> Interval:
    """The mean of a stream, with bounds that may be looked at all the time; tightest near ``tightest_at`` rows."""
    if seen.n < 2:
        because = f"{seen.n} observations are too few for an interval"
        return Interval(None, None, None, seen.n, level=1.0 - alpha, because=because)
    r2 = (-2.0 * math.log(alpha) + math.log(1.0 - 2.0 * math.log(alpha))) / tightest_at
    scaled = seen.n * r2 + 1.0
    half = math.sqrt(seen.variance * 2.0 * scaled / (seen.n**2 * r2) * math.log(math.sqrt(scaled) / alpha))
    return Interval(seen.mean, seen.mean - half, seen.mean + half, seen.n, level=1.0 - alpha)
