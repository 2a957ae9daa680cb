"""Expressions in batch: Polars. The same meaning as the function per row, which a generated test proves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import polars as pl

from flyball.errors import Invalid, nearest
from flyball.features.expressions import scalars
from flyball.features.expressions.kinds import Typed, by_dependence, column_kinds, condition
from flyball.features.expressions.meaning import (
    EXP_MOST,
    FINITE,
    FIRST_US,
    LARGEST,
    LAST_US,
    NUMBER,
    SPACES,
    TIME,
    WHOLE,
    Bounds,
    lowered,
)  # fmt: skip
from flyball.features.expressions.tree import Expr

Frame = pl.DataFrame | pl.LazyFrame
F = TypeVar("F", pl.DataFrame, pl.LazyFrame)
_DTYPES = {"n": pl.Float64(), "b": pl.Boolean(), "s": pl.String(), "t": pl.Datetime("us", "UTC")}
MOST_DOUBLED = 24  # in one expression; each may double it
_PARTS = {
    "year": "year", "month": "month", "day": "day", "hour": "hour", "minute": "minute", "second": "second",
    "weekday": "weekday", "day_of_year": "ordinal_day",
}  # fmt: skip


def apply(
    frame: F, derived: Mapping[str, Expr], where: Expr | None = None, types: Mapping[str, str] = {}
) -> F:
    """The frame with the derived columns (one of the same name is replaced), and only rows for which ``where`` is true.

    Derived columns read the frame's own and one another, ``where`` reads both. A missing column and a wrong type are named.
    """
    for layer in by_dependence(derived):
        frame = with_expressions(frame, layer, _declared(frame, layer.values(), types))
    if where is None:
        return frame
    declared = _declared(frame, [where], types)
    staged = Staged(condition(where, declared), frame.collect_schema())
    kept = staged.output(where)
    return staged.before(frame).filter(kept).drop(staged.temporary)


def _declared(frame: Frame, expressions: Iterable[Expr], types: Mapping[str, str]) -> dict[str, str]:
    """The kinds of a frame's columns, else those said; a column that is not there, or of no use, is named."""
    schema = frame.collect_schema()
    known = kinds_in(schema)
    for expression in expressions:
        check_columns(expression, schema, known)
    return {**types, **{name: kind for name, kind in known.items() if kind}}


def with_expressions(frame: F, expressions: Mapping[str, Expr], types: Mapping[str, str] = {}) -> F:
    """The frame with a column per expression, all of which read the frame as it was."""
    staged = Staged(column_kinds(expressions.values(), types), frame.collect_schema())
    columns = [staged.output(one).alias(name) for name, one in expressions.items()]
    return staged.before(frame).with_columns(columns).drop(staged.temporary)


def to_polars(expression: Expr, types: Mapping[str, str] = {}) -> pl.Expr:
    """The Polars expression. ``types`` (FP64, BOOL, BYTES, TIME) of columns whose use does not tell."""
    found = Polars(column_kinds([expression], types))
    return found.output(expression)


def kinds_in(schema: Mapping[str, pl.DataType]) -> dict[str, str]:
    """The kinds of a frame's columns; empty for what may be anything (nulls), absent for what no expression takes."""
    found = {}
    for name, dtype in schema.items():
        if dtype.is_numeric():
            found[name] = "n"
        elif dtype == pl.Boolean:
            found[name] = "b"
        elif dtype in (pl.String, pl.Categorical, pl.Enum):
            found[name] = "s"
        elif dtype == pl.Date or isinstance(dtype, pl.Datetime):
            found[name] = "t"
        elif dtype == pl.Null:
            found[name] = ""
    return found


def check_columns(expression: Expr, schema: Mapping[str, pl.DataType], known: Mapping[str, str]) -> None:
    """Refuse a column that is not there, or that is a list, a struct or bytes."""
    from flyball.features.expressions.tree import columns_of

    for name in columns_of(expression):
        if name not in schema:
            raise Invalid(
                f"{expression!r} reads {name!r}, which is not there", nearest(name, list(schema)), column=name
            )
        if name not in known:
            raise Invalid(
                f"{expression!r} reads {name!r}, which is {schema[name]}",
                "numbers, booleans, texts, times",
                column=name,
            )


class Polars:
    """One expression at a time, as Polars'. Times are whole microseconds until they leave.

    What is said twice (a divisor is looked at and divided by) doubles the expression with each level; :class:`Staged`
    gives it a column of its own first.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = kinds
        self.typed, self.bounds = Typed(dict(kinds)), Bounds()
        self.seen: dict[Expr, pl.Expr] = {}
        self.doubled = 0

    def once(self, expression: pl.Expr) -> pl.Expr:
        """An expression that will be said more than once."""
        self.doubled += 1
        if self.doubled > MOST_DOUBLED:
            raise Invalid(
                "too much for one Polars expression", "apply(frame, {name: expression}) computes it in stages"
            )
        return expression

    def within(self, number: pl.Expr, largest: float) -> pl.Expr:
        number = self.once(number)
        return pl.when(number.abs() <= largest).then(number)  # NaN is above all numbers, in Polars

    def output(self, expression: Expr) -> pl.Expr:
        """What leaves: numbers as Float64, times as Datetime in UTC, texts and booleans."""
        node = lowered(expression)
        kind, found = self.typed.of(node), self.value(node)
        if kind == "n" and self.bounds.of(node) > 150.0:
            found = self.within(found, LARGEST)
        return found.cast(_DTYPES[kind])

    def value(self, node: Any, kind: str = "n") -> pl.Expr:
        """A node or literal; ``kind`` is that of a null, and ``n`` makes a number of a boolean."""
        if not isinstance(node, Expr):
            if node is None:
                return pl.lit(None, dtype=pl.Int64() if kind == "t" else _DTYPES[kind])
            return pl.lit(
                node, dtype=_DTYPES["b" if isinstance(node, bool) else "s" if isinstance(node, str) else "n"]
            )
        if node not in self.seen:
            found = self.make(node)
            if self.typed.of(node) == "n" and node.op not in ("col", "lit") and self.bounds.needs_check(node):
                found = self.within(found, FINITE)
            self.seen[node] = found
        return self.seen[node]

    def as_kind(self, node: Any, kind: str) -> pl.Expr:
        found = self.value(node, kind)
        return found.cast(pl.Float64) if kind == "n" and self.typed.of(node) == "b" else found

    def make(self, node: Expr) -> pl.Expr:
        op, args = node.op, node.args
        if op == "col":
            return self.column(cast("str", args[0]))
        if op in ("lit", "time"):
            return self.value(args[0]) if op == "lit" else pl.lit(args[0], dtype=pl.Int64)
        for group in (self._number, self._logic, self._case, self._text, self._time):
            found = group(op, node, args)
            if found is not None:
                return found
        raise AssertionError(op)

    def column(self, name: str) -> pl.Expr:
        column, kind = pl.col(name), self.kinds[name]
        if kind == "s":
            return column.cast(pl.String)
        if kind == "t":
            us = column.dt.epoch("us")
            return pl.when(us.is_between(FIRST_US, LAST_US)).then(us)
        number = self.within(column.cast(pl.Float64), LARGEST)
        return number if kind == "n" else number != 0.0

    def _number(self, op: str, node: Expr, args: tuple[Any, ...]) -> pl.Expr | None:
        two = {"add": "__add__", "sub": "__sub__", "mul": "__mul__"}
        if op in two:
            return cast("pl.Expr", getattr(self.as_kind(args[0], "n"), two[op])(self.as_kind(args[1], "n")))
        if op == "div":
            above, below = self.as_kind(args[0], "n"), self.as_kind(args[1], "n")
            return (
                _divided(above, args[1])
                if isinstance(args[1], float) and args[1]
                else above / _not_zero(self.once(below))
            )
        if op == "mod":
            above, below = self.once(self.as_kind(args[0], "n")), self.once(self.as_kind(args[1], "n"))
            quotient = self.once(
                _divided(above, args[1])
                if isinstance(args[1], float) and args[1]
                else above / _not_zero(below)
            )
            return _if(quotient.abs() < WHOLE, above - below * quotient.floor())
        if op == "pow":
            base = self.as_kind(args[0], "n")
            if args[1] in (2.0, 3.0):
                base = self.once(base)
                return base * base if args[1] == 2.0 else base * base * base
            return base.pow(self.as_kind(args[1], "n"))
        if op in ("neg", "abs", "floor", "ceil", "truncate", "round", "sqrt", "exp", "log", "log1p", "sign"):
            x = self.as_kind(args[0], "n")
            if op == "round":
                return x.round(0, mode="half_to_even")
            x = self.once(x) if op in ("sqrt", "exp", "log", "log1p") else x
            domain = {"sqrt": x >= 0.0, "exp": x <= EXP_MOST, "log": x > 0.0, "log1p": x > -1.0}.get(op)
            x = x if domain is None else _if(domain, x)
            return cast("pl.Expr", getattr(x, op)())
        if op == "clip":
            x = self.as_kind(args[0], "n")
            for at in (1, 2):
                if args[at] is not None:
                    x, end = self.once(x), self.once(self.as_kind(args[at], "n"))
                    beyond = x < end if at == 1 else x > end
                    x = pl.when(x.is_null() | end.is_null()).then(None).when(beyond).then(end).otherwise(x)
            return x
        return None

    def _logic(self, op: str, node: Expr, args: tuple[Any, ...]) -> pl.Expr | None:
        compare = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
        if op in compare:
            kind = self.typed.one_kind(node, args) or "n"
            if kind == "b" and op not in ("eq", "ne"):
                kind = "n"
            return cast(
                "pl.Expr", getattr(self.as_kind(args[0], kind), compare[op])(self.as_kind(args[1], kind))
            )
        if op in ("and", "or"):
            one, other = self.value(args[0], "b"), self.value(args[1], "b")
            return one & other if op == "and" else one | other
        if op == "not":
            return ~self.value(args[0], "b")
        if op == "is_null":
            return self.value(args[0], "n").is_null()
        if op == "is_in":
            value = self.as_kind(args[0], self.typed.one_kind(node, args))
            dtype = _DTYPES[self.typed.one_kind(node, args)]
            return value.is_in(pl.Series([_as(one, dtype) for one in args[1:]], dtype=dtype).implode())
        if op == "to_bool":
            x = self.value(args[0])
            return x if self.typed.of(args[0]) == "b" else x != 0.0
        return None

    def _case(self, op: str, node: Expr, args: tuple[Any, ...]) -> pl.Expr | None:
        kind = self.typed.of(node)
        if op == "when":
            chain: Any = pl
            for condition, value in zip(args[:-1:2], args[1::2], strict=True):
                chain = chain.when(self.value(condition, "b")).then(self.as_kind(value, kind))
            return cast("pl.Expr", chain.otherwise(self.as_kind(args[-1], kind)))
        if op == "coalesce":
            return pl.coalesce([self.as_kind(arg, kind) for arg in args])
        if op in ("least", "greatest"):
            kind = "n" if kind == "b" else kind
            found = self.as_kind(args[0], kind)
            for arg in args[1:]:  # min_horizontal takes no texts
                found, other = self.once(found), self.once(self.as_kind(arg, kind))
                better = found <= other if op == "least" else found >= other
                found = pl.when(other.is_null() | better).then(found).otherwise(other)
            return found
        if op == "map":
            value, dtype = self.once(self.value(args[0])), _DTYPES[kind]
            of = _DTYPES[self.typed.of(args[0])]
            known = pl.Series([_as(key, of) for key in args[2::2]], dtype=of)
            become = pl.Series([_as(one, dtype) for one in args[3::2]], dtype=dtype)
            mapped = value.replace_strict(
                known, become, default=self.as_kind(args[1], kind), return_dtype=dtype
            )
            return pl.when(value.is_not_null()).then(mapped)
        return None

    def _text(self, op: str, node: Expr, args: tuple[Any, ...]) -> pl.Expr | None:
        if op == "to_number":
            x = self.once(self.value(args[0]))
            if self.typed.of(args[0]) != "s":
                return self.as_kind(args[0], "n")
            return _if(x.str.contains(f"^(?:{NUMBER})\\z"), x).cast(pl.Float64, strict=False)
        if op == "to_text":
            x, kind = self.once(self.value(args[0])), self.typed.of(args[0])
            if kind == "s":
                return x
            if kind == "b":
                return pl.when(x).then(pl.lit("true")).when(~x).then(pl.lit("false"))
            return _if((x.abs() < WHOLE) & (x == x.floor()), x).cast(pl.Int64).cast(pl.String)
        if op not in _TEXTS:
            return None
        values = [self.value(arg, "s") if isinstance(arg, Expr) or arg is None else arg for arg in args]
        if op in ("lower", "upper"):
            values[0] = self.once(values[0])
        return cast("pl.Expr", _TEXTS[op](*values))

    def _time(self, op: str, node: Expr, args: tuple[Any, ...]) -> pl.Expr | None:
        if op in (*_PARTS, "date"):
            local = (
                self.value(args[0], "t")
                .cast(pl.Datetime("us", "UTC"))
                .dt.convert_time_zone(cast("str", args[1]))
            )
            if op == "date":
                return local.dt.date().cast(pl.Int32).cast(pl.Float64)
            return cast("pl.Expr", getattr(local.dt, _PARTS[op])()).cast(pl.Float64)
        if op == "epoch":
            return self.value(args[0], "t").cast(pl.Float64).pipe(_divided, 1e6)
        if op == "seconds_between":
            return (self.value(args[0], "t") - self.value(args[1], "t")).cast(pl.Float64).pipe(_divided, 1e6)
        if op == "from_epoch":
            x = self.once(self.as_kind(args[0], "n"))
            inside = x.is_between(FIRST_US / 1e6, float(LAST_US // 1_000_000))
            return (_if(inside, x) * 1e6).round(0, mode="half_to_even").cast(pl.Int64)
        us = self.once(_times_of(self.once(self.value(args[0], "s"))))
        return _if(us.is_between(FIRST_US, LAST_US), us)


class Staged(Polars):
    """Expressions over a frame: what they say twice becomes a column first, dropped at the end."""

    def __init__(self, kinds: Mapping[str, str], schema: Mapping[str, pl.DataType]) -> None:
        super().__init__(kinds)
        self.prefix = "__flyball"
        while any(name.startswith(self.prefix) for name in schema):
            self.prefix += "_"
        self.stages: list[list[pl.Expr]] = []
        self.level: dict[str, int] = {}

    @property
    def temporary(self) -> list[str]:
        return list(self.level)

    def before(self, frame: F) -> F:
        """The frame with the temporary columns."""
        for stage in self.stages:
            frame = frame.with_columns(stage)
        return frame

    def once(self, expression: pl.Expr) -> pl.Expr:
        if expression.meta.is_column() or expression.meta.is_literal():
            return expression
        level = max((self.level.get(name, -1) for name in expression.meta.root_names()), default=-1) + 1
        name = f"{self.prefix}_{len(self.level)}"
        self.level[name] = level
        if level == len(self.stages):
            self.stages.append([])
        self.stages[level].append(expression.alias(name))
        return pl.col(name)


def _if(condition: pl.Expr, value: pl.Expr) -> pl.Expr:
    return pl.when(condition).then(value)


def _not_zero(number: pl.Expr) -> pl.Expr:
    return _if(number != 0.0, number)


def _divided(number: pl.Expr, by: float) -> pl.Expr:
    """Divided by a literal. Polars (2.1) multiplies by 1/literal, which rounds twice; by a column it divides.

    ``when(...).then(literal)`` is no column where all rows agree, so one is made that follows from the number.
    """
    return number / (number * 0.0 + by)


def _as(value: Any, dtype: pl.DataType) -> Any:
    return float(value) if value is not None and dtype == pl.Float64 else value


def _literal(value: Any) -> Any:
    return pl.lit(value, dtype=pl.String) if isinstance(value, str) else value


def _turn_case(text: pl.Expr, to: str) -> pl.Expr:
    table = scalars.case_table(to)
    ascii_letters = (
        {chr(c): chr(c).lower() for c in range(65, 91)}
        if to == "lower"
        else {chr(c): chr(c).upper() for c in range(97, 123)}
    )
    pairs = {**table, **ascii_letters}
    plain = text.str.to_lowercase() if to == "lower" else text.str.to_uppercase()
    return pl.when(text.str.len_bytes() == text.str.len_chars()).then(plain).otherwise(
        text.str.replace_many(list(pairs), list(pairs.values()))
    )  # fmt: skip


def _buckets(text: pl.Expr, buckets: int) -> pl.Expr:
    def of(series: pl.Series) -> pl.Series:
        known = {one: scalars.bucket(one, buckets) for one in series.unique() if one is not None}
        return pl.Series(
            series.name, [None if one is None else known[one] for one in series], dtype=pl.Float64
        )

    return text.map_batches(of, return_dtype=pl.Float64, is_elementwise=True)


_TEXTS: dict[str, Any] = {
    "lower": lambda x: _turn_case(x, "lower"),
    "upper": lambda x: _turn_case(x, "upper"),
    "strip": lambda x: _literal(x).str.strip_chars(SPACES),
    "length": lambda x: _literal(x).str.len_chars().cast(pl.Float64),
    "contains": lambda x, part: _literal(x).str.contains(_literal(part), literal=True),
    "starts_with": lambda x, part: _literal(x).str.starts_with(_literal(part)),
    "ends_with": lambda x, part: _literal(x).str.ends_with(_literal(part)),
    "slice": lambda x, start, length: _literal(x).str.slice(start, length),
    "tail": lambda x, count: _literal(x).str.tail(count),
    "concat": lambda *parts: pl.concat_str([_literal(part) for part in parts]),
    "replace": lambda x, old, new: _literal(x).str.replace_all(old, _literal(new), literal=True),
    "hash_bucket": lambda x, buckets: _buckets(_literal(x), buckets),
}  # fmt: skip


def _times_of(text: pl.Expr) -> pl.Expr:
    """Microseconds of the time a text spells."""
    text = _if(text.str.contains(f"^(?:{TIME})\\z"), text)
    day = text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Int64)

    def part(group: int) -> pl.Expr:
        return text.str.extract(TIME, group).cast(pl.Int64).fill_null(0)

    fraction = text.str.extract(TIME, 5).str.pad_end(6, "0").cast(pl.Int64).fill_null(0)
    ahead = part(8) * 3600 + part(9) * 60
    signed = pl.when(text.str.extract(TIME, 7) == "-").then(ahead).otherwise(-ahead)
    seconds = part(2) * 3600 + part(3) * 60 + part(4) + signed
    return day * 86_400_000_000 + seconds * 1_000_000 + fraction
