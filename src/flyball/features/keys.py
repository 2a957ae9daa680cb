"""Keys as whole numbers: each key that is asked for has a number, all others have -1.

Only the keys of the questions are numbered, so rows of other keys are dropped before anything is sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from flyball.errors import Invalid
from flyball.stores.online_chunks import Ints

_TABLE = 1 << 25  # numbers in a range of up to so many are looked up in a table, 8 bytes each


class Keys:
    """The distinct keys among some rows; ``codes(rows)`` numbers other rows by them.

    >>> keys = Keys(pl.DataFrame({"carrier": ["UA", "DL", None, "UA"]}))
    >>> len(keys), keys.codes(pl.DataFrame({"carrier": ["DL", "AA", "UA"]})).tolist()
    (2, [0, -1, 1])
    """

    def __init__(self, asked: pl.DataFrame) -> None:
        """``asked`` has a column of whole numbers or texts per part of the key; rows with a null ask for no key."""
        self.schema = asked.schema
        self._parts = [_Numbers.of(asked[name]) for name in asked.columns]
        self._levels: list[_Numbers] = []
        codes = self._parts[0].codes(asked[asked.columns[0]])
        for name, part in zip(asked.columns[1:], self._parts[1:], strict=True):
            paired = _paired(codes, part.codes(asked[name]), len(part))
            self._levels.append(_Numbers.of(paired.filter(paired >= 0)))
            codes = self._levels[-1].codes(paired)

    def __len__(self) -> int:
        return len(self._levels[-1] if self._levels else self._parts[0])

    def codes(self, rows: pl.DataFrame) -> Ints:
        """The number of each row's key, -1 for keys that were not asked for."""
        names = rows.columns
        codes = self._parts[0].codes(rows[names[0]])
        for name, part, level in zip(names[1:], self._parts[1:], self._levels, strict=True):
            codes = level.codes(_paired(codes, part.codes(rows[name]), len(part)))
        return codes

    def check(self, had: Sequence[tuple[str, pl.DataType]], view: str) -> None:
        """Refuse rows whose keys have another type than those asked for."""
        for name, dtype in had:
            asked = self.schema[name]
            if pl.Null not in (asked, dtype) and (asked == pl.String) != (dtype == pl.String):
                raise Invalid(
                    f"key {name!r} of view {view!r} is {dtype} in the source, {asked} in the entity rows",
                    "cast one of them",
                    column=name,
                )


class _Numbers:
    """Distinct values of one column, numbered from 0."""

    def __init__(self, values: pl.Series, low: int, table: Ints | None) -> None:
        self._values, self._low, self._table = values, low, table

    @classmethod
    def of(cls, column: pl.Series) -> _Numbers:
        column = column.drop_nulls()
        if column.dtype == pl.Int64 and len(column):
            low, high = int(column.min()), int(column.max())  # type: ignore[arg-type]  # of whole numbers
            if high - low < _TABLE:
                there = np.zeros(high - low + 1, dtype=bool)
                there[column.to_numpy() - low] = True
                table = np.where(there, np.cumsum(there) - 1, -1)
                return cls(pl.Series(np.flatnonzero(there) + low), low, table)
        return cls(column.unique().sort(), 0, None)

    def __len__(self) -> int:
        return len(self._values)

    def codes(self, column: pl.Series) -> Ints:
        if len(self) == 0 or column.dtype == pl.Null:
            return np.full(len(column), -1, dtype=np.int64)
        if self._table is None:
            numbers = pl.Series(np.arange(len(self)))
            numbered = column.replace_strict(self._values, numbers, default=-1, return_dtype=pl.Int64)
            codes: Ints = numbered.to_numpy()
            return codes
        missing = column.is_null().to_numpy() if column.null_count() else None
        places = (column.fill_null(self._low) if missing is not None else column).to_numpy() - self._low
        inside = (places >= 0) & (places < len(self._table))
        if not inside.all():
            places = np.where(inside, places, 0)
        found: Ints = self._table[places]
        if not inside.all():
            found[~inside] = -1
        if missing is not None:
            found[missing] = -1
        return found


def _paired(first: Ints, second: Ints, width: int) -> pl.Series:
    """Two numbers as one; -1 when one of them is."""
    return pl.Series(np.where((first >= 0) & (second >= 0), first * width + second, -1))
