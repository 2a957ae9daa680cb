"""Promises about a table as a whole: its columns, its size, its averages, its age."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import polars as pl

from flyball.checks.probing import Expectation, Family, Scope, family_of, utc
from flyball.checks.results import Result
from flyball.checks.rows import range_of
from flyball.errors import nearest


class HasColumns(Expectation, frozen=True):
    """These columns are there, with these types: ``{"temp": "number", "origin": "text", "seats": "Int64", "x": ""}``.

    A type is a family (number, time, text), a polars type by its name, or "" for any.
    """

    columns: dict[str, str] | tuple[str, ...]

    def __post_init__(self) -> None:
        given = self.columns if isinstance(self.columns, dict) else dict.fromkeys(self.columns, "")
        msgspec.structs.force_setattr(self, "columns", given)

    def judge(self, seen: dict[str, Any], scope: Scope) -> Result:
        assert isinstance(self.columns, dict)
        wrong = []
        for name, wanted in self.columns.items():
            if name not in scope.schema:
                wrong.append(f"no column {name!r}; {nearest(name, list(scope.schema))}")
            elif wanted not in ("", family_of(scope.schema[name]), str(scope.schema[name])):
                wrong.append(f"{name} is {scope.schema[name]}, not {wanted}")
        return Result(
            name=self.title, column=", ".join(self.columns), passed=not wrong, observed=len(wrong), limit="0 wrong",
            message="; ".join(wrong) or f"all {len(self.columns)} columns are there", failing=0,
        )  # fmt: skip


class RowCount(Expectation, frozen=True):
    """The table has at least ``low`` rows and at most ``high``."""

    low: int = 1
    high: int | None = None

    def judge(self, seen: dict[str, Any], scope: Scope) -> Result:
        passed = self.low <= scope.rows and (self.high is None or scope.rows <= self.high)
        limit = range_of(self.low, self.high)
        return self.result(passed, scope.rows, limit, f"{scope.rows} rows; {limit} are expected")


class _Figure(Expectation, frozen=True):
    """One number of one column, between two bounds."""

    column: str

    def needs(self) -> dict[str, Family]:
        return {self.column: "number"}

    def figure(self, scope: Scope) -> tuple[str, pl.Expr]:
        """Its name, and how it is computed."""
        raise NotImplementedError

    def bounds(self) -> tuple[float | None, float | None]:
        raise NotImplementedError

    def ask(self, scope: Scope) -> dict[str, pl.Expr]:
        return {"figure": self.figure(scope)[1].cast(pl.Float64)}

    def judge(self, seen: dict[str, Any], scope: Scope) -> Result:
        value, (low, high), name = seen["figure"], self.bounds(), self.figure(scope)[0]
        limit = range_of(low, high)
        if value is None:
            return self.result(False, None, limit, f"no value to take the {name} of")
        passed = (low is None or value >= low) and (high is None or value <= high)
        return self.result(passed, value, limit, f"the {name} is {value:.6g}; {limit} is expected")


class MeanBetween(_Figure, frozen=True):
    """The mean lies between two bounds."""

    low: float | None = None
    high: float | None = None

    def figure(self, scope: Scope) -> tuple[str, pl.Expr]:
        return "mean", scope.value(self.column).mean()

    def bounds(self) -> tuple[float | None, float | None]:
        return self.low, self.high


class QuantileBetween(_Figure, frozen=True):
    """A quantile lies between two bounds: ``quantile_between("delay", 0.5, -10, 10)``."""

    quantile: float
    low: float | None = None
    high: float | None = None

    def figure(self, scope: Scope) -> tuple[str, pl.Expr]:
        return f"{self.quantile:g} quantile", scope.value(self.column).quantile(self.quantile, "linear")

    def bounds(self) -> tuple[float | None, float | None]:
        return self.low, self.high


class NullShareNear(_Figure, frozen=True):
    """The share of nulls lies within ``slack`` of what it was in the reference."""

    reference: float
    slack: float = 0.05

    def needs(self) -> dict[str, Family]:
        return {self.column: "any"}

    def figure(self, scope: Scope) -> tuple[str, pl.Expr]:
        return "share of nulls", scope.value(self.column).is_null().mean()

    def bounds(self) -> tuple[float | None, float | None]:
        return max(0.0, self.reference - self.slack), min(1.0, self.reference + self.slack)


class Fresh(Expectation, frozen=True):
    """The newest time is at most ``within_s`` seconds old."""

    column: str
    within_s: float
    timed: ClassVar[bool] = True

    def needs(self) -> dict[str, Family]:
        return {self.column: "time"}

    def ask(self, scope: Scope) -> dict[str, pl.Expr]:
        assert scope.now is not None  # validate saw to it
        return {
            "age_s": (pl.lit(utc(scope.now)) - scope.time(self.column).max()).dt.total_microseconds() / 1e6
        }

    def judge(self, seen: dict[str, Any], scope: Scope) -> Result:
        age_s, limit = seen["age_s"], f"at most {self.within_s:g} s old"
        if age_s is None:
            return self.result(False, None, limit, "no time at all")
        return self.result(
            age_s <= self.within_s, age_s, limit, f"the newest is {age_s:g} s old; {limit} is expected"
        )
