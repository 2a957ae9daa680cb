"""Change values of ``flyball.toml`` in its text, so that everything else a person wrote there stays as it is."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from flyball.core.config import FILE
from flyball.errors import Invalid

_TABLE = re.compile(r"^\s*\[")


def file_of(root: Path) -> tuple[Path, str]:
    """The file that holds a project's settings, and what precedes the names of its tables."""
    file = root / FILE
    return (file, "") if file.is_file() else (root / "pyproject.toml", "tool.flyball.")


def with_values(text: str, table: str, values: dict[str, str]) -> str:
    """The text with these values in ``[table]``; :class:`Invalid` when that would change anything else.

    >>> print(with_values('[stores]\\nblobs = "file:b"  # here', "stores", {"blobs": "s3://x"}))
    [stores]
    blobs = "s3://x"
    <BLANKLINE>
    """
    lines = text.splitlines()
    header = re.compile(rf"^\s*\[\s*{re.escape(table)}\s*\]\s*(#.*)?$")
    at = next((index for index, line in enumerate(lines) if header.match(line)), None)
    if at is None:
        lines += [*([""] if lines and lines[-1].strip() else []), f"[{table}]"]
        at = len(lines) - 1
    for key, value in values.items():
        end = next((i for i in range(at + 1, len(lines)) if _TABLE.match(lines[i])), len(lines))
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        found = [i for i in range(at + 1, end) if re.match(rf"^\s*{re.escape(key)}\s*=", lines[i])]
        if found:
            lines[found[0]] = line
        else:
            lines.insert(at + 1, line)
    changed = "\n".join(lines) + "\n"
    if _read(changed) != _merged(_read(text), table, values):
        raise Invalid(
            f"[{table}] can't be changed without touching something else",
            "write these lines yourself: " + "; ".join(f'{key} = "{value}"' for key, value in values.items()),
        )
    return changed


def write(file: Path, text: str) -> None:
    """Put the text in the file's place at once; what was there stays beside it as ``….before``."""
    if file.is_file():
        file.with_name(file.name + ".before").write_bytes(file.read_bytes())
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    staged.write_text(text)
    staged.replace(file)


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{FILE} is not TOML: {error}", "mend that line") from error


def _merged(content: dict[str, Any], table: str, values: dict[str, str]) -> dict[str, Any]:
    place = content
    for part in table.split("."):
        place = place.setdefault(part, {})
    place.update(values)
    return content
