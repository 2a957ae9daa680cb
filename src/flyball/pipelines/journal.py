"""What happened to each node, written as it happens: in one event the result, the run's line and the lineage."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.events import Edge
from flyball.errors import FlyballError, Invalid, Refused
from flyball.pipelines.context import RunContext, Status, StepProgress
from flyball.pipelines.results import StepResult, Values
from flyball.pipelines.trace import Node
from flyball.track.runs import ActiveRun

log = logging.getLogger(__name__)
_ROLE_LETTERS = 80  # of the ledger's column


class Journal:
    """The record of one run, and who is told while it goes on."""

    def __init__(
        self, pipeline: str, context: RunContext, run: ActiveRun, values: Values, nodes: Sequence[Node]
    ) -> None:
        self._pipeline = pipeline
        self._context = context
        self._run = run
        self._values = values
        self._numbers = {node.name: number for number, node in enumerate(nodes, 1)}
        self._lines: list[dict[str, Any]] = []
        self._warned: set[str] = set()

    def started(self, node: Node) -> None:
        self._tell(node, "started")

    def done(self, node: Node, result: StepResult) -> None:
        """A result: from this commit on it is reused."""
        self._write(
            node,
            "done",
            result=result,
            sets=[("step", result.key, result)],
            edges=self._lineage(node, result),
        )
        self._tell(node, "done", result.seconds)

    def reused(self, node: Node, result: StepResult) -> None:
        edges = [Edge(self._run.id, one.digest, "reused") for one in result.outputs]
        self._write(node, "reused", result=result, edges=edges)
        self._tell(node, "reused", result.seconds)

    def skipped(self, node: Node, because: str) -> None:
        self._write(node, "skipped", because=because)
        self._tell(node, "skipped", because=because)

    def uncacheable(self, node: Node, because: tuple[str, ...]) -> None:
        """Warn, once a run and step, that a result can't be reused since its code can't be told apart."""
        if node.step.name in self._warned:
            return
        self._warned.add(node.step.name)
        log.warning("step not cached", extra={"step": node.step.name, "because": because})
        hint = "pass it as an argument, make it a plain value, or say @step(cache=False)"
        with self._context.ledger.transaction() as tx:
            tx.append(
                "step.uncacheable",
                f"{self._run.id}/{node.name}",
                actor=self._context.actor,
                body={"because": list(because), "hint": hint},
            )

    def failed(self, node: Node, error: BaseException) -> BaseException:
        """Record how the run ended; returns what the caller is to see."""
        status: Status = "refused" if isinstance(error, Refused) else "failed"
        where = line_of(error, self._context.root, node.step.function)
        what = error.what if isinstance(error, FlyballError) else f"{type(error).__name__}: {error}"
        message = f"{node.name}: {what}" + (f" ({where})" if where and status == "failed" else "")
        self._write(node, status, because=message)
        self._run.end("refused" if status == "refused" else "failed", message)
        self._tell(node, status, because=message)
        if isinstance(error, FlyballError):
            error.facts.setdefault("run", self._run.id)
            error.facts.setdefault("node", node.name)
            return error
        if not isinstance(error, Exception):
            return error  # interrupted
        kept = sum(line["status"] in {"done", "reused"} for line in self._lines)
        return Invalid(
            f"step {node.name!r} of {self._pipeline} raised {type(error).__name__}: {error}",
            f"see {where or 'the step'}; mend it and run the same again: it goes on after {kept} finished steps",
            run=self._run.id,
            node=node.name,
            where=where,
        )

    def _write(
        self,
        node: Node,
        status: Status,
        *,
        result: StepResult | None = None,
        sets: Sequence[tuple[str, str, Any]] = (),
        edges: Sequence[Edge] = (),
        because: str = "",
    ) -> None:
        line: dict[str, Any] = {"node": node.name, "step": node.step.name, "status": status}
        if because:
            line["because"] = because
        if result is not None:
            line |= {"key": result.key, "code": result.code, "seconds": result.seconds}
            line["outputs"] = [one.digest for one in result.outputs]
            edges = [
                *edges,
                *(Edge(self._run.id, of, _role("input", role)) for role, of in result.used.items()),
            ]
        self._lines.append(line)
        with self._context.ledger.transaction() as tx:
            run = msgspec.structs.replace(self._run.record(tx), steps=tuple(self._lines))
            if result is not None:
                outputs = {_output(result, index): one.digest for index, one in enumerate(result.outputs)}
                used = {role: of.partition(":")[2] or of for role, of in result.used.items()}
                run = msgspec.structs.replace(
                    run, outputs={**run.outputs, **outputs}, inputs={**run.inputs, **used}
                )
            tx.append(
                f"step.{status}",
                f"{run.id}/{node.name}",
                actor=self._context.actor,
                sets=[*sets, ("run", run.id, run)],
                edges=edges,
            )

    def _lineage(self, node: Node, result: StepResult) -> list[Edge]:
        """Each output was made by the run, from the artifacts in the step's arguments and from what it read by name."""
        edges: list[Edge] = []
        sources = {
            (digest, _role("from", name))
            for name, value in node.arguments.items()
            for digest in self._values.artifacts(value)
        } | {(of, _role("from", role)) for role, of in result.used.items()}
        for index, artifact in enumerate(result.outputs):
            edges.append(Edge(artifact.digest, result.run, _role("output", _output(result, index))))
            edges += [
                Edge(artifact.digest, of, role) for of, role in sorted(sources) if of != artifact.digest
            ]
        return edges

    def _tell(self, node: Node, status: Status, seconds: float = 0.0, because: str = "") -> None:
        self._context.tell(
            StepProgress(
                run_id=self._run.id,
                node=node.name,
                status=status,
                number=self._numbers[node.name],
                total=len(self._numbers),
                seconds=seconds,
                because=because,
            )
        )


def line_of(error: BaseException, root: Path, function: Callable[..., Any]) -> str:
    """``pipelines.py:41``: the deepest line of the project in an error's traceback."""
    own = getattr(getattr(function, "__code__", None), "co_filename", "")
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if frame.filename == own or ("site-packages" not in path.parts and path.is_relative_to(root)):
            shown = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
            found = f"{shown}:{frame.lineno}"
    return found


def _output(result: StepResult, index: int) -> str:
    return f"{result.node}.{index}" if result.items else result.node


def _role(kind: str, name: str) -> str:
    return f"{kind}:{name}"[:_ROLE_LETTERS]
