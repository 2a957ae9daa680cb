"""A run's project in a fresh folder: code, environment, the ledger as it was when the run began, and what it read.

All of it is built beside the folder and renamed into its place: a folder that exists is whole.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from flyball.core.config import HERE
from flyball.core.events import Sets
from flyball.core.records import Code, Environment, Run, Snapshot
from flyball.errors import Conflict, Invalid, NotFound, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.locking import held
from flyball.stores.metadata import EVENTS, Ledger
from flyball.versions import environment as environments
from flyball.versions import rebuild, restore, transfer

if TYPE_CHECKING:
    from flyball.service.workspace import Workspace

MARK = ".flyball/reproduces.json"
VENV = ".flyball/venv"
OWN_STORES = {
    "metadata": "sqlite:///.flyball/ledger.db",
    "blobs": "file:.flyball/blobs",
    "online": "lmdb:.flyball/online",
    "tables": "file:.flyball/tables",
}
# What a run makes or what only its own project is about; everything else it may have read.
_NOT_READ = frozenset(
    {
        "run", "step", "report", "decision", "incident", "route", "endpoint", "commit", "code", "environment",
        "configuration", "hardware", "experiment", "collection",
    }
)  # fmt: skip
_AT_ONCE = 500


class Prepared(msgspec.Struct, frozen=True):
    """What was made: where the project lies in the folder, which Python runs it, what to know about both."""

    run: str
    root: str  # of the project, from the folder
    python: str  # of its environment, from the folder, or absolute when it is the one that runs now
    imports: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@contextmanager
def alone(into: Path) -> Iterator[None]:
    """Nobody else builds or runs in this folder meanwhile; a process that died lets go."""
    into.parent.mkdir(parents=True, exist_ok=True)
    lock = into.parent / f".{into.name}.reproducing"
    with ExitStack() as stack:
        try:
            stack.enter_context(held(lock, exclusive=True, wait_s=0.0))
        except Conflict as error:
            raise Conflict(
                f"another flyball reproduce works on {into}", "wait for it, or --into ANOTHER-FOLDER"
            ) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def prepare(ws: Workspace, run: Run, into: Path, *, this_environment: bool) -> Prepared:
    """Build the project at ``into``, or go on with one of the same run that is there already."""
    mark = into / MARK
    if mark.is_file():
        found = msgspec.json.decode(mark.read_bytes(), type=Prepared)
        if found.run != run.id:
            raise Conflict(f"{into} reproduces {found.run}", "--into ANOTHER-FOLDER", folder=str(into))
        return found
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Conflict(f"{into} is there and not empty", "--into A-NEW-FOLDER", folder=str(into))
    staged = into.parent / f".{into.name}.part"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        prepared = _build(ws, run, staged, into, this_environment=this_environment)
        (staged / MARK).parent.mkdir(exist_ok=True)
        (staged / MARK).write_bytes(msgspec.json.encode(prepared))
        if into.exists():
            into.rmdir()
        staged.rename(into)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return prepared


def _build(ws: Workspace, run: Run, staged: Path, into: Path, *, this_environment: bool) -> Prepared:
    code, environment = recorded(ws, run)
    restored = restore.restore(code, staged, ws.root, ws.blobs, ws.ledger)
    if not (restored.root / "flyball.toml").exists() and not (restored.root / "pyproject.toml").exists():
        (restored.root / "flyball.toml").write_text("")  # a project without one was named by FLYBALL_PROJECT
    _ledger(ws, run, restored.root)
    final = into / restored.root.relative_to(staged)
    python, notes = _environment(
        environment, code, staged, final, restored, ws.root, this_environment=this_environment
    )
    return Prepared(
        run=run.id,
        root=restored.root.relative_to(staged).as_posix(),
        python=python,
        imports=tuple(str(one.relative_to(staged)) for one in restored.imports),
        notes=(*restored.notes, *notes),
    )


def recorded(ws: Workspace, run: Run) -> tuple[Code, Environment]:
    """The code and environment that a run names; one without them (MLflow's client's) can't be rebuilt."""
    code = ws.ledger.find("code", run.code, Code) if run.code else None
    environment = ws.ledger.find("environment", run.environment, Environment) if run.environment else None
    if code is None or environment is None:
        raise Invalid(
            f"{run.id} says nothing about its {'code' if code is None else 'environment'}",
            "only runs of pipelines and of fb.track are captured; those of another client are not",
            run=run.id,
        )
    return code, environment


def _environment(
    wanted: Environment,
    code: Code,
    staged: Path,
    final: Path,
    restored: restore.Restored,
    origin: Path,
    *,
    this_environment: bool,
) -> tuple[str, tuple[str, ...]]:
    """Rebuilt with uv; where that fails and the present one is the same package by package, the present one."""
    if this_environment:
        return sys.executable, ("the environment is the one you are in, as you asked",)
    venv = restored.root / VENV
    packages = {name: final / folder.relative_to(restored.root) for name, folder in restored.packages.items()}
    try:
        rebuilt = rebuild.rebuild(wanted, code, venv, final, packages, origin)
    except (NotFound, Unavailable) as error:
        if environments.capture().digest != wanted.digest:
            raise
        shutil.rmtree(venv, ignore_errors=True)
        return sys.executable, (
            f"the environment is the one you are in, which is the same: it was not rebuilt, {error.what}",
        )
    return rebuilt.python.relative_to(staged).as_posix(), rebuilt.notes


def _ledger(ws: Workspace, run: Run, root: Path) -> None:
    """A ledger with everything named as it was when the run began, and the blobs of the data it read."""
    state = root / ".flyball"
    state.mkdir(exist_ok=True)
    # Whoever opens this folder, by hand too, is in its own stores and not in those of the first project.
    own = "".join(f'{name} = "{url}"\n' for name, url in OWN_STORES.items())
    (root / HERE).write_text(f"[stores]\n{own}")
    blobs = Blobs.open(f"file:{state / 'blobs'}", state=state)
    records = _as_of(ws.ledger, run.id)
    used = [_snapshot(ws.ledger, ref) for ref in _refs(run)]
    records |= {("snapshot", one.ref): msgspec.to_builtins(one) for one in used}
    for one in used:
        transfer.copy(ws.blobs, blobs, sorted(transfer.needed_by(ws.blobs, one)))
    ledger = Ledger.open(f"sqlite:///{state / 'ledger.db'}", ws.clock)
    try:
        with ledger.transaction() as tx:
            for number in range(0, len(records), _AT_ONCE):
                part = list(records.items())[number : number + _AT_ONCE]
                tx.append(
                    "reproduction.prepared",
                    run.id,
                    actor=ws.actor,
                    sets=[(noun, key, content) for (noun, key), content in part],
                )
    finally:
        ledger.close()


def _refs(run: Run) -> list[str]:
    """The snapshots that a run read, whether it noted them with or without ``snapshot:``."""
    named = (one.removeprefix("snapshot:") for one in run.inputs.values())
    return list(dict.fromkeys(one for one in named if "@" in one and ":" not in one))


def _snapshot(ledger: Ledger, ref: str) -> Snapshot:
    found = ledger.find("snapshot", ref, Snapshot)
    if found is None:
        raise NotFound(
            f"the run read {ref}, and there is no such snapshot any more", "flyball restore BACKUP"
        )
    return found


def _as_of(ledger: Ledger, run_id: str) -> dict[tuple[str, str], Any]:
    """Records as they were when a run began: the fold of the events before it."""
    begun = ledger.events(kind="run.started", subject=run_id)
    if not begun:
        raise NotFound(f"nothing says when {run_id} began", "flyball runs ls names the runs that there are")
    state: dict[tuple[str, str], Any] = {}
    for sets in _sets_before(ledger, begun[0].seq):
        for one in sets:
            if one.noun in _NOT_READ:
                continue
            if one.content is None:
                state.pop((one.noun, one.key), None)
            else:
                state[one.noun, one.key] = one.content
    return state


def _sets_before(ledger: Ledger, seq: int) -> Iterable[tuple[Sets, ...]]:
    decoder = msgspec.json.Decoder(tuple[Sets, ...])
    query = (
        sa.select(EVENTS.c.sets)
        .where(EVENTS.c.seq < seq, ~EVENTS.c.kind.like("step.%"), ~EVENTS.c.kind.like("run.%"))
        .order_by(EVENTS.c.seq)
    )
    with ledger.reading() as connection:
        for (content,) in connection.execution_options(yield_per=2000).execute(query):
            yield decoder.decode(content)
