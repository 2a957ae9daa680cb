"""Read compiled code: which global names it loads, and what it does apart from how it is laid out."""

from __future__ import annotations

import dis
import types
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

_LAYOUT = frozenset({"CACHE", "RESUME", "EXTENDED_ARG", "NOP"})
_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})


def global_names(code: types.CodeType) -> Iterator[tuple[str, ...]]:
    """Dotted global names that code loads (``prepare.clean``); imports as ``("import", level, module, names...)``."""
    chain: list[str] = []
    before: list[Any] = []
    for instruction in dis.get_instructions(code):
        name, argument = instruction.opname, instruction.argval
        importing = chain[:1] == ["import"]
        if name == "IMPORT_FROM" if importing else (chain and name in {"LOAD_ATTR", "LOAD_METHOD"}):
            chain.append(argument)
        elif not (importing and name.startswith("STORE_")):
            if chain:
                yield tuple(chain)
            chain = []
            if name in {"LOAD_GLOBAL", "LOAD_NAME"}:
                chain = [argument]
            elif name == "IMPORT_NAME":
                level = before[0] if len(before) > 1 and isinstance(before[0], int) else 0
                chain = ["import", str(level), argument]
        before = [*before[-1:], argument]
    if chain:
        yield tuple(chain)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from global_names(constant)


def instructions(code: types.CodeType) -> list[Any]:
    """What code does, without where it is written: operations with their arguments, nested code in place.

    Jumps are written by the number of the instruction they lead to, since offsets move with layout.
    """
    kept = [one for one in dis.get_instructions(code) if one.opname not in _LAYOUT]
    offsets = [one.offset for one in kept]
    listed: list[Any] = [code.co_argcount, code.co_kwonlyargcount, list(code.co_varnames)]
    for one in kept:
        jumps = one.opcode in _JUMPS
        listed.append((one.opname, bisect_left(offsets, one.argval) if jumps else _written(one.argval)))
    return listed


def _written(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return [value.co_name, instructions(value)]
    if isinstance(value, frozenset):
        return [
            "frozenset",
            sorted(repr(_written(one)) for one in value),
        ]  # its own order changes with each process
    if isinstance(value, tuple):
        return ["tuple", [_written(one) for one in value]]
    return f"{type(value).__name__} {value!r}"
