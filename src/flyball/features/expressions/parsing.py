"""SQL into expressions: ``sql("amount / nullif(total, 0)")``, parsed by sqlglot; what has no equal here is refused by name.

The expression then means what :mod:`flyball.features.expressions.tree` says, in every engine. What SQL dialects
themselves disagree about is refused with what to write instead (``log``, casts to integers, ``//``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from flyball.errors import Invalid, nearest
from flyball.features.expressions.tree import Expr, call, coalesce, col, concat, greatest, least, lit, when
from flyball.features.expressions.tree import literal as tree_literal

_LONGEST = 20_000
_TWO = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "EQ": "eq", "NEQ": "ne", "LT": "lt", "LTE": "le",
    "GT": "gt", "GTE": "ge", "And": "and", "Or": "or", "StartsWith": "starts_with", "EndsWith": "ends_with",
    "Contains": "contains",
}  # fmt: skip
_ONE = {
    "Neg": "neg", "Abs": "abs", "Ln": "log", "Exp": "exp", "Sqrt": "sqrt", "Sign": "sign", "Floor": "floor", "Ceil": "ceil",
    "Lower": "lower", "Upper": "upper", "Length": "length", "Not": "not", "TimeToUnix": "epoch", "UnixToTime": "from_epoch",
}  # fmt: skip
_PARTS = {
    "Year": "year", "Month": "month", "Day": "day", "DayOfMonth": "day", "Hour": "hour", "Minute": "minute",
    "Second": "second", "DayOfWeekIso": "weekday", "DayOfYear": "day_of_year",
}  # fmt: skip
_EXTRACTS = {
    "YEAR": "year", "MONTH": "month", "DAY": "day", "HOUR": "hour", "MINUTE": "minute", "SECOND": "second",
    "ISODOW": "weekday", "DAYOFWEEK_ISO": "weekday", "DOY": "day_of_year", "DAYOFYEAR": "day_of_year",
}  # fmt: skip
_CASTS = {
    **dict.fromkeys(("DOUBLE", "FLOAT", "DECIMAL"), "FP64"), **dict.fromkeys(("VARCHAR", "TEXT", "CHAR"), "BYTES"),
    "BOOLEAN": "BOOL",
}  # fmt: skip
_INSTEAD = {
    "Log": "ln(x) is the natural logarithm; log(x) is of base 10 in one dialect and of base e in another",
    "IntDiv": "floor(a / b)", "DayOfWeek": "isodow(t): Monday is 1", "DateDiff": "epoch(a) - epoch(b), in seconds",
    "TimestampDiff": "epoch(a) - epoch(b), in seconds", "Sum": "an aggregate is a window of the view: fb.features.sum",
    "Avg": "an aggregate is a window of the view: fb.features.mean", "Count": "an aggregate is a window: fb.features.count",
    "Subquery": "one row at a time", "Select": "an expression, without SELECT", "Block": "one expression, without ;",
}  # fmt: skip


def sql(text: str) -> Expr:
    """The expression that this SQL says. Column names that are no SQL names are quoted: ``"view:feature" * 2``.

    >>> sql("amount / nullif(total, 0)")
    col("amount") / when(col("total") == 0).then(None).otherwise(col("total"))
    """
    try:
        import sqlglot
    except ImportError as error:
        raise Invalid(
            "SQL is read by sqlglot, which is not installed", "pip install 'flyball[sql]'"
        ) from error
    if len(text) > _LONGEST:
        raise Invalid(f"an SQL expression of {len(text)} letters", f"at most {_LONGEST}")
    try:
        parsed = sqlglot.parse_one(text, dialect="duckdb")
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        said = str(error).partition("\n")[0]
        raise Invalid(f"{text!r} is no SQL expression: {said}", "like amount / nullif(total, 0)") from error
    return lit(_Reader(text).read(parsed))


class _Reader:
    """Nodes of sqlglot, by their names, into expressions."""

    def __init__(self, text: str) -> None:
        self.text = text

    def refuse(self, node: Any, hint: str = "") -> Invalid:
        name = type(node).__name__ if type(node).__name__ != "Anonymous" else str(node.this)
        shown = node.sql(dialect="duckdb") if hasattr(node, "sql") else str(node)
        known = [
            *_ONE.values(),
            *_EXTRACTS.values(),
            "coalesce",
            "nullif",
            "greatest",
            "least",
            "round",
            "substring",
            "replace",
        ]
        return Invalid(
            f"no expression for {name} in SQL: {shown}",
            hint or _INSTEAD.get(name) or nearest(name.lower(), known),
        )

    def read(self, node: Any) -> Any:
        """An expression or a literal."""
        name, this = type(node).__name__, node.this
        if name in _TWO:
            return call(_TWO[name], self.read(this), self.read(node.expression))
        if name in _ONE:
            return call(_ONE[name], self.read(this))
        if name in _PARTS:
            return self.part(_PARTS[name], this)
        own: Callable[[Any], Any] | None = getattr(self, f"_{name.lower()}", None)
        if own is None:
            raise self.refuse(node)
        return own(node)

    def part(self, op: str, of: Any) -> Expr:
        if type(of).__name__ == "AtTimeZone":
            return call(op, self.read(of.this), self.literal(of.args["zone"]))
        return call(op, self.read(of), "UTC")

    def literal(self, node: Any) -> Any:
        value = self.read(node)
        if isinstance(value, Expr):
            raise self.refuse(node, "a literal stands here")
        return value

    def _paren(self, node: Any) -> Any:
        return self.read(node.this)

    def _column(self, node: Any) -> Expr:
        if node.args.get("table") is not None:
            raise self.refuse(
                node,
                f'a row has columns, no tables: {node.name}; or "{node.table}:{node.name}" for a feature',
            )
        return col(node.name)

    def _literal(self, node: Any) -> Any:
        if node.is_string:
            return str(node.this)
        number = float(node.this)
        if "." not in node.this and "e" not in node.this.lower() and int(node.this) != number:
            raise self.refuse(node, "whole numbers up to 2**53")
        return number

    def _boolean(self, node: Any) -> bool:
        return bool(node.this)

    def _null(self, node: Any) -> None:
        return None

    def _mod(self, node: Any) -> Expr:
        above, below = lit(self.read(node.this)), self.read(node.expression)
        return call(
            "sub", above, call("mul", below, call("truncate", above / below))
        )  # as SQL has it: the sign is the dividend's

    def _is(self, node: Any) -> Expr:
        value, what = lit(self.read(node.this)), self.read(node.expression)
        if what is None:
            return value.is_null()
        if isinstance(what, bool):
            return (value == what).fill_null(False)
        raise self.refuse(node, "IS NULL, IS TRUE, IS FALSE")

    def _nullif(self, node: Any) -> Expr:
        value = lit(self.read(node.this))
        return when(value == self.read(node.expression)).then(None).otherwise(value)

    def _coalesce(self, node: Any) -> Expr:
        return coalesce(self.read(node.this), *map(self.read, node.expressions))

    def _greatest(self, node: Any) -> Expr:
        return greatest(self.read(node.this), *map(self.read, node.expressions))

    def _least(self, node: Any) -> Expr:
        return least(self.read(node.this), *map(self.read, node.expressions))

    def _in(self, node: Any) -> Expr:
        if node.args.get("query") is not None or not node.expressions:
            raise self.refuse(node, "IN takes a list of literals")
        return lit(self.read(node.this)).is_in([self.literal(one) for one in node.expressions])

    def _between(self, node: Any) -> Expr:
        return lit(self.read(node.this)).between(self.read(node.args["low"]), self.read(node.args["high"]))

    def _case(self, node: Any) -> Expr:
        of = None if node.this is None else lit(self.read(node.this))
        parts: list[Any] = []
        for case in node.args["ifs"]:
            condition = self.read(case.this)
            parts += [condition if of is None else of == condition, self.read(case.args["true"])]
        default = node.args.get("default")
        return call("when", *parts, None if default is None else self.read(default))

    def _if(self, node: Any) -> Expr:
        other = node.args.get("false")
        return (
            when(self.read(node.this))
            .then(self.read(node.args["true"]))
            .otherwise(None if other is None else self.read(other))
        )

    def _dpipe(self, node: Any) -> Expr:
        return concat(self.read(node.this), self.read(node.expression))

    def _concat(self, node: Any) -> Expr:
        return concat(*(coalesce(self.read(one), "") for one in node.expressions))  # SQL's concat skips nulls

    def _round(self, node: Any) -> Expr:
        digits = node.args.get("decimals")
        return lit(self.read(node.this)).round(0 if digits is None else int(self.literal(digits)))

    def _trunc(self, node: Any) -> Expr:
        if node.args.get("decimals") is not None:
            raise self.refuse(node, "trunc(x)")
        return call("truncate", self.read(node.this))

    def _trim(self, node: Any) -> Expr:
        if node.args.get("expression") is not None or node.args.get("position"):
            raise self.refuse(node, "trim(x): spaces, tabs and line ends, at both ends")
        return call("strip", self.read(node.this))

    def _replace(self, node: Any) -> Expr:
        return call(
            "replace",
            self.read(node.this),
            self.literal(node.expression),
            self.literal(node.args["replacement"]),
        )

    def _substring(self, node: Any) -> Expr:
        start, length = self.literal(node.args["start"]), node.args.get("length")
        if start < 1:
            raise self.refuse(node, "SQL counts letters from 1")
        return call(
            "slice",
            self.read(node.this),
            int(start) - 1,
            None if length is None else int(self.literal(length)),
        )

    def _left(self, node: Any) -> Expr:
        return call("slice", self.read(node.this), 0, int(self.literal(node.expression)))

    def _right(self, node: Any) -> Expr:
        return call("tail", self.read(node.this), int(self.literal(node.expression)))

    def _like(self, node: Any) -> Expr:
        value, pattern = lit(self.read(node.this)), str(self.literal(node.expression))
        inner = pattern.strip("%")
        if "%" in inner or "_" in pattern or "\\" in pattern:
            raise self.refuse(node, "'abc%', '%abc' or '%abc%'")
        starts, ends = not pattern.startswith("%"), not pattern.endswith("%")
        if starts and ends:
            return value == inner
        op = "starts_with" if starts else "ends_with" if ends else "contains"
        return call(op, value, inner)

    def _extract(self, node: Any) -> Expr:
        part = str(node.this.this if hasattr(node.this, "this") else node.this).upper()
        if part == "EPOCH":
            return call("epoch", self.read(node.expression))
        if part not in _EXTRACTS:
            raise self.refuse(
                node,
                "isodow has Monday as 1" if part in ("DOW", "DAYOFWEEK") else nearest(part, list(_EXTRACTS)),
            )
        return self.part(_EXTRACTS[part], node.expression)

    def _cast(self, node: Any) -> Any:
        to = node.to.this.name
        if to.startswith("TIMESTAMP") or to == "DATE":
            text = self.literal(node.this)
            try:
                return tree_literal(datetime.fromisoformat(text))
            except (TypeError, ValueError):
                raise self.refuse(node, "TIMESTAMP '2013-01-01 05:15:00'") from None
        if to not in _CASTS:
            integer = "trunc(x) or round(x): dialects round casts differently"
            raise self.refuse(node, integer if "INT" in to else f"to {', '.join(sorted(_CASTS))}")
        return lit(self.read(node.this)).cast(_CASTS[to])

    def _trycast(self, node: Any) -> Any:
        return self._cast(node)

    def _anonymous(self, node: Any) -> Any:
        if str(node.this).lower() == "log1p" and len(node.expressions) == 1:
            return call("log1p", self.read(node.expressions[0]))
        raise self.refuse(node)
