"""What a filling brought, column by column, in one pass over its batches and in little memory.

Counts, means and deviations are exact; distinct counts are exact up to 65,536 and within about 1% beyond (the k least
hashes: Bar-Yossef et al. 2002); quantiles are those of at most 131,072 rows spread evenly over the filling.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from flyball.features.definitions import View
from flyball.stores.online import Rows
from flyball.stores.online_chunks import Floats

_LEAST = 65_536
_SAMPLE = 131_072
_QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


class ColumnStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One stored column of a filling: nulls, and what its kind of values has."""

    column: str
    null_share: float
    distinct: int | None = None  # of a text
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    quantiles: dict[str, float] = {}


class Statistics:
    """Of the rows of one view; :meth:`add` each batch, or :meth:`join` what others counted of other rows."""

    def __init__(self, view: View) -> None:
        self.rows = 0
        self.newest_us: int | None = None  # when the newest event happened
        self._keys = Distinct()
        texts = set(getattr(view, "text_columns", ()))
        self._columns = [_Column(name, name in texts) for name in view.stored_columns]

    def add(self, rows: Rows) -> None:
        """Count a batch in."""
        if len(rows.codes) == 0:
            return
        self.rows += len(rows.codes)
        newest = int(rows.happened.max())
        self.newest_us = newest if self.newest_us is None else max(self.newest_us, newest)
        self._keys.add(pl.Series(list(rows.keys), dtype=pl.Binary).hash().to_numpy())
        for column, values in zip(self._columns, rows.values.T, strict=True):
            column.add(values)

    def join(self, other: Statistics) -> None:
        """Count in what was counted elsewhere, of other rows of the same view."""
        self.rows += other.rows
        if other.newest_us is not None:
            newest = other.newest_us
            self.newest_us = newest if self.newest_us is None else max(self.newest_us, newest)
        self._keys.join(other._keys)
        for column, more in zip(self._columns, other._columns, strict=True):
            column.join(more)

    @property
    def keys(self) -> int:
        """Distinct keys."""
        return self._keys.count

    @property
    def columns(self) -> list[ColumnStatistics]:
        """Each stored column, in order."""
        return [column.statistics(self.rows) for column in self._columns]


class _Column:
    def __init__(self, name: str, is_text: bool) -> None:
        self.name = name
        self.is_text = is_text
        self.count = 0
        self.mean = self.squares = 0.0
        self.low, self.high = math.inf, -math.inf
        self.distinct = Distinct()
        self.sample = _Sample()

    def add(self, values: Floats) -> None:
        present = values[~np.isnan(values)]
        if len(present) == 0:
            return
        if self.is_text:
            self.distinct.add(present.view(np.uint64))  # of its codes
            self.count += len(present)
            return
        mean = float(present.mean())
        squares = float(((present - mean) ** 2).sum())
        self._count_in(len(present), mean, squares, float(present.min()), float(present.max()))
        self.sample.add(present)

    def join(self, other: _Column) -> None:
        if self.is_text:
            self.distinct.join(other.distinct)
            self.count += other.count
        elif other.count:
            self._count_in(other.count, other.mean, other.squares, other.low, other.high)
            self.sample.join(other.sample)

    def _count_in(self, more: int, mean: float, squares: float, low: float, high: float) -> None:
        count = self.count + more
        off = mean - self.mean  # Chan, Golub, LeVeque: two means into one
        self.squares += squares + off * off * self.count * more / count
        self.mean += off * more / count
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count = count

    def statistics(self, rows: int) -> ColumnStatistics:
        null_share = 1.0 - self.count / rows if rows else 0.0
        if self.is_text:
            return ColumnStatistics(column=self.name, null_share=null_share, distinct=self.distinct.count)
        if self.count == 0:
            return ColumnStatistics(column=self.name, null_share=null_share)
        at = np.quantile(self.sample.values, list(_QUANTILES.values()))
        return ColumnStatistics(
            column=self.name,
            null_share=null_share,
            mean=self.mean,
            std=math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None,
            min=self.low,
            max=self.high,
            quantiles=dict(zip(_QUANTILES, at.tolist(), strict=True)),
        )


class Distinct:
    """How many different words of 64 bits were added, from the least of their hashes.

    >>> few = Distinct()
    >>> few.add(np.array([1, 2, 2, 3], dtype=np.uint64))
    >>> few.count
    3
    """

    def __init__(self) -> None:
        self._least: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)

    def add(self, words: NDArray[np.uint64]) -> None:
        """Count these too."""
        hashes = _mixed(words)
        if len(self._least) == _LEAST:
            hashes = hashes[hashes < self._least[-1]]
        if len(hashes):
            fresh = pl.Series(hashes).unique().to_numpy()  # six times as fast as sorting them all
            if len(fresh) > _LEAST:
                fresh = np.partition(fresh, _LEAST)[:_LEAST]
            self._least = np.unique(np.concatenate((self._least, fresh)))[:_LEAST]

    def join(self, other: Distinct) -> None:
        """Count those of another in."""
        self._least = np.unique(np.concatenate((self._least, other._least)))[:_LEAST]

    @property
    def count(self) -> int:
        """The number, or its estimate."""
        if len(self._least) < _LEAST:
            return len(self._least)
        return round((_LEAST - 1) / (float(self._least[-1]) / 2.0**64))


class _Sample:
    """Every n-th value, n doubled whenever there are too many."""

    def __init__(self) -> None:
        self._parts: list[Floats] = []
        self._size = self._skip = 0
        self._every = 1

    def add(self, values: Floats) -> None:
        part = values[self._skip :: self._every].copy()
        self._skip = (self._skip - len(values)) % self._every
        self._parts.append(part)
        self._size += len(part)
        while self._size > _SAMPLE:
            self._thin()

    def join(self, other: _Sample) -> None:
        """Another's values beside these, each standing for as many as one of these does then."""
        while self._every != other._every:
            (self if self._every < other._every else other)._thin()
        self._parts += other._parts
        self._size += other._size
        while self._size > _SAMPLE:
            self._thin()

    def _thin(self) -> None:
        both = np.concatenate(self._parts) if self._parts else np.empty(0)
        if len(both) % 2:
            self._skip += self._every  # the last one stays, so the next is one of those left out
        self._every *= 2
        self._parts, self._size = [both[::2]], len(both[::2])

    @property
    def values(self) -> Floats:
        return np.concatenate(self._parts)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread evenly (splitmix64)."""
    mixed = words + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def as_evidence(found: Statistics) -> dict[str, Any]:
    """The statistics as a report keeps them."""
    return {
        "rows": found.rows,
        "keys": found.keys,
        "newest_us": found.newest_us,
        "columns": msgspec.to_builtins(found.columns),
    }
