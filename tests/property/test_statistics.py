"""Invariants of the numerics and of the day table, whatever is fed to them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.monitor.windows import DAY_US, DayTable
from flyball.stats import distances, quality
from flyball.stats.betting import EProcess, contrast
from flyball.stats.combine import benjamini_hochberg, e_bh
from flyball.stats.counts import log_binomial_cdf, log_e_errors
from flyball.stats.sequences import Moments

REQUESTS = st.lists(
    st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from([0.01, 0.1, 0.5])), min_size=1, max_size=60
)


def fed(requests: list[tuple[float, bool, float]]) -> EProcess:
    process = EProcess.harm([0.01, 0.1, 0.5], g=0.2)
    for y, w, rho in requests:
        process.update(contrast(y, w, rho, g=0.2))
    return process


@given(REQUESTS, st.randoms(use_true_random=False), st.integers(0, 60))
def test_merging_and_permuting_changes_nothing(requests, random, cut) -> None:  # type: ignore[no-untyped-def]
    whole = fed(requests)
    shuffled = list(requests)
    random.shuffle(shuffled)
    parts = fed(shuffled[:cut]).merge(EProcess.from_dict(fed(shuffled[cut:]).as_dict()))
    assert parts.n == whole.n == len(requests)
    assert parts.log_e == pytest.approx(whole.log_e, abs=1e-9)
    y, w, rho = (np.array(part, dtype=float) for part in zip(*requests, strict=True))
    at_once = EProcess(whole.bound)
    at_once.update(contrast(y, w, rho, g=0.2))
    assert at_once.log_e == pytest.approx(whole.log_e, abs=1e-9)


@given(REQUESTS)
def test_evidence_is_never_negative_or_lost(requests) -> None:  # type: ignore[no-untyped-def]
    process = fed(requests)
    assert math.isfinite(process.log_e)
    assert process.e > 0.0


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.999))
def test_more_errors_of_the_candidate_are_more_evidence(candidate: int, champion: int, rho: float) -> None:
    here = log_e_errors(candidate, champion, rho)
    assert math.isfinite(here)
    assert log_e_errors(candidate + 1, champion, rho) >= here - 1e-9 or candidate < rho * (
        candidate + champion + 1
    )
    assert log_e_errors(candidate, champion + 1, rho) <= here + 1e-9 or candidate < rho * (
        candidate + champion + 1
    )


@given(st.integers(1, 200), st.floats(0.01, 0.99))
def test_a_binomial_distribution_function_rises_to_one(n: int, p: float) -> None:
    steps = [math.exp(log_binomial_cdf(k, n, p)) for k in range(n + 1)]
    assert all(b >= a - 1e-12 for a, b in pairwise(steps))
    assert steps[-1] == 1.0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.9])), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(rows) -> None:  # type: ignore[no-untyped-def]
    y, p = np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in p[y > 0] for b in p[y == 0]]
    if not pairs:
        assert math.isnan(quality.auc(y, p))
    else:
        assert quality.auc(y, p) == pytest.approx(np.mean(pairs))
        assert quality.auc(1 - y, p) == pytest.approx(1 - np.mean(pairs))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.5))
def test_rejections_are_the_smallest_and_grow_with_the_rate(p: list[float], rate: float) -> None:
    few, many = benjamini_hochberg(p, rate), benjamini_hochberg(p, min(1.0, 2 * rate))
    values = np.array(p)
    assert not (few & ~many).any()
    if few.any() and not few.all():
        assert values[few].max() <= values[~few].min()
    e = 1.0 / np.maximum(values, 1e-12)
    assert (e_bh(e, rate) == few).all()  # e-BH on 1/p is BH, but for the ties of rounding


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(0, 50))
def test_moments_add_up(x: list[float], cut: int) -> None:
    whole, parts = Moments().add(x), Moments().add(x[:cut]).merge(Moments().add(x[cut:]))
    assert parts.n == whole.n
    assert parts.total == pytest.approx(whole.total, rel=1e-9, abs=1e-3)


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=60), st.floats(0.1, 10), st.floats(-50, 50))
def test_the_standardised_distance_does_not_depend_on_the_unit(
    x: list[float], scale: float, shift: float
) -> None:
    a = np.array(x)
    b = a[: len(a) // 2 + 1] + 1.0
    if a.std() < 1e-3:
        return
    here, there = distances.wasserstein(a, b), distances.wasserstein(scale * a + shift, scale * b + shift)
    assert there == pytest.approx(here, rel=1e-6, abs=1e-6)


ARRIVALS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([0.0, 1.0]), st.integers(1, 20)), max_size=30
)


@settings(max_examples=60)
@given(ARRIVALS, st.randoms(use_true_random=False))
def test_labels_in_any_order_and_any_number_of_times_give_the_same_days(arrivals, random) -> None:  # type: ignore[no-untyped-def]
    once = {(name, known): y for name, y, known in arrivals}  # one value for one time known
    labels = [(name, y, known) for (name, known), y in once.items()]

    def days(order: list[tuple[str, float, int]], first_labels: int) -> list:  # type: ignore[type-arg]
        table = DayTable()
        for name, y, known in order[:first_labels]:
            table.label(name, y, known)
        for index, name in enumerate("abcdefgh"):
            table.add(name, (index % 3) * DAY_US // 86_400, 0.1 * index + 0.05)
        for name, y, known in [*order[first_labels:], *order]:
            table.label(name, y, known)
        return table.days(DAY_US)

    shuffled = list(labels)
    random.shuffle(shuffled)
    assert days(shuffled, len(shuffled) // 2) == days(labels, 0)
