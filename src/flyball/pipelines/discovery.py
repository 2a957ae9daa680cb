"""Import a project's definition files and collect what they define."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from flyball.errors import FlyballError, Invalid, NotFound
from flyball.pipelines.definition import Pipeline, Step

T = TypeVar("T")


class Definitions(msgspec.Struct, frozen=True):
    """What a project's files define: pipelines by name, and objects of the types asked for, by name."""

    pipelines: dict[str, Pipeline[..., Any]]
    steps: dict[str, Step[..., Any]]
    others: dict[type, dict[str, Any]]

    def of(self, kind: type[T]) -> dict[str, T]:
        """Objects of one of the types asked for, by their ``name`` (or the variable's)."""
        return self.others.get(kind, {})


_Stamp = tuple[tuple[str, int, int], ...]
_known: dict[tuple[Path, tuple[str, ...], tuple[type, ...]], tuple[_Stamp, Definitions]] = {}
_roots: list[Path] = []  # the project whose modules are loaded, if any


def load_definitions(root: Path, files: Sequence[str], types: Iterable[type] = ()) -> Definitions:
    """Import the files (those that exist) with the project's folder first on the path; unchanged files are not imported
    again. An error in one is :class:`Invalid` naming its file and line.

    Modules keep their plain names (``pipelines``), so that what steps pickle can be read elsewhere. Another project's
    modules of the same process make room.
    """
    root = root.resolve()
    asked = (root, tuple(files), tuple(types))
    known = _known.get(asked)
    if known is not None and _roots == [root] and known[0] == _stamp(root):
        return known[1]
    present = [file for file in files if (root / file).is_file()]
    if not present:
        raise NotFound(
            f"none of {', '.join(files)} is in {root}",
            "they are named by [project] definitions in flyball.toml",
        )
    _make_room(root)
    modules = [_import(root, file) for file in present]
    definitions = _collect(modules, tuple(types))
    _known[asked] = (_stamp(root), definitions)
    return definitions


def _make_room(root: Path) -> None:
    """Forget the modules of this and other projects, and put this root first on the path."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and any(_is_of(file, one) for one in {*_roots, root}):
            del sys.modules[name]
    for one in {*_roots, root}:
        while str(one) in sys.path:
            sys.path.remove(str(one))
    sys.path.insert(0, str(root))
    _roots[:] = [root]
    importlib.invalidate_caches()


def _is_of(file: str, root: Path) -> bool:
    inside = file.removeprefix(f"{root}{os.sep}")  # text, not paths: asked of every module there is
    if inside == file:
        return False
    return not any(
        part in {"site-packages", "flyball"} or part.startswith(".") for part in Path(inside).parts
    )


def _import(root: Path, file: str) -> ModuleType:
    name = ".".join(Path(file).with_suffix("").parts)
    try:
        module = importlib.import_module(name)
    except FlyballError:
        raise
    except SyntaxError as error:
        where = f"{_shown(error.filename or file, root)}:{error.lineno}"
        raise Invalid(f"{where}: {error.msg}", "mend that line", where=where) from error
    except Exception as error:
        where = _deepest_line(error, root) or file
        raise Invalid(f"{where}: {type(error).__name__}: {error}", "mend that line", where=where) from error
    found = Path(module.__file__ or "").resolve()
    if found != (root / file).resolve():
        raise Invalid(
            f"the name of {file} is taken by {found}", f"rename {file}, also in flyball.toml", file=file
        )
    return module


def _collect(modules: list[ModuleType], types: tuple[type, ...]) -> Definitions:
    pipelines: dict[str, Pipeline[..., Any]] = {}
    steps: dict[str, Step[..., Any]] = {}
    others: dict[type, dict[str, Any]] = {kind: {} for kind in types}
    for module in modules:
        for variable, value in vars(module).items():
            if isinstance(value, Pipeline):
                _enter(pipelines, value.name, value, module)
            elif isinstance(value, Step):
                steps[value.name] = value
            for kind in types:
                found = value if isinstance(value, list | tuple) else [value]
                for one in found:
                    if isinstance(one, kind):
                        _enter(others[kind], str(getattr(one, "name", variable)), one, module)
    return Definitions(pipelines, steps, others)


def _enter(table: dict[str, Any], name: str, value: Any, module: ModuleType) -> None:
    before = table.get(name)
    if before is not None and before is not value and before != value:
        raise Invalid(
            f"{module.__name__}.py defines {type(value).__name__} {name!r} a second time, differently",
            "rename one",
        )
    table[name] = value


def _stamp(root: Path) -> _Stamp:
    """Size and time of every file of the project that is imported now."""
    files = {
        Path(file)
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None)) and _is_of(file, root)
    }
    found = []
    for file in sorted(files):
        try:
            status = file.stat()
        except OSError:
            continue
        found.append((str(file), status.st_size, status.st_mtime_ns))
    return tuple(found)


def _deepest_line(error: Exception, root: Path) -> str:
    lines = [
        f"{_shown(frame.filename, root)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_of(frame.filename, root)
    ]
    return lines[-1] if lines else ""


def _shown(file: str, root: Path) -> str:
    path = Path(file)
    return str(path.relative_to(root)) if path.is_relative_to(root) else file
