"""Read a Feast repository without Feast: its files are run in a process of their own, with :mod:`words` for ``feast``.

They are the user's own code and run with the user's rights, as ``feast apply`` would run them. What they define is
written as JSON to the file named by the caller; what they print stays on their standard output.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import msgspec

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.service.feast.facts import Repository, facts_of

SETTINGS = "feature_store.yaml"
_LONGEST_S = 120
_IGNORED = (".git", ".venv", "venv", ".flyball", "__pycache__", ".ipynb_checkpoints", ".pytest_cache")


def read(path: str | Path) -> Repository:
    """What the repository in a folder defines; :class:`NotFound` when there is no ``feature_store.yaml``."""
    root = Path(path).resolve()
    root = root.parent if root.name == SETTINGS else root
    if not (root / SETTINGS).is_file():
        below = sorted(str(one.parent.relative_to(root)) for one in root.glob(f"*/{SETTINGS}"))
        hint = f"did you mean {root / below[0]}?" if below else "give the folder that `feast apply` runs in"
        raise NotFound(f"no {SETTINGS} in {root}", hint, path=str(root))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "facts.json"
        command = [sys.executable, "-m", __name__, str(root), str(answer)]
        try:
            ran = subprocess.run(
                command,
                cwd=root,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"reading {root} took over {_LONGEST_S} s", "do its files call a network?"
            ) from error
        if not answer.exists():
            said = ran.stderr.decode(errors="replace").strip().splitlines()
            raise Invalid(
                f"the repository in {root} could not be read: {said[-1] if said else f'exit {ran.returncode}'}",
                "its files run as `feast apply` would run them; mend that line",
                path=str(root),
            )
        found = msgspec.json.decode(answer.read_bytes(), type=Repository)
    found.settings = _settings(root)
    found.project = found.project or str(found.settings.get("project", root.name))
    found.root = str(root)
    return found


def _settings(root: Path) -> dict[str, Any]:
    import yaml

    try:
        load: Any = yaml.load  # untyped
        found = load(os.path.expandvars((root / SETTINGS).read_text()), yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise Invalid(f"{root / SETTINGS} is not YAML: {error}", "mend that line") from error
    return found if isinstance(found, dict) else {}


def files_of(root: Path) -> list[Path]:
    """The Python files that Feast would read: all but ``__init__.py`` and what ``.feastignore`` names."""
    ignored: set[Path] = set()
    named = root / ".feastignore"
    if named.is_file():
        for line in named.read_text().splitlines():
            pattern = line.partition("#")[0].strip()
            for match in root.glob(pattern) if pattern else ():
                ignored |= (
                    {match.resolve()} if match.is_file() else {one.resolve() for one in match.rglob("*.py")}
                )
    return sorted(
        file
        for file in root.rglob("*.py")
        if file.name != "__init__.py"
        and file.resolve() not in ignored
        and not any(part in _IGNORED for part in file.relative_to(root).parts)
    )


def _objects(root: Path, files: list[Path]) -> list[Any]:
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    found: list[Any] = []
    for file in files:
        module = importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))
        found.extend(vars(module).values())
    return [one for each in found for one in (each if isinstance(each, list | tuple) else [each])]


def _missing(root: Path, files: list[Path]) -> list[str]:
    """Packages that the files import at their top and that can't be found here."""
    named = set()
    for file in files:
        for statement in ast.walk(ast.parse(file.read_bytes(), str(file))):
            if isinstance(statement, ast.Import):
                named |= {one.name.partition(".")[0] for one in statement.names}
            elif isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
                named.add(statement.module.partition(".")[0])
    here = {file.relative_to(root).parts[0].removesuffix(".py") for file in files}
    return sorted(one for one in named - here - {"feast"} if importlib.util.find_spec(one) is None)


def _answer(root: Path, answer: Path) -> None:
    from flyball.service.feast.standing_in import stand_in

    files = files_of(root)
    missing = _missing(root, files)
    stand_in(missing)
    found = facts_of(_objects(root, files))
    found.missing = missing
    answer.write_bytes(msgspec.json.encode(found))


def _main() -> int:
    root = Path(sys.argv[1])
    try:
        _answer(root, Path(sys.argv[2]))
    except Exception as error:  # noqa: BLE001  # the edge of this process: the user's own code may raise anything
        lines = [
            f"{Path(one.filename).relative_to(root)}:{one.lineno}"
            for one in traceback.extract_tb(error.__traceback__)
            if Path(one.filename).is_relative_to(root)
        ]
        where = lines[-1] if lines else getattr(error, "filename", "") or ""
        sys.stderr.write(f"{where}: {type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
