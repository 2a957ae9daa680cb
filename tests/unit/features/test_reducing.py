"""The functions of windows on one list of values, beside NumPy and the standard library."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import Invalid
from flyball.features.reducing import REDUCERS, SAMPLE, approx_distinct, hash_of, reduced, reducer

numbers = st.lists(
    st.one_of(st.integers(-9, 9).map(float), st.floats(-1e9, 1e9)).map(lambda x: x + 0.0), min_size=1
)
OTHERS = {
    "count": len, "sum": math.fsum, "mean": statistics.fmean, "min": min, "max": max,
    "first": lambda values: values[0], "last": lambda values: values[-1],
    "distinct": lambda values: len(set(values)), "approx_distinct": lambda values: len(set(values)),
}  # fmt: skip


@given(values=numbers)
def test_each_function_is_the_one_of_its_name(values: list[float]) -> None:
    for name, other in OTHERS.items():
        assert reduced(name, values) == other(values), name  # type: ignore[operator]  # one table for all
    spread = np.std(values, ddof=1) if len(values) > 1 else None
    found = reduced("std", values)
    assert found is spread or found == pytest.approx(spread, rel=1e-9, abs=1e-9)


@given(values=numbers, share=st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.25, 0.5, 0.99, 1.0])))
def test_a_percentile_is_numpys_to_the_last_bit(values: list[float], share: float) -> None:
    assert reduced("percentile", values, share) == float(np.quantile(values, share))


def test_of_nothing_a_count_is_zero_and_the_rest_is_null() -> None:
    counts = {"count", "distinct", "approx_distinct"}
    for name in (*REDUCERS, "percentile"):
        assert reduced(name, []) == (0.0 if name in counts else None)
    assert reduced("std", [1.0]) is None


def test_an_unknown_function_names_the_nearest() -> None:
    with pytest.raises(Invalid, match="did you mean 'percentile'"):
        reducer("percentil")


def test_the_approximate_count_errs_by_two_percent_and_not_at_all_below_its_sample() -> None:
    """Standard error 1.2 / sqrt(4096) = 1.9 %; forty draws with a fixed seed, none beyond four of them."""
    random = np.random.default_rng(7)
    few = random.random(SAMPLE).tolist()
    assert approx_distinct(few + few) == len(set(few))
    errors = []
    for size in (SAMPLE + 1, 9_000, 20_000, 33_000) * 10:
        found = approx_distinct(random.random(size).tolist())
        errors.append(found / size - 1.0)
    assert np.abs(errors).max() < 4 * 0.019
    assert float(np.sqrt(np.mean(np.square(errors)))) < 1.5 * 0.019


def test_hashes_are_the_same_in_every_process() -> None:
    assert [hash_of(0.0), hash_of(1.0), hash_of(-2.5)] == HASHES


HASHES = [16294208416658607535, 9860564707913756141, 16147957956850547208]
