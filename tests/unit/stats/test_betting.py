"""The canary's engine: its level at every look (exactly, then by simulation), its power, its additivity."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from flyball.errors import Invalid
from flyball.stats.betting import EProcess, Floats, contrast, safety

ALPHA = 0.05
RUNS, SECONDS, PER_SECOND = 2000, 300, 100


def increments(process: EProcess, x: float) -> Floats:
    """What one observation adds to each bet."""
    fresh = EProcess(process.bound)
    fresh.update(x)
    return fresh.log_wealth


def expected_e(n: int, rho: float, candidate: float, champion: float, g: float = 0.0) -> float:
    """E[E_n] over every outcome of n requests, exactly: counts of the four kinds of request are enough."""
    process = EProcess.harm([rho], g=g)
    kinds = list(product((1.0, 0.0), (1.0, 0.0)))  # (w, y)
    chance = [
        (rho if w else 1 - rho)
        * ((candidate if w else champion) if y else 1 - (candidate if w else champion))
        for w, y in kinds
    ]
    adds = [increments(process, float(contrast(y, w, rho, g)[0])) for w, y in kinds]
    total = 0.0
    for counts in product(range(n + 1), repeat=3):
        rest = n - sum(counts)
        if rest < 0:
            continue
        every = (*counts, rest)
        ways = math.factorial(n) / math.prod(math.factorial(one) for one in every)
        probability = ways * math.prod(p**one for p, one in zip(chance, every, strict=True))
        wealth = sum((one * add for one, add in zip(every, adds, strict=True)), np.zeros(24))
        total += probability * EProcess(process.bound, n=n, log_wealth=wealth).e
    return total


@pytest.mark.parametrize("rho", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 5, 12])
def test_expected_evidence_is_exactly_one_when_both_arms_fail_alike(n: int, rho: float) -> None:
    for rate in (0.01, 0.3, 1.0):
        assert expected_e(n, rho, rate, rate) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("rho", "g"), [(0.1, 0.0), (0.1, 0.2), (0.5, 0.3)])
def test_expected_evidence_is_below_one_when_the_candidate_is_better(rho: float, g: float) -> None:
    assert expected_e(12, rho, 0.05, 0.2, g) < 1.0 - 1e-6
    assert expected_e(12, rho, 0.2, 0.2, g) == pytest.approx(1.0, abs=1e-9)
    assert expected_e(12, rho, 0.6, 0.2, g) > 1.1


def share_that_fires(rates: Floats, shares: Floats, seed: int) -> float:
    """Share of runs without a difference that ever reach 1/alpha, looked at each second; rates and shares by second.

    Errors are all that moves an e-process with g = 0, so their counts are drawn.
    """
    rng = np.random.default_rng(seed)
    planned = sorted(set(shares.tolist()))
    process = EProcess.harm(planned)
    chosen = rng.binomial(PER_SECOND, shares, size=(RUNS, SECONDS))
    of_candidate = rng.binomial(chosen, rates)
    of_champion = rng.binomial(PER_SECOND - chosen, rates)
    fired = np.zeros(RUNS, dtype=bool)
    wealth = np.zeros((RUNS, 24))
    adds = {rho: (increments(process, 1 / rho), increments(process, -1 / (1 - rho))) for rho in planned}
    for second in range(SECONDS):
        up, down = adds[float(shares[second])]
        wealth += of_candidate[:, second, None] * up + of_champion[:, second, None] * down
        fired |= np.exp(wealth).mean(axis=1) >= 1 / ALPHA
    return float(fired.mean())


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_at_most_five_percent_of_runs_without_a_difference_fire(rate: float, share: float) -> None:
    assert share_that_fires(np.full(SECONDS, rate), np.full(SECONDS, share), seed=11) <= ALPHA


def test_a_ramp_keeps_the_level() -> None:
    shares = np.repeat([0.01, 0.1, 0.5], SECONDS // 3)
    assert share_that_fires(np.full(SECONDS, 0.02), shares, seed=12) <= ALPHA


def test_an_incident_that_hits_both_arms_does_not_fire() -> None:
    rates = np.where((np.arange(SECONDS) > 60) & (np.arange(SECONDS) < 120), 0.6, 0.01)
    assert share_that_fires(rates, np.full(SECONDS, 0.1), seed=13) <= ALPHA


def test_a_daily_rhythm_does_not_fire() -> None:
    rates = 0.05 + 0.045 * np.sin(np.arange(SECONDS) / SECONDS * 6 * np.pi)
    assert share_that_fires(rates, np.full(SECONDS, 0.1), seed=14) <= ALPHA


def seconds_until(y: Floats, w: Floats, g: float, per_second: int = 100) -> float:
    """When a stream of requests is found out, looked at each second."""
    process = EProcess.harm([0.1], g=g)
    x = contrast(y, w, 0.1, g)
    for second, start in enumerate(range(0, x.size, per_second), 1):
        process.update(x[start : start + per_second])
        if process.reached(ALPHA):
            return second
    return math.inf


def found_after(kind: str, runs: int, seconds: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    n, found = 100 * seconds, []
    for _ in range(runs):
        w = (rng.random(n) < 0.1).astype(float)
        if (
            kind == "latency"
        ):  # log-normal, 1.2 times as slow; clipped two deviations around the champion's median
            y = np.clip(0.5 + (rng.normal(0.0, 0.4, n) + w * math.log(1.2)) / 1.6, 0.0, 1.0)
            found.append(seconds_until(y, w, g=0.5))
        else:
            worse, usual = (0.05, 0.01) if kind == "errors" else (0.22, 0.20)
            y = (rng.random(n) < np.where(w > 0, worse, usual)).astype(float)
            found.append(seconds_until(y, w, g=0.0 if kind == "errors" else usual))
    return np.array(found)


def test_errors_from_one_to_five_percent_are_found_within_seconds() -> None:
    found = found_after("errors", runs=400, seconds=60, seed=21)
    assert np.median(found) <= 13
    assert np.quantile(found, 0.9) <= 32


def test_a_fifth_more_latency_is_found_within_seconds() -> None:
    assert np.median(found_after("latency", runs=60, seconds=60, seed=22)) <= 12


def test_two_points_of_quality_are_found_within_minutes() -> None:
    assert np.median(found_after("quality", runs=40, seconds=600, seed=23)) <= 400


@pytest.mark.parametrize("rho", [0.01, 0.1, 0.3, 0.5])
def test_a_candidate_that_always_fails_is_found_within_ten_of_its_requests(rho: float) -> None:
    process, requests = EProcess.harm([rho]), 0
    while not process.reached(ALPHA) and requests < 20:
        process.update(contrast(1, 1, rho))
        requests += 1
    assert requests <= 10


def test_a_candidate_as_good_as_the_champion_is_shown_safe() -> None:
    rng = np.random.default_rng(5)
    w = (rng.random(20_000) < 0.5).astype(float)
    y = (rng.random(20_000) < 0.02).astype(float)
    safe = EProcess.safe([0.5], delta=0.02)
    safe.update(safety(y, w, 0.5, delta=0.02))
    assert safe.reached(ALPHA)


def test_a_candidate_worse_by_delta_is_rarely_called_safe() -> None:
    rng = np.random.default_rng(6)
    called = 0
    for _ in range(400):
        w = (rng.random(3000) < 0.5).astype(float)
        y = (rng.random(3000) < 0.02 + 0.03 * w).astype(float)
        safe, fired = EProcess.safe([0.5], delta=0.03), False
        for x in np.split(safety(y, w, 0.5, delta=0.03), 30):
            safe.update(x)
            fired |= safe.reached(ALPHA)
        called += fired
    assert called <= 0.05 * 400


def test_no_traffic_is_no_evidence() -> None:
    process = EProcess.harm([0.1])
    process.update([])
    assert (process.e, process.n) == (1.0, 0)


def test_killing_and_restarting_keeps_the_evidence() -> None:
    process = EProcess.harm([0.1, 0.5], g=0.1)
    process.update(contrast([1, 0, 1], [1, 1, 0], [0.1, 0.5, 0.5], g=0.1))
    again = EProcess.from_dict(process.as_dict())
    assert (again.log_e, again.n, again.bound) == (process.log_e, process.n, process.bound)


@pytest.mark.parametrize(
    "call",
    [
        lambda: contrast([1.0], [1.0], 1.0),
        lambda: contrast([1.5], [1.0], 0.5),
        lambda: contrast([math.nan], [1.0], 0.5),
        lambda: EProcess.harm([]),
        lambda: EProcess.harm([0.0]),
        lambda: EProcess.harm([0.5]).update(contrast([1.0], [0.0], 0.9)),
        lambda: EProcess.harm([0.5]).update([math.nan]),
        lambda: EProcess.harm([0.5]).merge(EProcess.harm([0.1], g=0.5)),
        lambda: EProcess.from_dict({"bound": 1.0, "n": 0, "log_wealth": [0.0]}),
    ],
)
def test_what_would_break_the_level_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Invalid):
        call()
