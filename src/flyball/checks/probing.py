"""How an expectation asks its question: expressions now, a judgement once they are evaluated.

All expectations of a contract put their expressions into one ``select``, so a table is read once, however many.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import msgspec
import polars as pl

from flyball.checks.results import Result

ROW = "__row"  # the position of each row: joins (polars 2.1) need not keep the order
Family = Literal["any", "number", "time", "text"]


class Scope(msgspec.Struct, frozen=True):
    """What an expectation may look at beside the rows."""

    schema: dict[str, Any]
    rows: int
    now: datetime | None
    number: int  # which expectation this is: names its own extra columns
    previous: Any = None  # the table accepted before this one

    def value(self, column: str) -> pl.Expr:
        """A column in which NaN is null as well."""
        found = pl.col(column)
        return found.fill_nan(None) if self.schema[column].is_float() else found

    def time(self, column: str) -> pl.Expr:
        """A column as an instant: a zone-less time is UTC, a date its midnight."""
        return as_utc(pl.col(column), self.schema[column])


def as_utc(column: pl.Expr, dtype: Any) -> pl.Expr:
    """Any date or time as UTC in microseconds."""
    if dtype == pl.Datetime("us", "UTC"):
        return column
    if dtype == pl.Date:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if getattr(dtype, "time_zone", None) is None:
        return column.dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    return column.dt.cast_time_unit("us").dt.convert_time_zone("UTC")


def family_of(dtype: Any) -> Family:
    """Number, time, text or something else."""
    if dtype.is_numeric():
        return "number"
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        return "time"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else "any"


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


class Expectation(msgspec.Struct, frozen=True, tag_field="expect", tag=_snake):
    """One promise about a table. ``needs`` says which columns it reads, and what they must hold."""

    timed: ClassVar[bool] = False  # needs the present time

    @property
    def title(self) -> str:
        return _snake(type(self).__name__)

    def needs(self) -> dict[str, Family]:
        return {}

    @property
    def about(self) -> str:
        """The columns it speaks of."""
        return ", ".join(self.needs())

    def prepare(self, table: pl.LazyFrame, scope: Scope) -> pl.LazyFrame:
        """Add columns that the expressions need; most need none."""
        return table

    def ask(self, scope: Scope) -> dict[str, pl.Expr]:
        """The expressions to evaluate, each a single value."""
        return {}

    def judge(self, seen: dict[str, Any], scope: Scope) -> Result:
        """The answer, from the values of :meth:`ask`."""
        raise NotImplementedError

    def result(self, passed: bool, observed: Any, limit: str, found: str, **more: Any) -> Result:
        """A result whose message names the columns, what was found, and (when broken) the limit."""
        columns = self.about
        return Result(
            name=self.title, column=columns, passed=passed, observed=observed, limit=limit,
            message=f"{columns}: {found}" if columns else found, **more,
        )  # fmt: skip


class RowExpectation(Expectation, frozen=True):
    """A promise that each row keeps or breaks; ``share`` of the rows may break it."""

    def breaks(self, scope: Scope) -> pl.Expr:
        """True where a row breaks it; null counts as kept."""
        raise NotImplementedError

    def words(self) -> tuple[str, str]:
        """The limit, and what rows do that break it ("lie outside [0, 1]")."""
        raise NotImplementedError

    @property
    def allowed(self) -> float:
        return float(getattr(self, "share", 0.0))

    def ask(self, scope: Scope) -> dict[str, pl.Expr]:
        broken = self.breaks(scope).fill_null(False)
        return {"failing": broken.sum(), "row": pl.col(ROW).filter(broken).min()}

    def judge(self, seen: dict[str, Any], scope: Scope) -> Result:
        failing, (limit, words) = int(seen["failing"] or 0), self.words()
        share = failing / scope.rows
        passed = share <= self.allowed
        first = {"row": int(seen["row"])} if failing else None
        if self.allowed:
            limit = f"{limit}, in all but {self.allowed:.2%} of rows"
        found = f"{failing} of {scope.rows} rows {words}"
        return self.result(passed, share, limit, found, failing=failing, first=first)


def utc(at: datetime) -> datetime:
    """The present as the expressions compare it."""
    return at.astimezone(UTC)
