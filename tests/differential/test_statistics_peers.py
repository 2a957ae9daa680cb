"""Our numerics against SciPy's and scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from flyball.stats import distances, quality
from flyball.stats.combine import benjamini_hochberg
from flyball.stats.counts import log_binomial_cdf, log_e_errors
from flyball.stats.interval import t_quantile, t_upper

pytestmark = pytest.mark.differential


@pytest.mark.parametrize(
    ("e", "f", "rho"),
    [
        (e, f, rho)
        for e, f in [(0, 0), (3, 0), (0, 50), (12, 40), (500, 300), (40_000, 360_000), (10**6, 10**6)]
        for rho in (0.01, 0.1, 0.5, 0.9)
        if stats.beta.logsf(rho, 1 + e, 1 + f) > -600  # below that the peer underflows
    ],
)
def test_evidence_from_counts_is_the_formula(e: int, f: int, rho: float) -> None:
    above = stats.beta.logsf(rho, 1 + e, 1 + f)
    expected = (
        special.betaln(1 + e, 1 + f) + above - math.log1p(-rho) - e * math.log(rho) - f * math.log1p(-rho)
    )
    assert log_e_errors(e, f, rho) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_binomial_tails() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        n = int(10 ** rng.uniform(0, 7))
        p = float(rng.uniform(0.001, 0.999))
        k = int(np.clip(rng.normal(n * p, 3 * math.sqrt(n * p * (1 - p)) + 1), 0, n))
        expected = float(stats.binom.logcdf(k, n, p))
        if expected < -600:
            continue
        assert log_binomial_cdf(k, n, p) == pytest.approx(expected, rel=1e-7, abs=1e-9), (k, n, p)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 13, 30, 200])
def test_students_t(df: int) -> None:
    for p in (0.001, 0.05, 0.5, 0.9, 0.975, 0.9999):
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-8, abs=1e-8)
    for t in (-3.0, 0.0, 0.7, 5.0):
        assert t_upper(t, df) == pytest.approx(stats.t.sf(t, df), abs=1e-12)


def test_quality_figures() -> None:
    rng = np.random.default_rng(2)
    y = (rng.random(5000) < 0.3).astype(int)
    p = np.round(np.clip(rng.beta(2, 4, 5000) + 0.2 * y, 0.01, 0.99), 2)  # many ties
    assert quality.auc(y, p) == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
    assert quality.log_loss(y, p) == pytest.approx(metrics.log_loss(y, p), abs=1e-12)
    assert quality.brier(y, p) == pytest.approx(metrics.brier_score_loss(y, p), abs=1e-12)
    cut = quality.at_threshold(y, p, 0.4)
    assert cut.accuracy == pytest.approx(metrics.accuracy_score(y, p >= 0.4))
    assert cut.precision == pytest.approx(metrics.precision_score(y, p >= 0.4))
    assert cut.recall == pytest.approx(metrics.recall_score(y, p >= 0.4))


def test_distances_between_samples() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.gamma(2, 3, 4000), rng.gamma(2.5, 3, 700)
    assert distances.ks(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)
    assert distances.wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b) / a.std(), rel=0.02)


def test_false_discoveries() -> None:
    p = np.random.default_rng(4).random(200) ** 3
    assert (benjamini_hochberg(p, 0.1) == (stats.false_discovery_control(p) <= 0.1)).all()


def test_the_bootstrap_interval_agrees_with_the_t_interval_of_day_means() -> None:
    rng = np.random.default_rng(5)
    days = np.repeat(np.arange(30), 50)
    x = rng.normal(0, 1, 30)[days] + rng.normal(0, 1, days.size)
    ours = quality.block_mean(x, days, draws=20_000, seed=1)
    means = x.reshape(30, 50).mean(axis=1)
    low, high = stats.t.interval(0.95, 29, means.mean(), stats.sem(means))
    assert ours.low == pytest.approx(low, abs=0.03)
    assert ours.high == pytest.approx(high, abs=0.03)
