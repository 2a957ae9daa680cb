"""An estimate with what is not known about it; and the two quantiles of Student's t that small samples need."""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec


class Interval(msgspec.Struct, frozen=True):
    """A mean between two bounds. ``None`` throughout means "not enough data", and ``because`` says of what."""

    mean: float | None
    low: float | None
    high: float | None
    n: int  # rows
    blocks: int = 0  # independent units: days
    level: float = 0.95
    because: str = ""

    def __str__(self) -> str:
        """``-0.0123 (-0.0201 to -0.0044, 95 % of 14 blocks)``, or why there is none."""
        if self.mean is None or self.low is None or self.high is None:
            shown = "unknown" if self.mean is None else f"{self.mean:+.4f}, spread unknown"
            return f"{shown}: {self.because}"
        of = f"{self.blocks} blocks" if self.blocks else f"{self.n} rows"
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}, {100 * self.level:g} % of {of})"


def normal_quantile(p: float) -> float:
    """z with P(Z <= z) = p."""
    return NormalDist().inv_cdf(p)


def t_quantile(p: float, df: int) -> float:
    """t with P(T <= t) = p, by bisection on :func:`t_upper`.

    >>> round(t_quantile(0.975, 4), 3), round(t_quantile(0.975, 13), 3)
    (2.776, 2.16)
    """
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    low, high = 0.0, 1.0
    while t_upper(high, df) > 1.0 - p:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if t_upper(middle, df) > 1.0 - p else (low, middle)
    return 0.5 * (low + high)


def t_upper(t: float, df: int) -> float:
    """P(T > t) for whole degrees of freedom: the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4.

    >>> round(t_upper(2.776445, 4), 6)
    0.025
    """
    theta = math.atan2(t, math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    if df % 2:
        term, total = math.cos(theta), 0.0
        for k in range(1, (df - 1) // 2 + 1):
            total += term
            term *= cos2 * (2 * k) / (2 * k + 1)
        inside = 2.0 / math.pi * (theta + math.sin(theta) * total)
    else:
        term, total = 1.0, 0.0
        for k in range(1, df // 2 + 1):
            total += term
            term *= cos2 * (2 * k - 1) / (2 * k)
        inside = math.sin(theta) * total
    return 0.5 * (1.0 - inside)
