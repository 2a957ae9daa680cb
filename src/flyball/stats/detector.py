"""After promotion there is no control arm: a Shiryaev-Roberts e-detector watches one stream for ever (F7).

``R_n = (1 + R_{n-1}) (1 + lambda x_n)``, averaged over fixed bets. ``R_n - n`` can't grow while the null holds, so an
alarm at ``R >= c`` comes on average no sooner than after c observations (Shin, Ramdas & Rinaldo, "E-detectors").
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flyball.errors import Invalid
from flyball.stats.betting import BETS, BOLDNESS, CAUTION, ROWS_AT_ONCE, Floats


class Detector:
    """Finds when a stream whose mean was at most 0 begins to exceed it, whenever that is.

    ``run_length``: observations between false alarms, on average, at the least. Unlike an e-process this depends on
    order; it stays alarmed until :meth:`restart`.

    >>> watch = Detector(run_length=10_000, bound=0.01)               # errors above an objective of 1 %
    >>> watch.update([-0.01] * 500 + [0.99, 0.99, 0.99])
    True
    >>> watch.alarmed_at
    503
    """

    def __init__(self, run_length: float, bound: float) -> None:
        if not (run_length > 1.0 and bound > 0.0):
            raise Invalid(f"run_length {run_length} and bound {bound} must be positive", "run_length=100_000")
        self.run_length, self.bound = float(run_length), float(bound)
        self.n = 0
        self.alarmed_at: int | None = None  # which observation, from 1
        self._bets = CAUTION / self.bound * BOLDNESS
        self._log_r = np.full(BETS, -np.inf)

    def update(self, x: ArrayLike) -> bool:
        """Take observations in their order; whether it has alarmed by now."""
        seen = np.atleast_1d(np.asarray(x, dtype=np.float64)).ravel()
        if seen.size and not seen.min() >= -self.bound * (1.0 + 1e-9):
            raise Invalid(
                f"an observation of {seen.min():.6g} lies below -{self.bound:.6g}", "raise the bound"
            )
        for start in range(0, seen.size, ROWS_AT_ONCE):
            self._take(seen[start : start + ROWS_AT_ONCE])
        return self.alarmed_at is not None

    def _take(self, seen: Floats) -> None:
        """``R_n = P_n (R_0 + sum_j 1 / P_{j-1})`` with P the running product: one pass, no loop."""
        log_p = np.cumsum(np.log1p(np.multiply.outer(seen, self._bets)), axis=0)
        before = np.vstack([self._log_r, np.zeros(BETS), -log_p[:-1]])
        log_r = log_p + np.logaddexp.accumulate(before, axis=0)[1:]
        self._log_r = log_r[-1]
        if self.alarmed_at is None:
            top = log_r.max(axis=1)
            mean = top + np.log(np.exp(log_r - top[:, None]).mean(axis=1))
            over = np.flatnonzero(mean >= math.log(self.run_length))
            self.alarmed_at = None if over.size == 0 else self.n + int(over[0]) + 1
        self.n += seen.size

    @property
    def log_r(self) -> float:
        """Log of the statistic now; alarm at ``log(run_length)``. Minus infinity before the first observation."""
        top = float(self._log_r.max())
        return top if top == -math.inf else top + math.log(float(np.exp(self._log_r - top).mean()))

    def restart(self) -> None:
        """Begin again after an alarm was acted on."""
        self.alarmed_at, self._log_r = None, np.full(BETS, -np.inf)

    def as_dict(self) -> dict[str, Any]:
        """The whole state, as builtins; minus infinity is written as ``None``."""
        state = [value if math.isfinite(value) else None for value in self._log_r.tolist()]
        return {
            "run_length": self.run_length,
            "bound": self.bound,
            "n": self.n,
            "alarmed_at": self.alarmed_at,
            "log_r": state,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Detector:
        """The inverse of :meth:`as_dict`."""
        made = cls(state["run_length"], state["bound"])
        made.n, made.alarmed_at = int(state["n"]), state["alarmed_at"]
        made._log_r = np.array([-np.inf if value is None else value for value in state["log_r"]])
        return made
