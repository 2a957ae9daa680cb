"""The worker's breaker: quick on a candidate that fails, and hardly ever wrong."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.serve.breaker import Breaker


@pytest.mark.parametrize(("rho", "at_most"), [(0.01, 2), (0.05, 3), (0.1, 3), (0.2, 4), (0.5, 10)])
def test_a_candidate_that_always_fails_trips_within_ten_requests(rho: float, at_most: int) -> None:
    breaker = Breaker(alpha=0.05, rho=rho)
    while not breaker.tripped:
        assert breaker.exposed < at_most
        breaker.observe(candidate=True, failed=True)
    assert breaker.e_value >= 20


def test_successes_and_the_champions_errors_never_trip_it() -> None:
    breaker = Breaker(alpha=0.05, rho=0.1)
    for _ in range(1000):
        breaker.observe(candidate=True, failed=False)
        breaker.observe(candidate=False, failed=True)
    assert not breaker.tripped
    assert breaker.e_value <= 1.0


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_without_a_comparison_there_is_no_evidence(rho: float) -> None:
    breaker = Breaker(alpha=0.05, rho=rho)
    assert not any(breaker.observe(candidate=True, failed=True) for _ in range(50))
    assert breaker.e_value == 1.0


@pytest.mark.parametrize("error_rate", [0.01, 0.3])
def test_false_trips_without_a_difference_stay_below_alpha(error_rate: float) -> None:
    """400 runs, seed 11: at most 5 % may trip, 20 runs; within chance of what Ville's bound allows."""
    random = np.random.default_rng(11)
    tripped = 0
    for _ in range(400):
        breaker = Breaker(alpha=0.05, rho=0.1)
        failing = random.random(500) < error_rate
        arms = random.random(int(failing.sum())) < 0.1  # only failures move it
        for to_candidate in arms.tolist():
            breaker.observe(candidate=to_candidate, failed=True)
            if breaker.tripped:
                tripped += 1
                break
    assert tripped <= 20


def test_an_incident_that_hits_both_arms_does_not_trip_it() -> None:
    """100 runs in which every request fails for a while, seed 5: at most 5 %."""
    random = np.random.default_rng(5)
    tripped = 0
    for _ in range(100):
        breaker = Breaker(alpha=0.05, rho=0.1)
        for to_candidate in (random.random(200) < 0.1).tolist():
            breaker.observe(candidate=to_candidate, failed=True)
        tripped += breaker.tripped
    assert tripped <= 5
