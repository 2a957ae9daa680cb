"""Expressions as DuckDB's SQL. What a user named or wrote is quoted; the meaning is that of the function per row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from flyball.features.expressions import scalars
from flyball.features.expressions.kinds import Typed, column_kinds
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

_TYPES = {"n": "DOUBLE", "b": "BOOLEAN", "s": "VARCHAR", "t": "BIGINT"}
_DAY = "86400000000"
_LONG = 400  # letters; what is longer is not written twice
_SQL = {
    "add": "({0} + {1})", "sub": "({0} - {1})", "mul": "({0} * {1})", "neg": "(-{0})", "abs": "abs({0})",
    "floor": "floor({0})", "ceil": "ceil({0})", "truncate": "trunc({0})", "sign": "CAST(sign({0}) AS DOUBLE)",
    "eq": "({0} = {1})", "ne": "({0} <> {1})", "lt": "({0} < {1})", "le": "({0} <= {1})", "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "and": "({0} AND {1})", "or": "({0} OR {1})", "not": "(NOT {0})", "is_null": "({0} IS NULL)",
    "length": "CAST(length({0}) AS DOUBLE)", "contains": "contains({0}, {1})",
    "starts_with": "starts_with({0}, {1})", "ends_with": "suffix({0}, {1})", "replace": "replace({0}, {1}, {2})",
    "epoch": "(CAST({0} AS DOUBLE) / 1e6)", "seconds_between": "(CAST({0} - {1} AS DOUBLE) / 1e6)",
}  # fmt: skip
_PARTS = {
    "year": "year", "month": "month", "day": "day", "hour": "hour", "minute": "minute", "second": "second",
    "weekday": "isodow", "day_of_year": "doy",
}  # fmt: skip


def to_duckdb(expression: Expr, types: Mapping[str, str] = {}) -> str:
    """The SQL of an expression. Columns of times are TIMESTAMP, TIMESTAMPTZ or DATE; one of TIMESTAMP is read as UTC.

    >>> from flyball.features.expressions import col
    >>> to_duckdb(col("city").str.starts_with("O'"))
    'CAST(starts_with(CAST("city" AS VARCHAR), \\'O\\'\\'\\') AS BOOLEAN)'
    """
    return Duck(column_kinds([expression], types)).output(expression)


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL takes it."""
    return "'" + value.replace("'", "''") + "'"


class Duck:
    """One expression, as SQL text. Times are whole microseconds until they leave."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds, self.typed, self.bounds = kinds, Typed(dict(kinds)), Bounds()
        self.names = 0

    def output(self, expression: Expr) -> str:
        """What leaves: DOUBLE, BOOLEAN, VARCHAR, TIMESTAMPTZ."""
        node = lowered(expression)
        kind, found = self.typed.of(node), self.value(node)
        if kind == "n" and self.bounds.of(node) > 150.0:
            found = self.kept_if("abs({0}) <= " + repr(LARGEST), found)
        return f"make_timestamptz({found})" if kind == "t" else f"CAST({found} AS {_TYPES[kind]})"

    def value(self, node: Any, kind: str = "n") -> str:
        if not isinstance(node, Expr):
            if node is None:
                return f"CAST(NULL AS {_TYPES[kind]})"
            if isinstance(node, str):
                return text(node)
            return (
                ("true" if node else "false")
                if isinstance(node, bool)
                else f"CAST({text(repr(node))} AS DOUBLE)"
            )
        found = self.make(node)
        if self.typed.of(node) == "n" and node.op not in ("col", "lit") and self.bounds.needs_check(node):
            found = self.kept_if("abs({0}) <= " + repr(FINITE), found)  # NaN is above all numbers, in DuckDB
        return found

    def as_kind(self, node: Any, kind: str) -> str:
        found = self.value(node, kind)
        return f"CAST({found} AS DOUBLE)" if kind == "n" and self.typed.of(node) == "b" else found

    def kept_if(self, condition: str, value: str) -> str:
        """The value where the condition on it (``{0}``, our own text) holds, else null."""
        return self.let(value, lambda x: f"CASE WHEN {condition.format(x)} THEN {x} END")

    def kept_if_matches(self, pattern: str, value: str) -> str:
        return self.let(value, lambda x: f"CASE WHEN regexp_full_match({x}, {text(pattern)}) THEN {x} END")

    def let(self, value: str, body: Callable[[str], str]) -> str:
        """SQL that says a value more than once: a long one is bound to a name first, so that text does not double."""
        if len(value) <= _LONG:
            return f"({body(value)})"
        self.names += 1
        name = f"v{self.names}"
        return f"list_transform([{value}], lambda {name}: {body(name)})[1]"

    def make(self, node: Expr) -> str:
        op, args = node.op, node.args
        if op == "col":
            return self.column(cast("str", args[0]))
        if op == "lit":
            return self.value(args[0])
        if op == "time":
            return f"CAST({int(cast('int', args[0]))} AS BIGINT)"
        own = getattr(self, f"_{op}", None)
        if own is not None:
            return cast("str", own(node))
        if op in (*_PARTS, "date"):
            return self.part(node)
        if op in ("sqrt", "exp", "log", "log1p"):
            return self.in_domain(op, self.as_kind(args[0], "n"))
        if op in ("eq", "ne", "lt", "le", "gt", "ge"):
            kind = self.typed.one_kind(node, args) or "n"
            kind = "n" if kind == "b" and op not in ("eq", "ne") else kind
        else:
            kind = {"and": "b", "or": "b", "not": "b", "epoch": "t", "seconds_between": "t"}.get(op, "n")
            kind = "s" if op in ("length", "contains", "starts_with", "ends_with", "replace") else kind
        values = [self.value(arg) if op == "is_null" else self.as_kind(arg, kind) for arg in args]
        return _SQL[op].format(*values)

    def in_domain(self, op: str, value: str) -> str:
        if op == "log1p":  # DuckDB has none; Kahan's: exact to some units in the last place
            return self.let(
                value,
                lambda x: (
                    f"CASE WHEN {x} > -1e0 THEN CASE WHEN 1e0 + {x} = 1e0 THEN {x} "
                    f"ELSE ln(1e0 + {x}) * {x} / ((1e0 + {x}) - 1e0) END END"
                ),
            )
        condition = {"sqrt": "{0} >= 0", "exp": "{0} <= " + repr(EXP_MOST), "log": "{0} > 0"}[op]
        return f"{'ln' if op == 'log' else op}({self.kept_if(condition, value)})"

    def column(self, name: str) -> str:
        column, kind = quoted(name), self.kinds[name]
        if kind == "s":
            return f"CAST({column} AS VARCHAR)"
        if kind == "t":
            return self.kept_if(f"{{0}} BETWEEN {FIRST_US} AND {LAST_US}", f"epoch_us({column})")
        number = self.kept_if(f"abs({{0}}) <= {LARGEST!r}", f"CAST({column} AS DOUBLE)")
        return number if kind == "n" else f"({number} <> 0)"

    def part(self, node: Expr) -> str:
        us, zone = self.value(node.args[0], "t"), cast("str", node.args[1])
        local = (
            f"make_timestamp({us})" if zone == "UTC" else f"timezone({text(zone)}, make_timestamptz({us}))"
        )
        if node.op == "date":
            return f"CAST(date_diff('day', DATE '1970-01-01', CAST({local} AS DATE)) AS DOUBLE)"
        return f"CAST(extract('{_PARTS[node.op]}' FROM {local}) AS DOUBLE)"

    def _div(self, node: Expr) -> str:
        above, below = self.as_kind(node.args[0], "n"), self.as_kind(node.args[1], "n")
        if isinstance(node.args[1], float) and node.args[1]:
            return f"({above} / {below})"
        return f"({above} / {self.kept_if('{0} <> 0', below)})"

    def _mod(self, node: Expr) -> str:
        above, below = self.as_kind(node.args[0], "n"), self.as_kind(node.args[1], "n")

        def rest(a: str, b: str) -> str:
            return f"CASE WHEN {b} <> 0 AND abs({a} / {b}) < {WHOLE!r} THEN {a} - {b} * floor({a} / {b}) END"

        return self.let(above, lambda a: self.let(below, lambda b: rest(a, b)))

    def _pow(self, node: Expr) -> str:
        base = self.as_kind(node.args[0], "n")
        if node.args[1] in (2.0, 3.0):
            return self.let(base, lambda x: f"{x} * {x}" if node.args[1] == 2.0 else f"{x} * {x} * {x}")
        return f"pow({base}, {self.as_kind(node.args[1], 'n')})"

    def _round(self, node: Expr) -> str:
        return f"round_even({self.as_kind(node.args[0], 'n')}, 0)"

    def _clip(self, node: Expr) -> str:
        found = self.as_kind(node.args[0], "n")
        for at, sign in ((1, "<"), (2, ">")):
            if node.args[at] is not None:
                found = self._not_beyond(found, sign, self.as_kind(node.args[at], "n"))
        return found

    def _not_beyond(self, value: str, sign: str, end: str) -> str:
        def nearer(x: str, e: str) -> str:
            return f"CASE WHEN {x} IS NULL OR {e} IS NULL THEN NULL WHEN {x} {sign} {e} THEN {e} ELSE {x} END"

        return self.let(value, lambda x: self.let(end, lambda e: nearer(x, e)))

    def _is_in(self, node: Expr) -> str:
        kind = self.typed.one_kind(node, node.args)
        known = ", ".join(self.as_kind(arg, kind) for arg in node.args[1:])
        return f"({self.as_kind(node.args[0], kind)} IN ({known}))"

    def _when(self, node: Expr) -> str:
        kind, args = self.typed.of(node), node.args
        cases = " ".join(
            f"WHEN {self.value(condition, 'b')} THEN {self.as_kind(value, kind)}"
            for condition, value in zip(args[:-1:2], args[1::2], strict=True)
        )
        return f"(CASE {cases} ELSE {self.as_kind(args[-1], kind)} END)"

    def _coalesce(self, node: Expr) -> str:
        kind = self.typed.of(node)
        return f"coalesce({', '.join(self.as_kind(arg, kind) for arg in node.args)})"

    def _least(self, node: Expr) -> str:
        return self._coalesce(node).replace("coalesce", "least", 1)

    def _greatest(self, node: Expr) -> str:
        return self._coalesce(node).replace("coalesce", "greatest", 1)

    def _map(self, node: Expr) -> str:
        kind, args = self.typed.of(node), node.args
        of = self.typed.one_kind(node, [args[0], *args[2::2]])
        cases = " ".join(
            f"WHEN {self.as_kind(key, of)} THEN {self.as_kind(value, kind)}"
            for key, value in zip(args[2::2], args[3::2], strict=True)
        )
        default = self.as_kind(args[1], kind)
        return self.let(
            self.value(args[0]),
            lambda x: f"CASE WHEN {x} IS NULL THEN NULL ELSE CASE {x} {cases} ELSE {default} END END",
        )

    def _to_number(self, node: Expr) -> str:
        value, kind = self.as_kind(node.args[0], "n"), self.typed.of(node.args[0])
        if kind != "s":
            return value
        return f"TRY_CAST({self.kept_if_matches(NUMBER, value)} AS DOUBLE)"

    def _to_bool(self, node: Expr) -> str:
        value = self.value(node.args[0])
        return value if self.typed.of(node.args[0]) == "b" else f"({value} <> 0)"

    def _to_text(self, node: Expr) -> str:
        value, kind = self.value(node.args[0]), self.typed.of(node.args[0])
        if kind == "n":
            whole = self.kept_if(f"abs({{0}}) < {WHOLE!r} AND {{0}} = floor({{0}})", value)
            return f"CAST(CAST({whole} AS BIGINT) AS VARCHAR)"
        return value if kind == "s" else f"CAST({value} AS VARCHAR)"

    def _lower(self, node: Expr) -> str:
        return self._turn_case(node, "lower")

    def _upper(self, node: Expr) -> str:
        return self._turn_case(node, "upper")

    def _turn_case(self, node: Expr, to: str) -> str:
        letters = {chr(c): getattr(chr(c), to)() for c in (*range(65, 91), *range(97, 123))}
        pairs = {**scalars.case_table(to), **{a: b for a, b in letters.items() if a != b}}
        tables = f"{text(''.join(pairs))}, {text(''.join(pairs.values()))}"
        return self.let(
            self.value(node.args[0], "s"),
            lambda x: f"CASE WHEN strlen({x}) = length({x}) THEN {to}({x}) ELSE translate({x}, {tables}) END",
        )

    def _strip(self, node: Expr) -> str:
        spaces = " || ".join(f"chr({ord(space)})" for space in SPACES)
        return f"trim({self.value(node.args[0], 's')}, {spaces})"

    def _slice(self, node: Expr) -> str:
        start, length = cast("int", node.args[1]), node.args[2]
        return f"substring({self.value(node.args[0], 's')}, {start + 1}{'' if length is None else f', {int(length)}'})"

    def _tail(self, node: Expr) -> str:
        return f"right({self.value(node.args[0], 's')}, {int(cast('int', node.args[1]))})"

    def _concat(self, node: Expr) -> str:
        return f"({' || '.join(self.value(arg, 's') for arg in node.args)})"

    def _hash_bucket(self, node: Expr) -> str:
        return f"CAST(md5_number_lower({self.value(node.args[0], 's')}) % {int(cast('int', node.args[1]))} AS DOUBLE)"

    def _from_epoch(self, node: Expr) -> str:
        inside = f"{{0}} BETWEEN {FIRST_US / 1e6!r} AND {LAST_US // 1_000_000:.1f}"
        return f"CAST(round_even({self.kept_if(inside, self.as_kind(node.args[0], 'n'))} * 1e6, 0) AS BIGINT)"

    def _parse_time(self, node: Expr) -> str:
        value = self.kept_if_matches(TIME, self.value(node.args[0], "s"))

        return self.kept_if(f"{{0}} BETWEEN {FIRST_US} AND {LAST_US}", self.let(value, _microseconds))


def _microseconds(value: str) -> str:
    """Those of a text that has the shape of a time; null when there is no such day."""

    def group(number: int) -> str:
        return f"regexp_extract({value}, {text(TIME)}, {number})"

    def part(number: int) -> str:
        return f"coalesce(TRY_CAST({group(number)} AS BIGINT), 0)"

    fraction = f"coalesce(TRY_CAST(rpad(nullif({group(5)}, ''), 6, '0') AS BIGINT), 0)"
    day = f"date_diff('day', DATE '1970-01-01', TRY_CAST(left({value}, 10) AS DATE))"
    sign = f"(CASE WHEN {group(7)} = '-' THEN 1 ELSE -1 END)"
    seconds = f"{part(2)} * 3600 + {part(3)} * 60 + {part(4)} + {sign} * ({part(8)} * 3600 + {part(9)} * 60)"
    return f"{day} * {_DAY} + ({seconds}) * 1000000 + {fraction}"
