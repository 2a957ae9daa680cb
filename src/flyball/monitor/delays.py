"""How long labels take: the delay curve, by which a window that is still open can be told from one that lost labels."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike


class DelayCurve(msgspec.Struct, frozen=True):
    """How much of a day's labels is known at which age, learned from labels that have come.

    >>> DelayCurve.learn([3600.0, 7200.0, 10800.0, 14400.0]).share_known(7200.0)
    0.5
    """

    delays_s: tuple[float, ...]  # sorted; at most 200 quantiles

    @classmethod
    def learn(cls, delays_s: ArrayLike) -> DelayCurve:
        seen = np.sort(np.asarray(delays_s, dtype=np.float64))
        if seen.size > 200:
            seen = np.quantile(seen, (np.arange(200) + 0.5) / 200)
        return cls(tuple(seen.tolist()))

    def share_known(self, age_s: float) -> float | None:
        """Expected share of labels known at this age, of those that come at all; ``None`` before any was seen."""
        if not self.delays_s:
            return None
        return float(np.searchsorted(self.delays_s, age_s, "right")) / len(self.delays_s)
