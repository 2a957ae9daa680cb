"""Verbs on runs."""

from __future__ import annotations

from typing import Any

from flyball.core.records import Run
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace


@verb("runs ls", reads=True)
def ls(pipeline: str = "", *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List runs, oldest first."""
    return [
        {
            "id": run.id,
            "pipeline": run.pipeline,
            "status": run.status,
            "started": run.started,
            "seconds": None if run.ended is None else (run.ended - run.started).total_seconds(),
            "because": run.because,
            "metrics": " ".join(f"{name}={value:.4g}" for name, value in run.metrics.items()),
        }
        for run in ws.ledger.ls("run", Run)
        if run.pipeline.startswith(pipeline)
    ]


@verb("runs show", reads=True)
def show(run: str, *, ws: Workspace = CURRENT) -> Run:
    """Show one run: parameters, steps, metrics, code, environment, inputs and outputs."""
    return ws.ledger.get("run", run, Run)


@verb("runs compare", reads=True)
def compare(first: str, second: str, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show only what differs between two runs."""
    one, two = (ws.ledger.get("run", run, Run) for run in (first, second))
    rows: list[dict[str, Any]] = []
    for what in ("params", "metrics", "inputs", "outputs"):
        left, right = getattr(one, what), getattr(two, what)
        for name in sorted({*left, *right}):
            if left.get(name) != right.get(name):
                rows.append({"what": f"{what}.{name}", first: left.get(name), second: right.get(name)})
    for what in ("code", "environment"):
        if getattr(one, what) != getattr(two, what):
            rows.append({"what": what, first: getattr(one, what), second: getattr(two, what)})
    return rows
