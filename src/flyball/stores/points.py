"""Points of metrics as packed blocks: what a history is made of, how it is sealed, and how it is thinned for pictures.

A block holds the steps (int64), times (int64, microseconds since 1970) and values (float64) of consecutive points, one
column after the other, little-endian: 24 bytes a point, NaN and infinities as they are. Each block's ``chain`` is the
BLAKE3 of the chain before it, of its place and of its content, so that one flipped byte anywhere in a history is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from blake3 import blake3

from flyball.core.records import Metric
from flyball.errors import Invalid, Refused

TAIL = 512  # a block with fewer points is filled up by the next write: 12 KiB to rewrite, at most
FULL = 65_536  # points of a block at most: 1.5 MiB
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Series(msgspec.Struct, frozen=True, eq=False):
    """Points of one metric, in the order they were logged.

    >>> series = series_of([0.5, float("nan")], steps=[1, 2], times_us=7)
    >>> len(series), series.steps.tolist(), series.times_us.tolist(), series.values.tolist()
    (2, [1, 2], [7, 7], [0.5, nan])
    """

    steps: np.ndarray[Any, np.dtype[np.int64]]  # (n,)
    times_us: np.ndarray[Any, np.dtype[np.int64]]  # (n,)
    values: np.ndarray[Any, np.dtype[np.float64]]  # (n,)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: Any) -> Series:
        """A slice, or the points at these places."""
        return Series(self.steps[part], self.times_us[part], self.values[part])

    def metrics(self, name: str) -> list[Metric]:
        """The same as records."""
        return [
            Metric(name, value, step)
            for value, step in zip(self.values.tolist(), self.steps.tolist(), strict=True)
        ]

    def rows(self) -> Iterator[tuple[int, int, float]]:
        """``(step, time_us, value)`` of each point."""
        return zip(self.steps.tolist(), self.times_us.tolist(), self.values.tolist(), strict=True)


EMPTY = Series(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


def series_of(values: Any, steps: Any = None, times_us: Any = 0) -> Series:
    """Columns as a series: steps count from 0 when there are none; one time may stand for all."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid("the values of a metric are numbers", f"{type(values).__name__}: {error}") from error
    if found.ndim != 1:
        raise Invalid(f"values have {found.ndim} dimensions", "give a list or an array of one dimension")
    n = len(found)
    at = np.arange(n, dtype=np.int64) if steps is None else _whole("steps", steps, n)
    when = _whole("times", times_us, n)
    return Series(at, when, found)


def _whole(what: str, given: Any, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    try:
        found = np.asarray(given)
        if found.dtype.kind not in "iub":
            if found.size and not np.array_equal(found, np.trunc(found.astype(np.float64))):
                raise Invalid(f"{what} are whole numbers", f"got {given!r:.80}")
            if found.dtype == object or (found.size and float(np.abs(found).max()) >= 2.0**63):
                found = np.array([_int64(what, one) for one in np.ravel(found).tolist()], np.int64).reshape(
                    found.shape
                )
        elif found.dtype == np.uint64 and found.size and int(found.max()) > _HIGHEST:
            _int64(what, int(found.max()))
        found = np.broadcast_to(found.astype(np.int64), (n,)) if found.ndim == 0 else found.astype(np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, Invalid):
            raise
        raise Invalid(f"{what} are whole numbers", f"{error}") from error
    if found.shape != (n,):
        raise Invalid(f"{n} values and {what} of shape {found.shape}", "one for each value")
    return found


def _int64(what: str, value: Any) -> int:
    number = int(value)
    if not _LOWEST <= number <= _HIGHEST:
        raise Invalid(f"{what} go from -2^63 to 2^63 - 1, not to {number}", "count from 0")
    return number


def joined(parts: Sequence[Series]) -> Series:
    """Series one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return EMPTY
    return Series(
        np.concatenate([one.steps for one in parts]),
        np.concatenate([one.times_us for one in parts]),
        np.concatenate([one.values for one in parts]),
    )


def pack(series: Series) -> bytes:
    """The content of a block."""
    return b"".join(
        (
            series.steps.astype("<i8", copy=False).tobytes(),
            series.times_us.astype("<i8", copy=False).tobytes(),
            series.values.astype("<f8", copy=False).tobytes(),
        )
    )


def unpack(content: bytes, n: int) -> Series:
    """The inverse of :func:`pack`; bytes of another length are :class:`Refused`."""
    if len(content) != 24 * n:
        raise Refused(
            f"a block of {n} points has {len(content)} bytes instead of {24 * n}",
            "flyball restore BACKUP brings the last backup back",
        )
    return Series(
        np.frombuffer(content, "<i8", n),
        np.frombuffer(content, "<i8", n, 8 * n),
        np.frombuffer(content, "<f8", n, 16 * n),
    )


def link(before: bytes, run: str, name: str, block: int, content: bytes) -> bytes:
    """The chain's next digest."""
    place = msgspec.json.encode((run, name, block, len(content) // 24))
    return blake3(before + place + content).digest()


def newest(series: Series) -> int:
    """The place of the latest point: greatest step, then time, then the one logged last."""
    last = len(series) - 1
    order = np.lexsort((np.arange(last + 1), series.times_us, series.steps))
    return int(order[-1])


def sampled(series: Series, to: int) -> Series:
    """At most ``to`` points that draw the same picture: the least and the greatest value of equal stretches.

    First and last point stay, so do peaks of one point: a mean would hide the spike one is looking for.

    >>> thin = sampled(series_of([0.0] * 500 + [9.0] + [0.0] * 499), 20)
    >>> len(thin) <= 20, thin.values.max(), thin.steps[0], thin.steps[-1]
    (True, np.float64(9.0), np.int64(0), np.int64(999))
    """
    n = len(series)
    if n <= max(to, 4):
        return series
    stretches = max((to - 2) // 2, 1)
    bounds = np.linspace(0, n, stretches + 1).astype(np.int64)
    starts = bounds[:-1]
    width = int(np.diff(bounds).max())
    # One row a stretch, the last of each repeated where a stretch is shorter: argmin of a matrix is one call.
    places = np.minimum(starts[:, None] + np.arange(width)[None, :], bounds[1:, None] - 1)
    values = series.values[places]
    unknown = np.isnan(values)
    low = np.where(unknown, np.inf, values).argmin(axis=1)
    high = np.where(unknown, -np.inf, values).argmax(axis=1)
    rows = np.arange(stretches)
    kept = np.unique(np.concatenate(([0], places[rows, low], places[rows, high], [n - 1])))
    return series[kept]
