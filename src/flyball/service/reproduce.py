"""``flyball reproduce``: a run again, from nothing but what was kept of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.records import Report, Run
from flyball.errors import Conflict, Invalid
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

_SHOWN = 12


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """A run and its repetition. ``equal``: the same status, metrics and outputs."""

    run: str
    again: str  # the new run, in the ledger of the folder
    folder: str
    equal: bool
    status: tuple[str, str]  # before, after
    metrics: list[Any]
    outputs: list[Any]
    inputs: list[Any]  # those that differ
    notes: list[str]
    report: str = ""

    @property
    def exit_code(self) -> int:
        return 0 if self.equal else 1

    def as_text(self) -> str:
        """For people: the verdict first, then what differs, then what may have made it so."""
        lines = [
            f"{self.run} {'reproduced' if self.equal else 'NOT reproduced'} in {self.folder} as {self.again}"
        ]
        if self.status[0] != self.status[1]:
            lines.append(f"  status   {self.status[0]} before, {self.status[1]} now")
        lines += _counted("metrics", self.metrics) + _counted("outputs", self.outputs)
        if self.inputs and not self.equal:
            lines.append("inputs that differ:")
            lines += _bounded([f"  {one}" for one in self.inputs])
        elif not self.equal:
            lines.append(
                "no recorded input differs: what does is not recorded (threads' order, time, a network)"
            )
        elif others := [one for one in self.inputs if one.what != "seeds"]:
            lines.append(f"although these differ: {'; '.join(map(str, others[:_SHOWN]))}")
        return "\n".join([*lines, *(f"note: {one}" for one in self.notes)])


def _counted(what: str, found: list[Any]) -> list[str]:
    """How many of each kind; those that are not as they were, one by one."""
    kinds: dict[str, int] = {}
    for one in found:
        kinds[one.how] = kinds.get(one.how, 0) + 1
    counts = ", ".join(f"{number} {how}" for how, number in kinds.items()) or "none"
    wrong = [f"    {one.what}: {_value(one.before)} -> {_value(one.after)}" for one in found if not one.good]
    return [f"  {what:<8} {counts}", *_bounded(wrong)]


def _bounded(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"    and {len(lines) - _SHOWN} more"]


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:.17g}" if isinstance(value, float) else str(value)[:15]


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """A run's project in a folder, not run."""

    run: str
    folder: str
    python: str
    notes: list[str]

    def as_text(self) -> str:
        """For people."""
        lines = [f"{self.run} rebuilt in {self.folder}; its Python is {self.python}"]
        return "\n".join([*lines, *(f"note: {one}" for one in self.notes)])


@verb("reproduce")
def reproduce(
    run: str,
    *,
    into: str = "",
    tolerance: float = 1e-9,
    this_environment: bool = False,
    only_rebuild: bool = False,
    ws: Workspace = CURRENT,
) -> Any:
    """Rebuild a run's code, data, configuration and environment in a fresh folder, run it there, compare; exit 1: differs.

    ``--into`` names the folder (by default the run's id, where you stand); the same command again goes on after a kill.
    Metrics may differ by ``--tolerance``, as a share. The environment is built with uv, from its cache where that has the
    packages; ``--this-environment`` takes the one you are in. ``--only-rebuild`` stops before it runs.
    """
    from flyball.service.reproducing import again, comparing, preparing

    before = ws.ledger.get("run", run, Run)
    if not only_rebuild:
        _runnable(ws, before)
    folder = Path(into or run).resolve()
    with preparing.alone(folder):
        _tell(f"rebuilding {run} in {folder}")
        prepared = preparing.prepare(ws, before, folder, this_environment=this_environment)
        root = folder / prepared.root
        if only_rebuild:
            return Rebuilt(
                run=run, folder=str(root), python=str(folder / prepared.python), notes=list(prepared.notes)
            )
        _tell(f"running it; what it says is in {root / again.LOG}")
        after = again.run_again(ws, before, folder, prepared)
        with again.side_of(root, after) as new:
            old = comparing.Side(before, ws.ledger, ws.blobs)
            found = Reproduction(
                run=run,
                again=after.id,
                folder=str(root),
                equal=False,
                status=(before.status, after.status),
                metrics=comparing.metrics(old, new, tolerance),
                outputs=comparing.outputs(old, new),
                inputs=comparing.inputs(old, new),
                notes=list(prepared.notes),
            )
    return _kept(ws, found)


def _tell(progress: str) -> None:
    """For people at a terminal: it takes a while."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{progress}\n")


def _runnable(ws: Workspace, run: Run) -> None:
    """Refuse what can't be started again, before anything is built."""
    if run.status in ("running", "scheduled"):
        raise Conflict(
            f"{run.id} is {run.status}: it has nothing to compare with yet", "wait until it has ended"
        )
    if run.code and not run.command and not run.steps and run.pipeline not in ws.definitions.pipelines:
        raise Invalid(
            f"nothing says how {run.id} was started: it began in an interactive session",
            "--only-rebuild makes its folder; run it there by hand",
            run=run.id,
        )


def _kept(ws: Workspace, found: Reproduction) -> Reproduction:
    """With its verdict, written as a report on the run."""
    from flyball.core.events import Edge
    from flyball.core.ids import new_id

    equal = found.status[0] == found.status[1] and all(one.good for one in (*found.metrics, *found.outputs))
    judged = msgspec.structs.replace(found, equal=equal)
    now = ws.clock.now()
    report = Report(
        id=new_id("rep", now),
        kind="reproduction",
        subject=found.run,
        at=now,
        passed=equal,
        summary=judged.as_text().splitlines()[0],
        evidence=msgspec.to_builtins(judged),
    )
    with ws.ledger.transaction() as tx:
        tx.append(
            "run.reproduced" if equal else "run.not_reproduced",
            found.run,
            actor=ws.actor,
            at=now,
            sets=[("report", report.id, report)],
            edges=[Edge(report.id, found.run, "run")],
        )
    return msgspec.structs.replace(judged, report=report.id)
