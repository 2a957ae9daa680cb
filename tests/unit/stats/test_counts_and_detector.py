"""Closed-form evidence from two counts; the detector after promotion; combining; the interval to show."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.errors import Invalid
from flyball.stats.combine import benjamini_hochberg, e_bh, log_mean_e
from flyball.stats.counts import log_binomial_cdf, log_binomial_pmf, log_e_errors
from flyball.stats.detector import Detector
from flyball.stats.interval import t_quantile
from flyball.stats.sequences import Moments, confidence_sequence


@pytest.mark.parametrize("rho", [0.01, 0.1, 0.5, 0.9])
def test_expected_evidence_from_counts_is_exactly_one_under_equal_rates(rho: float) -> None:
    for errors in range(13):
        mean = sum(
            math.exp(log_binomial_pmf(k, errors, rho) + log_e_errors(k, errors - k, rho))
            for k in range(errors + 1)
        )
        assert mean == pytest.approx(1.0, abs=1e-9)


def test_expected_evidence_from_counts_is_below_one_when_the_candidate_is_better() -> None:
    theta, rho = 0.05, 0.1
    mean = sum(math.exp(log_binomial_pmf(k, 12, theta) + log_e_errors(k, 12 - k, rho)) for k in range(13))
    assert mean < 0.9


def test_counts_that_never_stop_being_looked_at_fire_in_at_most_five_percent() -> None:
    rng = np.random.default_rng(31)
    fired = 0
    for _ in range(2000):
        of_candidate = rng.random(60) < 0.1  # 60 errors in all, looked at after each
        candidate = np.cumsum(of_candidate)
        fired += any(
            log_e_errors(int(c), n - int(c), 0.1) >= math.log(20)
            for n, c in enumerate(candidate.tolist(), 1)
            if c > 0.1 * n  # evidence only when above its share
        )
    assert fired <= 0.05 * 2000


def test_a_candidate_that_always_fails_is_found_from_counts_within_three_requests() -> None:
    assert log_e_errors(3, 0, 0.1) > math.log(20)


def test_binomial_tails_of_a_certain_event() -> None:
    assert log_binomial_cdf(5, 5, 0.3) == 0.0
    assert log_binomial_cdf(0, 3, 0.5) == pytest.approx(math.log(0.125))


@pytest.mark.parametrize(("errors", "rho"), [((-1, 0), 0.1), ((1, 1), 0.0), ((1, 1), 1.0)])
def test_counts_that_mean_nothing_are_refused(errors: tuple[int, int], rho: float) -> None:
    with pytest.raises(Invalid):
        log_e_errors(*errors, rho)


def test_the_detector_equals_its_definition_in_any_batching() -> None:
    rng = np.random.default_rng(4)
    x = rng.random(300) - 0.55
    whole, pieces = Detector(1e12, 0.55), Detector(1e12, 0.55)
    whole.update(x)
    for part in np.split(x, [1, 7, 100]):
        pieces.update(part)
    bets = 0.95 / 0.55 * np.logspace(-2.5, 0, 24)
    slow = np.zeros(24)
    for one in x:
        slow = (1 + slow) * (1 + bets * one)
    assert whole.log_r == pytest.approx(math.log(slow.mean()), rel=1e-9)
    assert pieces.log_r == pytest.approx(whole.log_r, rel=1e-9)
    assert Detector.from_dict(pieces.as_dict()).log_r == pieces.log_r


def test_the_detector_keeps_its_run_length_and_finds_a_change() -> None:
    rng = np.random.default_rng(8)
    lengths = []
    for _ in range(100):
        watch = Detector(1000, 0.05)
        watch.update((rng.random(4000) < 0.05) - 0.05)
        lengths.append(watch.alarmed_at or 4000)
    assert np.mean(lengths) >= 1000  # what is declared; cut at 4000, so the truth is longer
    delays = []
    for _ in range(50):
        watch = Detector(100_000, 0.05)
        watch.update((rng.random(2000) < 0.05) - 0.05)
        assert watch.alarmed_at is None
        watch.update((rng.random(1000) < 0.2) - 0.05)
        delays.append((watch.alarmed_at or math.inf) - 2000)
    assert np.median(delays) < 150


def test_a_restarted_detector_begins_again() -> None:
    watch = Detector(100, 0.1)
    assert watch.update([0.9] * 20)
    watch.restart()
    assert watch.alarmed_at is None
    assert not watch.update([-0.1] * 20)


def test_the_mean_of_e_values_is_no_larger_than_the_largest() -> None:
    assert log_mean_e([]) == 0.0
    assert log_mean_e([800.0, 0.0]) == pytest.approx(800 - math.log(2))


def test_discoveries_under_a_null_stay_below_the_rate() -> None:
    rng = np.random.default_rng(9)
    by_p = sum(benjamini_hochberg(rng.random(20), 0.05).any() for _ in range(2000))
    by_e = sum(e_bh(1 / np.sqrt(rng.random(20)) / 2, 0.05).any() for _ in range(2000))
    assert by_p <= 0.06 * 2000  # 5 % declared; three standard errors are 1.5 %
    assert by_e <= 0.05 * 2000


def test_a_column_without_weight_is_never_rejected() -> None:
    assert benjamini_hochberg([1e-9, 0.03], 0.05, [0.0, 2.0]).tolist() == [False, True]


def test_the_confidence_sequence_holds_at_all_times_together() -> None:
    rng = np.random.default_rng(10)
    missed = 0
    for _ in range(400):
        x = rng.normal(1.0, 2.0, 2000)
        totals, squares = np.cumsum(x), np.cumsum(x**2)
        for n in range(50, 2001, 50):
            shown = confidence_sequence(Moments(n, float(totals[n - 1]), float(squares[n - 1])))
            assert shown.low is not None
            assert shown.high is not None
            if not shown.low <= 1.0 <= shown.high:
                missed += 1
                break
    assert missed <= 0.05 * 400


def test_one_observation_has_no_interval() -> None:
    assert confidence_sequence(Moments().add([1.0])).mean is None


def test_quantiles_of_t_approach_the_normal() -> None:
    assert t_quantile(0.975, 400) == pytest.approx(1.966, abs=1e-3)
    assert t_quantile(0.025, 1) == pytest.approx(-12.706, abs=1e-3)
