"""A step too far: the promise that catches a feed which changes its unit.

Fahrenheit that turns to Celsius stays inside any honest range, but no airport cools by 40 degrees in an hour.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import polars as pl

from flyball.checks.probing import ROW, Family, RowExpectation, Scope, as_utc
from flyball.checks.results import Result

_ANY: Family = "any"
_TYPICAL_OF = 3  # the last accepted value is the median of these, so that one odd row taints no later batch


class StepAtMost(RowExpectation, frozen=True):
    """A value changes by at most ``limit + per_hour * hours since the value before``, and never by more than ``most``.

    The value before is that of the same key (``by``) in the table, or the last one accepted earlier. With
    ``against="accepted"`` every row is held against the last accepted one: then a changed unit breaks *all* rows of a
    batch and a single odd reading only its own, so a ``share`` can tell them apart.
    """

    column: str
    limit: float
    at: str
    by: tuple[str, ...] | str = ()
    per_hour: float = 0.0
    most: float | None = None
    against: Literal["row", "accepted"] = "row"
    share: float = 0.0

    def __post_init__(self) -> None:
        keys = (self.by,) if isinstance(self.by, str) else tuple(self.by)
        msgspec.structs.force_setattr(self, "by", keys)

    def needs(self) -> dict[str, Family]:
        return {self.column: "number", self.at: "time", **dict.fromkeys(self.by, _ANY)}

    @property
    def about(self) -> str:
        return self.column

    def prepare(self, table: pl.LazyFrame, scope: Scope) -> pl.LazyFrame:
        """Add to each row its step from the value before, and the step that was allowed."""
        before, before_at, step, allowed = self._names(scope)
        value, at = scope.value(self.column).cast(pl.Float64), scope.time(self.at)
        keys = [pl.col(key) for key in self.by] or [pl.lit(1)]
        known_at = pl.when(value.is_not_null()).then(at)
        row, row_at = (
            one.forward_fill().shift(1).over(keys, order_by=[self.at, ROW]) for one in (value, known_at)
        )
        pairs = [(row, row_at), (pl.col(before), pl.col(before_at))]
        first, second = pairs if self.against == "row" else pairs[::-1]
        table = self._with_accepted(table, scope).with_columns(
            pl.when(first[0].is_null()).then(second[0]).otherwise(first[0]).alias(before),
            pl.when(first[0].is_null()).then(second[1]).otherwise(first[1]).alias(before_at),
        )
        limit = self.limit + self.per_hour * (at - pl.col(before_at)).dt.total_microseconds().abs() / 3.6e9
        return table.with_columns(
            (value - pl.col(before)).abs().alias(step),
            (limit if self.most is None else limit.clip(upper_bound=self.most)).alias(allowed),
        )

    def _with_accepted(self, table: pl.LazyFrame, scope: Scope) -> pl.LazyFrame:
        """Join the last accepted value of each key, and its time; null where there is none."""
        value, at, *_ = self._names(scope)
        before = scope.previous
        if before is None or before.height == 0 or any(name not in before.columns for name in self.needs()):
            nothing = pl.lit(None, pl.Float64).alias(value), pl.lit(None, pl.Datetime("us", "UTC")).alias(at)
            return table.with_columns(nothing)
        last = (
            before.lazy()
            .select(
                *(pl.col(key).cast(scope.schema[key]) for key in self.by),
                pl.col(self.column).cast(pl.Float64).fill_nan(None).alias(value),
                as_utc(pl.col(self.at), before.schema[self.at]).alias(at),
            )
            .drop_nulls([value, at])
            .sort(at)
        )
        typical, newest = pl.col(value).tail(_TYPICAL_OF).median(), pl.col(at).last()
        if not self.by:
            return table.join(last.select(typical, newest), how="cross")
        return table.join(
            last.group_by(self.by).agg(typical, newest), on=list(self.by), how="left", nulls_equal=True
        )

    def breaks(self, scope: Scope) -> pl.Expr:
        _, _, step, allowed = map(pl.col, self._names(scope))
        return step > allowed

    def ask(self, scope: Scope) -> dict[str, pl.Expr]:
        return {**super().ask(scope), "largest": pl.col(self._names(scope)[2]).max()}

    def judge(self, seen: dict[str, Any], scope: Scope) -> Result:
        found = super().judge(seen, scope)
        largest = seen["largest"]
        shown = "no value before any" if largest is None else f"the largest step is {largest:g}"
        return msgspec.structs.replace(found, observed=largest, message=f"{found.message} ({shown})")

    def words(self) -> tuple[str, str]:
        limit = f"{self.limit:g}" + (f" + {self.per_hour:g} an hour" if self.per_hour else "")
        limit += f", at most {self.most:g}" if self.most is not None else ""
        before = "the last accepted value" if self.against == "accepted" else "the value before"
        return f"steps of at most {limit}", f"step by more than {limit} from {before}"

    def _names(self, scope: Scope) -> tuple[str, ...]:
        """Columns of its own: the value before, its time, the step, the step allowed."""
        return tuple(f"__step_{scope.number}_{part}" for part in ("before", "before_at", "taken", "allowed"))
