"""Evidence that holds at every look: a betting e-process on the difference between two arms.

Request i goes to the candidate (w = 1) with a logged probability rho, decided before its outcome y in [0, 1] (higher
is worse). :func:`contrast` makes of it one number whose mean is ``candidate - champion - tol`` whatever both arms have
in common, so that an incident which hits both cancels. :class:`EProcess` bets on its sign: while the null holds, the
chance that it ever reaches 1/alpha is at most alpha (Ville; Waudby-Smith & Ramdas, JRSS-B 2024). NumPy only: workers
import it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyball.errors import Invalid

Floats = NDArray[np.float64]

BETS = 24
CAUTION = 0.95  # the boldest bet loses at most this share of its wealth at once
BOLDNESS = np.logspace(-2.5, 0.0, BETS)  # from hardly anything, for faint differences, to all that is allowed
ROWS_AT_ONCE = 16_384  # a batch is multiplied out in pieces of 3 MB


def contrast(y: ArrayLike, w: ArrayLike, rho: ArrayLike, g: float = 0.0, tol: float = 0.0) -> Floats:
    """F1: ``(y - g) (w / rho - (1 - w) / (1 - rho)) - tol``, one number a request.

    ``g`` may be anything known before the request (the champion's rate, frozen): it makes the numbers smaller, not
    the mean. Each request brings its own ``rho``, so a ramp needs no restart.

    >>> contrast([1, 1, 0], [1, 0, 1], 0.1).round(3).tolist()
    [10.0, -1.111, 0.0]
    """
    chance = np.asarray(rho, dtype=np.float64)
    outcome, to_candidate = np.asarray(y, dtype=np.float64), np.asarray(w, dtype=np.float64)
    if not ((chance > 0.0) & (chance < 1.0)).all():
        raise Invalid(
            "a share of 0 or 1 compares nothing", "leave out requests that could go to one arm only"
        )
    if not ((outcome >= 0.0) & (outcome <= 1.0)).all():
        raise Invalid(
            "an outcome must lie in [0, 1], higher is worse", "scale or clip it, as F6 does for latency"
        )
    found: Floats = (outcome - g) * (to_candidate / chance - (1.0 - to_candidate) / (1.0 - chance)) - tol
    return np.atleast_1d(found)


def safety(y: ArrayLike, w: ArrayLike, rho: ArrayLike, delta: float, g: float = 0.0) -> Floats:
    """F4's SAFE: ``delta - contrast``, whose mean is at most 0 while the candidate is worse by ``delta`` or more."""
    return -contrast(y, w, rho, g, delta)


class EProcess:
    """Bets 24 fixed fractions against "the mean is at most 0" and reports what they have won.

    The state is a sum per bet: it adds up over workers, replicas and hours, in any order, and fits 200 bytes.

    >>> harm = EProcess.harm(rhos=[0.1])
    >>> harm.update(contrast([1, 1, 1], [1, 1, 1], 0.1))            # a candidate that fails three times in a row
    >>> harm.reached(alpha=0.05), round(harm.e)
    (True, 78)
    >>> restored = EProcess.from_dict(harm.as_dict())
    >>> restored.merge(EProcess.harm(rhos=[0.1])).e == harm.e        # no traffic is no evidence
    True
    """

    __slots__ = ("_bets", "bound", "log_wealth", "n")

    def __init__(self, bound: float, *, n: int = 0, log_wealth: Floats | None = None) -> None:
        """``bound``: no observation may lie below ``-bound``; the boldest bet is 0.95 / bound."""
        if not (math.isfinite(bound) and bound > 0.0):
            raise Invalid(
                f"the bound of a bet must be positive, not {bound}", "EProcess.harm or .safe compute it"
            )
        self.bound = float(bound)
        self.n = n
        self.log_wealth = np.zeros(BETS) if log_wealth is None else np.asarray(log_wealth, dtype=np.float64)
        self._bets = CAUTION / self.bound * BOLDNESS

    @classmethod
    def harm(cls, rhos: Iterable[float], g: float = 0.0, tol: float = 0.0) -> EProcess:
        """For ``contrast(y, w, rho, g, tol)`` under "not worse than tol", over every share that is planned."""
        return cls(max(max(g / rho, (1.0 - g) / (1.0 - rho)) for rho in _shares(rhos)) + tol)

    @classmethod
    def safe(cls, rhos: Iterable[float], delta: float, g: float = 0.0) -> EProcess:
        """For ``safety(y, w, rho, delta, g)`` under "worse by delta or more"."""
        return cls(max(max((1.0 - g) / rho, g / (1.0 - rho)) for rho in _shares(rhos)) - delta)

    def update(self, x: ArrayLike) -> None:
        """Take observations; about a microsecond each in batches. Order does not matter."""
        seen = np.atleast_1d(np.asarray(x, dtype=np.float64)).ravel()
        if seen.size == 0:
            return
        if not seen.min() >= -self.bound * (1.0 + 1e-9):  # also refuses NaN
            raise Invalid(
                f"an observation of {seen.min():.6g} lies below -{self.bound:.6g}",
                "plan the process for every share and g that is used",
            )
        for start in range(0, seen.size, ROWS_AT_ONCE):
            self.log_wealth += np.log1p(
                np.multiply.outer(seen[start : start + ROWS_AT_ONCE], self._bets)
            ).sum(axis=0)
        self.n += seen.size

    @property
    def log_e(self) -> float:
        """Log of the evidence: 0 is none, ``log(1 / alpha)`` is enough."""
        top = float(self.log_wealth.max())
        return top + math.log(float(np.exp(self.log_wealth - top).mean()))

    @property
    def e(self) -> float:
        """The evidence; infinite when it no longer fits a float."""
        return math.exp(self.log_e) if self.log_e < 700.0 else math.inf

    def reached(self, alpha: float) -> bool:
        """Whether the null is rejected at level ``alpha``; may be asked after every request."""
        return self.log_e >= -math.log(alpha)

    def merge(self, other: EProcess) -> EProcess:
        """Both together, as a new process: what two workers saw apart."""
        if not math.isclose(self.bound, other.bound, rel_tol=1e-12):
            raise Invalid(
                f"bets for different bounds don't add ({self.bound:.6g}, {other.bound:.6g})",
                "plan both for the same shares",
            )
        return EProcess(self.bound, n=self.n + other.n, log_wealth=self.log_wealth + other.log_wealth)

    def as_dict(self) -> dict[str, Any]:
        """The whole state, as builtins."""
        return {"bound": self.bound, "n": self.n, "log_wealth": self.log_wealth.tolist()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> EProcess:
        """The inverse of :meth:`as_dict`."""
        wealth = np.array(state["log_wealth"], dtype=np.float64)
        if wealth.shape != (BETS,):
            raise Invalid(
                f"a state holds {BETS} bets, not {wealth.size}", "it was written by another version"
            )
        return cls(state["bound"], n=int(state["n"]), log_wealth=wealth)


def _shares(rhos: Iterable[float]) -> list[float]:
    shares = [float(rho) for rho in rhos]
    if not shares or any(not 0.0 < rho < 1.0 for rho in shares):
        raise Invalid(
            f"planned shares must lie between 0 and 1, not {shares}", "[0.1, 0.5] for a ramp to one half"
        )
    return shares
