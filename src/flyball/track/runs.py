"""Runs in the ledger: opened, measured, closed. Metrics are batched: a call costs microseconds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.core.clock import to_us
from flyball.core.events import Edge
from flyball.core.ids import new_id
from flyball.core.records import Metric, Run
from flyball.errors import Conflict, Invalid, Refused
from flyball.stores.run_facts import add_texts
from flyball.stores.run_seal import put_head, sealed_record
from flyball.stores.runs import Point, RunStore
from flyball.track.liveness import is_alive, process_name

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger, Transaction

Ended = Literal["done", "failed", "refused"]
FLUSH_AFTER_S = 1.0
FLUSH_AFTER_POINTS = 1000

_current: ContextVar[ActiveRun | None] = ContextVar("run", default=None)


class ActiveRun:
    """A run that is going on. Only the process that opened it writes it."""

    def __init__(self, ledger: Ledger, run_id: str, late_code: Callable[[str], str] | None = None) -> None:
        self.ledger = ledger
        self.id = run_id
        self._late_code = (
            late_code  # the code's digest at the start -> at the end: more was imported meanwhile
        )
        self._points: list[tuple[str, float | str, int]] = []
        self._params: dict[str, Any] = {}
        self._typed: dict[str, Any] = {}
        self._newest: dict[str, float] = {}
        self._flushed = time.monotonic()

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Note one value of a metric; durable after a second, after 1,000 values, or when the run ends."""
        point = _finite_or_text(name, value)
        self._points.append((name, point, step))
        if not isinstance(point, str):
            self._newest[name] = point
        if len(self._points) >= FLUSH_AFTER_POINTS or time.monotonic() - self._flushed >= FLUSH_AFTER_S:
            self.flush()

    def log_param(self, name: str, value: Any) -> None:
        """Note a parameter; another value for the same name is :class:`Invalid`, since a run has one of each."""
        plain = params_of({name: value})[name]
        run = get(self.ledger, self.id)
        known = {**run.params, **self._typed}
        if name in known and known[name] != plain:
            raise Invalid(f"{name} is {known[name]!r} in this run already", "log a metric for what changes")
        self._params[name] = self._typed[name] = plain
        self.flush()

    def take_newest(self) -> dict[str, float]:
        """The newest finite value of each metric since the last call: what one step measured."""
        taken, self._newest = self._newest, {}
        return taken

    def flush(self) -> None:
        """Write what was noted."""
        points, params = self._points, self._params
        self._flushed = time.monotonic()
        if not points and not params:
            return
        RunStore(self.ledger).write(
            self.id, params=params, metrics=[Point(name, float(value), step) for name, value, step in points]
        )
        self._points, self._params = [], {}

    def record(self, tx: Transaction) -> Run:
        """The run as the transaction sees it."""
        run = tx.find("run", self.id, Run)
        if run is None:
            raise Conflict(
                f"the run {self.id} is gone from the ledger", "was another ledger put in its place?"
            )
        return run

    def end(self, status: Ended = "done", error: str = "") -> Run:
        """Close it: everything noted is durable when this returns. Ending twice changes nothing."""
        self.flush()
        code = self._late_code(get(self.ledger, self.id).code) if self._late_code else ""
        with self.ledger.transaction() as tx:
            run = self.record(tx)
            if run.status != "running":
                return run
            ended = msgspec.structs.replace(
                run, status=status, ended=tx.now(), error=error, code=code or run.code
            )
            edges = [Edge(self.id, ended.code, "code")] if ended.code != run.code else []
            tx.alone(self.id)
            ended = sealed_record(
                tx.connection, msgspec.structs.replace(ended, params={**ended.params, **self._typed})
            )
            tx.append(f"run.{status}", self.id, actor=run.actor, sets=[("run", self.id, ended)], edges=edges)
            put_head(tx, ended)
        return ended


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
) -> ActiveRun:
    """Write a new running run; the caller ends it. ``command`` and ``cwd`` say how a script was started."""
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
            pid=os.getpid(),
            process=process_name(),
            configuration=configuration,
            hardware=hardware,
            seeds=dict(seeds or {}),
            command=tuple(command),
            cwd=cwd,
        )
        edges = _made_of(run)
        run = msgspec.structs.replace(run, experiment=experiment, name=name or pipeline, parent=parent)
        tx.append("run.started", run.id, actor=actor, at=at, sets=[("run", run.id, run)], edges=edges)
        put_head(tx, run)
        add_texts(tx.connection, run.id, "param", run.params, to_us(started))
    return ActiveRun(ledger, run.id, late_code)


def _made_of(run: Run) -> list[Edge]:
    named = ("code", "environment", "configuration", "hardware")
    return [Edge(run.id, getattr(run, role), role) for role in named if getattr(run, role)]


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
) -> ActiveRun:
    """Go on with a run that failed or whose process died, under the same id.

    One that is done is :class:`Invalid`; one that still runs is :class:`Conflict`.
    """
    get(ledger, run_id)
    with ledger.transaction() as tx:
        run = ActiveRun(ledger, run_id).record(tx)
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
        )
        tx.append("run.resumed", run_id, actor=actor, sets=[("run", run_id, again)], edges=_made_of(again))
        put_head(tx, again)
    return ActiveRun(ledger, run_id, late_code)


@contextmanager
def entered(run: ActiveRun) -> Iterator[ActiveRun]:
    """Make a run the current one of this context, so that :func:`log_metric` reaches it; it is not ended here."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)


@contextmanager
def start(
    ledger: Ledger,
    pipeline: str = "script",
    *,
    actor: str,
    params: Mapping[str, Any] | None = None,
    code: str = "",
    environment: str = "",
    because: str = "",
    **made_of: Any,
) -> Iterator[ActiveRun]:
    """Record a block of plain code as a run: done when it ends, failed (or refused) when it raises."""
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
    with entered(run):
        try:
            yield run
        except Refused as error:
            run.end("refused", error.what)
            raise
        except BaseException as error:
            run.end("failed", f"{type(error).__name__}: {error}")
            raise
    run.end("done")


def current() -> ActiveRun | None:
    """The run this code belongs to, if any."""
    return _current.get()


def log_metric(name: str, value: float, step: int = 0) -> None:
    """Note a metric of the current run; outside a run nothing happens, so a step can be called in a test."""
    if (run := _current.get()) is not None:
        run.log_metric(name, value, step)


def log_param(name: str, value: Any) -> None:
    """Note a parameter of the current run; outside a run nothing happens."""
    if (run := _current.get()) is not None:
        run.log_param(name, value)


def get(ledger: Ledger, run_id: str) -> Run:
    """The run as it is now, or :class:`NotFound`."""
    return ledger.get("run", run_id, Run)


def history(ledger: Ledger, run_id: str, name: str) -> list[Metric]:
    """Every value of one metric, in the order they were logged; NaN and infinities as they were."""
    return RunStore(ledger).history(run_id, name).metrics(name)


def params_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON's own types; what JSON can't say is its ``repr``, cut at 1,000 letters."""
    return {
        name: msgspec.to_builtins(value, enc_hook=lambda other: repr(other)[:1000])
        for name, value in params.items()
    }


def _finite_or_text(name: str, value: float) -> float | str:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise Invalid(f"the metric {name} is {value!r}, not a number", "log a number") from error
    return number if math.isfinite(number) else str(number)  # JSON has no NaN; its text survives
