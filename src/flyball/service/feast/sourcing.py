"""A function's source together with all of its module that it uses, so that it can stand in another file."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable
from typing import Any


def code_of(function: Any) -> tuple[str, str]:
    """The function's name, and its source after the imports, constants and functions of its module that it needs.

    Empty when there is no source to be had (made by ``exec``, or a callable object).
    """
    name = str(getattr(function, "__name__", ""))
    try:
        lines = textwrap.dedent(inspect.getsource(function))
        own = ast.parse(lines).body[0]
    except (TypeError, OSError, SyntaxError, IndexError):
        return name, ""
    if not isinstance(own, ast.FunctionDef):
        return name, ""
    own.decorator_list = []
    try:
        whole = inspect.getsource(sys.modules[function.__module__])
    except (KeyError, TypeError, OSError):
        whole = ""
    needed = _needed(own, ast.parse(whole).body)
    imports = [_lines(whole, one) for one in needed if isinstance(one, ast.Import | ast.ImportFrom)]
    others = [_lines(whole, one) for one in needed if not isinstance(one, ast.Import | ast.ImportFrom)]
    return own.name, "\n\n\n".join(filter(None, ["\n".join(imports), *others, _lines(lines, own)]))


def _lines(text: str, statement: ast.stmt) -> str:
    """The statement as it was written, comments inside it too; without its decorators."""
    return "\n".join(text.splitlines()[statement.lineno - 1 : statement.end_lineno])


def _needed(own: ast.FunctionDef, top: list[ast.stmt]) -> list[ast.stmt]:
    """The module's statements that give names the function uses, and those that these use, in the module's order."""
    gives = {name: place for place, one in enumerate(top) for name in _names_given(one)}
    places: set[int] = set()
    waiting: list[ast.AST] = [own]
    while waiting:
        for name in _names_used(waiting.pop()):
            place = gives.get(name)
            if place is not None and place not in places and not _is(top[place], own.name):
                places.add(place)
                waiting.append(top[place])
    return [top[place] for place in sorted(places)]


def _is(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.FunctionDef) and statement.name == name


def _names_used(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _names_given(statement: ast.stmt) -> Iterable[str]:
    match statement:
        case ast.Import(names=names):
            return [(one.asname or one.name).partition(".")[0] for one in names]
        case ast.ImportFrom(names=names, module=module) if (module or "").partition(".")[0] != "feast":
            return [one.asname or one.name for one in names]
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [one.id for one in targets if isinstance(one, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
