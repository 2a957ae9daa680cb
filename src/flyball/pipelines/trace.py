"""Turn a pipeline function into a graph: while it is traced, a step's call draws a node and answers with handles.

A node can only use handles that exist already, so a graph has no cycles by construction.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

from flyball.errors import Invalid

if TYPE_CHECKING:
    from flyball.pipelines.definition import Step

Path = tuple[tuple[str, Any], ...]  # ("item", 0), ("attr", "passed"), ("not", None)
_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Output:
    """A value that a step will make: hand it to other steps, unpack it, take an attribute; it can't be looked at."""

    __slots__ = ("_items", "_node", "_path")
    _node: str
    _path: Path
    _items: int | None

    def __init__(self, node: str, path: Path = (), items: int | None = None) -> None:
        self._node, self._path, self._items = node, path, items

    def __getattr__(self, name: str) -> Output:
        if name.startswith("_"):
            raise AttributeError(name)
        return Output(self._node, (*self._path, ("attr", name)))

    def __getitem__(self, key: Any) -> Output:
        if isinstance(key, Output):
            _misused(self, "index it by another step's output")
        return Output(self._node, (*self._path, ("item", key)))

    def __invert__(self) -> Output:
        return Output(self._node, (*self._path, ("not", None)))

    def __iter__(self) -> Iterator[Output]:
        if self._items is None:
            raise Invalid(
                f"{self!r} can't be unpacked: its step does not say how many values it returns",
                "annotate the step with -> tuple[A, B]",
            )
        return (self[index] for index in range(self._items))

    def __bool__(self) -> bool:
        raise Invalid(
            f"{self!r} has no value yet, so `if` can't look at it",
            "write `with fb.when(handle):` (`~handle` for its opposite), or decide inside a step",
        )

    def __repr__(self) -> str:
        return describe(self)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        _misused(self, "compare it")

    def __ne__(self, other: object) -> bool:
        _misused(self, "compare it")


def _forbid(name: str, what: str) -> None:
    def refuse(self: Output, *_: Any, **__: Any) -> NoReturn:
        _misused(self, what)

    setattr(Output, name, refuse)


def _misused(handle: Output, what: str) -> NoReturn:
    raise Invalid(
        f"{handle!r} has no value yet, so a pipeline can't {what}",
        "do that inside a step: the pipeline only says which step feeds which",
    )


for _name in ("lt", "le", "gt", "ge"):
    _forbid(f"__{_name}__", "compare it")
for _name in (
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "neg",
    "and",
    "or",
    "contains",
):
    _forbid(f"__{_name}__", "compute with it")
for _name in ("len", "int", "float", "index", "format"):
    _forbid(f"__{_name}__", "turn it into a number or text")
_forbid("__call__", "call it")
_forbid("__setitem__", "change it")


def describe(handle: Output) -> str:
    """A handle in words: ``gate.passed``, ``split[0]``, ``not gate.passed``."""
    text = handle._node
    for kind, key in handle._path:
        text = {"attr": f"{text}.{key}", "item": f"{text}[{key!r}]", "not": f"not {text}"}[kind]
    return text


class Node:
    """One call of a step: its arguments (values and handles) and the conditions under which it runs."""

    def __init__(
        self, name: str, step: Step[..., Any], arguments: dict[str, Any], conditions: tuple[Any, ...]
    ) -> None:
        self.name = name
        self.step = step
        self.arguments = arguments
        self.conditions = conditions

    @property
    def needs(self) -> list[Output]:
        """Handles it needs to have a value: those in its arguments."""
        return list(handles_in(self.arguments))


class Trace:
    """The nodes drawn so far, in an order in which they can run."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._conditions: list[Any] = []

    def draw(self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Output:
        try:
            bound = inspect.signature(step.function).bind(*args, **kwargs)
        except TypeError as error:
            raise Invalid(
                f"step {step.name!r}: {error}", f"it takes {inspect.signature(step.function)}"
            ) from error
        name = step.name
        calls = 1
        while name in self.nodes:
            calls += 1
            name = f"{step.name}-{calls}"
        self.nodes[name] = Node(name, step, dict(bound.arguments), tuple(self._conditions))
        return Output(name, items=step.items)

    @contextmanager
    def conditional(self, condition: Any) -> Iterator[None]:
        self._conditions.append(condition)
        try:
            yield
        finally:
            self._conditions.pop()


def handles_in(value: Any) -> Iterator[Output]:
    """Every handle in a value, looking into lists, tuples and dicts."""
    if isinstance(value, Output):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from handles_in(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from handles_in(one)


def filled(value: Any, content: Callable[[Output], Any]) -> Any:
    """The same value with every handle replaced by its content."""
    if isinstance(value, Output):
        return content(value)
    if type(value) in (list, tuple):
        return type(value)(filled(one, content) for one in value)
    if type(value) is dict:
        return {key: filled(one, content) for key, one in value.items()}
    return value


def trace(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Trace:
    """Run a pipeline's function with these arguments, drawing what its steps would do."""
    drawn = Trace()
    token = _trace.set(drawn)
    try:
        function(**arguments)
    finally:
        _trace.reset(token)
    return drawn


def tracing() -> Trace | None:
    """The trace that is being drawn, or ``None`` when steps are plain functions."""
    return _trace.get()


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """Run the steps of this block only if a step's output is true; ``~handle`` is its opposite. Blocks nest.

    What is skipped is recorded as skipped, and so is whatever needs it.
    """
    drawn = _trace.get()
    if drawn is not None:
        with drawn.conditional(condition):
            yield
        return
    if not condition:
        raise Invalid(
            "fb.when can't skip its block outside of a run",
            "flyball run PIPELINE runs it; in a test, call the steps themselves",
        )
    yield
