"""Percentiles and numbers of distinct values of many ranges of one array.

Short ranges are copied beside one another and sorted. Ranges too long for that are answered together, bit by bit of
the values' ranks, from the highest: rows are parted by the bit, and a range becomes the range of its rows with a 0 and
of those with a 1 (a wavelet matrix, of which one level at a time is held: Claude and Navarro 2012). That costs as
many passes over the array as a rank has bits, however long the ranges are.

Measured (CPU): sorting copies takes 3 ns a value, a pass 25 ns a row; so copies up to a hundred times the array's length
are the quicker way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flyball.features.ranges import merged, spreads
from flyball.features.reducing import SAMPLE
from flyball.stores.online_chunks import Floats, Ints

Bools = NDArray[np.bool_]

_COPIES = 100  # copied values per value of the array
_TOGETHER = 1 << 20  # values copied at a time
_LONG = 1 << 14  # a range longer than this is not copied if there are more than a few


def percentiles(values: Floats, low: Ints, high: Ints, share: float) -> Floats:
    """The value below which a share of ``values[low:high]`` lies; NaN of nothing. As :func:`.reducing.percentile`."""
    size = high - low
    place = share * (size - 1).astype(np.float64)
    below = np.maximum(place, 0.0).astype(np.int64)
    above = np.maximum(np.minimum(below + 1, size - 1), 0)
    one, other = np.full(len(low), np.nan), np.full(len(low), np.nan)
    for mine, rows in _copied(values, low, high):
        at = np.arange(len(mine))
        one[mine], other[mine] = rows[at, below[mine]], rows[at, above[mine]]
    long = _long(len(values), low, high)
    if len(long):
        distinct = pl.Series(values).unique().sort().to_numpy()
        ranks = pl.Series(values).rank("dense").to_numpy().astype(np.int32) - np.int32(1)
        levels = list(_bits(len(distinct) - 1))
        low, high = low[long], high[long]
        one[long] = distinct[_kth(ranks, levels, low, high, below[long])]
        other[long] = distinct[_kth(ranks, levels, low, high, above[long])]
    part = place - below
    with np.errstate(invalid="ignore"):
        near, far = one + (other - one) * part, other - (other - one) * (1.0 - part)
    found: Floats = np.where(part < 0.5, near, far)
    return found


def distincts(values: Floats, low: Ints, high: Ints, starts: Ints) -> Floats:
    """How many different values each ``values[low:high]`` has. No range crosses one of ``starts``, which ascend."""
    found = np.zeros(len(low))
    for mine, rows in _copied(values, low, high):
        differ = (rows[:, 1:] != rows[:, :-1]) & (np.arange(1, rows.shape[1]) < (high - low)[mine][:, None])
        found[mine] = 1.0 + differ.sum(axis=1)
    long = _long(len(values), low, high)
    if len(long):
        found[long] = _first_ones(values, low[long], high[long], starts)
    return found


def approx_distincts(values: Floats, low: Ints, high: Ints, starts: Ints) -> Floats:
    """As :func:`.reducing.approx_distinct`, to the last bit."""
    found = distincts(values, low, high, starts)
    open_ones = np.flatnonzero(found > SAMPLE)
    low, high, level = low[open_ones], high[open_ones], 0
    hashes = hashes_of(values) if len(open_ones) else np.empty(0, dtype=np.uint64)
    while len(open_ones):
        level += 1
        sampled = hashes < np.uint64(1 << (64 - level))
        before = counts_before(sampled)
        values, hashes = values[sampled], hashes[sampled]
        low, high, starts = before[low], before[high], before[starts]
        counted = distincts(values, low, high, starts)
        done = counted <= SAMPLE
        found[open_ones[done]] = np.ldexp(counted[done], level)
        open_ones, low, high = open_ones[~done], low[~done], high[~done]
    return found


def spreads_below(
    values: Floats, marks: Ints, low: Ints, high: Ints, most: Ints
) -> tuple[Floats, Floats, Floats]:
    """Count, mean and squared distances of those of ``values[low:high]`` whose mark is at most ``most``."""
    ordered = np.unique(marks)
    ranks, limit = np.searchsorted(ordered, marks), np.searchsorted(ordered, most, side="right")
    found = (np.zeros(len(low)), np.zeros(len(low)), np.zeros(len(low)))
    for bit in _bits(len(ordered)):
        zero = (ranks >> bit) & 1 == 0
        before = counts_before(zero)
        zeros_low, zeros_high = before[low], before[high]
        ones = (limit >> bit) & 1 == 1
        fitting = values[zero]
        some = np.flatnonzero(ones & (zeros_low < zeros_high))
        some = some[np.argsort(zeros_low[some])]  # parted rows lie in another order than the ranges
        pieces = spreads(fitting, zeros_low[some], zeros_high[some])
        for array, piece in zip(found, merged(tuple(a[some] for a in found), pieces), strict=True):
            array[some] = piece
        low = np.where(ones, before[-1] + low - zeros_low, zeros_low)
        high = np.where(ones, before[-1] + high - zeros_high, zeros_high)
        ranks, values = np.concatenate((ranks[zero], ranks[~zero])), np.concatenate((fitting, values[~zero]))
    return found


def hashes_of(values: Floats) -> NDArray[np.uint64]:
    """:func:`.reducing.hash_of` of many."""
    mixed = np.ascontiguousarray(values).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def counts_before(kept: Bools) -> Ints:
    """How many are kept before each place; the place of a kept one among them. One longer than ``kept``."""
    before = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(kept, out=before[1:])
    return before


def _copied(values: Floats, low: Ints, high: Ints) -> Iterator[tuple[Ints, Floats]]:
    """``(which ranges, their values sorted)``, one row per range, infinite beyond its end: ranges that are not long."""
    width = _widths(low, high)
    longest = _longest_copied(len(values), low, high)
    for bits in range(int(width.max(initial=-1)) + 1):
        if bits > longest:
            break
        same = np.flatnonzero(width == bits)
        columns = np.arange(1 << bits)
        step = max(_TOGETHER >> bits, 1)
        for begin in range(0, len(same), step):
            mine = same[begin : begin + step]
            at = low[mine][:, None] + columns
            rows = np.where(at < high[mine][:, None], values[np.minimum(at, len(values) - 1)], np.inf)
            rows.sort(axis=1)
            yield mine, rows


def _widths(low: Ints, high: Ints) -> Ints:
    """Bits of the least power of two that holds each range; -1 of nothing."""
    size = high - low
    return np.where(size > 0, np.frexp(np.maximum(size - 1, 0).astype(np.float64))[1], -1).astype(np.int64)


def _longest_copied(rows: int, low: Ints, high: Ints) -> int:
    """The widest ranges (in bits) that are copied: as many as together stay below a hundred arrays."""
    width = _widths(low, high)
    per_width = np.bincount(width[width >= 0])
    room = max(_COPIES * rows, _TOGETHER)
    together = np.cumsum(per_width * (1 << np.arange(len(per_width))))
    return int(np.searchsorted(together, room, side="right")) - 1


def _long(rows: int, low: Ints, high: Ints) -> Ints:
    """The ranges that are not copied."""
    return np.flatnonzero(_widths(low, high) > _longest_copied(rows, low, high))


def _first_ones(values: Floats, low: Ints, high: Ints, starts: Ints) -> Floats:
    """Distinct values: the rows of a range whose value last stood before the range begins."""
    sizes = np.diff(np.append(starts, len(values)))
    keys = np.repeat(np.arange(len(starts)), sizes)
    ordered = pl.DataFrame({"key": keys, "value": values}).with_row_index("at").sort("key", "value", "at")
    at = ordered["at"].to_numpy().astype(np.int64)
    again = (
        (ordered["key"] == ordered["key"].shift(1)) & (ordered["value"] == ordered["value"].shift(1))
    ).to_numpy()
    before = np.zeros(
        len(values), dtype=np.int32
    )  # one more than the place, among its key's, of the same value before
    repeated = np.flatnonzero(again)
    before[at[repeated]] = at[repeated - 1] - starts[keys[at[repeated]]] + 1
    limit = low - starts[np.searchsorted(starts, low, side="right") - 1] + 1
    return _below(before, list(_bits(int(sizes.max()))), low, high, limit).astype(np.float64)


def _bits(highest: int) -> Iterator[int]:
    return iter(range(highest.bit_length() - 1, -1, -1))


def _kth(ranks: NDArray[np.int32], bits: list[int], low: Ints, high: Ints, k: Ints) -> Ints:
    """The k-th least rank (from 0) of each range."""
    found, k = np.zeros_like(k), k.copy()

    def choose(bit: int, zeros: Ints) -> Bools:
        ones: Bools = k >= zeros
        k[ones] -= zeros[ones]
        found[ones] |= 1 << bit
        return ones

    _descend(ranks, bits, low, high, choose)
    return found


def _below(ranks: NDArray[np.int32], bits: list[int], low: Ints, high: Ints, limit: Ints) -> Ints:
    """How many ranks of each range are below its limit; no limit is above the greatest number of these bits."""
    found = np.zeros_like(limit)

    def choose(bit: int, zeros: Ints) -> Bools:
        ones: Bools = (limit >> bit) & 1 == 1
        found[ones] += zeros[ones]
        return ones

    _descend(ranks, bits, low, high, choose)
    return found


def _descend(
    ranks: NDArray[np.int32], bits: list[int], low: Ints, high: Ints, choose: Callable[[int, Ints], Bools]
) -> None:
    """Part the rows by one bit after another; ``choose`` says which ranges go on among those with a 1."""
    for bit in bits:
        zero = (ranks >> bit) & 1 == 0
        before = counts_before(zero)
        zeros_low, zeros_high = before[low], before[high]
        ones = choose(bit, zeros_high - zeros_low)
        low = np.where(ones, before[-1] + low - zeros_low, zeros_low)
        high = np.where(ones, before[-1] + high - zeros_high, zeros_high)
        ranks = np.concatenate((ranks[zero], ranks[~zero]))
