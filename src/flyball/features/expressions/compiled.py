"""Expressions of numbers and booleans compiled by numba: null is NaN inside, a boolean 1.0 or 0.0.

Worth it for long arithmetic: entering compiled code and turning its values into Python's costs a microsecond or two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from flyball.errors import Invalid
from flyball.features.expressions.kinds import Typed, column_kinds
from flyball.features.expressions.meaning import LARGEST, lowered
from flyball.features.expressions.rows import RowSource, Value, merged, refuse_for_numba, used_inputs
from flyball.features.expressions.scalars import as_bool, as_number
from flyball.features.expressions.tree import Expr

if TYPE_CHECKING:
    from flyball.features.expressions.rows import Row

_CODE = {
    **{op: f"(1.0 if {{0}} {sign} {{1}} else 0.0)" for op, sign in
       (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))},
    "not": "(1.0 - {0})", "floor": "floor({0} + 0.0)", "ceil": "ceil({0} + 0.0)", "truncate": "trunc({0} + 0.0)",
    "round": "rint({0} + 0.0)",
    "pow": "({0} ** {1})",
}  # fmt: skip


def compile_numba(
    expressions: Mapping[str, Expr], inputs: Sequence[str], types: Mapping[str, str] = {}
) -> Row:
    """See :func:`flyball.features.expressions.rows.compile_row`."""
    try:
        import numba
        import numpy as np
    except ImportError as error:
        raise Invalid("numba is not installed", "pip install 'flyball[numba]'") from error
    refuse_for_numba(expressions)
    kinds = column_kinds(expressions.values(), types)
    used = used_inputs(expressions)
    odd = [name for name in used if kinds[name] not in "nb"]
    if odd:
        raise Invalid(f"numba compiles numbers, and {odd[0]!r} is none", "engine='python' runs all")
    source = _NumbaSource(kinds, list(used))
    for expression in expressions.values():
        source.put_out(lowered(expression))
    names = ("floor", "ceil", "trunc", "sqrt", "exp", "log", "log1p")
    space: dict[str, Any] = {
        "nan": math.nan,
        "rint": np.rint,
        **{name: getattr(math, name) for name in names},
    }
    exec(compile(source.text(), "<expressions>", "exec"), space)
    inner = numba.njit(error_model="numpy")(space["row_function"])
    inner(*[1.0] * len(used))  # compiled now, not in a request
    places = [(list(inputs).index(name), name, kinds[name] == "b") for name in used]
    booleans = [Typed(dict(kinds)).of(lowered(one)) == "b" for one in expressions.values()]

    def row_function(row: Sequence[Any]) -> tuple[Any, ...]:
        values = []
        for place, name, boolean in places:
            value = row[place]
            if value.__class__ is not float or boolean:
                value = None if value is None else (as_bool if boolean else as_number)(value, name)
                value = math.nan if value is None else float(value)
            values.append(value)
        found = inner(*values)
        return tuple(
            [
                None if math.isnan(one) else bool(one) if boolean else one
                for one, boolean in zip(found, booleans, strict=True)
            ]
        )

    return row_function


class _NumbaSource(RowSource):
    null = "nan"
    never = "False"

    def text(self) -> str:
        used = [f"c{place}" for place in range(len(self.inputs))]
        checks = [f"if not (-{LARGEST!r} <= {c} <= {LARGEST!r}): {c} = nan" for c in used]
        lines = [*checks, *self.lines, f"return ({''.join(f'{one}, ' for one in self.results)})"]
        return f"def row_function({', '.join(used)}):\n" + "".join(f"    {line}\n" for line in lines)

    def code(self, op: str) -> str:
        return _CODE.get(op) or super().code(op)

    def column(self, name: str) -> Value:
        c = f"c{self.inputs.index(name)}"
        return Value((self.is_there(c),), c)

    def is_there(self, name: str) -> str:
        return f"{name} == {name}"

    def constant(self, value: Any) -> str:
        return repr(float(value))

    def as_number(self, code: str) -> str:
        return code

    def boolean(self, code: str) -> str:
        return f"(1.0 if {code} else 0.0)"

    def truth(self, value: Value) -> str:
        return " and ".join([*value.conditions, f"{value.code} != 0.0"])

    def _kleene(self, node: Expr, wins: str, loses: str) -> Value:
        a, b = (self.named(self.value(arg)) for arg in node.args)
        win, lose = ("0.0", "1.0") if wins == "False" else ("1.0", "0.0")
        return self.nullable(
            Value(
                (),
                f"({win} if {a} == {win} or {b} == {win} else nan if {a} != {a} or {b} != {b} else {lose})",
            )
        )

    def _is_in(self, node: Expr) -> Value:
        value = self.value(node.args[0])
        name = self.named(value)
        hits = " or ".join(f"{name} == {float(cast('float', one))!r}" for one in node.args[1:])
        return Value(self.given(name, value), self.boolean(hits))

    def _map(self, node: Expr) -> Value:
        value = self.value(node.args[0])
        name = self.named(value)
        code = "nan" if node.args[1] is None else self.constant(node.args[1])
        for key, one in zip(node.args[-2:1:-2], node.args[:2:-2], strict=True):
            code = f"({'nan' if one is None else self.constant(one)} if {name} == {self.constant(key)} else {code})"
        return self.nullable(Value(merged([Value(self.given(name, value), name)]), code))
