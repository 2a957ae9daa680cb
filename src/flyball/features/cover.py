"""What runs of values give at each place they cover: NumPy only, no loop over rows.

Places are sorted questions (key, t). A row counts for all t in ``[ready, happened + W)``, which is a run ``[left, right)``
of the questions of its key. Sums are running sums of what begins and ends (O(n + m)), extremes are spread by runs of
powers of two (O((n + m) log m)). Both hold however late rows become known, and in whatever order.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from flyball.stores.online_chunks import Floats, Ints

Number = TypeVar("Number", Floats, Ints)


def cover_count(size: int, left: Ints, right: Ints) -> Ints:
    """How many runs cover each of ``size`` places."""
    begins, ends = np.bincount(left, minlength=size + 1), np.bincount(right, minlength=size + 1)
    return np.cumsum(begins - ends)[:size]


def cover_sum(size: int, left: Ints, right: Ints, values: Floats) -> Floats:
    """The sum of the values whose runs cover each place; exact for whole numbers, else to the last bits.

    A running sum of floats forgets small values beside large ones. So values are split into a whole multiple of a
    power of two, summed exactly in 64 bits, and a remainder, which is split again. What three such parts leave is at
    least 2^111 times smaller than the greatest value of sixteen million.
    """
    sums = np.zeros(size)
    for _ in range(3):
        if not values.any():
            break
        bits = int(np.frexp(np.abs(values).max())[1]) + len(values).bit_length()
        exponent = min(61 - bits, 1000)
        whole = np.rint(np.ldexp(values, exponent))
        values = values - np.ldexp(whole, -exponent)
        total = np.zeros(size + 1, dtype=np.int64)
        np.add.at(total, left, whole.astype(np.int64))
        np.subtract.at(total, right, whole.astype(np.int64))
        sums = sums + np.ldexp(np.cumsum(total)[:size].astype(np.float64), -exponent)
    return sums


def cover_max(size: int, left: Ints, right: Ints, values: Number, *, nothing: float) -> Number:
    """The greatest value whose run covers each place; ``nothing`` where none does.

    A run is the union of two overlapping runs whose length is a power of two; each such level is then spread
    onto the next smaller one, down to single places.
    """
    some = right > left
    left, right, values = left[some], right[some], values[some]
    result = np.full(size, nothing, dtype=values.dtype)
    if len(values) == 0:
        return result
    levels = np.frexp(right - left)[1] - 1  # floor(log2(length)), exact
    for level in range(int(levels.max()), -1, -1):
        mine = levels == level
        if mine.any():
            np.fmax.at(result, left[mine], values[mine])
            np.fmax.at(result, right[mine] - (1 << level), values[mine])
        if level:
            half = 1 << (level - 1)
            spread = result.copy()
            np.fmax(spread[half:], result[:-half], out=spread[half:])
            result = spread
    return result
