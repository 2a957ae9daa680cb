"""Features computed when they are asked for: one function per request, the same in batch for training.

>>> from flyball.features import OnDemand, RequestField, Service, View, col
>>> from flyball.features.services import resolve
>>> shop = View("shop", ("shop",), "sales", happened="at", columns=("price",))
>>> rate = OnDemand("rate", {"share": col("amount") / col("shop:price")})
>>> vector = resolve(Service("s", ("rate:share",), request=(RequestField("amount"),)), [shop, rate])
>>> compile_vector(vector)([5, 20.0])
[0.25]

Most are expressions. What no expression says is a plain function: :func:`on_demand`. A serving worker knows it by the
digest of its sources only, and runs those (:mod:`flyball.features.shipping`), not what may lie beside it.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flyball.errors import Invalid, NotFound, nearest
from flyball.features.expressions.kinds import check
from flyball.features.expressions.rows import Row, compile_row
from flyball.features.expressions.tree import Expr
from flyball.features.services import OnDemand, Vector

if TYPE_CHECKING:
    import polars as pl

_TIME = "a time; .dt.epoch() makes a number of it"
_INTEGERS = {"INT64": 63, "INT32": 31}


def on_demand(
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    *,
    batch: Callable[..., Any] | None = None,
    name: str = "",
    types: Mapping[str, Any] = {},
    description: str = "",
    owner: str = "",
    tags: Mapping[str, str] = {},
) -> Callable[[Callable[..., Any]], OnDemand]:
    """Make on-demand features of a plain function: called with the values of ``inputs`` in order, ``None`` for null.

    ``inputs`` are request fields and ``view:feature`` names; left out, the names of its parameters. It returns the value
    of the one output, or all of them as a tuple or by name. ``batch`` is the same for many rows: from a Polars frame of
    the inputs to a frame, a mapping of columns, or one column; without it training calls the function row by row.

    >>> @on_demand(inputs=("amount", "shop:price"), outputs=("share",))
    ... def rate(amount, price):
    ...     return None if not price or amount is None else amount / price
    >>> rate.features
    ('rate:share',)
    """

    def make(function: Callable[..., Any]) -> OnDemand:
        called = name or function.__name__
        read = tuple(inputs) or tuple(inspect.signature(function).parameters)
        place = f"{function.__module__}:{function.__qualname__}"
        found = OnDemand(
            called, python=place, inputs=read, outputs=tuple(outputs) or (called,), types=dict(types),
            description=description or (inspect.getdoc(function) or "").partition("\n")[0], owner=owner, tags=dict(tags),
        )  # fmt: skip
        found.__dict__.update(function=function, batch=batch)
        return found

    return make


class Compiled:
    """Computes all on-demand features of a vector: from values in the order of ``vector.inputs`` to those of ``features``."""

    def __init__(self, vector: Vector) -> None:
        self.features = tuple(name for one in vector.computed for name in one.features)
        names = list(vector.inputs)
        self._steps: list[tuple[Row, list[int]]] = []
        for one in vector.computed:
            self._steps.append((row_of(one, vector), [names.index(need) for need in one.needs]))
            names += one.features
        self._taken = len(vector.inputs)

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        known = list(values)
        for function, places in self._steps:
            known += function([known[place] for place in places])
        del known[: self._taken]
        return known


def compile_vector(vector: Vector) -> Compiled:
    """The function of all on-demand features of a service, each after those it reads; ``None`` is null.

    Values come out as their types say: float, int, bool or text. ``.features`` names them, in order.
    """
    return Compiled(vector)


def compute_frame(vector: Vector, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, which holds all of ``vector.inputs`` as columns, with a column per on-demand feature."""
    from flyball.features.in_batch import computed

    for one in vector.computed:
        frame = computed(one, vector, frame)
    return frame


def row_of(one: OnDemand, vector: Vector | None = None) -> Row:
    """The function of one on-demand view: from the values of ``one.needs`` to its outputs, typed."""
    if one.python:
        return _row_of_function(one)
    typed = typed_expressions(one, vector)
    function = compile_row(typed, one.needs, types=types_of(one, vector))
    whole = [(at, _INTEGERS[kind]) for at, kind in enumerate(one.output_types.values()) if kind in _INTEGERS]
    if not whole:
        return function

    def with_whole_numbers(row: Sequence[Any]) -> tuple[Any, ...]:
        values = list(function(row))
        for at, bits in whole:
            values[at] = _whole(values[at], bits)
        return tuple(values)

    return with_whole_numbers


def types_of(one: OnDemand, vector: Vector | None) -> dict[str, str]:
    """The types of what it reads, as far as they are known."""
    types: dict[str, str] = {name: kind for name, kind in one.types.items() if name in one.needs}
    if vector is not None:
        types |= {name: vector.type_of(name) for name in one.needs}
    return types


def typed_expressions(one: OnDemand, vector: Vector | None) -> dict[str, Expr]:
    """Its expressions, each giving what was declared; what can't is refused."""
    types = types_of(one, vector)
    found = {}
    for name, expression in one.expressions.items():
        kind, wanted = check(expression, types), one.output_types[name]
        if kind == "TIME" or (kind == "BYTES") != (wanted == "BYTES"):
            given = {"TIME": _TIME, "BYTES": "a text"}.get(kind, "a number")
            raise Invalid(
                f"{one.name}:{name} is {wanted}, but {expression!r} is {given}",
                f"types={{{name!r}: 'BYTES'}} for a text, .cast('FP64') or .cast('BYTES') for another",
                feature=f"{one.name}:{name}",
            )
        if wanted == "BOOL":
            found[name] = expression if kind == "BOOL" else Expr("to_bool", (expression,))
        elif wanted == "BYTES":
            found[name] = expression
        elif wanted in _INTEGERS:
            found[name] = Expr("truncate", (expression,))
        else:
            found[name] = Expr("to_number", (expression,)) if kind == "BOOL" else expression
    return found


def function_of(one: OnDemand) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """The plain function of an on-demand view and its batch form, if it has one."""
    held = one.__dict__.get("function")
    if held is not None:
        return held, one.__dict__.get("batch")
    module, _, path = one.python.partition(":")
    if one.code:
        from flyball.features.shipping import module_of

        found = module_of(one.code, module)
    else:
        try:
            found = import_module(module)
        except ImportError as error:
            raise NotFound(
                f"on-demand view {one.name!r} is {one.python}, and {module!r} can't be imported: {error}",
                "the module of the project, as it is imported: features.rates:per_seat",
            ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise NotFound(
                f"{module!r} has no {path!r}", nearest(part, [n for n in dir(found) if not n.startswith("_")])
            )
        found = getattr(found, part)
    if isinstance(found, OnDemand):
        return found.__dict__["function"], found.__dict__.get("batch")
    if not callable(found):
        raise Invalid(f"{one.python} is {found!r}, not a function", "name a function")
    return found, None


def _row_of_function(one: OnDemand) -> Row:
    function, _ = function_of(one)
    kinds = list(one.output_types.items())

    def row_function(row: Sequence[Any]) -> tuple[Any, ...]:
        found = as_outputs(one, function(*row))
        return tuple(
            [typed(value, kind, one, name) for value, (name, kind) in zip(found, kinds, strict=True)]
        )

    return row_function


def as_outputs(one: OnDemand, found: Any) -> Sequence[Any]:
    """What a function returned, in the order of the outputs."""
    if isinstance(found, Mapping):
        odd = [name for name in one.outputs if name not in found]
        if odd or len(found) != len(one.outputs):
            raise Invalid(
                f"{one.python} returned {', '.join(map(repr, found))}",
                f"its outputs are {', '.join(one.outputs)}",
            )
        return [found[name] for name in one.outputs]
    if len(one.outputs) == 1 and not isinstance(found, tuple | list):
        return [found]
    if not isinstance(found, tuple | list) or len(found) != len(one.outputs):
        raise Invalid(
            f"{one.python} returned {found!r}", f"its outputs are {', '.join(one.outputs)}: a tuple of them"
        )
    return found


def typed(value: Any, kind: str, one: OnDemand, name: str) -> Any:
    """A value that a function returned, as its declared type; NaN, infinities and what is beyond 1e150 are null."""
    if value is None:
        return None
    if kind == "BYTES":
        if isinstance(value, str):
            return str(value)
    elif not isinstance(value, str | bytes):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = None
        except OverflowError:
            return None
        if number is not None:
            if not abs(number) <= 1e150:
                return None
            if kind == "BOOL":
                return number != 0.0
            return _whole(math.trunc(number), _INTEGERS[kind]) if kind in _INTEGERS else number
    raise Invalid(
        f"{one.python} returned {value!r} for {name!r}, which is {kind}", f"types={{{name!r}: ...}} says otherwise",
        feature=f"{one.name}:{name}",
    )  # fmt: skip


def _whole(value: Any, bits: int) -> int | None:
    return int(value) if value is not None and -(2.0**bits) <= value < 2.0**bits else None


class _Called(ModuleType):
    """``fb.features.on_demand`` is the decorator, but this module once that is imported: so it may be called too."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return on_demand(*args, **options)


sys.modules[__name__].__class__ = _Called
