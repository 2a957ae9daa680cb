"""Run a pipeline's graph: reuse what was made before from the same things, run the rest, record both.

Each step's result is one transaction after its blobs. A run that is killed at any instant has lost at most the step it
was in, and running the same again (or :func:`resume`) reuses the others.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from flyball.core.records import Run
from flyball.errors import FlyballError, Invalid, NotFound, nearest
from flyball.pipelines.context import RunContext, enter, leave
from flyball.pipelines.definition import Pipeline
from flyball.pipelines.journal import Journal, line_of
from flyball.pipelines.results import Keys, StepResult, Values
from flyball.pipelines.trace import Node, Output, Trace, describe, filled, handles_in, trace
from flyball.track import experiments
from flyball.track import runs as tracking
from flyball.versions import Captured, capture, capture_late


def execute(pipeline: Pipeline[..., Any], params: Mapping[str, Any], context: RunContext) -> Run:
    """Run a pipeline; returns its record. Steps whose code, inputs and environment are unchanged are reused.

    A step that raises ends the run as failed: :class:`Invalid` names the step and line (an error of ours stays itself).
    A step that raises :class:`Refused` ends it as refused. What had finished stays.
    """
    values = pipeline.bind(params)
    drawn = _draw(pipeline, values, context)
    captured = _capture(context, values)
    run = tracking.open_run(
        context.ledger,
        pipeline.name,
        params=values,
        actor=context.actor,
        because=context.because,
        experiment=experiments.ensure(context.ledger, pipeline.name, actor=context.actor).id,
        blobs=context.blobs,
        late_code=_late_code(context),
        **msgspec.structs.asdict(captured),
    )
    return _Execution(pipeline, drawn, replace(context, run_id=run.id), run, captured.environment).carry_out()


def resume(run_id: str, pipelines: Mapping[str, Pipeline[..., Any]], context: RunContext) -> Run:
    """Go on with a run that failed or was killed, under the same id and parameters; finished steps are reused.

    One that is done is :class:`Invalid`, one that still runs :class:`Conflict`.
    """
    before = tracking.get(context.ledger, run_id)
    pipeline = pipelines.get(before.pipeline)
    if pipeline is None:
        raise NotFound(f"no pipeline {before.pipeline!r} any more", nearest(before.pipeline, list(pipelines)))
    known = pipeline.parameters
    values = pipeline.bind({name: value for name, value in before.params.items() if name in known})
    drawn = _draw(pipeline, values, context)
    captured = _capture(context, values)
    run = tracking.reopen(
        context.ledger,
        run_id,
        actor=context.actor,
        blobs=context.blobs,
        late_code=_late_code(context),
        **msgspec.structs.asdict(captured),
    )
    return _Execution(pipeline, drawn, replace(context, run_id=run_id), run, captured.environment).carry_out()


def _draw(pipeline: Pipeline[..., Any], values: Mapping[str, Any], context: RunContext) -> Trace:
    try:
        return trace(pipeline.function, values)
    except FlyballError:
        raise
    except Exception as error:
        where = line_of(error, context.root, pipeline.function)
        raise Invalid(
            f"the pipeline {pipeline.name} raised {type(error).__name__}: {error}",
            f"{where}; no step ran",
            where=where,
        ) from error


def _capture(context: RunContext, values: Mapping[str, Any]) -> Captured:
    return capture(context.root, context.blobs, context.ledger, settings=context.settings, params=values)


def _late_code(context: RunContext) -> Callable[[str], str]:
    return lambda code: capture_late(code, context.root, context.blobs, context.ledger)


class _Execution:
    """One pass over the nodes, in the order they were drawn."""

    def __init__(
        self,
        pipeline: Pipeline[..., Any],
        drawn: Trace,
        context: RunContext,
        run: tracking.ActiveRun,
        environment: str,
    ) -> None:
        self.nodes = list(drawn.nodes.values())
        self.context = context
        self.run = run
        self.values = Values(context)
        self.keys = Keys(context, environment)
        self.journal = Journal(pipeline.name, context, run, self.values, self.nodes)

    def carry_out(self) -> Run:
        with tracking.entered(self.run):
            for node in self.nodes:
                try:
                    self._node(node)
                except BaseException as error:
                    shown = self.journal.failed(node, error)
                    if shown is error:
                        raise
                    raise shown from error
        return self.run.end("done")

    def _node(self, node: Node) -> None:
        if reason := self._skipped(node):
            self.journal.skipped(node, reason)
            return
        artifacts = {name: self.values.artifacts(value) for name, value in node.arguments.items()}
        given = {name: digests[0] for name, digests in artifacts.items() if digests}
        context = replace(self.context, node=node.name, arguments=given, used={})
        token = enter(context)
        try:
            self._reuse_or_run(node, context)
        finally:
            leave(token)

    def _reuse_or_run(self, node: Node, context: RunContext) -> None:
        # A step with its own key looks at its arguments before it is known whether it runs.
        given = filled(node.arguments, self.values.of) if node.step.key is not None else {}
        key = self.keys.of(node, self.values, given)
        with self.context.blobs.adding():  # no collection takes what is found here before the run names it
            found = self._found(node, key)
            if found is not None:
                self.values.keep(node.name, found)
                for name, value in found.metrics.items():
                    self.run.log_metric(name, value)
                self.journal.reused(node, found)
                return
        self.journal.started(node)
        self.run.take_newest()
        started = time.perf_counter()
        value = _call(node, filled(node.arguments, self.values.of))
        with self.context.blobs.adding():
            outputs = self.values.store(node.step.name, node.step.items, value)
            result = StepResult(
                key=key,
                step=node.step.name,
                run=context.run_id,
                node=node.name,
                outputs=outputs,
                items=node.step.items is not None,
                finished=context.clock.now(),
                seconds=round(time.perf_counter() - started, 6),
                code=self.keys.closure(node).digest if node.step.cache else "",
                metrics=self.run.take_newest(),
                used=context.used,
            )
            self.values.keep(node.name, result)
            self.run.flush()  # what the step measured belongs before its result
            self.journal.done(node, result)

    def _found(self, node: Node, key: str) -> StepResult | None:
        """The kept result, if the step may be reused and every byte is still there."""
        if not node.step.cache:
            return None
        closure = self.keys.closure(node)
        if closure.opaque:
            self.journal.uncacheable(node, closure.opaque)
            return None
        found = self.context.ledger.find("step", key, StepResult)
        if found is None or not all(one.digest in self.context.blobs for one in found.outputs):
            return None
        return found

    def _skipped(self, node: Node) -> str:
        """Why a node does not run; empty when it does."""
        for condition in node.conditions:
            handles = list(handles_in(condition))
            for handle in handles:
                if handle._node not in self.values:
                    return f"{handle._node} was skipped"
            met = self.values.of(condition) if isinstance(condition, Output) else condition
            if not met:
                return f"{describe(condition)} is {met!r}" if handles else f"the condition is {met!r}"
        for handle in node.needs:
            if handle._node not in self.values:
                return f"it needs {handle._node}, which was skipped"
        return ""


def _call(node: Node, arguments: dict[str, Any]) -> Any:
    """Call the step's function as it was called in the pipeline, whatever kinds of parameters it has."""
    bound = inspect.signature(node.step.function).bind_partial()
    bound.arguments.update(arguments)
    return node.step.function(*bound.args, **bound.kwargs)
