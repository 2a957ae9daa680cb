"""What each window function gives of the values in a window: the one definition, for training and for serving.

Values come oldest first, without nulls, finite; texts are their codes. Serving reduces a row's values with it,
training (:mod:`flyball.features.windows`) has array forms that the tests hold to it.

>>> reduced("percentile", [4.0, 1.0, 2.0], 0.75), reduced("distinct", [4.0, 1.0, 4.0]), reduced("last", [])
(3.0, 2.0, None)
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

from flyball.errors import Invalid, nearest

SAMPLE = (
    4096  # approx_distinct is exact up to so many distinct values, and keeps at most so many hashes beyond
)
EXACT = float(1 << 53)  # whole numbers below it are exact as floats

Values = Sequence[float]
_BITS, _WORD = (1 << 64) - 1, struct.Struct("<d")


def reduced(function: str, values: Values, share: float = 0.5) -> float | None:
    """The function of one list of values; of nothing a count is 0 and all others are null."""
    return reducer(function, share)(values)


def reducer(function: str, share: float = 0.5) -> Callable[[Values], float | None]:
    """The function itself; ``share`` is the percentile's, in [0, 1]."""
    if function == "percentile":
        return partial(percentile, share=share)
    if function not in REDUCERS:
        raise Invalid(
            f"there is no window function {function!r}", nearest(function, [*REDUCERS, "percentile"])
        )
    return REDUCERS[function]


def count(values: Values) -> float:
    """How many; 0 of nothing."""
    return float(len(values))


def total(values: Values) -> float | None:
    """The sum, rounded once."""
    return math.fsum(values) if values else None


def mean(values: Values) -> float | None:
    """The sum by the count."""
    return math.fsum(values) / len(values) if values else None


def std(values: Values) -> float | None:
    """The sample's standard deviation (n - 1); null below two values.

    Of whole numbers from exact sums of squares, so that any order, and running sums too, give the same bits; else in
    two passes.

    >>> std([1.0, 3.0]), std([1.0])
    (1.4142135623730951, None)
    """
    size = len(values)
    if size < 2:
        return None
    shift = float(round(values[0]))
    off = [value - shift for value in values]
    squares = math.fsum(value * value for value in off)
    if size * squares < EXACT and all(map(float.is_integer, values)):
        spread = size * squares - math.fsum(off) ** 2
        return math.sqrt(spread / (size * (size - 1.0)))
    middle = math.fsum(values) / size
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (size - 1))


def least(values: Values) -> float | None:
    """The least value."""
    return min(values) if values else None


def greatest(values: Values) -> float | None:
    """The greatest value."""
    return max(values) if values else None


def first(values: Values) -> float | None:
    """The oldest value."""
    return values[0] if values else None


def last(values: Values) -> float | None:
    """The newest value."""
    return values[-1] if values else None


def percentile(values: Values, share: float) -> float | None:
    """The value below which a share of the values lies, on a line between neighbours: NumPy's default, to the bit.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    low, part = ordered[below], place - below
    high = ordered[min(below + 1, len(ordered) - 1)]
    # From the nearer end, as NumPy does: then the share 1 gives the greatest value itself.
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1.0 - part)


def distinct(values: Values) -> float:
    """How many different values; 0 of nothing."""
    return float(len(set(values)))


def approx_distinct(values: Values) -> float:
    """How many different values: exact up to 4,096 of them, beyond with a standard error of about 2 %; 0 of nothing.

    Adaptive sampling (Wegman; Flajolet, *On adaptive sampling*, 1990). Of the values' hashes those below
    ``2 ** (64 - level)`` are counted, times ``2 ** level``, at the first level where at most 4,096 are left. Two such
    samples merge into that of their union, and all is whole numbers: the same in batch, in a stream and per row.
    """
    found = set(values)
    if len(found) <= SAMPLE:
        return float(len(found))
    hashes = sorted(map(hash_of, found))
    width = hashes[SAMPLE].bit_length() - 1  # the widest range [0, 2 ** width) that leaves this one out
    return float(bisect_left(hashes, 1 << width) << (64 - width))


def hash_of(value: float) -> int:
    """64 bits by the value's own bits, the same in every process (splitmix64; different values differ)."""
    mixed = (int.from_bytes(_WORD.pack(value), "little") + 0x9E3779B97F4A7C15) & _BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _BITS
    return mixed ^ (mixed >> 31)


REDUCERS: dict[str, Callable[[Values], float | None]] = {
    "count": count,
    "sum": total,
    "mean": mean,
    "std": std,
    "min": least,
    "max": greatest,
    "first": first,
    "last": last,
    "distinct": distinct,
    "approx_distinct": approx_distinct,
}
