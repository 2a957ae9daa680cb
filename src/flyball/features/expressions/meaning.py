"""What all engines hold to, said once: what is short for what, and where a result must be looked at for infinity.

Nothing is infinite or not a number: such a result is null as soon as it arises. Most results can't be: a column is at
most 1e150, so a sum or product of two is finite, and the check is left out where this bound says so.
"""

from __future__ import annotations

import math
from typing import Any

from flyball.features.expressions.tree import Expr

LARGEST = 1e150  # of what comes in and goes out; beyond is null
FINITE = 1.7976931348623157e308
EXP_MOST = 709.0  # exp of more is null
FIRST_US, LAST_US = (
    -62_135_510_400_000_000,
    253_402_214_399_999_999,
)  # 0001-01-02 to 9999-12-30: room for any zone
SPACES = " \t\n\r\x0b\x0c"
NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
TIME = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,6}))?)?(?:(Z)|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))?)?"
)
WHOLE = 2.0**53
_OF_ALL = ("coalesce", "least", "greatest", "clip")


def lowered(node: Any) -> Any:
    """The expression with what is short for something else written out."""
    if not isinstance(node, Expr):
        return node
    args = tuple(lowered(arg) for arg in node.args)
    op = node.op
    if op == "div" and isinstance(args[0], float) and isinstance(args[1], float):
        return lowered(Expr("lit", (args[0] / args[1] if args[1] else None,)))
    if op == "floordiv":
        return Expr("floor", (lowered(Expr("div", args)),))
    if op == "round" and args[1]:
        scale = 10.0 ** int(args[1])
        return Expr("div", (Expr("round", (Expr("mul", (args[0], scale)), 0)), scale))
    return Expr(op, args) if any(new is not old for new, old in zip(args, node.args, strict=True)) else node


class Bounds:
    """The decimal logarithm of the largest magnitude a number can have."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Expr, float]] = {}

    def needs_check(self, node: Expr) -> bool:
        """Whether this operation may give infinity or what is not a number."""
        return self._raw(node) > 308.0

    def of(self, node: Any) -> float:
        """After the check, where there is one."""
        if isinstance(node, Expr):
            return min(self._raw(node), 308.26)
        if isinstance(node, float) and node:
            return math.log10(abs(node))
        return 0.0

    def _raw(self, node: Expr) -> float:
        if id(node) not in self._known:
            self._known[id(node)] = (node, self._compute(node))
        return self._known[id(node)][1]

    def _compute(self, node: Expr) -> float:
        op, args = node.op, node.args
        if op == "col":
            return 150.0
        if op in ("add", "sub"):
            return max(map(self.of, args)) + 0.302
        if op == "mul":
            return self.of(args[0]) + self.of(args[1]) + 1e-9
        if op == "div":
            return self.of(args[0]) - self.of(args[1]) + 1e-9 if isinstance(args[1], float) else math.inf
        if op in ("neg", "abs", "floor", "ceil", "truncate", "round", "sqrt"):
            return max(self.of(args[0]), 0.302)
        if op == "exp":
            return 308.0
        if op == "pow" and args[1] in (2.0, 3.0):
            return float(args[1]) * self.of(args[0]) + 1e-9
        if op in ("pow", "to_number"):
            return math.inf
        if op == "mod":  # at most one quotient off
            return max(map(self.of, args)) + 0.302
        if op in _OF_ALL:
            return max(map(self.of, args))
        if op == "when":
            return max(self.of(arg) for arg in (*args[1:-1:2], args[-1]))
        if op == "map":
            return max(map(self.of, (args[1], *args[3::2])))
        return self.of(args[0]) if op == "lit" else 20.0
