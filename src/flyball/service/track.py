"""``fb.track``: runs of plain code on the same ledger as pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flyball.service.runs import search
from flyball.service.workspace import Workspace
from flyball.track import runs
from flyball.track.runs import ActiveRun, Starting, current, log_metric, log_param

__all__ = ["ActiveRun", "current", "history", "log_metric", "log_param", "resume", "search", "start"]


def start(
    name: str = "script",
    params: Mapping[str, Any] | None = None,
    *,
    experiment: str | None = None,
    run_name: str = "",
    tags: Mapping[str, Any] | None = None,
    parent: str | None = None,
    because: str = "",
    system_s: float | None = None,
    ws: Workspace | None = None,
) -> Starting:
    """Track what the ``with`` block does: code, environment, parameters, metrics, and how it ended.

    ``with fb.track.start("notebook", {"trees": 10}) as run: run.metric("auc", 0.77)``; or
    ``run = fb.track.start("notebook").begin()`` and ``run.end()``. Inside another run it is that one's child.
    It is in the experiment of its name unless ``experiment`` names another; ``system_s=10`` measures the machine as well.
    """
    from flyball.track import experiments
    from flyball.track.liveness import recover
    from flyball.versions import capture, capture_late

    ws = ws or Workspace.current()

    def begin() -> ActiveRun:
        recover(ws.ledger)
        outer = current()
        found = experiments.ensure(
            ws.ledger, experiment or (name if name != "script" else experiments.DEFAULT_NAME), actor=ws.actor
        )
        captured = capture(
            ws.root, ws.blobs, ws.ledger, settings=ws.settings, params=params or {}, script=True
        )
        run = runs.open_run(
            ws.ledger,
            name,
            actor=ws.actor,
            params=dict(params or {}),
            because=because,
            experiment=found.id,
            name=run_name,
            tags=tags,
            parent=parent if parent is not None else outer.id if outer is not None else "",
            blobs=ws.blobs,
            late_code=lambda code: capture_late(code, ws.root, ws.blobs, ws.ledger),
            **msgspec.structs.asdict(captured),
        )
        if system_s is not None:
            run.system_metrics(system_s)
        return run

    return Starting(begin)


def resume(run: str, *, system_s: float | None = None, ws: Workspace | None = None) -> Starting:
    """Go on with a run that failed or whose process was killed, under the same id: as :func:`start` is used."""
    from flyball.versions import capture, capture_late

    ws = ws or Workspace.current()

    def begin() -> ActiveRun:
        before = runs.get(ws.ledger, run)
        captured = capture(
            ws.root, ws.blobs, ws.ledger, settings=ws.settings, params=before.params, script=True
        )
        active = runs.reopen(
            ws.ledger,
            run,
            actor=ws.actor,
            blobs=ws.blobs,
            late_code=lambda code: capture_late(code, ws.root, ws.blobs, ws.ledger),
            **msgspec.structs.asdict(captured),
        )
        if system_s is not None:
            active.system_metrics(system_s)
        return active

    return Starting(begin)


def history(run: str, metric: str, *, points: int | None = None, ws: Workspace | None = None) -> Any:
    """A metric's history as a Polars frame (step, at, value) in logged order; ``points`` thins it for a picture."""
    import polars as pl

    from flyball.stores.runs import RunStore

    ws = ws or Workspace.current()
    found = RunStore(ws.ledger).history(run, metric, sampled=points)
    at = pl.Series("at", found.times_us).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"step": found.steps, "at": at, "value": found.values})
