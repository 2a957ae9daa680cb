from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.errors import Invalid
from flyball.stats import quality


@pytest.mark.parametrize(
    ("y", "score", "expected"),
    [
        ([0, 1], [0.1, 0.9], 1.0),
        ([1, 0], [0.1, 0.9], 0.0),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 0, 1], [0.2, 0.4, 0.4], 0.75),
    ],
)
def test_auc_counts_a_tie_as_half(y: list[int], score: list[float], expected: float) -> None:
    assert quality.auc(y, score) == expected


def test_not_enough_data_is_an_answer() -> None:
    assert math.isnan(quality.auc([1, 1], [0.1, 0.2]))
    assert math.isnan(quality.log_loss([], []))
    assert quality.at_threshold([], []) == quality.AtThreshold(None, None, None)
    few = quality.paired_difference([1.0, 2.0], [0.0, 0.0], [1, 2])
    assert (few.mean, few.low, few.because) == (
        1.5,
        None,
        "2 blocks are too few for an interval; 5 are needed",
    )
    one_class = quality.bootstrap_auc_difference([1, 1], [0.1, 0.2], None, [1, 2])
    assert (one_class.mean, one_class.because) == (None, "only one class was seen")


def test_a_certainty_that_proves_wrong_costs_a_finite_loss() -> None:
    assert quality.log_loss([1], [0.0]) == pytest.approx(13.8155, abs=1e-3)


def test_calibration_is_signed_and_its_error_is_not() -> None:
    y, p = [1, 0, 1, 0], [0.9, 0.9, 0.1, 0.1]
    assert quality.calibration_gap(y, p) == pytest.approx(0.0)
    assert quality.expected_calibration_error(y, p) == pytest.approx(0.4)


def test_the_same_seed_gives_the_same_interval_and_swapping_the_models_mirrors_it() -> None:
    rng = np.random.default_rng(1)
    a, b, days = rng.random(600), rng.random(600), np.arange(600) // 40
    one = quality.paired_difference(a, b, days, seed=3)
    assert one == quality.paired_difference(a, b, days, seed=3)
    other = quality.paired_difference(b, a, days, seed=3)
    assert other.low == pytest.approx(-one.high)  # type: ignore[operator]  # there are 15 blocks, so there are bounds


def test_intervals_from_fourteen_days_that_differ_cover_the_truth() -> None:
    """95 % declared; 500 runs of rows that share their day's shift: at least 92 % must cover."""
    rng = np.random.default_rng(2)
    days, covered = np.repeat(np.arange(14), 20), 0
    for _ in range(500):
        x = rng.normal(0.0, 1.0, 14)[days] + rng.normal(0.0, 1.0, days.size)
        shown = quality.block_mean(x, days, draws=400, seed=0)
        assert shown.low is not None
        assert shown.high is not None
        covered += shown.low <= 0.0 <= shown.high
    assert 0.92 * 500 <= covered <= 0.985 * 500


def test_resampled_auc_is_that_of_the_rows_it_drew() -> None:
    rng = np.random.default_rng(3)
    y, days = (rng.random(400) < 0.3).astype(float), np.arange(400) % 8
    a, b = np.round(rng.random(400) + 0.3 * y, 1), rng.random(400)
    shown = quality.bootstrap_auc_difference(y, a, b, days, seed=5)
    assert shown.mean == pytest.approx(quality.auc(y, a) - quality.auc(y, b))
    drawn = quality._draws(8, 2000, 5)[0].astype(int)
    rows = np.concatenate(
        [np.flatnonzero(days == day) for day, times in enumerate(drawn) for _ in range(times)]
    )
    wins = quality._wins_by_block(y, a, days.astype(np.intp), 8)
    positives, negatives = np.bincount(days, y > 0.5), np.bincount(days, y < 0.5)
    by_blocks = drawn @ wins @ drawn / ((drawn @ positives) * (drawn @ negatives))
    assert by_blocks == pytest.approx(quality.auc(y[rows], a[rows]))


def test_rows_and_days_must_pair() -> None:
    with pytest.raises(Invalid):
        quality.auc([1, 0], [0.5])
    with pytest.raises(Invalid):
        quality.paired_difference([1.0], [0.0], [1, 2])
