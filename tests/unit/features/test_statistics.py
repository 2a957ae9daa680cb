"""Statistics in one pass are those of all rows at once."""

import pickle

import numpy as np
import pytest

from flyball.features import View
from flyball.features.statistics import Distinct, Statistics
from flyball.stores.online import Rows, pack_key

VIEW = View("v", ("user",), "s", "at", "at", ("x", "city"), types={"city": "BYTES"})


def rows(values: np.ndarray, keys: int, begin: int = 0) -> Rows:
    count = len(values)
    codes = np.arange(count, dtype=np.int64) % keys
    times = np.arange(begin, begin + count, dtype=np.int64)
    packed = [pack_key((f"u{i}",)) for i in range(keys)]
    return Rows(packed, codes, times, times, times * 0, values)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_batches_add_up(size: int) -> None:
    chance = np.random.default_rng(5)
    count = 500 if size < 10 else 400_000
    values = np.stack((chance.normal(1e6, 3.0, count), chance.integers(0, 40, count)), axis=1).astype(float)
    values[::9, 0] = np.nan
    found = Statistics(VIEW)
    for begin in range(0, count, size):
        found.add(rows(values[begin : begin + size], 20, begin))
    x, city = found.columns
    present = values[:, 0][~np.isnan(values[:, 0])]
    assert (found.rows, found.newest_us) == (count, count - 1)
    assert found.keys == 20
    assert x.null_share == pytest.approx(1 - len(present) / count)
    assert x.mean == pytest.approx(present.mean(), rel=1e-12)
    assert x.std == pytest.approx(present.std(ddof=1), rel=1e-9)
    assert (x.min, x.max) == (present.min(), present.max())
    tolerance = (
        0.0 if count == 500 else 0.05
    )  # of a sample of at least 65,536: 0.05 is 4 standard errors of a tail
    for name, share in (("p05", 0.05), ("p50", 0.5), ("p95", 0.95)):
        assert x.quantiles[name] == pytest.approx(np.quantile(present, share), abs=tolerance)
    assert (city.distinct, city.mean) == (40, None)


def test_nothing_has_no_statistics() -> None:
    found = Statistics(VIEW)
    assert (found.rows, found.keys, found.newest_us) == (0, 0, None)
    assert found.columns[0].mean is None
    found.add(rows(np.full((3, 2), np.nan), 1))
    assert [one.null_share for one in found.columns] == [1.0, 1.0]


def test_many_distinct_are_estimated_within_two_percent() -> None:
    found = Distinct()
    for begin in range(0, 1_000_000, 300_000):
        found.add(np.arange(begin, min(begin + 400_000, 1_000_000), dtype=np.uint64))
    assert found.count == pytest.approx(1_000_000, rel=0.02)


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_those_of_many_workers_join_to_those_of_all_rows(parts: int) -> None:
    chance = np.random.default_rng(6)
    count = 600_000
    values = np.stack((chance.normal(1e6, 3.0, count), chance.integers(0, 40, count)), axis=1).astype(float)
    values[::9, 0] = np.nan
    part = chance.integers(0, parts * parts, count) // parts  # of about one size
    part[: count // 2] = 0  # but the first
    joined, whole = Statistics(VIEW), Statistics(VIEW)
    whole.add(rows(values, 20))
    for number in range(parts + 1):  # the last is empty
        one = Statistics(VIEW)
        one.add(rows(values[part == number], 20))
        joined.join(pickle.loads(pickle.dumps(one)))
    assert (joined.rows, joined.keys) == (whole.rows, whole.keys)
    for found, wanted in zip(joined.columns, whole.columns, strict=True):
        assert (found.null_share, found.distinct) == (wanted.null_share, wanted.distinct)
        assert (found.min, found.max) == (wanted.min, wanted.max)
        if wanted.mean is not None:
            assert found.mean == pytest.approx(wanted.mean, rel=1e-12)
            assert found.std == pytest.approx(wanted.std, rel=1e-9)
            assert found.quantiles == pytest.approx(wanted.quantiles, abs=0.1)
