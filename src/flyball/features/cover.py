"""Aggregates over intervals, for many questions at once: NumPy only, no loop over rows.

Questions (key, t) are sorted once. A row counts for all t in ``[ready, happened + W)``, which is a run
``[left, right)`` of the sorted questions of its key. Sums then are running sums of what begins and ends (O(n + m)
after one sort), extremes are spread by runs of powers of two (O((n + m) log m)). Both hold however late rows
become known.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from flyball.stores.online_chunks import Floats, Ints

Number = TypeVar("Number", Floats, Ints)


class Axis:
    """Questions in order of (key code, time), and where other (key, time) pairs fall among them."""

    def __init__(self, codes: Ints, times: Ints) -> None:
        self.order = np.lexsort((times, codes))
        self.codes, self.times = codes[self.order], times[self.order]
        self._low = int(times.min()) if len(times) else 0
        self._span = int(times.max()) - self._low + 2 if len(times) else 2
        # (code, time) as one number when 63 bits hold it; the ranks of the times instead of the times when not.
        wide = (int(codes.max()) + 2) * self._span >= 1 << 62 if len(codes) else False
        self._instants = np.unique(times) if wide else None
        if self._instants is not None:
            self._span = len(self._instants) + 1
        self._places = self._number(self.codes, self.times)

    def __len__(self) -> int:
        return len(self.times)

    def place(self, codes: Ints, times: Ints) -> Ints:
        """The first question of that key with ``t >= time``; the end of its key when there is none."""
        return np.searchsorted(self._places, self._number(codes, times))

    def _number(self, codes: Ints, times: Ints) -> Ints:
        if self._instants is not None:
            return codes * self._span + np.searchsorted(self._instants, times)
        return codes * self._span + np.clip(times - self._low, 0, self._span - 1)

    def in_asked_order(self, sorted_answers: Floats) -> Floats:
        """Answers put back into the order in which the questions came."""
        answers = np.empty(len(self), dtype=sorted_answers.dtype)
        answers[self.order] = sorted_answers
        return answers


def cover_count(size: int, left: Ints, right: Ints) -> Ints:
    """How many runs cover each of ``size`` places."""
    begins, ends = np.bincount(left, minlength=size + 1), np.bincount(right, minlength=size + 1)
    return np.cumsum(begins - ends)[:size]


def cover_sum(size: int, left: Ints, right: Ints, values: Floats) -> Floats:
    """The sum of the values whose runs cover each place; exact for whole numbers, else to the last bits.

    A running sum of floats forgets small values beside large ones. So values are split into a whole multiple of a
    power of two, summed exactly in 64 bits, and a remainder too small to matter, summed as it is.
    """
    if len(values) == 0:
        return np.zeros(size)
    bits = int(np.frexp(np.abs(values).max())[1]) + len(values).bit_length()
    exponent = min(61 - bits, 1000)
    parts = np.rint(np.ldexp(values, exponent))
    rest = values - np.ldexp(parts, -exponent)
    total = np.zeros(size + 1, dtype=np.int64)
    whole = parts.astype(np.int64)
    np.add.at(total, left, whole)
    np.subtract.at(total, right, whole)
    sums = np.ldexp(np.cumsum(total)[:size].astype(np.float64), -exponent)
    if rest.any():
        change = np.bincount(left, rest, size + 1) - np.bincount(right, rest, size + 1)
        sums = sums + np.cumsum(change)[:size]
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


def newest(axis: Axis, codes: Ints, left: Ints) -> Ints:
    """Per question, the last row (rows are in order) of its key that began at or before it; -1 without one."""
    best = np.full(len(axis) + 1, -1, dtype=np.int64)
    np.maximum.at(best, left, np.arange(len(left), dtype=np.int64))
    best = np.maximum.accumulate(best[: len(axis)])
    if len(codes):
        best[(best >= 0) & (codes[best] != axis.codes)] = -1
    return best
