"""An expression is a small tree, plain data: written once, kept in a definition, compiled for every engine.

>>> late = (col("delay") > 15) & ~col("cancelled").fill_null(False)
>>> columns_of(late)
('delay', 'cancelled')
>>> col("city").str.lower()
col("city").str.lower()

What every engine holds to (decision 020): numbers are float64; null in, null out, unless said otherwise; ``&`` and ``|``
are Kleene's; what would be infinite, not a number or a division by zero is null as soon as it arises, and beyond 1e150
when it leaves; rounding is half to even; a time without a zone is UTC; Monday is 1; texts are counted in code points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import msgspec

from flyball.errors import Invalid, nearest
from flyball.features.expressions.operations import OPS, check_node

Scalar = bool | int | float | str | None
Word = str  # inside the class, ``str`` is the name of what can be done with texts
DEEPEST = 150
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _two(op: str) -> Any:
    return lambda self, other: call(op, self, other)


def _turned(op: str) -> Any:
    return lambda self, other: call(op, other, self)


def _one(op: str) -> Any:
    return lambda self: call(op, self)


class Expr(msgspec.Struct, frozen=True, eq=False):
    """One operation on expressions and literals; made by :func:`col`, operators and methods, kept as plain data."""

    op: Word
    args: tuple[Expr | Scalar, ...]

    __array_ufunc__ = None  # so that numpy's numbers leave their operators to us

    def __post_init__(self) -> None:
        check_node(self)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]  # an expression, as in Polars and SQLAlchemy
        return call("eq", self, other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]  # as above
        return call("ne", self, other)

    def __hash__(self) -> int:
        return hash((self.op, self.args))

    def __bool__(self) -> bool:
        """``bool(a == b)`` says whether two expressions are the same one, so that definitions can be compared."""
        if self.op in ("eq", "ne"):
            return same(*self.args) == (self.op == "eq")
        raise Invalid(
            "an expression has no truth until it has a row",
            "write & for and, | for or, ~ for not, with brackets; x.between(low, high) for low <= x <= high",
        )

    def __getattr__(self, name: Word) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        place = next(
            (f"; it is .{space}.{name}(...)" for space, words in _SPACES.items() if name in words), ""
        )
        known = [word for word in dir(type(self)) if not word.startswith("_")]
        raise AttributeError(f"an expression has no method {name!r}{place or '; ' + nearest(name, known)}")

    def __repr__(self) -> Word:
        return shown(self)

    def is_null(self) -> Expr:
        return call("is_null", self)

    def is_not_null(self) -> Expr:
        return call("not", call("is_null", self))

    def fill_null(self, value: Any) -> Expr:
        """This, or ``value`` where it is null."""
        return call("coalesce", self, value)

    def is_in(self, values: Sequence[Any]) -> Expr:
        """Whether it is one of these literals; null of null."""
        if isinstance(values, Word | bytes) or not values:
            raise Invalid(f"is_in takes a list of literals, not {values!r}", 'like .is_in(["UA", "AA"])')
        return call("is_in", self, *values)

    def between(self, low: Any, high: Any) -> Expr:
        """``low <= x <= high``, both ends in."""
        return call("and", self >= low, self <= high)

    def clip(self, low: Any = None, high: Any = None) -> Expr:
        """Not below ``low``, not above ``high``; null stays null."""
        return call("clip", self, low, high)

    def round(self, digits: int = 0) -> Expr:
        """To so many digits after the point, half to even: ``round(x * 10**digits) / 10**digits``."""
        return call("round", self, digits)

    def map(self, mapping: Mapping[Any, Any], default: Any = None) -> Expr:
        """What the mapping says; ``default`` for what it does not name; null of null."""
        if not mapping:
            raise Invalid("a mapping without entries", 'like .map({"UA": 1, "AA": 2})')
        pairs = [part for pair in mapping.items() for part in pair]
        return call("map", self, default, *pairs)

    def one_hot(self, *values: Word | float) -> dict[Word, Expr]:
        """Per value one expression, 1 where it is that value, else 0: ``derived={**col("carrier").one_hot("UA", "AA")}``."""
        name = self.args[0] if self.op == "col" else self.op
        return {f"{name}_{value}": (self == value).fill_null(False).cast("FP64") for value in values}

    def cast(self, datatype: Word) -> Expr:
        """FP64 (a text that is no number: null), INT64 (towards zero), BOOL (not 0), BYTES (text; null of a fraction)."""
        casts: dict[Word, Callable[[], Expr]] = {
            "FP64": lambda: call("to_number", self),
            "INT64": lambda: call("truncate", call("to_number", self)),
            "BOOL": lambda: call("to_bool", self),
            "BYTES": lambda: call("to_text", self),
        }
        if datatype not in casts:
            raise Invalid(f"no cast to {datatype!r}", nearest(Word(datatype), list(casts)))
        return casts[datatype]()

    @property
    def str(self) -> Texts:
        """What can be done with a text."""
        return Texts(self)

    @property
    def dt(self) -> Times:
        """What can be done with a time."""
        return Times(self)

    __add__, __radd__, __sub__, __rsub__ = _two("add"), _turned("add"), _two("sub"), _turned("sub")
    __mul__, __rmul__, __truediv__, __rtruediv__ = _two("mul"), _turned("mul"), _two("div"), _turned("div")
    __floordiv__, __rfloordiv__, __mod__, __rmod__ = (
        _two("floordiv"), _turned("floordiv"), _two("mod"), _turned("mod")
    )  # fmt: skip
    __pow__, __rpow__, __neg__, __abs__ = _two("pow"), _turned("pow"), _one("neg"), _one("abs")
    __lt__, __le__, __gt__, __ge__ = _two("lt"), _two("le"), _two("gt"), _two("ge")
    __and__, __rand__, __or__, __ror__, __invert__ = (
        _two("and"), _turned("and"), _two("or"), _turned("or"), _one("not")
    )  # fmt: skip
    abs, floor, ceil, sqrt, exp, log, log1p, sign = (
        _one("abs"), _one("floor"), _one("ceil"), _one("sqrt"), _one("exp"), _one("log"), _one("log1p"), _one("sign")
    )  # fmt: skip
    truncate = _one("truncate")  # towards zero


class Texts:
    """Operations on texts: ``col("city").str.lower()``."""

    def __init__(self, of: Expr) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a text has no {name!r}; {nearest(name, list(_SPACES['str']))}")

    def lower(self) -> Expr:
        """Letters that become one letter, of the Latin, Greek, Cyrillic and Armenian scripts; all else stays."""
        return call("lower", self._of)

    def upper(self) -> Expr:
        """See :meth:`lower`."""
        return call("upper", self._of)

    def strip(self) -> Expr:
        """Without the spaces, tabs and line ends of ASCII at both ends."""
        return call("strip", self._of)

    def length(self) -> Expr:
        """In code points."""
        return call("length", self._of)

    def contains(self, part: Any) -> Expr:
        return call("contains", self._of, part)

    def starts_with(self, part: Any) -> Expr:
        return call("starts_with", self._of, part)

    def ends_with(self, part: Any) -> Expr:
        return call("ends_with", self._of, part)

    def slice(self, start: int, length: int | None = None) -> Expr:
        """Code points from ``start`` (from the end when negative), at most ``length`` of them."""
        if start < 0:
            tail = call("tail", self._of, -start)
            return tail if length is None else call("slice", tail, 0, length)
        return call("slice", self._of, start, length)

    def replace(self, old: str, new: str) -> Expr:
        """Every ``old``, a literal, by ``new``."""
        return call("replace", self._of, old, new)

    def hash_bucket(self, buckets: int) -> Expr:
        """A number in ``[0, buckets)``, the same in every engine and process: the last 8 bytes of MD5, modulo."""
        return call("hash_bucket", self._of, buckets)

    def to_time(self) -> Expr:
        """``2013-01-01``, ``2013-01-01T05:15:00``, with a fraction, with ``Z`` or ``+05:30``; null of anything else."""
        return call("parse_time", self._of)


class Times:
    """Operations on times: ``col("departs").dt.hour("America/New_York")``; without a zone, in UTC."""

    def __init__(self, of: Expr) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a time has no {name!r}; {nearest(name, list(_SPACES['dt']))}")

    def year(self, zone: str = "UTC") -> Expr:
        return call("year", self._of, zone)

    def month(self, zone: str = "UTC") -> Expr:
        return call("month", self._of, zone)

    def day(self, zone: str = "UTC") -> Expr:
        return call("day", self._of, zone)

    def hour(self, zone: str = "UTC") -> Expr:
        return call("hour", self._of, zone)

    def minute(self, zone: str = "UTC") -> Expr:
        return call("minute", self._of, zone)

    def second(self, zone: str = "UTC") -> Expr:
        return call("second", self._of, zone)

    def weekday(self, zone: str = "UTC") -> Expr:
        """Monday 1 to Sunday 7."""
        return call("weekday", self._of, zone)

    def day_of_year(self, zone: str = "UTC") -> Expr:
        """1 January is 1."""
        return call("day_of_year", self._of, zone)

    def date(self, zone: str = "UTC") -> Expr:
        """Days since 1970-01-01 on the calendar of that zone."""
        return call("date", self._of, zone)

    def epoch(self) -> Expr:
        """Seconds since 1970, UTC, with their fraction."""
        return call("epoch", self._of)

    def from_epoch(self) -> Expr:
        """The time so many seconds after 1970, UTC, to the microsecond; null outside of the years 1 to 9999."""
        return call("from_epoch", self._of)

    def seconds_since(self, other: Any) -> Expr:
        """Seconds from ``other`` to this."""
        return call("seconds_between", self._of, other)


_SPACES = {
    name: tuple(word for word in vars(space) if not word.startswith("_"))
    for name, space in (("str", Texts), ("dt", Times))
}


def col(name: str) -> Expr:
    """A column of the row, a request field, or a feature: ``col("view:feature")``."""
    return Expr("col", (name,))


def lit(value: Any) -> Expr:
    """A literal: a number, boolean, text, time or ``None``."""
    if isinstance(value, Expr):
        return value
    arg = literal(value)
    return arg if isinstance(arg, Expr) else Expr("lit", (arg,))


def coalesce(*values: Any) -> Expr:
    """The first that is not null."""
    return call("coalesce", *values)


def least(*values: Any) -> Expr:
    """The least of those that are not null; null of none."""
    return call("least", *values)


def greatest(*values: Any) -> Expr:
    """The greatest of those that are not null; null of none."""
    return call("greatest", *values)


def concat(*values: Any) -> Expr:
    """Texts, one after another; null when one of them is."""
    return call("concat", *values)


def when(condition: Any) -> Case:
    """``when(c).then(a).when(d).then(b).otherwise(z)``: the first case that is true; a null condition is not true."""
    return Case((condition,))


class Case:
    """A case that is being written; ends with ``otherwise``."""

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self._parts = parts

    def then(self, value: Any) -> Case:
        if len(self._parts) % 2 == 0:
            raise Invalid("two then() in a row", "when(c).then(a).when(d).then(b).otherwise(z)")
        return Case((*self._parts, value))

    def when(self, condition: Any) -> Case:
        if len(self._parts) % 2:
            raise Invalid("two when() in a row", "when(c).then(a).when(d).then(b).otherwise(z)")
        return Case((*self._parts, condition))

    def otherwise(self, value: Any) -> Expr:
        if len(self._parts) % 2:
            raise Invalid("a when() without then()", "when(c).then(a).otherwise(z)")
        return call("when", *self._parts, value)


def columns_of(expression: Expr) -> tuple[str, ...]:
    """The columns an expression reads, each once, in order of first use."""
    names = (cast("str", node.args[0]) for node in walk(expression) if node.op == "col")
    return tuple(dict.fromkeys(names))


def walk(expression: Expr) -> Iterator[Expr]:
    """Every node, from the root, left to right; one that is nested too deep is refused."""
    if not isinstance(expression, Expr):
        raise Invalid(f"{expression!r} is not an expression", 'like fb.features.col("delay") > 15')
    open_nodes = [(expression, 1)]
    while open_nodes:
        node, depth = open_nodes.pop()
        if depth > DEEPEST:
            raise Invalid(
                f"an expression is nested deeper than {DEEPEST}",
                "compute a part of it as a column of its own",
            )
        yield node
        open_nodes += [(arg, depth + 1) for arg in reversed(node.args) if isinstance(arg, Expr)]


def same(one: object, other: object) -> bool:
    """Whether two expressions (or literals) are the same one; 1.0 is not True."""
    if isinstance(one, Expr) and isinstance(other, Expr):
        return (
            one.op == other.op
            and len(one.args) == len(other.args)
            and all(same(a, b) for a, b in zip(one.args, other.args, strict=True))
        )
    return type(one) is type(other) and bool(one == other)


_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "**", "eq": "==", "ne": "!=",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|",
}  # fmt: skip


_NAMED = {  # operations whose method is called otherwise
    "parse_time": "to_time", "seconds_between": "seconds_since", "to_number": "cast", "to_bool": "cast", "to_text": "cast",
    "tail": "slice",
}  # fmt: skip
_CASTS = {"to_number": "FP64", "to_bool": "BOOL", "to_text": "BYTES"}


def shown(node: object) -> str:
    """The expression as one would write it; read as Python, it is the same one.

    >>> (col("a") + 1) / col("b")
    (col("a") + 1) / col("b")
    """
    if not isinstance(node, Expr):
        return _shown_literal(node)
    op = node.op
    if op == "col":
        name = cast("str", node.args[0])
        plain = name.isprintable() and not {'"', "\\"} & set(name)
        return f'col("{name}")' if plain else f"col({name!r})"
    if op == "lit":
        return f"lit({shown(node.args[0])})"
    if op == "time":
        at = _EPOCH + timedelta(microseconds=cast("int", node.args[0]))
        return f'lit(datetime.fromisoformat("{at.isoformat()}"))'
    args = [shown(arg) for arg in node.args]  # once each: twice would double with every level
    if op == "when":
        cases = "".join(f".when({c}).then({v})" for c, v in zip(args[:-1:2], args[1::2], strict=True))
        return f"{cases[1:]}.otherwise({args[-1]})"
    if op in ("coalesce", "least", "greatest", "concat"):
        return f"{op}({', '.join(args)})"
    bracketed = [
        f"({text})" if isinstance(arg, Expr) and arg.op in (*_SIGNS, "neg", "not") else text
        for arg, text in zip(node.args, args, strict=True)
    ]
    if not isinstance(node.args[0], Expr) and not (op in _SIGNS and _leaves_it(op, *node.args)):
        bracketed[0] = f"lit({args[0]})"
    if op in _SIGNS:
        return f" {_SIGNS[op]} ".join(bracketed)
    if op in ("neg", "not"):
        return ("-" if op == "neg" else "~") + bracketed[0]
    return _shown_method(node, bracketed[0], args[1:])


def _shown_literal(value: object) -> str:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e16
    return str(int(cast("float", value))) if whole else repr(value)


def _leaves_it(op: str, left: object, right: object) -> bool:
    """Whether Python leaves the operation to the expression on the right, with its sides as they are: not of texts, which
    have operators of their own, nor a comparison, which is turned round."""
    turned = op in ("eq", "ne", "lt", "le", "gt", "ge")
    negative = op == "pow" and isinstance(left, float) and left < 0  # -2 ** x is -(2 ** x)
    return isinstance(right, Expr) and not isinstance(left, str) and not turned and not negative


def _shown_method(node: Expr, base: str, rest: list[str]) -> str:
    op, inner = node.op, node.args[0]
    if op == "truncate" and isinstance(inner, Expr) and inner.op == "to_number":
        return base.removesuffix('("FP64")') + '("INT64")'
    if op in _CASTS:
        rest = [f'"{_CASTS[op]}"']
    elif op == "is_in":
        rest = [f"[{', '.join(rest)}]"]
    elif op == "map":
        pairs = ", ".join(f"{key}: {value}" for key, value in zip(rest[1::2], rest[2::2], strict=True))
        rest = [f"{{{pairs}}}", *([rest[0]] if node.args[1] is not None else [])]
    elif op == "tail":
        rest = [f"-{rest[0]}"]
    method = _NAMED.get(op, op)
    space = next((f"{name}." for name, words in _SPACES.items() if method in words), "")
    return f"{base}.{space}{method}({', '.join(rest)})"


def call(op: str, *args: Any) -> Expr:
    literals = OPS[op].takes + (OPS[op].more,) * len(args)
    return Expr(
        op,
        tuple(
            literal(arg, whole=kind == "#i" or op == "slice")
            for arg, kind in zip(args, literals, strict=False)
        ),
    )


def literal(value: Any, *, whole: bool = False) -> Expr | Scalar:
    """A literal as it is kept: numbers as float64, times as microseconds; what no engine could hold is refused."""
    if isinstance(value, Expr):
        return cast("Scalar", value.args[0]) if value.op == "lit" else value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Invalid(
                f"the text {value!r} has a NUL or half a character in it", "not every engine takes that"
            )
        return str(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return Expr("time", ((aware - _EPOCH) // timedelta(microseconds=1),))
    if isinstance(value, date):
        return literal(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if isinstance(value, int) and whole:
        return value
    try:
        number = float(value) + 0.0
    except (TypeError, ValueError, OverflowError):
        raise Invalid(
            f"{value!r} is neither an expression nor a literal",
            "numbers, booleans, texts, times and None are",
        ) from None
    if not abs(number) <= 1e150 or (isinstance(value, int) and int(number) != value):
        raise Invalid(
            f"{value!r} can't be held by a float64 as it is", "null is None; whole numbers up to 2**53"
        )
    return number
