"""The source files that this process has imported and that no package installed: the project's, and from elsewhere."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

_LIBRARY = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
MOST_UP = 3  # so many folders above the project its surroundings are kept as they lie
SESSION = ".session/cells.py"  # where a notebook's cells are kept
MOVED = (
    ".flyball/moved.json"  # in a rebuilt project: where foreign sources lie now, and what they were called
)


class Imported(msgspec.Struct, frozen=True):
    """Files by their path from the project's folder, and where each of those outside lies."""

    inside: tuple[str, ...]
    outside: dict[str, str]


_looked: dict[tuple[Path, bool], tuple[int, Imported]] = {}


def look(root: Path, *, script: bool = True) -> Imported:
    """What has been imported until now; 2 ms for two thousand modules, and nothing until another is imported.

    The program's main file counts when the run is this ``script``; a pipeline is the same whoever starts it.
    """
    count = len(sys.modules)
    before = _looked.get((root, script))
    if before is not None and before[0] == count:
        return before[1]
    inside: set[str] = set()
    outside: dict[str, str] = {}
    top = str(root) + os.sep
    moved = _moved(root)
    ignored = _installed_prefixes()
    for name, module in list(sys.modules.items()):
        if name in ("__main__", "__mp_main__") and not script:
            continue
        file = _file_of(module)
        if not file or file.startswith(ignored) or any(part in file for part in _LIBRARY):
            continue
        file = _real(file)
        if moved and (original := _before_it_moved(file, moved)):
            outside[original] = file
        elif file.startswith(top):
            inside.add(file[len(top) :].replace(os.sep, "/"))
        elif file and not file.startswith(ignored):
            outside[from_root(Path(file), root)] = file
    found = Imported(tuple(sorted(inside)), outside)
    _looked[root, script] = (count, found)
    return found


def _moved(root: Path) -> dict[str, str]:
    """Folders of foreign sources in a rebuilt project, longest first -> what the run called them."""
    try:
        said = msgspec.json.decode((root / MOVED).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}
    return {f"{root / place}{os.sep}": said[place] for place in sorted(said, key=len, reverse=True)}


def _before_it_moved(file: str, moved: dict[str, str]) -> str:
    for place, name in moved.items():
        if file.startswith(place):
            return f"{name.rstrip('/')}/{file[len(place) :]}".replace(os.sep, "/")
    return ""


def from_root(file: Path, root: Path) -> str:
    """A path from the project's folder: ``../shared/x.py`` when that is near, absolute when it is far."""
    relative = os.path.relpath(file, root)
    ups = Path(relative).parts.count("..")
    near = ups <= MOST_UP and ups < len(root.parts) - 1  # never up to the root of the file system
    return (relative if near else str(file)).replace(os.sep, "/")


def count() -> tuple[int, int]:
    """How much was imported, and how many cells were run: when it is the same, so are the files."""
    cells = getattr(sys.modules.get("__main__"), "In", None)
    return len(sys.modules), len(cells) if isinstance(cells, list) else 0


def session_cells() -> str | None:
    """The cells of a notebook (or an IPython session) until now, as one source; ``None`` elsewhere."""
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None):
        return None
    cells = getattr(main, "In", None)
    if not isinstance(cells, list):
        return None
    return "\n\n".join(f"# %%\n{cell}" for cell in cells[1:] if isinstance(cell, str)) + "\n"


def _file_of(module: Any) -> str:
    """A module's source file; of one in a zipped application, the zip."""
    try:
        file = module.__file__
    except AttributeError:
        return ""
    if not isinstance(file, str):
        return ""
    archive = getattr(getattr(module, "__loader__", None), "archive", None)
    return archive if isinstance(archive, str) else file


@cache
def _installed_prefixes() -> tuple[str, ...]:
    """Where Python's and the packages' own files lie, and flyball's: those are the environment, not code."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    found |= {str(Path(one).resolve()) for one in found} | {str(Path(__file__).resolve().parents[1])}
    found |= {str(Path(sys.executable).parent), str(Path(sys.executable).resolve().parent)}
    return (*(one + os.sep for one in sorted(found)), "<")


@cache
def _real(file: str) -> str:
    """Absolute and without links; empty for what is no file."""
    path = os.path.realpath(file)
    return path if Path(path).is_file() else ""
