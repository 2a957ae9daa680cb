"""Build a run's environment again with uv: the same Python, every package at its version, from where it came.

First without network, from uv's cache; a few that it lacks are taken from the environment that is running, where that has
the same version from the same source; else the index is asked. An editable package is linked to its restored folder.
"""

from __future__ import annotations

import configparser
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from flyball.core.records import Code, Environment
from flyball.errors import Invalid, NotFound, Unavailable
from flyball.versions import environment as environments
from flyball.versions.environment import EDITABLE, Distribution

INSTALL_S = 1800.0
MOST_COPIED = 8  # packages taken from the running environment before the index is asked
_WITHOUT = re.compile(
    r"Because (?:only )?(?:there (?:is|are) no versions? of )?([A-Za-z0-9._-]+?)(?:==\S+)? "
    r"(?:was not found|is available|and you require|has no|needs to be|has a)|"
    r"(?:Failed to (?:download|fetch|build|prepare|resolve)[^`\n]*`|there is no version of )([A-Za-z0-9._-]+)"
)


class Rebuilt(msgspec.Struct, frozen=True):
    """The interpreter of an environment, the folders it imports from besides, and what to know about it."""

    python: Path
    notes: tuple[str, ...]


def rebuild(
    wanted: Environment, code: Code, folder: Path, final: Path, packages: Mapping[str, Path], origin: Path
) -> Rebuilt:
    """Build ``wanted`` at ``folder``, which will be renamed to ``final``; ``packages`` are restored editable ones.

    What can't be had from anywhere is :class:`NotFound`, with every package's name.
    """
    uv = uv_command()
    notes: list[str] = []
    _make(uv, wanted, folder)
    links, pins = _sorted_out(wanted, code, packages, final, origin)
    present = environments.here()
    copied = _install(uv, folder, pins, present, wanted)
    site = _site_packages(folder)
    for name in copied:
        _copy(present[name], site)
    if copied:
        notes.append(f"taken from this environment, as uv's cache lacks them: {', '.join(copied)}")
    for name, (place, imports) in links.items():
        _link(name, wanted.packages[name], place, imports, site, present.get(name))
    _scripts(folder, [*copied, *links], site)
    return Rebuilt(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), tuple(notes))


def uv_command() -> str:
    """Where uv is: on the PATH, or beside this Python."""
    beside = Path(sys.executable).parent / ("uv.exe" if os.name == "nt" else "uv")
    found = shutil.which("uv") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise Unavailable(
            "uv is not installed, and an environment is rebuilt with it",
            "pip install uv; or give --this-environment to run in the one you are in",
        )
    return found


def _make(uv: str, wanted: Environment, folder: Path) -> None:
    """An empty environment with the Python of the run: this one when it is the same."""
    same = wanted.python == platform.python_version() and wanted.implementation == sys.implementation.name
    base = str(getattr(sys, "_base_executable", sys.executable))
    named = base if same else f"{wanted.implementation}@{wanted.python}"
    command = [
        uv,
        "venv",
        "--quiet",
        "--no-project",
        "--no-config",
        "--relocatable",
        "--python",
        named,
        str(folder),
    ]
    status, said = _run([*command, "--offline"])
    if status and not same:
        shutil.rmtree(folder, ignore_errors=True)
        status, said = _run(command)
    if status:
        raise NotFound(
            f"Python {wanted.python} is not on this machine and can't be had: {_short(said)}",
            f"uv python install {wanted.python}; or give --this-environment",
            python=wanted.python,
        )


def _sorted_out(
    wanted: Environment, code: Code, packages: Mapping[str, Path], final: Path, origin: Path
) -> tuple[dict[str, tuple[Path, tuple[str, ...]]], dict[str, str]]:
    """What is linked to a folder of sources, and what is installed: name -> requirement."""
    links: dict[str, tuple[Path, tuple[str, ...]]] = {}
    pins: dict[str, str] = {}
    for name, version in wanted.packages.items():
        source = wanted.sources.get(name, "")
        if name == "flyball" and (linked := _running_flyball(version)):
            links[name] = linked
        elif source.startswith(EDITABLE):
            if name in packages:
                links[name] = packages[name], code.editable[name].imports or ("src", ".")
            else:  # the project itself, or a folder above it
                there = Path(unquote(urlsplit(source.removeprefix(EDITABLE)).path))
                place = Path(os.path.normpath(final / os.path.relpath(there, origin)))
                links[name] = place, environments.import_folders(name, there) or ("src", ".")
        else:
            pins[name] = f"{name} @ {source}" if source else f"{name}=={version}"
    return links, pins


def _running_flyball(version: str) -> tuple[Path, tuple[str, ...]] | None:
    """Flyball that runs now, when it is the run's version and lies in a folder of sources."""
    from flyball import __version__

    if __version__ != version:
        return None
    package = Path(__file__).resolve().parents[1]
    return None if "-packages" in str(package) else (package.parent, (".",))


def _install(
    uv: str, folder: Path, pins: dict[str, str], present: Mapping[str, Distribution], wanted: Environment
) -> list[str]:
    """Install the pins; returns the names of those that were left to be copied from the running environment.

    The index is asked once, when uv's cache lacks more than a few packages or one that is not here either.
    """
    left = dict(pins)
    copied: list[str] = []
    may_ask = not _is_forbidden()
    while left:
        status, said = _pip(uv, folder, list(left.values()), offline=True)
        if status == 0:
            return copied
        missing = _missing(uv, folder, left, said)
        here = [name for name in missing if _has(present, name, wanted)]
        if may_ask and (len(here) < len(missing) or len(copied) + len(here) > MOST_COPIED):
            may_ask = False
            status, said = _pip(uv, folder, list(left.values()), offline=False)
            if status == 0:
                return copied
            continue  # what it fetched before it failed is in the cache now
        if len(here) < len(missing):
            _refuse_gone([name for name in missing if name not in here], pins, said)
        copied += here
        left = {name: pin for name, pin in left.items() if name not in here}
    return copied


def _missing(uv: str, folder: Path, left: Mapping[str, str], said: str) -> list[str]:
    """The packages that uv's cache lacks: the one that uv names, or each that fails by itself."""
    if name := _named_in(said, left):
        return [name]
    found = [name for name, pin in left.items() if _pip(uv, folder, [pin], "--dry-run", offline=True)[0]]
    if not found:
        raise Unavailable(
            f"uv can't install the run's packages: {_short(said)}", "or give --this-environment"
        )
    return found


def _refuse_gone(gone: list[str], pins: Mapping[str, str], said: str) -> None:
    raise NotFound(
        f"{', '.join(pins[one] for one in gone)}: neither uv's cache, an index nor this environment has it",
        f"connect to the index it came from, or give --this-environment; uv said: {_short(said)}",
        packages=gone,
    )


def _has(present: Mapping[str, Distribution], name: str, wanted: Environment) -> bool:
    found = present.get(name)
    same = found is not None and found.version == wanted.packages[name]
    return (
        same
        and found is not None
        and found.source == wanted.sources.get(name, "")
        and bool(environments.files_of(found))
    )


def _is_forbidden() -> bool:
    return os.environ.get("UV_OFFLINE", "").lower() in {"1", "true", "yes"}


def _pip(uv: str, folder: Path, pins: Sequence[str], *options: str, offline: bool) -> tuple[int, str]:
    listed = folder / "requirements.txt"
    listed.write_text("\n".join(pins) + "\n")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--no-config", "--python", str(python)]
    return _run([*command, "-r", str(listed), *(("--offline",) if offline else ()), *options])


def _run(command: Sequence[str]) -> tuple[int, str]:
    patience = {"UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "1", "UV_HTTP_CONNECT_TIMEOUT": "5"}
    unset = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    try:
        done = subprocess.run(
            command,
            env={**patience, **inherited, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} can't be run: {error}", "pip install uv") from error
    return done.returncode, done.stderr


def _named_in(said: str, left: Mapping[str, str]) -> str:
    """The package that an answer of uv's is about, if it is one of ours."""
    flat = " ".join(said.split())
    for match in _WITHOUT.finditer(flat):
        name = re.sub(r"[-_.]+", "-", (match[1] or match[2] or "")).lower()
        if name in left:
            return name
    return ""


def _short(said: str) -> str:
    return " ".join(said.split())[:400]


def _site_packages(folder: Path) -> Path:
    found = [*folder.glob("lib/*/site-packages"), *folder.glob("Lib/site-packages")]
    if not found:
        raise Unavailable(f"{folder} has no site-packages", "another version of uv may help")
    return found[0]


def _copy(found: Distribution, site: Path) -> None:
    """A package's files as they lie in the running environment; its scripts are made anew."""
    from_site = found.metadata.parent
    for file in environments.files_of(found):
        source = Path(os.path.normpath(file))
        if not source.is_relative_to(from_site) or not source.is_file() or source.suffix == ".pyc":
            continue
        target = site / source.relative_to(from_site)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _link(
    name: str, version: str, place: Path, imports: tuple[str, ...], site: Path, present: Distribution | None
) -> None:
    """An editable package as an installer would leave it: its metadata, and a path to import from."""
    stem = name.replace("-", "_")
    metadata = site / (present.metadata.name if present else f"{stem}-{version}.dist-info")
    if present is not None and present.version == version:
        shutil.copytree(present.metadata, metadata, dirs_exist_ok=True)
    else:
        metadata = site / f"{stem}-{version}.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    said = present.source.removeprefix(EDITABLE) if present and name == "flyball" else place.as_uri()
    direct = msgspec.json.encode({"url": said, "dir_info": {"editable": True}})
    if name != "flyball" or (present and present.source.startswith(EDITABLE)):
        (metadata / "direct_url.json").write_bytes(direct)
    lines = [str(Path(os.path.normpath(place / one))) for one in imports]
    (site / f"_flyball_{stem}.pth").write_text("".join(f"{line}\n" for line in lines))
    rows = [
        f"_flyball_{stem}.pth,,",
        *(f"{metadata.name}/{one.name},," for one in sorted(metadata.iterdir())),
    ]
    (metadata / "RECORD").write_text("\n".join(rows) + "\n")


def _scripts(folder: Path, names: Sequence[str], site: Path) -> None:
    """Console scripts of packages that no installer put there."""
    if os.name == "nt":
        return  # python -m works
    for name in names:
        for file in site.glob(f"{name.replace('-', '_')}-*.dist-info/entry_points.txt"):
            parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
            parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
            parser.read_string(file.read_text())
            for script, target in parser["console_scripts"].items() if "console_scripts" in parser else ():
                module, _, function = target.partition("[")[0].strip().partition(":")
                path = folder / "bin" / script
                path.write_text(
                    "#!/bin/sh\n"
                    '\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")"/\'python\' "$0" "$@"\n'
                    "' '''\n"
                    f"import sys\nfrom {module} import {function.partition('.')[0]}\nsys.exit({function}())\n"
                )
                path.chmod(0o755)


def environment_of(python: Path) -> Environment:
    """What an interpreter's environment is, as it would capture itself."""
    program = (
        "import sys, msgspec; from flyball.versions import environment;"
        "sys.stdout.buffer.write(msgspec.json.encode(environment.capture()))"
    )
    unset = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    try:
        done = subprocess.run((python, "-c", program), capture_output=True, env=inherited, check=True)
        return msgspec.json.decode(done.stdout, type=Environment)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise Invalid(
            f"the rebuilt environment can't import flyball: {said[-1] if said else error}",
            "a package was built for another machine or Python; give --this-environment",
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(f"{python} does not start: {error}", "give --this-environment") from error
