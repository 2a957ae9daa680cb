"""Runs in the ledger: opened, gone on with, changed, looked up. :mod:`flyball.track.active` is one that goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.core.clock import to_us
from flyball.core.events import Edge
from flyball.core.ids import new_id
from flyball.core.records import Metric, Run
from flyball.errors import Conflict, Invalid
from flyball.stores.run_facts import add_texts
from flyball.stores.run_seal import put_head, sealed_record
from flyball.stores.runs import RunStore
from flyball.track.active import NOTE, ActiveRun, Ended, Starting, current, entered, params_of
from flyball.track.liveness import is_alive, process_name

if TYPE_CHECKING:
    from flyball.stores.blobs import Blobs
    from flyball.stores.metadata import Ledger

__all__ = [
    "NOTE",
    "ActiveRun",
    "Ended",
    "Starting",
    "current",
    "entered",
    "get",
    "history",
    "log_metric",
    "log_param",
    "open_run",
    "params_of",
    "reopen",
    "start",
    "update",
]


def open_run(
    ledger: Ledger,
    pipeline: str,
    *,
    params: Mapping[str, Any],
    code: str,
    environment: str,
    actor: str,
    because: str = "",
    at: datetime | None = None,
    configuration: str = "",
    hardware: str = "",
    seeds: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    cwd: str = "",
    late_code: Callable[[str], str] | None = None,
    experiment: str = "0",
    name: str = "",
    parent: str = "",
    tags: Mapping[str, Any] | None = None,
    blobs: Blobs | None = None,
    remote: bool = False,
) -> ActiveRun:
    """Write a new running run; the caller ends it. ``command`` and ``cwd`` say how a script was started.

    ``experiment`` is an id. ``remote`` is for a run of another machine: no process of ours stands for it.
    """
    with ledger.transaction() as tx:
        started = at or tx.now()
        run = Run(
            id=new_id("run", started),
            pipeline=pipeline,
            started=started,
            status="running",
            params=params_of(params),
            code=code,
            environment=environment,
            actor=actor,
            because=because,
            pid=0 if remote else os.getpid(),
            process="" if remote else process_name(),
            configuration=configuration,
            hardware=hardware,
            seeds=dict(seeds or {}),
            command=tuple(command),
            cwd=cwd,
            name=name or pipeline,
            experiment=experiment,
            parent=parent,
        )
        edges = _made_of(run)
        tx.append("run.started", run.id, actor=actor, at=at, sets=[("run", run.id, run)], edges=edges)
        put_head(tx, run)
        for kind, values in (("param", run.params), ("tag", tags)):
            if values:
                add_texts(tx.connection, run.id, kind, values, to_us(started), fresh=True)
    return ActiveRun(ledger, run.id, late_code, actor=actor, params=run.params, blobs=blobs, code=code)


def _made_of(run: Run) -> list[Edge]:
    named = ("code", "environment", "configuration", "hardware")
    made = [Edge(run.id, getattr(run, role), role) for role in named if getattr(run, role)]
    return [*made, Edge(run.id, run.parent, "parent")] if run.parent else made


def reopen(
    ledger: Ledger,
    run_id: str,
    *,
    code: str,
    environment: str,
    actor: str,
    configuration: str = "",
    hardware: str = "",
    seeds: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    cwd: str = "",
    late_code: Callable[[str], str] | None = None,
    blobs: Blobs | None = None,
) -> ActiveRun:
    """Go on with a run that failed or whose process died, under the same id.

    One that is done is :class:`Invalid`; one that still runs is :class:`Conflict`.
    """
    get(ledger, run_id)
    with ledger.transaction() as tx:
        tx.alone(run_id)
        run = tx.find("run", run_id, Run) or get(ledger, run_id)
        if run.deleted is not None:
            raise Invalid(f"{run_id} is deleted", f"flyball runs restore {run_id} brings it back", run=run_id)
        if run.status == "done":
            raise Invalid(f"{run_id} is done", "there is nothing to resume", run=run_id)
        if run.status == "running" and run.process and is_alive(run.process):
            raise Conflict(
                f"{run_id} is running in process {run.pid}", "wait for it, or end that process", run=run_id
            )
        again = msgspec.structs.replace(
            run,
            status="running",
            ended=None,
            error="",
            code=code,
            environment=environment,
            pid=os.getpid(),
            process=process_name(),
            configuration=configuration or run.configuration,
            hardware=hardware or run.hardware,
            seeds=dict(seeds) if seeds is not None else run.seeds,
            command=tuple(command) or run.command,
            cwd=cwd or run.cwd,
            seal="",
        )
        tx.append("run.resumed", run_id, actor=actor, sets=[("run", run_id, again)], edges=_made_of(again))
        put_head(tx, again)
    return ActiveRun(ledger, run_id, late_code, actor=actor, params=run.params, blobs=blobs, code=code)


def update(
    ledger: Ledger,
    run_id: str,
    *,
    actor: str,
    status: Literal["running", "scheduled", "done", "failed", "refused", "killed"] | None = None,
    ended: datetime | None = None,
    name: str | None = None,
) -> Run:
    """Change how a run of another machine stands, or its name; ended ones are sealed, running ones are open again."""
    get(ledger, run_id)
    with ledger.transaction() as tx:
        tx.alone(run_id)
        run = tx.find("run", run_id, Run) or get(ledger, run_id)
        if run.deleted is not None:
            raise Invalid(f"{run_id} is deleted", f"flyball runs restore {run_id} brings it back", run=run_id)
        changed = run
        if status in ("running", "scheduled"):
            changed = msgspec.structs.replace(run, status=status, ended=None, seal="", error="")
        elif status is not None:
            changed = msgspec.structs.replace(run, status=status, ended=ended or run.ended or tx.now())
        if name is not None:
            changed = msgspec.structs.replace(changed, name=name)
        if changed.ended is not None:
            changed = sealed_record(tx.connection, changed)
        if changed != run:
            kind = f"run.{status}" if status is not None else "run.renamed"
            tx.append(kind, run_id, actor=actor, sets=[("run", run_id, changed)])
            put_head(tx, changed)
    return changed


def start(
    ledger: Ledger,
    pipeline: str = "script",
    *,
    actor: str,
    params: Mapping[str, Any] | None = None,
    code: str = "",
    environment: str = "",
    because: str = "",
    system_s: float | None = None,
    **made_of: Any,
) -> Starting:
    """Record a block of plain code as a run: done when it ends, failed (or refused) when it raises."""

    def begin() -> ActiveRun:
        run = open_run(
            ledger,
            pipeline,
            params=params or {},
            code=code,
            environment=environment,
            actor=actor,
            because=because,
            **made_of,
        )
        if system_s is not None:
            run.system_metrics(system_s)
        return run

    return Starting(begin)


def log_metric(name: str, value: float, step: int = 0) -> None:
    """Note a metric of the current run; outside a run nothing happens, so a step can be called in a test."""
    if (run := current()) is not None:
        run.metric(name, value, step)


def log_param(name: str, value: Any) -> None:
    """Note a parameter of the current run; outside a run nothing happens."""
    if (run := current()) is not None:
        run.param(name, value)


def get(ledger: Ledger, run_id: str) -> Run:
    """The run as it is now, or :class:`NotFound`."""
    return ledger.get("run", run_id, Run)


def history(ledger: Ledger, run_id: str, name: str) -> list[Metric]:
    """Every value of one metric, in the order they were logged; NaN and infinities as they were."""
    return RunStore(ledger).history(run_id, name).metrics(name)
