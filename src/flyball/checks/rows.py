"""Promises that each row keeps or breaks. ``share`` is the share of rows that may break one."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import polars as pl

from flyball.checks.probing import Expectation, Family, RowExpectation, Scope, utc
from flyball.checks.results import Result
from flyball.errors import Invalid

Value = str | int | float | bool


class NotNull(RowExpectation, frozen=True):
    """No value is missing (null or NaN), but for ``share`` of the rows."""

    column: str
    share: float = 0.0

    def needs(self) -> dict[str, Family]:
        return {self.column: "any"}

    def breaks(self, scope: Scope) -> pl.Expr:
        return scope.value(self.column).is_null()

    def words(self) -> tuple[str, str]:
        return "no null", "are null"


class Between(RowExpectation, frozen=True):
    """Numbers lie in ``[low, high]``; ``None`` leaves a side open."""

    column: str
    low: float | None = None
    high: float | None = None
    share: float = 0.0

    def needs(self) -> dict[str, Family]:
        return {self.column: "number"}

    def breaks(self, scope: Scope) -> pl.Expr:
        value = scope.value(self.column)
        below = pl.lit(False) if self.low is None else value < self.low
        above = pl.lit(False) if self.high is None else value > self.high
        return below | above

    def words(self) -> tuple[str, str]:
        limit = range_of(self.low, self.high)
        return f"in {limit}", f"lie outside {limit}"


class InSet(RowExpectation, frozen=True):
    """Values are among those named."""

    column: str
    values: tuple[Value, ...]
    share: float = 0.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "values", tuple(self.values))

    def needs(self) -> dict[str, Family]:
        return {self.column: "any"}

    def breaks(self, scope: Scope) -> pl.Expr:
        value = scope.value(self.column)
        return value.is_not_null() & ~value.cast(pl.String).is_in(
            [_text(one, scope, self.column) for one in self.values]
        )

    def words(self) -> tuple[str, str]:
        shown = ", ".join(map(str, self.values[:8])) + (", …" if len(self.values) > 8 else "")
        return f"one of {shown}", f"are none of {shown}"


def _text(value: Value, scope: Scope, column: str) -> Any:
    """How polars writes the value in that column's type: 1 is "1.0" among floats."""
    try:
        return pl.Series([value]).cast(scope.schema[column]).cast(pl.String).item()
    except pl.exceptions.PolarsError:
        return str(value)  # of another type: equal to nothing there


class Unique(RowExpectation, frozen=True):
    """No two rows share these values; several columns make one key."""

    columns: tuple[str, ...] | str
    share: float = 0.0

    def __post_init__(self) -> None:
        given = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
        msgspec.structs.force_setattr(self, "columns", given)

    def needs(self) -> dict[str, Family]:
        return dict.fromkeys(self.columns, "any")

    def breaks(self, scope: Scope) -> pl.Expr:
        return pl.struct(list(self.columns)).is_duplicated()

    def words(self) -> tuple[str, str]:
        return "unique", "share their values with another"


class Matches(RowExpectation, frozen=True):
    """Text contains the regular expression; anchor it with ``^`` and ``$`` to mean all of the text."""

    column: str
    pattern: str
    share: float = 0.0

    def __post_init__(self) -> None:
        try:
            pl.Series([""]).str.contains(self.pattern)
        except pl.exceptions.PolarsError as error:
            raise Invalid(
                f"{self.pattern!r} is not a regular expression: {error}", "e.g. ^N[0-9]+$"
            ) from error

    def needs(self) -> dict[str, Family]:
        return {self.column: "text"}

    def breaks(self, scope: Scope) -> pl.Expr:
        return ~pl.col(self.column).cast(pl.String).str.contains(self.pattern)

    def words(self) -> tuple[str, str]:
        return f"matches {self.pattern}", f"don't match {self.pattern}"


class Ordered(RowExpectation, frozen=True):
    """``lower <= upper`` in each row: a flight lands after it leaves."""

    lower: str
    upper: str
    share: float = 0.0

    def needs(self) -> dict[str, Family]:
        return {self.lower: "any", self.upper: "any"}

    def breaks(self, scope: Scope) -> pl.Expr:
        return scope.value(self.lower) > scope.value(self.upper)

    def words(self) -> tuple[str, str]:
        return f"{self.lower} <= {self.upper}", f"have {self.lower} above {self.upper}"


class NoFuture(RowExpectation, frozen=True):
    """No time lies after now (plus ``slack_s``)."""

    column: str
    slack_s: float = 0.0
    share: float = 0.0
    timed: ClassVar[bool] = True

    def needs(self) -> dict[str, Family]:
        return {self.column: "time"}

    def breaks(self, scope: Scope) -> pl.Expr:
        assert scope.now is not None  # validate saw to it
        limit = pl.lit(utc(scope.now)) + pl.duration(microseconds=int(self.slack_s * 1e6))
        return scope.time(self.column) > limit

    def words(self) -> tuple[str, str]:
        return "not after now", "lie in the future"


def range_of(low: float | None, high: float | None) -> str:
    """``[0, 1]``, ``[0, …)``."""
    left = "(…" if low is None else f"[{low:g}"
    return f"{left}, …)" if high is None else f"{left}, {high:g}]"


__all__ = [
    "Between",
    "Expectation",
    "InSet",
    "Matches",
    "NoFuture",
    "NotNull",
    "Ordered",
    "Result",
    "Unique",
    "range_of",
]
