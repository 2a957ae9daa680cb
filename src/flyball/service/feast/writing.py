"""Definitions as a Python file that a person would want to keep."""

from __future__ import annotations

import builtins
import keyword
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from flyball.errors import Unavailable
from flyball.features.definitions import View
from flyball.features.expressions import Expr
from flyball.service.feast.carried import Note, PlainFunction, Translated

_WIDTH = 100
_CASTS = {"to_number": "FP64", "to_bool": "BOOL", "to_text": "BYTES"}
_OURS = {
    "Entity", "OnDemand", "RequestField", "Service", "Source", "View", "Window", "coalesce", "col", "greatest", "least",
    "lit", "on_demand", "when",
}  # fmt: skip
_UNITS = ((86400, "86400"), (3600, "3600"), (60, "60"))


def code_for(found: Translated, base: Path, *, origin: str = "") -> str:
    """The file's text; paths below ``base``, the folder it will lie in, are written relative to it."""
    return _File(found, base.resolve(), origin).text()


def put(file: Path, text: str | bytes) -> None:
    """The text in the file's place, whole or not at all; :class:`Unavailable` where it can't be written."""
    staged = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(text if isinstance(text, bytes) else text.encode())
        staged.replace(file)
    except OSError as error:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise Unavailable(
            f"{file} can't be written: {error.strerror or error}",
            "free some space, or name another place",
            path=str(file),
        ) from error


class _File:
    def __init__(self, found: Translated, base: Path, origin: str) -> None:
        self.found = found
        self.base = base
        self.origin = origin
        self.names: dict[int, str] = {}  # of each definition, by its identity
        self.taken: set[str] = set()
        self.used: set[str] = set()
        self.noted: set[Note] = set()
        self.blocks: set[str] = set()

    def text(self) -> str:
        found = self.found
        parts = [
            *(self._object(one, "entity") for one in found.entities.values()),
            *(self._object(one, "source") for one in found.sources.values()),
            *(self._view(one) for one in found.views.values()),
            *(self._object(one, "on_demand") for one in found.on_demand.values()),
            *(self._function(one) for one in found.functions.values()),
            *(self._object(one, "service") for one in found.services.values()),
        ]
        rest = [note for note in found.notes if note not in self.noted]
        where = f", carried over from the Feast repository {self.origin}" if self.origin else ""
        head = [f'"""Features of {found.project or "this project"}{where}."""', "", *self._imports(), ""]
        tail = ["", *self._comments(rest, named=True)] if rest else []
        return "\n".join([*head, self._apart(parts), *tail]).rstrip() + "\n"

    def _apart(self, parts: list[str]) -> str:
        """With one empty line between calls, and two around functions."""
        text = ""
        for part in parts:
            wide = "\ndef " in f"\n{part}" or "\ndef " in text.rpartition("\n\n\n")[2]
            text += ("\n\n\n" if wide else "\n\n") * bool(text) + part.rstrip()
        return text

    def _imports(self) -> list[str]:
        line = f"from flyball.features import {', '.join(sorted(self.used))}"
        functions = [one.code for one in self.found.functions.values()]
        lines = dict.fromkeys(line for code in functions for line in code.splitlines() if _imports(line))
        if any(one.mode == "pandas" for one in self.found.functions.values()):
            lines["import pandas as pd"] = None
        if len(line) > _WIDTH:
            line = f"from flyball.features import (\n    {', '.join(sorted(self.used))},\n)"
        more = ["from flyball.features.on_demand import on_demand"] if self.found.functions else []
        return [*lines, *([""] if lines else []), line, *more]

    def _object(self, one: Any, noun: str) -> str:
        name = self._name(one, noun)
        return "\n".join([*self._comments(self._about(one.name, noun)), f"{name} = {self._call(one)}"])

    def _view(self, view: View) -> str:
        code = self.found.transformations.get(view.name, "")
        kept = (
            ["# Feast would run this over the source's rows:", *(f"#   {line}" for line in code.splitlines())]
            if code
            else []
        )
        return "\n".join([*kept, self._object(view, "view")])

    def _function(self, one: PlainFunction) -> str:
        """The function as it was, and around it one of a row, which Flyball calls; of pandas' also one of a batch."""
        blocks = (
            "\n".join(line for line in one.code.splitlines() if not _imports(line))
            .strip("\n")
            .split("\n\n\n")
        )
        parts = [block for block in blocks if block not in self.blocks]  # two may share what they call
        self.blocks.update(parts)
        named: dict[str, Any] = {"name": one.name, "inputs": one.reads, "outputs": one.outputs}
        if one.mode == "pandas":
            parts.append(_batch_of(one))
            named["batch"] = _Raw(f"{_word(one.name)}_batch")
        about = (
            ("types", one.types),
            ("description", one.description),
            ("owner", one.owner),
            ("tags", one.tags),
        )
        named.update({name: value for name, value in about if value})
        comments = self._comments(self._about(one.name, "function"))
        call = self._arguments("@on_demand", [], named, 0)
        return "\n\n\n".join([*parts, "\n".join([*comments, call, _row_of(one)])])

    def _about(self, name: str, noun: str) -> list[Note]:
        names = {name, *(key for key, one in self._table(noun).items() if one.name == name)}
        found = [
            note
            for note in self.found.notes
            if note not in self.noted and note.about.partition(":")[0] in names
        ]
        self.noted |= set(found)
        return found

    def _table(self, noun: str) -> Mapping[str, Any]:
        found = self.found
        tables: dict[str, Mapping[str, Any]] = {
            "entity": found.entities, "source": found.sources, "view": found.views, "on_demand": found.on_demand,
            "function": found.functions,
            "service": found.services,
        }  # fmt: skip
        return tables[noun]

    def _comments(self, notes: Iterable[Note], *, named: bool = False) -> list[str]:
        lines = []
        for note in notes:
            own = note.about if named else note.about.partition(":")[2]
            text = f"Feast: {own + ' ' if own else ''}{note.says}"
            lines += [f"# {line}" for line in _wrapped(text)]
        return lines

    def _name(self, one: Any, noun: str) -> str:
        """A variable: the definition's own name where it is free."""
        bare = re.sub(r"\W", "_", one.name)
        free = [bare, f"{bare}_{noun}", *(f"{bare}_{noun}_{number}" for number in range(2, 99))]
        name = next(
            each
            for each in free
            if each not in self.taken | _OURS and not keyword.iskeyword(each) and not hasattr(builtins, each)
        )
        self.taken.add(name)
        self.names[id(one)] = name
        return name

    def _call(self, one: msgspec.Struct) -> str:
        """The call that makes a definition: what is a default is left out, the first two arguments go without a name."""
        self.used.add(type(one).__name__)
        plain: list[Any] = []
        named: dict[str, Any] = {}
        skipped = False
        for field in msgspec.structs.fields(one):
            value = getattr(one, field.name)
            default = field.default if field.default is not msgspec.NODEFAULT else (
                field.default_factory() if field.default_factory is not msgspec.NODEFAULT else msgspec.NODEFAULT
            )  # fmt: skip
            if default is not msgspec.NODEFAULT and type(value) is type(default) and bool(value == default):
                skipped = True
                continue
            if value is None or self._said_by_source(one, field.name, value):
                continue
            if len(plain) < _PLAIN.get(type(one).__name__, 1) and not named and not skipped:
                plain.append(self._value(one, field.name, value))
            else:
                named[field.name] = self._value(one, field.name, value)
        return self._arguments(type(one).__name__, plain, named, 0)

    def _said_by_source(self, one: Any, field: str, value: Any) -> bool:
        if field == "known" and value == getattr(one, "happened", None):
            return (
                not isinstance(one, View)
                or self._source_of(one) is None
                or self._source_of(one).known == value
            )
        source = self._source_of(one) if isinstance(one, View) and field in ("happened", "known") else None
        return source is not None and getattr(source, field) == value

    def _source_of(self, view: View) -> Any:
        return next((one for one in self.found.sources.values() if one.name == view.source), None)

    def _value(self, one: Any, field: str, value: Any) -> Any:
        if isinstance(one, View) and field == "source":
            source = self._source_of(one)
            return _Raw(self.names[id(source)]) if source is not None else value
        if isinstance(one, View) and field == "entity":
            entities = [each for each in self.found.entities.values() if set(each.keys) <= set(value)]
            keys = tuple(key for each in entities for key in each.keys)
            if keys == value:
                names = [self.names[id(each)] for each in entities]
                return _Raw(names[0] if len(names) == 1 else f"({', '.join(names)})")
        if field == "url":
            kind, colon, path = value.partition(":")
            if colon and path.startswith(f"{self.base}/"):
                return f"{kind}:{path.removeprefix(f'{self.base}/')}"
        if field in {"ttl_s", "window_s"}:
            return _Raw(_seconds(value))
        return value

    def _arguments(self, name: str, plain: list[Any], named: Mapping[str, Any], depth: int) -> str:
        said = [
            *(self._shown(one, depth) for one in plain),
            *(f"{key}={self._shown(value, depth)}" for key, value in named.items()),
        ]
        line = f"{name}({', '.join(said)})"
        pad = "    " * depth
        if len(pad) + len(line) + 20 <= _WIDTH and "\n" not in line:
            return line
        said = [
            *(self._shown(one, depth + 1) for one in plain),
            *(f"{key}={self._shown(value, depth + 1)}" for key, value in named.items()),
        ]
        inside = "".join(f"{pad}    {one},\n" for one in said)
        return f"{name}(\n{inside}{pad})"

    def _shown(self, value: Any, depth: int) -> str:
        if isinstance(value, _Raw):
            return value.text
        if isinstance(value, Expr):
            self.used |= {
                word
                for word in ("col", "coalesce", "greatest", "least", "lit", "when")
                if f"{word}(" in repr(value)
            }
            return _expression(value)
        if isinstance(value, msgspec.Struct):
            return self._call(value)
        pad, inner = "    " * depth, "    " * (depth + 1)
        if isinstance(value, dict):
            pairs = [f"{_text(key)}: {self._shown(item, depth + 1)}" for key, item in value.items()]
            line = f"{{{', '.join(pairs)}}}"
            return (
                line
                if _fits(line, depth)
                else "{\n" + "".join(f"{inner}{one},\n" for one in pairs) + f"{pad}}}"
            )
        if isinstance(value, tuple | list):
            items = [self._shown(item, depth + 1) for item in value]
            line = f"({', '.join(items)}{',' if len(items) == 1 else ''})"
            if _fits(line, depth):
                return line
            return "(\n" + "".join(f"{inner}{one},\n" for one in items) + f"{pad})"
        return _text(value) if isinstance(value, str) else repr(value)


class _Raw:
    def __init__(self, text: str) -> None:
        self.text = text


_PLAIN = {"Entity": 1, "Source": 2, "View": 3, "Window": 4, "OnDemand": 2, "Service": 1, "RequestField": 2}


def _batch_of(one: PlainFunction) -> str:
    """A function of a Polars frame around the one of a pandas frame."""
    names = dict(zip(one.reads, one.inputs, strict=True))
    pairs = ", ".join(f"{_text(ours)}: {_text(theirs)}" for ours, theirs in names.items() if ours != theirs)
    given = f"frame.to_pandas().rename(columns={{{pairs}}})" if pairs else "frame.to_pandas()"
    outputs = ", ".join(map(_text, one.outputs))
    lines = [
        f"def {_word(one.name)}_batch(frame):",
        f"    rows = {given}",
        f"    found = {one.function}(rows)",
        f"    return {{name: found[name].tolist() for name in ({outputs},)}}",
    ]
    return "\n".join(lines)


def _row_of(one: PlainFunction) -> str:
    """A function of one row around the one that Feast runs over a frame, lists or a dict."""
    names = [_word(name) for name in one.inputs]
    pairs = ", ".join(f"{_text(key)}: {name}" for key, name in zip(one.inputs, names, strict=True))
    lines = [f"def {_word(one.name)}_row({', '.join(names)}):", f"    row = {{{pairs}}}"]
    match one.mode:
        case "pandas":
            lines.append(
                '    frame = pd.DataFrame({name: [float("nan") if value is None else value] for name, value in row.items()})'
            )
            lines.append(f"    found = {one.function}(frame)")
            outputs = [f"found[{_text(name)}].iloc[0]" for name in one.outputs]
        case "row":
            lines.append(f"    found = {one.function}(row)")
            outputs = [f"found[{_text(name)}]" for name in one.outputs]
        case _:
            lines.append(f"    found = {one.function}({{name: [value] for name, value in row.items()}})")
            outputs = [f"found[{_text(name)}][0]" for name in one.outputs]
    return "\n".join([*lines, f"    return {', '.join(outputs)}"])


def _word(name: str) -> str:
    """A name as Python's."""
    return re.sub(r"\W", "_", name)


def _imports(line: str) -> bool:
    return line.startswith(("import ", "from "))


def _expression(value: Expr) -> str:
    return re.sub(
        r"\.(to_number|to_bool|to_text)\(\)", lambda found: f'.cast("{_CASTS[found[1]]}")', repr(value)
    )


def _text(value: str) -> str:
    """With double quotes, in lines where it is long."""
    shown = repr(value)
    return f'"{shown[1:-1]}"' if shown[0] == "'" and '"' not in shown else shown


def _fits(line: str, depth: int) -> bool:
    return len(line) + 4 * depth + 12 <= _WIDTH and "\n" not in line


def _seconds(value: int) -> str:
    for size, text in _UNITS:
        if value % size == 0 and value >= size:
            count = value // size
            return text if count == 1 else f"{count} * {text}"
    return str(value)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
