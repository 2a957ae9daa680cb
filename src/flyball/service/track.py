"""``fb.track``: runs of plain code on the same ledger as pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.errors import Invalid
from flyball.service.runs import search
from flyball.service.workspace import Workspace
from flyball.track import runs
from flyball.track.boosting import lightgbm_callback, xgboost_callback
from flyball.track.estimators import Autolog, fit
from flyball.track.runs import ActiveRun, Starting, current, log_metric, log_param

if TYPE_CHECKING:
    from flyball.track.sweeps import Sweep

__all__ = [
    "ActiveRun",
    "autolog",
    "current",
    "fit",
    "history",
    "lightgbm_callback",
    "log_metric",
    "log_param",
    "resume",
    "search",
    "seed",
    "start",
    "sweep",
    "xgboost_callback",
]


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
    from flyball.track.liveness import recover_now_and_then
    from flyball.versions import capture, capture_late

    ws = ws or Workspace.current()

    def begin() -> ActiveRun:
        recover_now_and_then(ws.ledger)
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
            late_code=lambda code: capture_late(code, ws.root, ws.blobs, ws.ledger, script=True),
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
            late_code=lambda code: capture_late(code, ws.root, ws.blobs, ws.ledger, script=True),
            **msgspec.structs.asdict(captured),
        )
        if system_s is not None:
            active.system_metrics(system_s)
        return active

    return Starting(begin)


def seed(value: int) -> int:
    """Seed ``random``, and NumPy and PyTorch where they are loaded; runs that begin from here on say so."""
    from flyball.versions.seeds import seed as set_seed

    return set_seed(value)


def history(run: str, metric: str, *, points: int | None = None, ws: Workspace | None = None) -> Any:
    """A metric's history as a Polars frame (step, at, value) in logged order; ``points`` thins it for a picture."""
    import polars as pl

    from flyball.stores.runs import RunStore

    ws = ws or Workspace.current()
    found = RunStore(ws.ledger).history(run, metric, sampled=points)
    at = pl.Series("at", found.times_us).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"step": found.steps, "at": at, "value": found.values})


def autolog(*, score: bool = True, ws: Workspace | None = None) -> Autolog:
    """Note every ``fit`` of scikit-learn's interface, and what ``xgboost.train`` and ``lightgbm.train`` are told.

    It goes to the current run; outside of one each fit is a run of its own. ``with fb.track.autolog():`` ends with the
    block, ``fb.track.autolog()`` with :meth:`~Autolog.stop` or the program. ``score`` also scores the training data.
    """
    return Autolog(lambda name: start(name, ws=ws), score=score)


def sweep(
    objective: Callable[..., Any],
    space: Mapping[str, Any] | None = None,
    *,
    trials: int = 50,
    direction: Literal["maximize", "minimize"] = "maximize",
    seed: int = 0,
    name: str = "sweep",
    sampler: Any = None,
    resume_run: str = "",
    ws: Workspace | None = None,
) -> Sweep:
    """Look for the params with the best objective: ``sweep(train, {"depth": (2, 10), "rate": (1e-3, 1.0, "log")})``.

    ``objective(params)`` runs inside a run of its own, a child of the sweep's; what it returns is optimised. A sweep that
    was killed goes on with ``resume_run=``: its trials are read from the ledger. Optuna proposes (``sampler`` is one of
    its samplers; TPE when left out).
    """
    from flyball.track import sweeps

    ws = ws or Workspace.current()
    if resume_run:
        before = runs.get(ws.ledger, resume_run)
        sweeps.found(ws.ledger, resume_run)
        told = sweeps.space_of(before)
        space = space or told
        trials, seed = int(before.params["sweep.trials"]), int(before.params["sweep.seed"])
        direction = before.params["sweep.direction"]
        if sweeps.sweep_params(space, trials, direction, seed) != sweeps.sweep_params(
            told, trials, direction, seed
        ):
            raise Invalid(f"{resume_run} searches another space", "leave the space out, or begin a new sweep")
        starting = resume(resume_run, ws=ws)
    else:
        starting = start(name, sweeps.sweep_params(space or {}, trials, direction, seed), ws=ws)
    with starting as run:
        done = sweeps.carry_out(
            ws.ledger,
            run,
            objective,
            space or {},
            trials=trials,
            direction=direction,
            seed=seed,
            sampler=sampler,
            opener=lambda label, params, tags: start(
                runs.get(ws.ledger, run.id).pipeline, params, run_name=label, tags=tags, parent=run.id, ws=ws
            ),
        )
        if done.best is not None:
            run.metric("best", done.best.value or 0.0)
            run.tag("flyball.best", done.best.run)
    return sweeps.found(ws.ledger, run.id)
