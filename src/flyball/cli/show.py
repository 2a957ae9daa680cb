"""Answers for people: tables and short lists; ``--json`` for scripts; ``-q`` for pipes."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from flyball.service.verb import plain

_IDS = (
    "id",
    "ref",
    "name",
    "key",
    "project",
    "endpoint",
    "feature",
    "pipeline",
    "contract",
    "setting",
    "part",
    "what",
)


def show(words: str, result: Any, *, as_json: bool, quiet: bool) -> int:
    """Print a verb's answer; the exit code is 1 when the answer is a no (its ``exit_code`` says so)."""
    code = int(getattr(result, "exit_code", 0))
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plain(result))).decode() + "\n")
        return code
    if quiet:
        for one in result if isinstance(result, list) else [result]:
            sys.stdout.write(f"{identity(one)}\n")
        return code
    if result is None:
        return code
    text = getattr(result, "as_text", None)
    # A pipe or a file has no width: rows stay whole there, one a line.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    if callable(text):
        console.print(text(), markup=False, soft_wrap=True)
    elif isinstance(result, list):
        _rows(console, result, words)
    elif isinstance(result, str):
        console.print(result, markup=False, soft_wrap=True)
    else:
        _fields(console, plain(result))
    return code


def identity(one: Any) -> str:
    """What names a record: its id, else its ref, else its name."""
    if isinstance(one, str):
        return one
    for name in _IDS:
        found = one.get(name) if isinstance(one, dict) else getattr(one, name, None)
        if found:
            return str(found)
    return str(one)


def _rows(console: Console, rows: list[Any], words: str) -> None:
    if not rows:
        console.print(f"nothing yet ({words})", style="dim")
        return
    dicts = [plain(row) if not isinstance(row, str) else {"name": row} for row in rows]
    first = {name: value for row in reversed(dicts) for name, value in row.items()}
    ordered = dict.fromkeys(name for row in dicts for name in row)  # records leave out what is empty
    names = [
        name for name in ordered if not isinstance(first[name], dict | list) or len(str(first[name])) < 40
    ]
    table = Table(box=None, header_style="bold", pad_edge=False)
    cells = [[_cell(row.get(name)) for name in names] for row in dicts]
    for number, name in enumerate(names):
        short = max(len(row[number]) for row in cells) <= 30  # ids and times stay whole; sentences wrap
        table.add_column(
            name if name.startswith("run_") else name.replace("_", " "), overflow="fold", no_wrap=short
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _fields(console: Console, content: Any, indent: str = "") -> None:
    if not isinstance(content, dict):
        console.print(f"{indent}{_cell(content)}", markup=False)
        return
    width = max((len(str(name)) for name in content), default=0)
    for name, value in content.items():
        if isinstance(value, dict) and value:
            console.print(f"{indent}{name}", style="bold", markup=False)
            _fields(console, value, indent + "  ")
        else:
            console.print(f"{indent}{name!s:<{width}}  {_cell(value)}", markup=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(one) for one in value) if len(str(value)) < 200 else f"{len(value)} items"
    if isinstance(value, str) and value.startswith("b3:") and len(value) == 67:
        return value[:15]
    if isinstance(value, str) and len(value) >= 20 and value[10:11] == "T" and value.endswith("Z"):
        return value[:19].replace("T", " ")
    return str(value)
