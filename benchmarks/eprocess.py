"""The betting e-process beside the one NumPy expression in it: what its checks and bookkeeping cost, by batch size."""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Row, cpu_s, timed
from flyball.stats.betting import BOLDNESS, CAUTION, EProcess, contrast

_BATCHES = ((1, 2000), (100, 500), (10_000, 10))  # observations at once, and how many such calls are timed


def measured(repeats: int) -> list[Row]:
    """CPU per observation, in batches of each size."""
    return [_batches(size, calls, repeats) for size, calls in _BATCHES]


def _batches(size: int, calls: int, repeats: int) -> Row:
    random = np.random.default_rng(7)
    seen = contrast(random.random(size) < 0.2, random.random(size) < 0.1, 0.1)
    process = EProcess.harm(rhos=[0.1])
    bets = CAUTION / process.bound * BOLDNESS
    wealth = np.zeros(len(bets))
    process.update(seen)
    np.testing.assert_allclose(process.log_wealth, np.log1p(np.multiply.outer(seen, bets)).sum(axis=0))

    def ours() -> None:
        for _ in range(calls):
            process.update(seen)

    def beside() -> None:
        nonlocal wealth
        for _ in range(calls):
            wealth += np.log1p(np.multiply.outer(seen, bets)).sum(axis=0)

    what = f"EProcess.update, {size:,} at once, beside log1p"
    unit = "us CPU/observation"
    return timed(what, ours, beside, repeats=repeats, unit=unit, per_s=1e6 / (size * calls), clock=cpu_s)
