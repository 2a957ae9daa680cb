"""What a step made, kept under the digest of everything it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

import flyball
from flyball.core.hashing import digest_bytes, digest_of
from flyball.errors import Invalid
from flyball.pipelines.closure import Closure, closure_of
from flyball.pipelines.codecs import decode, encode, shared
from flyball.pipelines.context import RunContext
from flyball.pipelines.trace import Node, Output, Path, handles_in


class Artifact(msgspec.Struct, frozen=True):
    """One kept value: where its bytes are, and how to read them."""

    digest: str
    codec: str
    type: str
    size_bytes: int


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One step's outputs; ledger noun ``step``, by ``key``."""

    key: str
    step: str
    run: str
    node: str
    outputs: tuple[Artifact, ...]
    items: bool  # the outputs are the parts of a tuple
    finished: datetime
    seconds: float
    code: str  # digest of the step's closure
    metrics: dict[str, float] = {}  # what it measured; a run that reuses it has measured the same
    used: dict[str, str] = {}  # what it read by name: role -> lineage name


class Values:
    """The outputs of the nodes that ran, each decoded once at most, when a step asks for it."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._results: dict[str, StepResult] = {}
        self._shared: dict[str, Any] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._results

    def keep(self, node: str, result: StepResult) -> None:
        self._results[node] = result

    def store(self, step: str, items: int | None, value: Any) -> tuple[Artifact, ...]:
        """Write a step's return value, part by part when it is annotated as a tuple."""
        if items is None:
            parts = [value]
        elif isinstance(value, tuple) and len(value) == items:
            parts = list(value)
        else:
            found = f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
            raise Invalid(
                f"step {step!r} says it returns {items} values but returned {found}", "mend its annotation"
            )
        return tuple(self._store_one(part) for part in parts)

    def _store_one(self, value: Any) -> Artifact:
        encoded = encode(value)
        digest = self._context.blobs.put(encoded.data)
        if (kept := shared(value)) is not ...:
            self._shared[digest + encoded.codec] = kept
        return Artifact(digest, encoded.codec, encoded.type, len(encoded.data))

    def of(self, handle: Output) -> Any:
        """The value a handle stands for."""
        result = self._results[handle._node]
        path = handle._path
        if result.items and path and path[0][0] == "item" and isinstance(path[0][1], int):
            return _along(self._load(_part(result, path[0][1])), path[1:])
        loaded = [self._load(artifact) for artifact in result.outputs]
        return _along(tuple(loaded) if result.items else loaded[0], path)

    def identity(self, handle: Output) -> list[str]:
        """What a handle's value is, by digest: the artifacts, and the path into them."""
        result = self._results[handle._node]
        path = handle._path
        if result.items and path and path[0][0] == "item" and isinstance(path[0][1], int):
            return [_named(_part(result, path[0][1])), repr(path[1:])]
        return [*(_named(artifact) for artifact in result.outputs), repr(path)]

    def artifacts(self, value: Any) -> list[str]:
        """Digests of the artifacts that a value's handles lie in."""
        found: dict[str, None] = {}
        for handle in handles_in(value):
            result = self._results.get(handle._node)
            for artifact in result.outputs if result else ():
                found[artifact.digest] = None
            path = handle._path
            if result and result.items and path and path[0][0] == "item":
                found = {_part(result, path[0][1]).digest: None}
        return list(found)

    def _load(self, artifact: Artifact) -> Any:
        known = self._shared.get(artifact.digest + artifact.codec, ...)
        if known is not ...:
            return shared(known)
        value = decode(artifact.codec, self._context.blobs.get(artifact.digest), artifact.type)
        if (kept := shared(value)) is not ...:
            self._shared[artifact.digest + artifact.codec] = kept
        return value


class Keys:
    """The keys of one run's nodes: code, inputs, environment, and flyball itself."""

    def __init__(self, context: RunContext, environment: str) -> None:
        self._context = context
        self._environment = environment
        self._closures: dict[int, Closure] = {}

    def closure(self, node: Node) -> Closure:
        known = self._closures.get(id(node.step))
        if known is None:
            known = closure_of(node.step.function, self._context.root)
            self._closures[id(node.step)] = known
        return known

    def of(self, node: Node, values: Values, given: Mapping[str, Any]) -> str:
        """What this node's result is kept by; a step that always runs is kept by its run and node."""
        if not node.step.cache:
            return digest_of({"run": self._context.run_id, "node": node.name})
        inputs = {name: self._input(value, values) for name, value in node.arguments.items()}
        return digest_of(
            {
                "step": node.step.name,
                "items": node.step.items,
                "code": self.closure(node).digest,
                "inputs": inputs,
                "extra": node.step.key(**given) if node.step.key is not None else None,
                "environment": self._environment,
                "flyball": flyball.__version__,
            }
        )

    def _input(self, value: Any, values: Values) -> Any:
        if isinstance(value, Output):
            return ["output", values.identity(value)]
        if callable(value) and hasattr(value, "__qualname__"):
            return ["code", closure_of(value, self._context.root).digest]
        if type(value) in (list, tuple):
            return [type(value).__name__, [self._input(one, values) for one in value]]
        if type(value) is dict and any(True for _ in handles_in(value)):
            return ["dict", [(repr(key), self._input(one, values)) for key, one in value.items()]]
        encoded = encode(value)
        return ["value", encoded.codec, encoded.type, digest_bytes(encoded.data)]


def _part(result: StepResult, index: int) -> Artifact:
    try:
        return result.outputs[index]
    except IndexError:
        raise Invalid(
            f"{result.node} has no output {index}", f"it returns {len(result.outputs)} values"
        ) from None


def _named(artifact: Artifact) -> str:
    return f"{artifact.codec} {artifact.type} {artifact.digest}"


def _along(value: Any, path: Path) -> Any:
    for kind, key in path:
        if kind == "attr":
            value = getattr(value, key)
        elif kind == "item":
            value = value[key]
        else:
            value = not value
    return value
