"""How a script was started, so that it can be started again: its command line, and where it stood."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flyball.core.redaction import redacted_command
from flyball.versions import imported

PYTHON = "python"


def capture(root: Path) -> tuple[tuple[str, ...], str]:
    """Command and working directory, both as seen from the project's folder; secrets in options are ``***``.

    A notebook is started by its cells, kept as one source. An interactive prompt has nothing to start: empty.
    """
    if imported.session_cells() is not None:
        return (PYTHON, imported.SESSION), ""
    words = list(sys.orig_argv)
    if not words or _is_interactive():
        return (), ""
    here = Path.cwd().resolve()
    base = here if here.is_relative_to(root) else root
    words[0] = PYTHON if Path(words[0]).name.startswith(("python", "pypy")) else words[0]
    where = "" if base == root else base.relative_to(root).as_posix()
    main = _main_file()
    moved = [
        _script(main, root, base) if main and here / word == main else _moved(word, root, base)
        for word in words
    ]
    return redacted_command(moved), where


def _main_file() -> Path | None:
    """The program's own file."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(os.path.abspath(file)) if file else None  # noqa: PTH100 - links stay: the word names this one


def _script(main: Path, root: Path, base: Path) -> str:
    """A script as seen from ``base``; from outside the project by the name that its source is kept under."""
    real = main.resolve()
    if imported.from_root(real, root).startswith("/"):
        return str(real)
    return os.path.relpath(real, base)


def _is_interactive() -> bool:
    main = sys.modules.get("__main__")
    return not getattr(main, "__file__", None) and "-c" not in sys.orig_argv and not sys.argv[0]


def _moved(word: str, root: Path, base: Path) -> str:
    """A path of the project as it is written from ``base``: the same command works in another folder."""
    if not os.path.isabs(word):  # noqa: PTH117 - a word, most often no path
        return word
    path = Path(word)
    for one in (path, path.resolve()):
        if one.is_relative_to(root):
            return os.path.relpath(one, base)
    return word
