"""The digest of everything a step's code depends on within the project: the step, the functions, classes and constants
it reaches by name, and theirs, however many calls away.

What is hashed is the compiled instructions with their names and constants, so comments, formatting, docstrings and line
numbers don't count, lambdas and notebooks work, and a change of Python counts through the environment's digest.
Library code counts by its package's version there, too. Names are resolved as Python does: through the function's own
globals and cells, attributes of project modules (``prepare.clean``), and imports inside functions.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.hashing import digest_bytes, digest_of
from flyball.errors import Invalid
from flyball.pipelines.bytecode import global_names, instructions
from flyball.pipelines.codecs import encode
from flyball.pipelines.definition import Pipeline, Step

_LIBRARY = ("site-packages", "dist-packages")
_FLAT = (bool, int, float, complex, str, bytes, type(None), type(...))
_SKIPPED_CLASS_ATTRIBUTES = frozenset(
    {
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__firstlineno__",
        "__static_attributes__",
        "__qualname__",
    }
)


class Closure(msgspec.Struct, frozen=True):
    """A code digest, the names it covers, and what could not be followed (then the result must not be reused)."""

    digest: str
    covers: tuple[str, ...]
    opaque: tuple[str, ...] = ()


def closure_of(function: Callable[..., Any], root: Path) -> Closure:
    """Follow a step's code through the project at ``root``."""
    walk = _Walk(root, function)
    walk.follow(function, "step", own=True)
    items = sorted(walk.items, key=lambda item: str(item[0]))
    covers = tuple(sorted({str(item[0]) for item in items}))
    return Closure(digest_of(items), covers, tuple(sorted(walk.opaque)))


class _Walk:
    """One traversal; each thing reached adds an item: its name, its content, and what its names are bound to."""

    def __init__(self, root: Path, function: Callable[..., Any]) -> None:
        self.root = root.resolve()
        code = getattr(inspect.unwrap(function), "__code__", None)
        self.own_file = code.co_filename if code is not None else ""
        self.items: list[tuple[str, Any, Any]] = []
        self.opaque: set[str] = set()
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []  # keeps ids from being used again

    def follow(self, value: Any, where: str, *, own: bool = False) -> str:
        """A text that identifies ``value`` as ``where`` uses it; what it reaches is entered on the way."""
        if isinstance(value, Step | Pipeline):
            return self.follow(value.function, where, own=own)
        if id(value) in self._seen:
            return self._seen[id(value)]
        if isinstance(value, staticmethod | classmethod):
            return self.follow(value.__func__, where)
        if isinstance(value, types.MethodType):
            return f"{self.follow(value.__func__, where)} of {self.follow(value.__self__, where)}"
        if isinstance(value, property):
            parts = [
                self.follow(part, where) for part in (value.fget, value.fset, value.fdel) if part is not None
            ]
            return f"property {parts}"
        if isinstance(value, types.FunctionType):
            return self._function(value, where, own)
        if isinstance(value, type):
            return self._class(value, where)
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, partial):
            return f"partial {[self.follow(one, where) for one in (value.func, value.args, value.keywords)]}"
        if callable(value) and (wrapped := getattr(value, "__wrapped__", None)) is not None:
            return f"{type(value).__name__} of {self.follow(wrapped, where)}"  # functools.cache and its like
        return self._constant(value, where)

    def _enter(self, value: Any, name: str) -> str:
        self._seen[id(value)] = name
        self._alive.append(value)
        return name

    def _function(self, function: types.FunctionType, where: str, own: bool) -> str:
        name = f"{function.__module__}:{function.__qualname__}"
        if not own and not self._in_project(function.__code__.co_filename, function.__module__):
            return name
        self._enter(function, name)
        bound: dict[str, str] = {}
        for chain in global_names(function.__code__):
            bound.update(self._global(chain, function, name))
        for cell_name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                bound[f"cell {cell_name}"] = self.follow(
                    cell.cell_contents, f"{name} (free variable {cell_name})"
                )
            except ValueError:
                bound[f"cell {cell_name}"] = "empty"
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        bound["defaults"] = str([self.follow(one, f"{name} (a default)") for one in defaults])
        if wrapped := getattr(function, "__wrapped__", None):
            bound["wrapped"] = self.follow(wrapped, name)
        self.items.append((function.__qualname__, instructions(function.__code__), sorted(bound.items())))
        return name

    def _global(
        self, chain: tuple[str, ...], function: types.FunctionType, where: str
    ) -> Iterator[tuple[str, str]]:
        """What a dotted name is bound to: followed through project modules, up to the first thing that is not one."""
        if chain[0] == "import":
            yield from self._imported(chain[1:], function, where)
            return
        if chain[0] not in function.__globals__:
            return  # a builtin, or an error when it runs
        value = function.__globals__[chain[0]]
        used = chain[0]
        for attribute in chain[1:]:
            if not isinstance(value, types.ModuleType) or not hasattr(value, attribute):
                break
            value = getattr(value, attribute)
            used = f"{used}.{attribute}"
        yield used, self.follow(value, f"{where} ({used})")

    def _imported(
        self, words: tuple[str, ...], function: types.FunctionType, where: str
    ) -> Iterator[tuple[str, str]]:
        level, module_name, *names = words
        package = str(function.__globals__.get("__package__") or "")
        try:
            full = importlib.util.resolve_name("." * int(level) + module_name, package)
            spec = importlib.util.find_spec(full)
        except (ImportError, ValueError):
            return
        if spec is None or not spec.origin or not self._in_project(spec.origin, full):
            return
        module = importlib.import_module(full)
        for name in names or [""]:
            value = getattr(module, name, module) if name else module
            yield f"import {full}.{name}", self.follow(value, where)

    def _class(self, kind: type, where: str) -> str:
        name = f"{kind.__module__}:{kind.__qualname__}"
        module = sys.modules.get(kind.__module__)
        if not self._in_project(getattr(module, "__file__", None) or "", kind.__module__):
            return name
        self._enter(kind, name)
        bound = {"bases": str([self.follow(base, where) for base in kind.__bases__])}
        fields = inspect.get_annotations(kind)
        bound["annotations"] = str(sorted((name, str(annotation)) for name, annotation in fields.items()))
        for attribute, value in sorted(vars(kind).items()):
            if attribute in _SKIPPED_CLASS_ATTRIBUTES:
                continue
            if inspect.isdatadescriptor(value) and not isinstance(value, property):
                continue  # a slot or a field: its annotation and default are here already
            if isinstance(value, types.FunctionType | staticmethod | classmethod | property | type | Step):
                bound[attribute] = self.follow(value, f"{name}.{attribute}")
            elif not attribute.startswith("__") or attribute in {"__struct_defaults__", "__slots__"}:
                bound[attribute] = self._constant(value, f"{name}.{attribute}", quietly=True)
        self.items.append((kind.__qualname__, "class", sorted(bound.items())))
        return name

    def _module(self, module: types.ModuleType) -> str:
        """A project module used as a whole (passed on, or read by ``getattr``): all of its source counts."""
        file = getattr(module, "__file__", None) or ""
        if not self._in_project(file, module.__name__) or not file.endswith(".py"):
            return module.__name__
        self._enter(module, module.__name__)
        code = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
        self.items.append((module.__name__, instructions(code), []))
        return module.__name__

    def _constant(self, value: Any, where: str, *, quietly: bool = False) -> str:
        """The content of a value; what can't be written down is named in ``opaque``."""
        if isinstance(value, _FLAT):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, logging.Logger | types.BuiltinFunctionType):
            return f"{type(value).__name__} {getattr(value, 'name', getattr(value, '__qualname__', ''))}"
        if type(value) in (list, tuple, set, frozenset):
            parts = [self.follow(one, where) for one in value]
            return f"{type(value).__name__} {sorted(parts) if isinstance(value, set | frozenset) else parts}"
        if type(value) is dict:
            return f"dict {[(self.follow(k, where), self.follow(v, where)) for k, v in value.items()]}"
        kind = self.follow(type(value), where)
        if kind.partition(":")[0] in {"typing", "types", "builtins"} and not isinstance(value, bytearray):
            return f"{kind} {value!r}" if " at 0x" not in repr(value) else kind
        try:
            encoded = encode(value)
        except Invalid:
            if not quietly:
                self.opaque.add(f"{where}: a {type(value).__name__}")
            return kind
        return f"{kind} {digest_bytes(encoded.data)}"

    def _in_project(self, file: str, module: str) -> bool:
        if file.startswith("<"):  # generated code (a dataclass's methods) belongs to its module
            file = getattr(sys.modules.get(module), "__file__", None) or ""
        if module == "__main__" or (file and file == self.own_file):
            return True
        if not file or module.partition(".")[0] == "flyball":
            return False
        path = Path(file).resolve()
        if any(part in _LIBRARY for part in path.parts) or path.is_relative_to(sys.prefix):
            return False
        return path.is_relative_to(self.root)
