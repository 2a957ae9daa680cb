"""Run it again: a pipeline with the parameters it had, a script by its command line, each in a process of its own.

``python -m flyball.service.reproducing.again`` is that process for a pipeline: it reads what to run from its input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.config import PREFIX
from flyball.core.records import Configuration, Run
from flyball.core.redaction import HIDDEN
from flyball.errors import FlyballError, Invalid, NotFound
from flyball.service.reproducing.comparing import Side
from flyball.service.reproducing.preparing import OWN_STORES, Prepared
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import imported, restore, started

if TYPE_CHECKING:
    from flyball.service.workspace import Workspace

LOG = ".flyball/reproduce.log"
_TAIL_LETTERS = 1200
_UNSET = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "CONDA_PREFIX")


class Wanted(msgspec.Struct):
    """What the process of a pipeline is told."""

    pipeline: str
    params: dict[str, Any]
    because: str


def run_again(ws: Workspace, run: Run, into: Path, prepared: Prepared) -> Run:
    """Run it in the prepared folder; returns the new run, which may have failed as the first one did."""
    root = into / prepared.root
    python = str(into / prepared.python) if not Path(prepared.python).is_absolute() else prepared.python
    environment = _environment(ws, run, into, prepared)
    ledger = _ledger(root)
    try:
        before = set(ledger.keys("run"))
        if run.command:
            command, given, cwd = _command(run, root, python), b"", _cwd(run, root)
        else:
            wanted = Wanted(run.pipeline, run.params, f"reproduces {run.id}")
            command = [python, "-m", "flyball.service.reproducing.again"]
            given, cwd = msgspec.json.encode(wanted), root
        status, said = _carry_out(command, given, cwd, environment, root / LOG)
        made = [one for one in ledger.ls("run", Run) if one.id not in before]
    finally:
        ledger.close()
    found = _same_place(ws, run, made)
    if found is None:
        raise Invalid(
            f"it made no run {run.pipeline!r} this time (exit {status}): {said[-_TAIL_LETTERS:].strip() or 'it said nothing'}",
            f"the folder {into} is whole: try it there by hand; all it said is in {root / LOG}",
            folder=str(into),
            status=status,
        )
    return found


def _ledger(root: Path) -> Ledger:
    return Ledger.open(f"sqlite:///{root / '.flyball/ledger.db'}")


@contextmanager
def side_of(root: Path, run: Run) -> Iterator[Side]:
    """The new run with the stores of its folder."""
    ledger = _ledger(root)
    try:
        yield Side(run, ledger, Blobs.open(f"file:{root / '.flyball/blobs'}", state=root / ".flyball"))
    finally:
        ledger.close()


def _same_place(ws: Workspace, run: Run, made: list[Run]) -> Run | None:
    """The new run that stands for the old one: of as many of that name that one process made, the same in order."""
    siblings = [one for one in ws.ledger.ls("run", Run) if one.process and one.process == run.process]
    before = [one.id for one in siblings if one.pipeline == run.pipeline and one.command == run.command]
    place = before.index(run.id) if run.id in before and run.command else 0
    same = sorted((one for one in made if one.pipeline == run.pipeline), key=lambda one: one.id)
    if place < len(same):
        return same[place]
    return None


def _environment(ws: Workspace, run: Run, into: Path, prepared: Prepared) -> dict[str, str]:
    """The variables of the process: its project, settings that no file gave, the hash seed, where to import from."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _UNSET and not name.startswith(PREFIX) and name != "PYTHONHASHSEED"
    }
    root = into / prepared.root
    found = {**inherited, "FLYBALL_PROJECT": str(root), "FLYBALL_FILL_FROM": ws.blobs_url}
    configuration = ws.ledger.find("configuration", run.configuration, Configuration)
    if configuration is not None:
        found["FLYBALL_PROFILE"] = configuration.profile
        found |= _settings(configuration)
    found |= {f"{PREFIX}STORES__{name}".upper(): url for name, url in OWN_STORES.items()}
    seed = str(run.seeds.get("PYTHONHASHSEED", "random"))
    if seed != "random":
        found["PYTHONHASHSEED"] = seed
    if prepared.imports:
        found["PYTHONPATH"] = os.pathsep.join(str(into / one) for one in prepared.imports)
    return found


def _settings(configuration: Configuration) -> dict[str, str]:
    """Settings that the environment or the command line gave; a secret is not known any more."""
    given: dict[str, str] = {}
    for name, origin in configuration.origins.items():
        value = configuration.values.get(name)
        if origin.startswith((PREFIX, "--")) and HIDDEN not in str(value):
            text = ",".join(value) if isinstance(value, list | tuple) else str(value)
            given[f"{PREFIX}{name.replace('.', '__')}".upper()] = text
    return given


def _command(run: Run, root: Path, python: str) -> list[str]:
    """The command line of a script, in its new place."""
    if any(HIDDEN in word for word in run.command):
        raise Invalid(
            f"the command line of {run.id} had a secret, which is not kept: {' '.join(run.command)}",
            f"run it by hand in {root}, with the secret",
            folder=str(root),
        )
    words = [python if word == started.PYTHON else word for word in run.command[:1]]
    for word in run.command[1:]:
        moved = root / restore.OUTSIDE / word.lstrip("/")
        words.append(str(moved) if word.startswith("/") and moved.exists() else word)
    if imported.SESSION in words and not (root / imported.SESSION).exists():
        raise NotFound(
            f"the cells of {run.id} were not kept", f"the folder {root} is whole; run it there by hand"
        )
    return words


def _cwd(run: Run, root: Path) -> Path:
    folder = root / run.cwd
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _carry_out(
    command: list[str], given: bytes, cwd: Path, environment: Mapping[str, str], log: Path
) -> tuple[int, str]:
    """Start it and wait; what it says goes to a file, whose end is returned."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                process.communicate(given)
            except BaseException:
                process.kill()
                process.wait()
                raise
    except OSError as error:
        raise NotFound(
            f"{command[0]} can't be started: {error.strerror}", f"run it by hand in {cwd}", command=command
        ) from error
    return process.returncode, log.read_text(errors="replace")[-4 * _TAIL_LETTERS :]


def main() -> int:
    """Run one pipeline of the project that the environment names."""
    from flyball.pipelines import runner
    from flyball.service.pipelines import context_of, named
    from flyball.service.workspace import Workspace

    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    ws = Workspace.open().use()
    pipeline = named(ws, wanted.pipeline)
    params = {name: value for name, value in wanted.params.items() if name in pipeline.parameters}
    try:
        runner.execute(pipeline, params, context_of(ws, wanted.because))
    except FlyballError as error:
        sys.stderr.write(f"{error.what}\n{error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
