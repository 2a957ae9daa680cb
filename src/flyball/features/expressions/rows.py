"""Expressions as one Python function per row: its source is written here, from names and constants of our own only.

What a user named or wrote as text never becomes source: texts, sets and mappings are constants the function holds.
A value is a pair: conditions under which it is not null, and code that may run only where they hold. So a chain of
operations on two columns costs two tests for ``None`` and the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from flyball.errors import Invalid, NotFound, nearest
from flyball.features.expressions import scalars
from flyball.features.expressions.kinds import Typed, column_kinds
from flyball.features.expressions.meaning import (
    EXP_MOST,
    FINITE,
    FIRST_US,
    LARGEST,
    LAST_US,
    SPACES,
    WHOLE,
    Bounds,
    lowered,
)  # fmt: skip
from flyball.features.expressions.tree import Expr, columns_of, walk

Row = Callable[[Sequence[Any]], tuple[Any, ...]]
_DAY = "86400000000"
_CODE = {
    "add": "({0} + {1})", "sub": "({0} - {1})", "mul": "({0} * {1})", "div": "({0} / {1})", "neg": "(-{0})", "abs": "abs({0})",
    "floor": "float(floor({0}))", "ceil": "float(ceil({0}))", "truncate": "float(trunc({0}))", "round": "float(round({0}))",
    "sqrt": "sqrt({0})",
    "exp": "exp({0})", "log": "log({0})", "log1p": "log1p({0})", "pow": "power({0}, {1})",
    "sign": "(1.0 if {0} > 0.0 else -1.0 if {0} < 0.0 else 0.0)",
    "eq": "({0} == {1})", "ne": "({0} != {1})", "lt": "({0} < {1})", "le": "({0} <= {1})", "gt": "({0} > {1})",
    "ge": "({0} >= {1})", "not": "(not {0})",
    "lower": "lower({0})", "upper": "upper({0})", "strip": "{0}.strip(SPACES)", "length": "float(len({0}))",
    "contains": "({1} in {0})", "starts_with": "{0}.startswith({1})", "ends_with": "{0}.endswith({1})",
    "replace": "{0}.replace({1}, {2})", "hash_bucket": "bucket({0}, {1})",
    "hour": "float({0} // 3600000000 % 24)", "minute": "float({0} // 60000000 % 60)", "second": "float({0} // 1000000 % 60)",
    "weekday": f"float(({{0}} // {_DAY} + 3) % 7 + 1)", "date": f"float({{0}} // {_DAY})",
    "year": "float(day_of({0}).year)", "month": "float(day_of({0}).month)", "day": "float(day_of({0}).day)",
    "day_of_year": "day_of_year({0})", "epoch": "(float({0}) / 1e6)", "seconds_between": "(float({0} - {1}) / 1e6)",
    "from_epoch": "round({0} * 1e6)", "parse_time": "time_of({0})",
}  # fmt: skip
_ONLY_IF = {  # where the operation has a value
    "sqrt": "{0} >= 0.0", "exp": f"{{0}} <= {EXP_MOST!r}", "log": "{0} > 0.0", "log1p": "{0} > -1.0",
    "from_epoch": f"{FIRST_US / 1e6!r} <= {{0}} <= {LAST_US // 1_000_000:.1f}",
}  # fmt: skip
_TWICE = ("sign", *_ONLY_IF)  # say their argument more than once
_ZONED = ("hour", "minute", "second", "weekday", "date", "year", "month", "day", "day_of_year")
_NUMERIC = (
    *(
        "col",
        "lit",
        "add",
        "sub",
        "mul",
        "div",
        "floordiv",
        "mod",
        "neg",
        "abs",
        "floor",
        "ceil",
        "truncate",
        "round",
        "sqrt",
    ),
    *(
        "exp",
        "log",
        "log1p",
        "pow",
        "sign",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "not",
        "and",
        "or",
        "is_null",
        "coalesce",
    ),
    *("least", "greatest", "when", "is_in", "map", "clip", "to_number", "to_bool"),
)


class Value(NamedTuple):
    """Code that may run where all conditions hold; elsewhere the value is null."""

    conditions: tuple[str, ...]
    code: str


def compile_row(
    expressions: Mapping[str, Expr],
    inputs: Sequence[str],
    *,
    types: Mapping[str, str] = {},
    engine: Literal["python", "numba"] = "python",
) -> Row:
    """One function from a row, in the order of ``inputs``, to the values of all expressions; ``None`` is null.

    Numbers come out as float, times as aware datetimes. ``numba`` compiles expressions of numbers and booleans only.

    >>> from flyball.features.expressions import col
    >>> compile_row({"rate": col("late") / col("flights")}, ["late", "flights"])([3, 4])
    (0.75,)
    """
    if engine == "numba":
        from flyball.features.expressions.compiled import compile_numba

        return compile_numba(expressions, inputs, types)
    kinds = column_kinds(expressions.values(), types)
    source = RowSource(kinds, inputs)
    for expression in expressions.values():
        source.put_out(lowered(expression))
    space: dict[str, Any] = dict(source.constants)
    exec(compile(source.text(), "<expressions>", "exec"), space)
    return cast("Row", space["row_function"])


class RowSource:
    """The source of one function, line by line. Equal parts are computed once."""

    null = "None"

    def __init__(self, kinds: Mapping[str, str], inputs: Sequence[str]) -> None:
        self.kinds, self.inputs = kinds, list(inputs)
        self.lines: list[str] = []
        self.results: list[str] = []
        self.constants: dict[str, Any] = {
            **{
                name: getattr(math, name)
                for name in ("floor", "ceil", "trunc", "sqrt", "exp", "log", "log1p")
            },
            **{name: getattr(scalars, name) for name in _FUNCTIONS},
            "SPACES": SPACES,
        }
        self.typed, self.bounds = Typed(dict(kinds)), Bounds()
        self.seen: dict[Expr, Value] = {}
        self.names = 0

    def put_out(self, expression: Expr) -> None:
        """One more result of the function."""
        value = self.value(expression)
        kind = self.typed.of(expression)
        if kind == "n" and self.bounds.of(expression) > 150.0:
            name = self.named(value)
            value = Value((*self.given(name, value), f"{-LARGEST!r} <= {name} <= {LARGEST!r}"), name)
        if kind == "t":
            value = Value(value.conditions, f"as_datetime({value.code})")
        self.results.append(self.inline(value))

    def text(self) -> str:
        body = "\n".join(
            f"    {line}" for line in [*self.lines, f"return ({''.join(f'{one}, ' for one in self.results)})"]
        )
        return f"def row_function(row):\n{body}\n"

    def value(self, node: Any) -> Value:
        """The value of a node or literal."""
        if not isinstance(node, Expr):
            return Value((self.never,), self.null) if node is None else Value((), self.constant(node))
        if node not in self.seen:
            value = self.make(node)
            if self.typed.of(node) == "n" and node.op not in ("col", "lit") and self.bounds.needs_check(node):
                name = self.named(value)
                value = Value((*self.given(name, value), f"{-FINITE!r} <= {name} <= {FINITE!r}"), name)
            self.seen[node] = value
        return self.seen[node]

    never = "False"

    def make(self, node: Expr) -> Value:
        op, args = node.op, node.args
        if op == "col":
            return self.column(cast("str", args[0]))
        if op == "lit":
            return self.value(args[0])
        if op == "time":
            return Value((), repr(int(cast("int", args[0]))))
        own = getattr(self, f"_{op}", None)
        if own is not None:
            return cast("Value", own(node))
        values = [self.argument(node, at) for at in range(len(args))]
        if op in _ZONED:
            zone = cast("str", args[1])
            shifted = (
                f"{self.keep(scalars.local_time(zone))}({values[0].code})"
                if zone != "UTC"
                else values[0].code
            )
            values = [Value(values[0].conditions, shifted)]
        if op in _TWICE:
            values = [Value(self.given(name := self.named(value), value), name) for value in values]
        if op == "round":
            values = values[:1]
        codes = [value.code for value in values]
        conditions = merged(values)
        if op in _ONLY_IF:
            conditions = (*conditions, _ONLY_IF[op].format(*codes))
        value = Value(conditions, self.code(op).format(*codes))
        return self.nullable(value) if op == "parse_time" else value

    def code(self, op: str) -> str:
        return _CODE[op]

    def argument(self, node: Expr, at: int) -> Value:
        """An argument as its operation takes it: a boolean as a number where it stands among numbers."""
        arg = node.args[at]
        value = self.value(arg)
        if self.typed.of(arg) == "b" and self._among_numbers(node):
            return Value(value.conditions, self.as_number(value.code))
        return value

    def _among_numbers(self, node: Expr) -> bool:
        if node.op in ("and", "or", "not", "is_null", "to_bool", "to_text", "is_in", "map"):
            return False
        if node.op in ("eq", "ne", "coalesce", "when"):
            args = node.args if node.op != "when" else (*node.args[1:-1:2], node.args[-1])
            return any(self.typed.of(arg) == "n" for arg in args)
        return True

    def as_number(self, code: str) -> str:
        return f"(1.0 if {code} else 0.0)"

    def column(self, name: str) -> Value:
        if name not in self.inputs:
            raise NotFound(
                f"an expression reads {name!r}, which is not given", nearest(name, self.inputs), column=name
            )
        place = self.inputs.index(name)
        c, said = f"c{place}", self.keep(name)
        check = {
            "n": [f"if {c}.__class__ is float:", f"    if not {-LARGEST!r} <= {c} <= {LARGEST!r}: {c} = None",
                  f"elif {c} is not None: {c} = as_number({c}, {said})"],
            "b": [f"if {c} is not None and {c} is not True and {c} is not False: {c} = as_bool({c}, {said})"],
            "s": [f"if {c}.__class__ is not str and {c} is not None: {c} = as_text({c}, {said})"],
            "t": [f"if {c} is not None: {c} = as_time({c}, {said})"],
        }[self.kinds[name]]  # fmt: skip
        self.lines += [f"{c} = row[{place}]", *check]
        return Value((self.is_there(c),), c)

    # what conditions, names and constants look like

    def is_there(self, name: str) -> str:
        return f"{name} is not None"

    def constant(self, value: Any) -> str:
        if isinstance(value, str):
            return self.keep(value)
        return repr(value)  # of a float, int or bool: nothing a user wrote

    def keep(self, value: Any) -> str:
        """The name of something the function holds."""
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def inline(self, value: Value) -> str:
        if not value.conditions or value.conditions == (self.is_there(value.code),):
            return value.code
        return f"({value.code} if {' and '.join(value.conditions)} else {self.null})"

    def named(self, value: Value) -> str:
        """The name of a variable that holds the value, null included."""
        if value.code.isidentifier() and value.conditions in ((), (self.is_there(value.code),)):
            return value.code
        self.names += 1
        name = f"v{self.names}"
        self.lines.append(f"{name} = {self.inline(value)}")
        return name

    def given(self, name: str, value: Value) -> tuple[str, ...]:
        """The condition under which this variable, which holds the value, is not null."""
        return (self.is_there(name),) if value.conditions else ()

    def nullable(self, value: Value) -> Value:
        """A value whose code may give null itself, in a variable."""
        self.names += 1
        name = f"v{self.names}"
        self.lines.append(f"{name} = {self.inline(value)}")
        return Value((self.is_there(name),), name)

    def truth(self, value: Value) -> str:
        return " and ".join([*value.conditions, value.code])

    # operations with their own way with null

    def _is_null(self, node: Expr) -> Value:
        conditions = self.value(node.args[0]).conditions
        return Value(
            (), self.boolean(f"not ({' and '.join(conditions)})") if conditions else self.constant(False)
        )

    def boolean(self, code: str) -> str:
        return f"({code})"

    def _and(self, node: Expr) -> Value:
        return self._kleene(node, "False", "True")

    def _or(self, node: Expr) -> Value:
        return self._kleene(node, "True", "False")

    def _kleene(self, node: Expr, wins: str, loses: str) -> Value:
        one, other = self.value(node.args[0]), self.value(node.args[1])
        if not one.conditions and not other.conditions:
            return Value((), f"({one.code} {node.op} {other.code})")
        a, b = self.named(one), self.named(other)
        unknown = f"None if {a} is None or {b} is None else {loses}"
        return self.nullable(Value((), f"{wins} if {a} is {wins} or {b} is {wins} else {unknown}"))

    def _coalesce(self, node: Expr) -> Value:
        values = [self.argument(node, at) for at in range(len(node.args))]
        for at, value in enumerate(values):
            if not value.conditions:
                values = values[: at + 1]
                break
        code = self.inline(values[-1])
        for value in reversed(values[:-1]):
            code = f"({value.code} if {' and '.join(value.conditions)} else {code})"
        return self.nullable(Value((), code)) if values[-1].conditions else Value((), code)

    def _when(self, node: Expr) -> Value:
        last = len(node.args) - 1
        values = [
            self.argument(node, at) if at % 2 or at == last else self.value(arg)
            for at, arg in enumerate(node.args)
        ]
        code = self.inline(values[-1])
        for condition, value in reversed(list(zip(values[:-1:2], values[1::2], strict=True))):
            code = f"({self.inline(value)} if {self.truth(condition)} else {code})"
        can_be_null = any(value.conditions for value in (*values[1:-1:2], values[-1]))
        return self.nullable(Value((), code)) if can_be_null else Value((), code)

    def _least(self, node: Expr) -> Value:
        return self._extreme(node, "<=")

    def _greatest(self, node: Expr) -> Value:
        return self._extreme(node, ">=")

    def _extreme(self, node: Expr, sign: str) -> Value:
        found = self.argument(node, 0)
        for at in range(1, len(node.args)):
            other = self.argument(node, at)
            a, b = self.named(found), self.named(other)
            here, there = self.given(a, found), self.given(b, other)
            better = " and ".join([*here, f"{a} {sign} {b}"])
            code = f"{a} if {' or '.join([*(f'not {one}' for one in there), better])} else {b}"
            found = self.nullable(Value((), code)) if here and there else Value((), f"({code})")
        return found

    def _clip(self, node: Expr) -> Value:
        value = self.argument(node, 0)
        for at, sign in ((1, "<"), (2, ">")):
            if node.args[at] is not None:
                end = self.argument(node, at)
                x, bound = self.named(value), self.named(end)
                conditions = (*self.given(x, value), *self.given(bound, end))
                value = Value(conditions, f"({bound} if {x} {sign} {bound} else {x})")
        return value

    def _div(self, node: Expr) -> Value:
        above, below = self.argument(node, 0), self.argument(node, 1)
        if isinstance(node.args[1], float):
            found = Value(above.conditions, f"({above.code} / {below.code})")
            return found if node.args[1] else self.value(None)
        name = self.named(below)
        below = Value((*self.given(name, below), f"{name} != 0.0"), name)
        return Value(merged([above, below]), f"({above.code} / {name})")

    def _mod(self, node: Expr) -> Value:
        above, below = self.argument(node, 0), self.argument(node, 1)
        a, b = self.named(above), self.named(below)
        quotient = Value((*self.given(a, above), *self.given(b, below), f"{b} != 0.0"), f"({a} / {b})")
        q = self.named(quotient)
        return Value(
            (self.is_there(q), f"{-WHOLE!r} < {q} < {WHOLE!r}"),
            f"({a} - {b} * {self.code('floor').format(q)})",
        )

    def _pow(self, node: Expr) -> Value:
        base, exponent = self.argument(node, 0), self.argument(node, 1)
        if node.args[1] in (2.0, 3.0):
            name = self.named(base)
            return Value(
                self.given(name, base),
                f"({name} * {name})" if node.args[1] == 2.0 else f"({name} * {name} * {name})",
            )
        return Value(merged([base, exponent]), self.code("pow").format(base.code, exponent.code))

    def _is_in(self, node: Expr) -> Value:
        value = self.value(node.args[0])
        return Value(value.conditions, f"({value.code} in {self.keep(frozenset(node.args[1:]))})")

    def _map(self, node: Expr) -> Value:
        value, default = self.value(node.args[0]), node.args[1]
        numbers = self.typed.of(node) == "n"
        become = {
            key: _float(one) if numbers else one
            for key, one in zip(node.args[2::2], node.args[3::2], strict=True)
        }
        default = self.keep(_float(default) if numbers else default)
        return self.nullable(Value(value.conditions, f"{self.keep(become)}.get({value.code}, {default})"))

    def _to_number(self, node: Expr) -> Value:
        value, kind = self.value(node.args[0]), self.typed.of(node.args[0])
        return Value(value.conditions, f"number_of({value.code})") if kind == "s" else self.argument(node, 0)

    def _to_bool(self, node: Expr) -> Value:
        value = self.value(node.args[0])
        return (
            value
            if self.typed.of(node.args[0]) == "b"
            else Value(value.conditions, self.boolean(f"{value.code} != 0.0"))
        )

    def _to_text(self, node: Expr) -> Value:
        value, kind = self.value(node.args[0]), self.typed.of(node.args[0])
        if kind == "b":
            return Value(value.conditions, f"({self.keep('true')} if {value.code} else {self.keep('false')})")
        return value if kind == "s" else self.nullable(Value(value.conditions, f"text_of({value.code})"))

    def _slice(self, node: Expr) -> Value:
        start, length = cast("int", node.args[1]), cast("int | None", node.args[2])
        value = self.value(node.args[0])
        return Value(value.conditions, f"{value.code}[{start}:{'' if length is None else start + length}]")

    def _tail(self, node: Expr) -> Value:
        value, count = self.value(node.args[0]), cast("int", node.args[1])
        return Value(value.conditions, f"{value.code}[{-count if count else 'len(' + value.code + ')'}:]")

    def _concat(self, node: Expr) -> Value:
        values = [self.value(arg) for arg in node.args]
        return Value(merged(values), f"({' + '.join(value.code for value in values)})")


_FUNCTIONS = (
    "as_number", "as_bool", "as_text", "as_time", "as_datetime", "power", "number_of", "text_of", "bucket", "lower", "upper",
    "day_of", "day_of_year", "time_of",
)  # fmt: skip


def merged(values: Iterable[Value]) -> tuple[str, ...]:
    """All their conditions, each once."""
    return tuple(dict.fromkeys(condition for value in values for condition in value.conditions))


def _float(value: Any) -> Any:
    return None if value is None else float(value)


def used_inputs(expressions: Mapping[str, Expr]) -> tuple[str, ...]:
    """The columns these read, each once, in order of first use."""
    return tuple(
        dict.fromkeys(name for expression in expressions.values() for name in columns_of(expression))
    )


def refuse_for_numba(expressions: Mapping[str, Expr]) -> None:
    for expression in expressions.values():
        for node in walk(expression):
            if node.op not in _NUMERIC:
                raise Invalid(
                    f"numba compiles numbers, and {node!r} is {node.op}", "engine='python' runs all"
                )


def numba_can(expression: Expr, types: Mapping[str, str] = {}) -> bool:
    """Whether it is of numbers and booleans only."""
    try:
        refuse_for_numba({"": expression})
    except Invalid:
        return False
    kinds = column_kinds([expression], types)
    typed = Typed(kinds)
    return all(kind in "nb" for kind in kinds.values()) and all(
        typed.of(node) in ("n", "b") for node in walk(expression)
    )
