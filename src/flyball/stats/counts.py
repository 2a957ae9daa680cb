"""Evidence from two counts: the errors of the candidate and of the champion, nothing else (F3).

Given that a request failed, it was the candidate's with probability rho when both fail alike. A uniform prior over
larger probabilities makes the likelihood ratio an e-process in closed form (Lindon & Malek, NeurIPS 2022).
"""

from __future__ import annotations

import math

import numpy as np

from flyball.errors import Invalid

_TERMS = 4096


def log_e_errors(candidate_errors: int, champion_errors: int, rho: float) -> float:
    """Log evidence that the candidate fails more often than the champion; holds at every look.

    ``rho`` is the candidate's share while the errors were counted. Over a ramp, count each share's errors apart and
    add the logs (a product of e-processes, each started when the one before ended, is one).

    >>> round(log_e_errors(3, 0, 0.1), 2), round(log_e_errors(0, 0, 0.1), 2)      # log(1 / 0.05) is 3.0
    (5.63, 0.0)
    """
    worse, rest = int(candidate_errors), int(champion_errors)
    if worse < 0 or rest < 0:
        raise Invalid(
            f"counts can't be negative: {worse}, {rest}", "give how many requests of each arm failed"
        )
    if not 0.0 < rho < 1.0:
        raise Invalid(
            f"a share must lie between 0 and 1, not {rho}", "without both arms there is no comparison"
        )
    total = worse + rest
    above = log_binomial_cdf(
        worse, total + 1, rho
    )  # of the prior's mass, what lies above rho: betaincc, as a tail
    return above - math.log(total + 1) - log_binomial_pmf(worse, total, rho) - math.log1p(-rho)


def log_binomial_pmf(k: int, n: int, p: float) -> float:
    """Log probability of exactly k of n."""
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)


def log_binomial_cdf(k: int, n: int, p: float) -> float:
    """Log probability of at most k of n, summed from k towards the thinner tail, so that no digit cancels."""
    if k >= n:
        return 0.0
    if k < n * p:
        return log_binomial_pmf(k, n, p) + math.log(_tail(k, n, p))
    beyond = log_binomial_pmf(k + 1, n, p) + math.log(
        _tail(n - k - 1, n, 1.0 - p)
    )  # mirrored: at least k + 1
    return math.log1p(-math.exp(min(beyond, -1e-17)))


def _tail(k: int, n: int, p: float) -> float:
    """``P(X <= k) / P(X = k)``: a falling series, cut where it no longer counts. O(sqrt(n)) terms."""
    total, last = 1.0, 0.0  # last: log of the term before
    for start in range(k, 0, -_TERMS):
        i = np.arange(start, max(start - _TERMS, 0), -1, dtype=np.float64)
        terms = last + np.cumsum(np.log(i) - np.log(n - i + 1.0) + math.log1p(-p) - math.log(p))
        total += float(np.exp(terms).sum())
        last = float(terms[-1])
        if last < math.log(total) - 40.0:
            break
    return total
