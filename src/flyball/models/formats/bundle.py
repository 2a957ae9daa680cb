"""Any object with its code: its pickle beside the project's sources that its classes need, loaded side by side.

Two versions of a model may bring two versions of one module, and the process that loads them may have a third. So a
bundle's modules live under a name of their own (``flyball_code_<digest>.features``); imports inside them are answered by
the bundle first. Nothing is put on ``sys.path``, and no module of the process is replaced.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import site
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from flyball.core.hashing import digest_of
from flyball.errors import Invalid
from flyball.models.formats import archive, pickles

PREFIX = "flyball_code_"
MOST_BYTES = 8 << 20
_MODEL, _INDEX = "model.pkl", "bundle.json"


class Sources(msgspec.Struct, frozen=True):
    """Modules by name: their files inside the bundle, and their text. A name that ends in a package has no text of its own
    when the package has no ``__init__.py``."""

    files: dict[str, str]  # module -> path
    texts: dict[str, str]  # path -> source
    imports: set[str] = set()  # what else they import: libraries

    @property
    def digest(self) -> str:
        return digest_of({"files": self.files, "texts": self.texts})


def is_project(name: str) -> bool:
    """Whether a module is a file of the project: neither installed nor of the standard library, nor ours."""
    if name.startswith(PREFIX):
        return True
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in sys.builtin_module_names or top == "flyball":
        return False
    file = _file_of(name)
    return file is not None and not _is_library(file)


def collect(modules: Iterable[str]) -> Sources:
    """The sources of the project's own modules among these, and of those that they import, however many away.

    What was defined in a script or notebook itself (``__main__``) can't be imported by anybody else: :class:`Invalid`.
    """
    modules = set(modules)
    if "__main__" in modules:
        raise Invalid(
            "the model's class is defined in the script or notebook that runs",
            "put it into a module of the project and import it from there",
        )
    walk = _Walk()
    for name in sorted(modules):
        walk.follow(name)
    return Sources(dict(sorted(walk.files.items())), dict(sorted(walk.texts.items())), walk.imports)


def pack(sources: Sources, pickled: bytes) -> bytes:
    """One file of the code and the pickle that needs it."""
    index = msgspec.json.encode({"bundle": 1, "modules": sources.files}, order="sorted")
    files = {f"code/{path}": text.encode() for path, text in sources.texts.items()}
    return archive.pack({**files, _MODEL: pickled, _INDEX: index})


def unpack(data: bytes) -> tuple[Sources, bytes]:
    """The code and the pickle of a bundle; runs nothing."""
    try:
        files = archive.unpack(data)
        index = msgspec.json.decode(files[_INDEX], type=dict[str, Any])
        texts = {path: files[f"code/{path}"].decode() for path in index["modules"].values() if path}
        return Sources(dict(index["modules"]), texts), files[_MODEL]
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise Invalid(f"not a model with its code, or a torn one: {error}", "copy the whole file") from error


def read(data: bytes) -> Any:
    """The object of a bundle: runs its pickle, and its modules as they are needed."""
    sources, pickled = unpack(data)
    return loads(pickled, sources)


def loads(pickled: bytes, sources: Sources) -> Any:
    """The object of a pickle whose project modules are these."""
    return pickles.unpickler(finder(sources))(io.BytesIO(pickled)).load()


def finder(sources: Sources) -> Callable[[str, str], Any]:
    """Finds a class of these sources by module and name; ``None`` for what is not theirs."""
    space = namespace(sources) if sources.files else ""

    def find(module: str, name: str) -> Any:
        if module not in sources.files:
            return None
        found: Any = importlib.import_module(f"{space}.{module}")
        for part in name.split("."):
            found = getattr(found, part)
        return found

    return find


def own_name(module: str) -> str:
    """The name that a module of a bundle had in the project."""
    return module.partition(".")[2] if module.startswith(PREFIX) else module


def namespace(sources: Sources) -> str:
    """The package under which these sources are imported; the same sources, the same package."""
    name = f"{PREFIX}{sources.digest[3:19]}"
    _FINDER.spaces.setdefault(name, sources)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    return name


class _Finder(importlib.abc.MetaPathFinder):
    """Finds ``flyball_code_*`` and nothing else."""

    def __init__(self) -> None:
        self.spaces: dict[str, Sources] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        space, _, inner = fullname.partition(".")
        sources = self.spaces.get(space)
        if sources is None or (inner and inner not in sources.files):
            return None
        loader = _Loader(space, sources, inner)
        return importlib.util.spec_from_loader(fullname, loader, is_package=loader.is_package(fullname))


class _Loader(importlib.abc.InspectLoader):
    """Runs one module of a bundle; its imports are answered by the bundle first."""

    def __init__(self, space: str, sources: Sources, inner: str) -> None:
        self.space, self.sources, self.inner = space, sources, inner

    def is_package(self, fullname: str) -> bool:
        path = self.sources.files.get(self.inner, "")
        return not path or path.endswith("__init__.py")

    def get_source(self, fullname: str) -> str:
        return self.sources.texts.get(self.sources.files.get(self.inner, ""), "")

    def exec_module(self, module: ModuleType) -> None:
        path = self.sources.files.get(self.inner) or self.inner
        module.__file__ = f"<{self.space}>/{path}"
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        code = compile(self.get_source(module.__name__), module.__file__, "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or top not in self.sources.files:
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{self.space}.{name}", globals, locals, fromlist or ("__name__",), 0)
        return found if fromlist else sys.modules[f"{self.space}.{top}"]


_FINDER = _Finder()


class _Walk:
    """Modules of the project, from one to those that it imports."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.imports: set[str] = set()
        self._size = 0

    def follow(self, name: str) -> None:
        if name.startswith(PREFIX):
            self._adopt(name)
            return
        if name in self.files or name in self.imports:
            return
        if not is_project(name):
            if _file_of(name) is not None or name.partition(".")[0] in sys.modules:
                self.imports.add(name)
            return
        for end in range(1, name.count(".") + 1):
            self._enter(".".join(name.split(".")[:end]))
        self._enter(name)

    def _enter(self, name: str) -> None:
        if name in self.files:
            return
        file = _file_of(name)
        if file is None:  # a package without an __init__.py
            self.files[name] = ""
            return
        if file.suffix != ".py":
            raise Invalid(f"the module {name} is {file.name}, not a source", "install it as a package")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(
                f"{file} can't be read: {error}", "check its rights, and that it is UTF-8"
            ) from error
        self._size += len(text)
        if self._size > MOST_BYTES:
            raise Invalid(
                f"the model's class needs more than {MOST_BYTES >> 20} MiB of the project's sources",
                "move it to a module that imports less",
            )
        package = file.name == "__init__.py"
        path = f"{name.replace('.', '/')}/__init__.py" if package else f"{name.replace('.', '/')}.py"
        self.files[name], self.texts[path] = path, text
        for imported in _imports_of(text, name if package else name.rpartition(".")[0], file):
            self.follow(imported)

    def _adopt(self, name: str) -> None:
        """The modules of a bundle from which the object was loaded."""
        sources = _FINDER.spaces.get(name.partition(".")[0])
        if sources is None:
            raise Invalid(f"the code of {name} is gone", "load the model anew before you register it again")
        for module, path in sources.files.items():
            if self.texts.get(path, sources.texts.get(path, "")) != sources.texts.get(path, ""):
                raise Invalid(
                    f"the model needs two versions of the module {module}", "register its parts apart"
                )
            self.files[module] = path
            if path:
                self.texts[path] = sources.texts[path]


def _imports_of(text: str, package: str, file: Path) -> list[str]:
    """Every module that a source may import, wherever in it; ``from a import b`` may mean ``a.b``."""
    found: list[str] = []
    try:
        tree = ast.parse(text, str(file))
    except SyntaxError as error:
        raise Invalid(f"{file}:{error.lineno}: {error.msg}", "mend that line") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1] if package else []
                base = ".".join([*parts, base] if base else parts)
            if base:
                found.append(base)
                found += [f"{base}.{alias.name}" for alias in node.names if alias.name != "*"]
    return found


def _file_of(name: str) -> Path | None:
    """The file of a module, without importing anything for it; ``None`` for what has none or is not there."""
    module = sys.modules.get(name)
    if module is not None and name != "__main__":
        file = getattr(module, "__file__", None)
        return Path(file) if isinstance(file, str) else None
    parent, _, last = name.rpartition(".")
    if not parent:
        spec = _spec_of(name)
        return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None
    for folder in _folders_of(parent):
        for file in (folder / last / "__init__.py", folder / f"{last}.py"):
            if file.is_file():
                return file
    return None


def _folders_of(package: str) -> list[Path]:
    """Where the modules of a package lie."""
    module = sys.modules.get(package)
    if module is not None:
        return [Path(one) for one in getattr(module, "__path__", ())]
    parent, _, last = package.rpartition(".")
    if parent:
        return [folder / last for folder in _folders_of(parent)]
    spec = _spec_of(package)
    return [Path(one) for one in (spec.submodule_search_locations or ())] if spec is not None else []


def _spec_of(top: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


@cache
def _library_roots() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(Path(folder).resolve() for folder in folders)


def _is_library(file: Path) -> bool:
    if any(part in ("site-packages", "dist-packages") for part in file.parts):
        return True
    file = file.resolve()
    return any(file.is_relative_to(root) for root in _library_roots())
