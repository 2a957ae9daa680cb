"""Number, boolean, text or time: what each column and each operation is, before anything runs.

A column is what it is used as; what the use leaves open is what was declared, else a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from flyball.errors import Invalid, nearest
from flyball.features.expressions.operations import OPS
from flyball.features.expressions.tree import Expr, columns_of, walk

WORDS = {"n": "a number", "b": "a boolean", "s": "a text", "t": "a time"}
_DECLARED = {"BYTES": "s", "BOOL": "b", "TIME": "t", **dict.fromkeys(("FP64", "FP32", "INT64", "INT32"), "n")}
Kinds = dict[str, str]


def check(expression: Expr, types: Mapping[str, str] = {}, columns: Iterable[str] | None = None) -> str:
    """The datatype an expression gives (FP64, BOOL, BYTES or TIME); what does not fit together is refused.

    ``types`` names the datatypes of columns (FP64, INT64, BOOL, BYTES, TIME); with ``columns`` no other may be read.

    >>> from flyball.features.expressions import col
    >>> check(col("city").str.length() > 3)
    'BOOL'
    """
    if columns is not None:
        known = list(columns)
        for node in walk(expression):
            if node.op == "col" and node.args[0] not in known:
                raise Invalid(
                    f"{expression!r} reads {node.args[0]!r}, which is not there",
                    nearest(str(node.args[0]), known),
                )
    kinds = column_kinds([expression], types)
    return {"n": "FP64", "b": "BOOL", "s": "BYTES", "t": "TIME"}[Typed(kinds).of(expression)]


def condition(where: Expr, types: Mapping[str, str]) -> Kinds:
    """The kinds of the columns a condition reads; what is no condition is refused."""
    kinds = column_kinds([where], types, "b")
    if Typed(kinds).of(where) != "b":
        raise Invalid(f"where={where!r} is no condition", "compare it: col('amount') > 0")
    return kinds


def by_dependence(derived: Mapping[str, Expr]) -> list[dict[str, Expr]]:
    """Derived columns in layers, each after those it reads; a circle is refused by its names."""
    left, layers = dict(derived), list[dict[str, Expr]]()
    while left:
        layer = {name: one for name, one in left.items() if not any(read in left for read in columns_of(one))}
        if not layer:
            circle = [next(iter(left))]
            while circle.count(circle[-1]) < 2:
                circle.append(next(read for read in columns_of(left[circle[-1]]) if read in left))
            names = " -> ".join(circle[circle.index(circle[-1]) :])
            raise Invalid(
                f"derived columns read one another in a circle: {names}",
                "name it otherwise than what it reads",
            )
        layers.append(layer)
        left = {name: one for name, one in left.items() if name not in layer}
    return layers


def check_derived(
    derived: Mapping[str, Expr], where: Expr | None, types: Mapping[str, str] = {}
) -> dict[str, str]:
    """The datatype of every derived column, and whether ``where`` is a condition; what does not fit is refused.

    ``types`` are those of source columns and of derived ones, as far as they were said.
    """
    found = {name: kind for name, kind in types.items() if name not in derived}
    for layer in by_dependence(derived):
        found.update({name: check(one, found) for name, one in layer.items()})
    for name in derived:
        if name in types and (types[name] == "BYTES") != (found[name] == "BYTES"):
            raise Invalid(f"derived column {name!r} is declared {types[name]}, but {derived[name]!r} is {found[name]}",
                          "BYTES is a text; a time has .dt.epoch()")  # fmt: skip
    if where is not None:
        condition(where, found)
    return {name: found[name] for name in derived}


def column_kinds(
    expressions: Iterable[Expr], types: Mapping[str, str] = {}, wanted: str | None = None
) -> Kinds:
    """The kind of every column that these expressions read; ``wanted`` is what they are to give, if that is known."""
    expressions = list(expressions)
    declared = {name: _DECLARED.get(kind, kind) for name, kind in types.items()}
    names = [cast("str", node.args[0]) for one in expressions for node in walk(one) if node.op == "col"]
    found: Kinds = {name: declared[name] for name in names if name in declared}
    while True:
        before = len(found)
        for one in expressions:
            _push(one, wanted, Typed(found, strict=False))
        if len(found) == before:
            break
    found.update({name: "n" for name in names if name not in found})
    for one in expressions:
        Typed(found).of(one)
    return found


class Typed:
    """Kinds of nodes, given those of columns. Not strict: ``None`` where nothing is known yet, and no complaint."""

    def __init__(self, kinds: Kinds, *, strict: bool = True) -> None:
        self.kinds, self.strict = kinds, strict
        self._known: dict[int, Any] = {}
        self._kept: list[Expr] = []  # an id is only as good as its node is alive

    def of(self, node: Any) -> Any:
        """The kind of a node or literal; a literal ``None`` has none."""
        if not isinstance(node, Expr):
            return (
                None
                if node is None
                else "b"
                if isinstance(node, bool)
                else "s"
                if isinstance(node, str)
                else "n"
            )
        if id(node) not in self._known:
            self._known[id(node)] = self._of(node)
            self._kept.append(node)
        return self._known[id(node)]

    def one_kind(self, node: Expr, args: Iterable[Any]) -> Any:
        """What all these are; booleans among numbers are numbers."""
        kinds = {kind for arg in args if (kind := self.of(arg)) is not None}
        if kinds == {"n", "b"}:
            return "n"
        if len(kinds) > 1 and self.strict:
            raise Invalid(
                f"{node!r} mixes {' and '.join(sorted(WORDS[kind] for kind in kinds))}",
                "cast one of them: .cast('FP64'), .cast('BYTES'), .str.to_time()",
            )
        return next(iter(kinds)) if len(kinds) == 1 else None

    def _of(self, node: Expr) -> Any:
        op = OPS[node.op]
        if node.op == "col":
            return self.kinds.get(cast("str", node.args[0]))
        if node.op == "lit":
            return self.of(node.args[0]) or "n"
        shared = self.one_kind(node, _alike(node))
        if self.strict:
            self._refuse(node)
        if node.op == "map":
            return self.one_kind(node, [node.args[1], *node.args[3::2]]) or "n"
        if op.gives == "x":
            return shared or ("n" if self.strict else None)
        return {"to_number": "n", "to_bool": "b", "to_text": "s"}.get(node.op, op.gives)

    def _refuse(self, node: Expr) -> None:
        for arg, wanted in zip(node.args, _takes(node), strict=True):
            kind = self.of(arg)
            if wanted in WORDS and kind is not None and kind != wanted and (kind, wanted) != ("b", "n"):
                hint = {"t": "times are columns of times, .str.to_time() of a text, .dt.from_epoch() of a number",
                        "b": "compare it: x != 0"}.get(wanted, ".cast('FP64'), .cast('BYTES')")  # fmt: skip
                raise Invalid(f"{node!r} takes {WORDS[wanted]}; {arg!r} is {WORDS[kind]}", hint)
        if node.op in ("eq", "ne", "lt", "le", "gt", "ge") and None in [*map(_none, node.args)]:
            raise Invalid(f"{node!r} is null, whatever the row", ".is_null(), or .is_not_null()")
        if node.op in ("eq", "ne", "lt", "le", "gt", "ge") and not any(
            isinstance(arg, Expr) for arg in node.args
        ):
            raise Invalid(f"{node!r} compares two literals", "compare a column")
        if node.op in ("to_number", "to_bool", "to_text"):
            kind = self.of(node.args[0])
            if kind == "t" or (kind == "s" and node.op == "to_bool"):
                raise Invalid(
                    f"{node!r}: there is no such cast of {WORDS[kind]}", "times have .dt.epoch(), texts =="
                )


def _none(arg: Any) -> Any:
    return None if arg is None or (isinstance(arg, Expr) and arg.op == "lit" and arg.args[0] is None) else 0


def _alike(node: Expr) -> list[Any]:
    """The arguments that must be of one kind."""
    if node.op == "when":
        return [*node.args[1:-1:2], node.args[-1]]
    if node.op == "map":
        return [node.args[0], *node.args[2::2]]
    if node.op == "is_in":
        return list(node.args)
    return [arg for arg, kind in zip(node.args, _takes(node), strict=True) if kind == "x"]


def _takes(node: Expr) -> list[str]:
    op = OPS[node.op]
    if node.op == "when":
        return [("x" if at % 2 or at == len(node.args) - 1 else "b") for at in range(len(node.args))]
    return [*op.takes, *[op.more] * (len(node.args) - len(op.takes))]


def _push(root: Expr, wanted: Any, typed: Typed) -> None:
    """Tell columns what they are used as, from the root down."""
    todo: list[tuple[Any, Any]] = [(root, wanted)]
    while todo:
        node, wanted = todo.pop()
        if not isinstance(node, Expr):
            continue
        if node.op == "col":
            if wanted is not None:
                typed.kinds.setdefault(cast("str", node.args[0]), wanted)
            continue
        alike = _alike(node)
        shared = typed.one_kind(node, alike) or (wanted if OPS[node.op].gives == "x" else None)
        members = {id(arg) for arg in alike}
        for arg, kind in zip(node.args, _takes(node), strict=True):
            todo.append((arg, kind if kind in WORDS else shared if id(arg) in members else None))
