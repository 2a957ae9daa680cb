"""Write docs/reference.md from the table of verbs and the settings; ``--check`` says whether it is up to date."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import msgspec

from flyball.core.config import Config
from flyball.heal.policy import Policy
from flyball.service.verb import Verb, table

PLACE = Path(__file__).parents[1] / "docs" / "reference.md"


def page() -> str:
    """The whole reference."""
    parts = [
        "# Reference",
        "",
        "Made by `make docs` from the table of verbs; each is also `POST /api/…` and a function.",
        "",
    ]
    for words, verb in sorted(table().items()):
        parts += [f"## flyball {words}", "", inspect.getdoc(verb.function) or "", "", *_parameters(verb)]
    parts += _settings("flyball.toml", Config) + _settings("policy.toml", Policy)
    return "\n".join(parts).rstrip() + "\n"


def _parameters(verb: Verb) -> list[str]:
    if not verb.parameters:
        return []
    rows = ["| parameter | default |", "|---|---|"]
    for one in verb.parameters:
        default = "required" if one.default is inspect.Parameter.empty else f"`{one.default!r}`"
        rows.append(f"| `{one.name}` | {default} |")
    return [*rows, ""]


def _settings(title: str, kind: type[msgspec.Struct]) -> list[str]:
    rows = [f"## {title}", "", "| setting | default |", "|---|---|"]
    for name, value in _flat(msgspec.to_builtins(kind())):
        rows.append(f"| `{name}` | `{value!r}` |")
    return [*rows, ""]


def _flat(content: dict[str, object], above: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in content.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{above}{name}.")
        else:
            found.append((above + name, value))
    return found


def main() -> int:
    """Write it, or check it."""
    text = page()
    if "--check" in sys.argv:
        return 0 if PLACE.read_text() == text else 1
    PLACE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
