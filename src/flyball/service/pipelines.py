"""Verbs on pipelines: run one, look at its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyball.core.records import ModelVersion, Report, Run
from flyball.errors import NotFound, nearest
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.pipelines.context import RunContext
    from flyball.pipelines.definition import Pipeline


class Ran:
    """A run that has ended, for people and scripts; exit 1 when its gate said no."""

    def __init__(self, result: Run, ws: Workspace) -> None:
        self.result = result
        self.gates = [
            one
            for one in ws.ledger.ls("report", Report)
            if one.kind == "gate" and one.evidence.get("run") == result.id
        ]
        self.made = [one for one in ws.ledger.ls("model", ModelVersion) if one.run == result.id]

    @property
    def id(self) -> str:
        return self.result.id

    @property
    def exit_code(self) -> int:
        return 0 if all(one.passed for one in self.gates) else 1

    def as_text(self) -> str:
        """Steps, gates and what was registered."""
        lines = [f"{self.result.id}  {self.result.pipeline}  {self.result.status}"]
        lines += [
            f"  {one['status']:<8} {one['node']:<20} {one.get('seconds', 0):7.2f} s"
            for one in self.result.steps
        ]
        lines += [f"gate {one.summary}" for one in self.gates]
        lines += [f"registered {one.ref} ({one.format})" for one in self.made]
        return "\n".join(lines)


@verb("run")
def run(
    pipeline: str,
    params: dict[str, str] | None = None,
    because: str = "",
    resume: str = "",
    *,
    ws: Workspace = CURRENT,
) -> Ran:
    """Run a pipeline: -p NAME=VALUE for its parameters; steps that were made before from the same things are reused.

    --resume RUN goes on with a run that was killed.
    """
    from flyball.pipelines import runner

    context = context_of(ws, because)
    if resume:
        return Ran(runner.resume(resume, ws.definitions.pipelines, context), ws)
    return Ran(runner.execute(named(ws, pipeline), params or {}, context), ws)


def context_of(ws: Workspace, because: str, actor: str = "") -> RunContext:
    """What a run has at hand in this workspace."""
    from flyball.pipelines.context import RunContext

    return RunContext(
        ledger=ws.ledger,
        blobs=ws.blobs,
        root=ws.root,
        settings=ws.settings,
        actor=actor or ws.actor,
        clock=ws.clock,
        because=because,
    )


def named(ws: Workspace, name: str) -> Pipeline[..., Any]:
    """One pipeline of the project; :class:`NotFound` names those there are."""
    found = ws.definitions.pipelines
    if name not in found:
        raise NotFound(f"no pipeline {name!r}", nearest(name, list(found)))
    return found[name]


@verb("pipelines ls", reads=True)
def ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List the project's pipelines with their parameters."""
    return [
        {"pipeline": name, "parameters": ", ".join(str(one) for one in found.parameters.values())}
        for name, found in ws.definitions.pipelines.items()
    ]


@verb("pipelines graph", reads=True)
def graph(pipeline: str, params: dict[str, str] | None = None, *, ws: Workspace = CURRENT) -> Any:
    """Draw a pipeline's steps, what feeds them, and on which condition they run."""
    from flyball.pipelines.graph import graph as draw

    return draw(named(ws, pipeline), params or {})
