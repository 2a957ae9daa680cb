"""A run that is going on: what it is told costs microseconds; a thread writes behind it."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.core.clock import to_us
from flyball.core.events import Edge
from flyball.core.records import Run
from flyball.errors import Conflict, FlyballError, Invalid, Refused
from flyball.stores.artifacts import check_path
from flyball.stores.points import series_of
from flyball.stores.run_facts import check_name, facts_of, text_of
from flyball.stores.run_seal import bounded_metrics, bounded_params, put_head, sealed_record
from flyball.track.pictures import figure_bytes, table_bytes
from flyball.track.writing import Writer, done_with, still_open, watched

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from flyball.stores.blobs import Blobs
    from flyball.stores.metadata import Ledger, Transaction
    from flyball.track.system import Sampler

Ended = Literal["done", "failed", "refused", "killed"]
NOTE = "mlflow.note.content"  # where MLflow keeps the note of a run: its pages show ours too
_FIRST_STEP, _LAST_STEP = -(2**63), 2**63 - 1

_current: ContextVar[ActiveRun | None] = ContextVar("run", default=None)


def current() -> ActiveRun | None:
    """The run this code belongs to, if any."""
    return _current.get()


class ActiveRun:
    """A run that is going on. The process that opened it ends it; one forked from it may measure as well."""

    def __init__(
        self,
        ledger: Ledger,
        run_id: str,
        late_code: Callable[[str], str] | None = None,
        *,
        actor: str = "",
        params: Mapping[str, Any] | None = None,
        blobs: Blobs | None = None,
        code: str = "",
    ) -> None:
        self.ledger = ledger
        self.id = run_id
        # the code's digest at the start -> at the end: more was imported meanwhile
        self._late_code = late_code
        self._code = code
        self._actor = actor
        self._blobs = blobs
        self._params: dict[str, Any] = dict(params or {})
        self._names: set[str] = set()  # of metrics, checked
        self._newest: dict[str, float] = {}
        self._owner = os.getpid()
        self._outer: ActiveRun | None = None
        self._sampler: Sampler | None = None
        self._renew_writer()
        watched(self)

    def _renew_writer(self) -> None:
        self.writer = Writer(self.ledger, self.id, self._actor)
        self._points = self.writer.points
        self._now_us = self.writer.now_us

    def metric(self, name: str, value: float, step: int = 0, *, at: datetime | None = None) -> None:
        """Note one value of a metric: durable within a second, and when the run ends. NaN and infinity are values too."""
        # The hot path of training loops: 0.6 us. Each check of a type is an identity; all else is in the slow branch.
        if type(value) is not float or type(step) is not int or name not in self._names:
            value, step = self._checked(name, value, step)
        self._newest[name] = value
        self._points.append((name, value, step, self._now_us() if at is None else to_us(at)))
        writer = self.writer
        if writer.attention or len(self._points) >= writer.mark:
            writer.attend()

    def metrics(self, values: Mapping[str, float], step: int = 0, *, at: datetime | None = None) -> None:
        """Note several metrics of one step, with one time."""
        now_us = self._now_us() if at is None else to_us(at)
        rows = []
        for name, value in values.items():
            number, whole = self._checked(name, value, step)
            rows.append((name, number, whole, now_us))
        self._newest.update((name, value) for name, value, _, _ in rows)
        self._points.extend(rows)
        if self.writer.attention or len(self._points) >= self.writer.mark:
            self.writer.attend()

    def metric_points(self, name: str, values: Any, steps: Any = None, times: Any = None) -> None:
        """Note a whole history: arrays or lists of values, steps (0, 1, 2… when left out) and times.

        Times are datetimes, NumPy datetimes, or microseconds since 1970; left out, all are now. Millions are fine.
        """
        self._check_metric(name)
        series = series_of(values, steps, self._now_us() if times is None else _times_us(times))
        if not len(series):
            return
        self._newest[name] = float(series.values[-1])
        self._points.append((name, series))
        if self.writer.attention or len(series) >= self.writer.mark:
            self.writer.attend()
        if len(series) >= self.writer.mark:
            self.writer.flush()  # millions at once are written here: waiting in memory would gain nothing

    def _checked(self, name: str, value: Any, step: Any) -> tuple[float, int]:
        self._check_metric(name)
        try:
            # a tensor that learns warns when float() is asked of it; .item() is its own way out
            number = float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise Invalid(f"the metric {name} is {value!r:.80}, not a number", "log a number") from error
        if type(step) is not int:
            try:
                whole = int(step)
            except (TypeError, ValueError, OverflowError) as error:
                raise Invalid(f"the step {step!r:.80} is not a whole number", "count from 0") from error
            if whole != step:
                raise Invalid(f"the step {step!r:.80} is not a whole number", "count from 0")
            step = whole
        if not _FIRST_STEP <= step <= _LAST_STEP:
            raise Invalid(f"the step {step} is beyond 64 bits", "count from 0")
        return number, step

    def _check_metric(self, name: str) -> None:
        if name not in self._names:
            self._names.add(check_name("metric", name))

    def param(self, name: str, value: Any) -> None:
        """Note a parameter; another value for the same name is :class:`Invalid`, since a run has one of each."""
        self.params({name: value})

    def params(self, values: Mapping[str, Any]) -> None:
        """Note several parameters, all or none."""
        plain = params_of(values)
        for name, value in plain.items():
            check_name("param", name)
            known = self._params.get(name, value)
            if known != value and text_of(known) != text_of(value):
                raise Invalid(
                    f"{name} is {known!r:.200} in this run already",
                    "log a metric for what changes",
                    name=name,
                )
        for name, value in plain.items():
            if name not in self._params:
                self._params[name] = value
                self.writer.text("param", name, value)

    @property
    def known_params(self) -> Mapping[str, Any]:
        """Params that were noted so far."""
        return self._params

    def tag(self, name: str, value: Any) -> None:
        """Note a tag; the last value counts."""
        self.writer.text("tag", check_name("tag", name), text_of(params_of({name: value})[name]))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Note several tags."""
        for name, value in values.items():
            self.tag(name, value)

    def note(self, markdown: str) -> None:
        """Say in words what this run is about; the last note counts."""
        self.tag(NOTE, markdown)

    def artifact(self, content: bytes | str | Path, path: str = "") -> str:
        """Keep a file, a folder (with all below it) or bytes; returns the digest (of a folder: the path it is under).

        The bytes are stored when this returns; ``path`` is where it is found in the run, by default its own name.
        """
        if isinstance(content, bytes):
            if not path:
                raise Invalid("bytes have no name", "run.artifact(data, 'report.json')")
            return self._keep(path, content)
        source = Path(content)
        under = path or source.name
        if source.is_dir():
            for file in sorted(source.rglob("*")):
                if file.is_file():
                    self._keep(f"{under}/{file.relative_to(source).as_posix()}", file)
            return under
        return self._keep(under if not path.endswith("/") else path + source.name, source)

    def figure(self, figure: Any, path: str) -> str:
        """Keep a picture of matplotlib or plotly; the ending says how: ``.svg``, ``.png``, ``.html``, ``.json``."""
        return self._keep(path, figure_bytes(figure, path))

    def table(self, frame: Any, path: str) -> str:
        """Keep a table (Polars, pandas, Arrow, a list of dicts, a dict of lists) as Parquet."""
        return self._keep(path if path.endswith(".parquet") else f"{path}.parquet", table_bytes(frame))

    def _keep(self, path: str, content: bytes | Path) -> str:
        if self._blobs is None:
            raise Invalid("this run was opened without a blob store", "start it with fb.track.start(...)")
        check_path(self.id, path)
        digest = self._blobs.put(content) if isinstance(content, bytes) else self._blobs.put_file(content)
        size = len(content) if isinstance(content, bytes) else self._blobs.size_bytes(digest)
        self.writer.row(
            {
                "owner": self.id,
                "path": path,
                "digest": digest,
                "size_bytes": size,
                "at_us": self._now_us(),
            }
        )
        return digest

    def input(self, ref: str, role: str = "data") -> None:
        """Say what this run read, ``flights@3`` or a digest: it becomes lineage at once."""
        with self.ledger.transaction() as tx:
            run = self.record(tx)
            changed = msgspec.structs.replace(run, inputs={**run.inputs, role: ref})
            edge = Edge(self.id, ref if ":" in ref else f"snapshot:{ref}", f"input:{role}"[:80])
            tx.append("run.read", self.id, actor=run.actor, sets=[("run", self.id, changed)], edges=[edge])

    def system_metrics(self, every_s: float = 10.0) -> None:
        """Measure this machine on the side until the run ends: CPU, memory, disk, network, GPU when there is one."""
        from flyball.track.system import Sampler

        if self._sampler is None:
            self._sampler = Sampler(self, every_s)
            self._sampler.start()

    def watch(self, model: Any = None, optimizer: Any = None, every: int = 50) -> Any:
        """Follow a PyTorch model and optimizer by their hooks: learning rates, gradient norms, rows, every 50 steps."""
        from flyball.track.neural import Watching

        return Watching(self, model, optimizer, every)

    # The names that pipelines and MLflow's users know.
    log_metric = metric
    log_param = param

    def take_newest(self) -> dict[str, float]:
        """The newest finite value of each metric since the last call: what one step measured."""
        taken, self._newest = self._newest, {}
        return {name: value for name, value in taken.items() if value - value == 0}

    def flush(self) -> None:
        """Write what was noted; it is durable when this returns."""
        self.writer.flush()

    def record(self, tx: Transaction) -> Run:
        """The run as the transaction sees it, with what is written of its metrics and params."""
        run = tx.find("run", self.id, Run)
        if run is None:
            raise Conflict(
                f"the run {self.id} is gone from the ledger", "was another ledger put in its place?"
            )
        facts = facts_of(tx.connection, [self.id]).get(self.id)
        if facts is None:
            return run
        return msgspec.structs.replace(
            run,
            metrics=bounded_metrics({**run.metrics, **self.writer.finite}, facts),
            params=bounded_params(run.params, facts.params, self._params),
        )

    def end(self, status: Ended = "done", error: str = "") -> Run:
        """Close it: everything noted is durable when this returns. Ending twice changes nothing.

        In a process forked from the one that opened it, what was noted is written and the run goes on.
        """
        if self._sampler is not None:
            self._sampler.stop()
        if self._owner != os.getpid():
            self.writer.flush()
            return self.ledger.get("run", self.id, Run)
        code = self._late_code(self._code) if self._late_code and self._code else ""

        def write(put: Callable[[Connection], None]) -> Run:
            with self.ledger.transaction() as tx:
                tx.alone(self.id)
                run = tx.find("run", self.id, Run) or self.record(tx)
                if run.status != "running":
                    return run
                put(tx.connection)
                return _closed(self, tx, run, status, error, code)

        try:
            ended: Run = self.writer.finish(write)
        finally:
            if self.writer.closed:
                done_with(self)
                if _current.get() is self:
                    _current.set(self._outer)
        return ended

    def forked(self) -> None:
        """In a child process: lists and thread of its own. What waits in the parent's list the parent writes."""
        self._renew_writer()
        self._sampler = None
        self.writer.in_child = True


def _closed(active: ActiveRun, tx: Transaction, run: Run, status: Ended, error: str, code: str) -> Run:
    closed = msgspec.structs.replace(run, status=status, ended=tx.now(), error=error, code=code or run.code)
    ended = sealed_record(tx.connection, closed, active.writer.finite, active.known_params)
    edges = [Edge(run.id, ended.code, "code")] if ended.code != run.code else []
    tx.append(f"run.{status}", run.id, actor=run.actor, sets=[("run", run.id, ended)], edges=edges)
    put_head(tx, ended)
    return ended


class Starting:
    """A run that is about to begin: ``with`` it, or :meth:`begin` it and end it yourself."""

    def __init__(self, begin: Callable[[], ActiveRun]) -> None:
        self._begin = begin
        self._run: ActiveRun | None = None

    def begin(self) -> ActiveRun:
        """Begin, and make it the current run; ``run.end()`` closes it (so does the end of the program)."""
        run = self._run = self._begin()
        run._outer = _current.get()
        _current.set(run)
        return run

    def __enter__(self) -> ActiveRun:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self._run
        assert run is not None
        if _current.get() is run:
            _current.set(run._outer)
        if error is None:
            run.end("done")
            return
        try:
            if isinstance(error, Refused):
                run.end("refused", error.what)
            else:
                run.end("failed", _said(error))
        except FlyballError as other:  # the block's own error is the one to see
            error.add_note(f"and the run {run.id} could not be closed: {other}")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


@contextmanager
def entered(run: ActiveRun) -> Iterator[ActiveRun]:
    """Make a run the current one of this context, so that :func:`log_metric` reaches it; it is not ended here."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)


def params_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON's own types; what JSON can't say is its ``repr``, cut at 1,000 letters.

    >>> params_of({"trees": 200, "rate": float("inf"), "columns": ("a", "b")})
    {'trees': 200, 'rate': 'inf', 'columns': ['a', 'b']}
    """
    return {
        name: value if type(value) in (str, int, bool) else _sayable(value) for name, value in params.items()
    }


def _sayable(value: Any) -> Any:
    plain = msgspec.to_builtins(value, enc_hook=_other)
    return str(plain) if isinstance(plain, float) and plain - plain != 0 else plain


def _other(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of NumPy or PyTorch
        return value.item()
    return repr(value)[:1000]


def _times_us(times: Any) -> Any:
    kind = getattr(getattr(times, "dtype", None), "kind", "")
    if kind == "M":
        return times.astype("datetime64[us]").astype("int64")
    if isinstance(times, datetime):
        return to_us(times)
    if isinstance(times, list | tuple) and times and isinstance(times[0], datetime):
        return [to_us(one) for one in times]
    return times


@atexit.register
def _close_all() -> None:
    """At the end of the program: runs that nobody ended are written and closed, as failed when an error ended it."""
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    for run in still_open():
        try:
            if error is None:
                run.end("done")
            else:
                run.end("failed", _said(error))
        except FlyballError as problem:
            sys.stderr.write(f"flyball: the run {run.id} could not be closed: {problem}\n")
