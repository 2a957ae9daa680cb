"""The worker's own breaker: a betting e-process on errors, candidate against champion (``statistics.md`` F1, F2).

Valid at every look: a candidate that fails no more often than the champion is tripped with probability at most alpha,
ever, whatever the common error rate does. With a tenth of the traffic, one that always fails goes at its third request.
Only errors move the evidence, so the hot path pays nothing.
"""

from __future__ import annotations

from flyball.stats.betting import EProcess


class Breaker:
    """Trips when the candidate is worse beyond doubt, and stays tripped.

    >>> breaker = Breaker(alpha=0.05, rho=0.1)
    >>> [breaker.observe(candidate=True, failed=True) for _ in range(3)]
    [False, False, True]
    """

    def __init__(self, alpha: float, rho: float) -> None:
        self.tripped = False
        self.exposed = 0  # requests of the candidate seen here
        self._alpha = alpha
        self._evidence: EProcess | None = None  # a share of 0 or 1 compares nothing
        if 0.0 < rho < 1.0:
            self._evidence = EProcess.harm([rho])
            self._of_candidate, self._of_champion = 1.0 / rho, -1.0 / (1.0 - rho)

    def observe(self, *, candidate: bool, failed: bool) -> bool:
        """One request and its outcome; the arm was drawn before the outcome was known. Whether this one trips it."""
        self.exposed += candidate
        if not failed or self._evidence is None or self.tripped:
            return False
        self._evidence.update(self._of_candidate if candidate else self._of_champion)
        self.tripped = self._evidence.reached(self._alpha)
        return self.tripped

    @property
    def e_value(self) -> float:
        """The evidence so far: 1 is none, 1/alpha is enough."""
        return 1.0 if self._evidence is None else self._evidence.e
