"""``@step`` and ``@pipeline``: plain functions outside a pipeline, nodes of a graph inside one."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import msgspec

from flyball.core.clock import parse_time
from flyball.errors import Invalid, nearest
from flyball.pipelines.trace import Output, tracing

P = ParamSpec("P")
R = TypeVar("R")


class Step(Generic[P, R]):
    """A function that a pipeline may run and whose result it keeps.

    ``cache=False`` runs it every time (for effects). ``key``, called with the same arguments, adds to what the result
    is kept by: for instance the digest of data that the step reads by name.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        cache: bool = True,
        key: Callable[..., str] | None = None,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "step"))
        self.cache = cache
        self.key = key
        self.items = returned_items(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        drawn = tracing()
        if drawn is None:
            return self.function(*args, **kwargs)
        return cast(R, drawn.draw(self, args, kwargs))

    def __repr__(self) -> str:
        return f"<step {self.name}>"


@overload
def step(function: Callable[P, R]) -> Step[P, R]: ...


@overload
def step(
    function: None = None,
    *,
    name: str | None = None,
    cache: bool = True,
    key: Callable[..., str] | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]: ...


def step(function: Any = None, *, name: str | None = None, cache: bool = True, key: Any = None) -> Any:
    """Make a function a step of pipelines; called outside of one, it is the function it was.

    >>> @step
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(21)
    42
    """
    if function is None:
        return lambda found: Step(found, name=name, cache=cache, key=key)
    return Step(function, name=name, cache=cache, key=key)


class Pipeline(Generic[P, R]):
    """A function that says which step feeds which. Calling it runs its steps as plain functions."""

    def __init__(self, function: Callable[P, R], name: str | None = None) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "pipeline"))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<pipeline {self.name}>"

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """What it takes, annotations evaluated where they can be."""
        return dict(_signature(self.function).parameters)

    def bind(self, params: Mapping[str, Any], *, placeholders: bool = False) -> dict[str, Any]:
        """Every parameter with its value: text is read by annotation, defaults are filled in.

        Unknown and missing ones are :class:`Invalid`. With ``placeholders`` a missing one becomes a handle, to draw.
        """
        known = self.parameters
        for name in params:
            if name not in known:
                raise Invalid(
                    f"{self.name} has no parameter {name!r}", nearest(name, list(known)), param=name
                )
        values: dict[str, Any] = {}
        for name, parameter in known.items():
            if name in params:
                values[name] = read(params[name], parameter.annotation, f"{self.name}: {name}")
            elif parameter.default is not inspect.Parameter.empty:
                values[name] = parameter.default
            elif placeholders:
                values[name] = Output(f"param {name}")
            else:
                raise Invalid(
                    f"{self.name} needs the parameter {name!r}",
                    f"-p {name}={_example(parameter)}",
                    param=name,
                )
        return values


@overload
def pipeline(function: Callable[P, R]) -> Pipeline[P, R]: ...


@overload
def pipeline(
    function: None = None, *, name: str | None = None
) -> Callable[[Callable[P, R]], Pipeline[P, R]]: ...


def pipeline(function: Any = None, *, name: str | None = None) -> Any:
    """Make a function a pipeline: ``flyball run NAME -p x=1`` traces it and runs its steps."""
    if function is None:
        return lambda found: Pipeline(found, name)
    return Pipeline(function, name)


def read(value: Any, annotation: Any, where: str) -> Any:
    """A parameter as its annotation says; text (from a command line) is read, other types are checked.

    >>> from datetime import date
    >>> read("2013-04-01", date, "until"), read("200", int, "trees"), read("yes", str, "note")
    (datetime.date(2013, 4, 1), 200, 'yes')
    """
    if annotation in {inspect.Parameter.empty, Any} or isinstance(annotation, str):
        return value
    try:
        if annotation is datetime and isinstance(value, str):
            return parse_time(value)
        return msgspec.convert(_decoded(value, annotation), annotation, strict=not isinstance(value, str))
    except (msgspec.ValidationError, ValueError) as error:
        shown = getattr(annotation, "__name__", str(annotation))
        raise Invalid(f"{where} must be {shown}, not {value!r}", str(error), param=where) from error
    except TypeError:
        return value  # an annotation that msgspec does not know, such as a frame


def _decoded(value: Any, annotation: Any) -> Any:
    container = (typing.get_origin(annotation) or annotation) in {list, tuple, dict, set}
    return msgspec.json.decode(value) if container and isinstance(value, str) else value


def _example(parameter: inspect.Parameter) -> str:
    kind = getattr(parameter.annotation, "__name__", "")
    return {
        "date": "2013-04-01",
        "datetime": "2013-04-01T00:00:00Z",
        "int": "10",
        "float": "0.5",
        "bool": "true",
    }.get(kind, "VALUE")


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, TypeError, AttributeError):
        return inspect.signature(function)  # a name that exists for the type checker only


def returned_items(function: Callable[..., Any]) -> int | None:
    """How many values ``-> tuple[A, B]`` says; ``None`` for any other return."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        try:
            found = ast.parse(annotation, mode="eval").body
        except SyntaxError:
            return None
        if not (
            isinstance(found, ast.Subscript)
            and ast.unparse(found.value).rpartition(".")[2] in {"tuple", "Tuple"}
        ):
            return None
        parts = found.slice.elts if isinstance(found.slice, ast.Tuple) else [found.slice]
        return None if any(isinstance(p, ast.Constant) and p.value is ... for p in parts) else len(parts)
    if typing.get_origin(annotation) is tuple:
        arguments = typing.get_args(annotation)
        return None if ... in arguments else len(arguments)
    return None
