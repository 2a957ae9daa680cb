"""How good are these probabilities? And is one set of them better than another, day by day, beyond doubt?

Scores of one class, or of no rows, have no AUC: such a figure is NaN, and an interval from too few days is ``None``
with the reason. Rows of one day share its weather and its strikes, so days are what the bootstrap draws, never rows.
"""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyball.errors import Invalid
from flyball.stats.interval import Interval, normal_quantile, t_quantile

Floats = NDArray[np.float64]

MIN_BLOCKS = 5
_CLIP = 1e-6  # a certainty that proves wrong costs 13.8 nats, not infinity


class AtThreshold(msgspec.Struct, frozen=True):
    """What becomes of a threshold; ``None`` where nothing was predicted or nothing was there to find."""

    accuracy: float | None
    precision: float | None
    recall: float | None


def auc(y: ArrayLike, score: ArrayLike) -> float:
    """Probability that a positive scores above a negative; ties count one half. O(n log n).

    >>> auc([0, 1, 1, 0], [0.1, 0.8, 0.5, 0.5])
    0.875
    """
    outcome, value = _pair(y, score)
    positive, negative = value[outcome > 0.5], np.sort(value[outcome <= 0.5])
    if positive.size == 0 or negative.size == 0:
        return math.nan
    return float(_wins(positive, negative).sum() / (positive.size * negative.size))


def _wins(positive: Floats, negative: Floats) -> Floats:
    """For each positive: how many (sorted) negatives it beats, ties one half."""
    positive = np.sort(positive) if positive.size > 1000 else positive  # sorted look-ups stay in cache
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return 0.5 * below.astype(np.float64)


def log_losses(y: ArrayLike, p: ArrayLike) -> Floats:
    """One log loss a row, probabilities clipped to [1e-6, 1 - 1e-6]."""
    outcome, value = _pair(y, p)
    value = np.clip(value, _CLIP, 1.0 - _CLIP)
    losses: Floats = -(outcome * np.log(value) + (1.0 - outcome) * np.log1p(-value))
    return losses


def log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Mean log loss, in nats.

    >>> round(log_loss([1, 0], [0.5, 0.5]), 4)
    0.6931
    """
    return _mean(log_losses(y, p))


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Mean squared distance of the probability from what happened."""
    outcome, value = _pair(y, p)
    return _mean((value - outcome) ** 2)


def calibration_gap(y: ArrayLike, p: ArrayLike) -> float:
    """Mean predicted minus mean actual: above 0 it promises too much.

    >>> round(calibration_gap([1, 0, 0, 0], [0.5, 0.3, 0.3, 0.3]), 3)
    0.1
    """
    outcome, value = _pair(y, p)
    return _mean(value - outcome)


def expected_calibration_error(y: ArrayLike, p: ArrayLike, bins: int = 10) -> float:
    """Mean distance between predicted and actual over equally wide bins, weighted by their rows."""
    outcome, value = _pair(y, p)
    if value.size == 0:
        return math.nan
    bin_of = np.clip((value * bins).astype(np.intp), 0, bins - 1)
    return float(np.abs(np.bincount(bin_of, value - outcome, bins)).sum() / value.size)


def at_threshold(y: ArrayLike, p: ArrayLike, threshold: float = 0.5) -> AtThreshold:
    """Accuracy, precision and recall when ``p >= threshold`` counts as yes.

    >>> at_threshold([1, 1, 0, 0], [0.9, 0.2, 0.6, 0.1])
    AtThreshold(accuracy=0.5, precision=0.5, recall=0.5)
    """
    outcome, value = _pair(y, p)
    yes, true = value >= threshold, outcome > 0.5
    hits = float((yes & true).sum())
    return AtThreshold(
        float((yes == true).mean()) if value.size else None,
        hits / float(yes.sum()) if yes.any() else None,
        hits / float(true.sum()) if true.any() else None,
    )


def paired_difference(
    loss_a: ArrayLike,
    loss_b: ArrayLike,
    blocks: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of ``loss_a - loss_b`` over the same rows, with an interval from resampled blocks (days).

    Below 0 throughout: a is better beyond doubt. Percentile bootstrap, widened for few blocks (:func:`_bounds`).

    >>> days = np.repeat(np.arange(10), 2)
    >>> shown = paired_difference(np.tile([1.0, 3.0], 10), np.ones(20), days, seed=1)
    >>> shown.mean, shown.n, shown.blocks
    (1.0, 20, 10)
    """
    a, b = _pair(loss_a, loss_b)
    return block_mean(a - b, blocks, level=level, draws=draws, seed=seed)


def block_mean(
    values: ArrayLike, blocks: ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean over all rows, with an interval from resampled blocks."""
    value = np.asarray(values, dtype=np.float64)
    block_of, count = _blocks(blocks, value.size)
    if value.size == 0:
        return Interval(None, None, None, 0, level=level, because="no rows")
    mean = float(value.mean())
    if count < MIN_BLOCKS:
        return _too_few(mean, value.size, count, level)
    sums = np.bincount(block_of, value, count)
    rows = np.bincount(block_of, minlength=count).astype(np.float64)
    drawn = _draws(count, draws, seed)
    low, high = _bounds((drawn @ sums) / (drawn @ rows), mean, count, level)
    return Interval(mean, low, high, value.size, count, level)


def bootstrap_auc_difference(
    y: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike | None,
    blocks: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """AUC of a minus AUC of b (or the AUC of a alone) with an interval from resampled blocks.

    Wins are counted once for each pair of blocks; a draw then costs blocks squared, not a sort of all rows.
    """
    outcome, a = _pair(y, score_a)
    block_of, count = _blocks(blocks, outcome.size)
    positives = np.bincount(block_of, outcome > 0.5, count)
    negatives = np.bincount(block_of, outcome <= 0.5, count)
    if not positives.any() or not negatives.any():
        return Interval(None, None, None, outcome.size, count, level, "only one class was seen")
    wins = _wins_by_block(outcome, a, block_of, count)
    if score_b is not None:
        wins -= _wins_by_block(outcome, _pair(y, score_b)[1], block_of, count)
    value = float(wins.sum() / (positives.sum() * negatives.sum()))
    if count < MIN_BLOCKS:
        return _too_few(value, outcome.size, count, level)
    drawn = _draws(count, draws, seed)
    pairs = (drawn @ positives) * (drawn @ negatives)
    found = np.einsum("di,ij,dj->d", drawn, wins, drawn, optimize=True)[pairs > 0] / pairs[pairs > 0]
    low, high = _bounds(found, value, count, level)
    return Interval(value, low, high, outcome.size, count, level)


def _wins_by_block(outcome: Floats, score: Floats, block_of: NDArray[np.intp], count: int) -> Floats:
    """Row: block of the positive; column: block of the negative."""
    true = outcome > 0.5
    order = np.argsort(score[true])  # sorted look-ups stay in cache
    positive, positive_block = score[true][order], block_of[true][order]
    negative, negative_block = score[~true], block_of[~true]
    wins = np.zeros((count, count))
    for block in range(count):
        beaten = np.sort(negative[negative_block == block])
        below = np.searchsorted(beaten, positive, "left") + np.searchsorted(beaten, positive, "right")
        wins[:, block] = np.bincount(positive_block, 0.5 * below, count)
    return wins


@lru_cache(maxsize=8)  # the same days, looked at again, are drawn again
def _draws(count: int, draws: int, seed: int) -> Floats:
    """How often each block is drawn: (draws, count)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1.0 / count), size=draws).astype(np.float64)


def _bounds(found: Floats, centre: float, count: int, level: float) -> tuple[float, float]:
    """Percentiles, spread by ``sqrt(B / (B - 1)) t / z``: plain ones are too narrow for few blocks (Hesterberg)."""
    tail = 0.5 * (1.0 - level)
    spread = math.sqrt(count / (count - 1)) * t_quantile(1.0 - tail, count - 1) / normal_quantile(1.0 - tail)
    low, high = np.quantile(found, [tail, 1.0 - tail])
    return centre + spread * (float(low) - centre), centre + spread * (float(high) - centre)


def _too_few(value: float, n: int, count: int, level: float) -> Interval:
    because = f"{count} blocks are too few for an interval; {MIN_BLOCKS} are needed"
    return Interval(value, None, None, n, count, level, because)


def _blocks(blocks: ArrayLike, n: int) -> tuple[NDArray[np.intp], int]:
    given = np.asarray(blocks)
    if given.shape != (n,):
        raise Invalid(f"{n} rows but blocks of shape {given.shape}", "give the day of each row")
    names, block_of = np.unique(given, return_inverse=True)
    return block_of.astype(np.intp).reshape(-1), names.size


def _pair(y: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    outcome, value = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if outcome.shape != value.shape or outcome.ndim != 1:
        raise Invalid(
            f"shapes {outcome.shape} and {value.shape} don't pair", "give one value per row to both"
        )
    return outcome, value


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan
