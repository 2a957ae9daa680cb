"""What is asked of the online store, checked: where each value of a vector stands, which keys and fields a request brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flyball.errors import Internal, Invalid, nearest
from flyball.features.services import RequestField, Service, Vector
from flyball.stores.online import Reading

KEYS = frozenset((str, int, type(None)))  # the types of a key
_BITS = 63  # of a key that is a number
_SHOWN = 80  # letters of a wrong value that a message holds


class Places:
    """Where things stand while a vector is made: the service's features first, then what only is computed with."""

    def __init__(self, vector: Vector) -> None:
        names = dict.fromkeys((*vector.service.features, *vector.inputs))
        self.slots = {name: slot for slot, name in enumerate(names)}
        self.names = tuple(names)
        self.width = len(names)
        kinds = {name: vector.type_of(name) for name in names}
        self.types = kinds
        self.typed = [  # what is stored as a float and is none
            (self.slots[name], kind)
            for name in vector.looked_up
            if (kind := kinds[name]) in _WHOLE or kind in _OTHER
        ]
        self.computing = _computing(vector, self.slots) if vector.computed else None


_WHOLE, _OTHER = ("INT64", "INT32"), ("BOOL", "BYTES")


def as_typed(values: list[Any], typed: Sequence[tuple[int, str]], reading: Reading) -> None:
    """Make of stored floats what they stand for."""
    for slot, kind in typed:
        value = values[slot]
        if value is not None:
            if kind == "BYTES":
                values[slot] = reading.text(int(value))
            else:
                values[slot] = value != 0.0 if kind == "BOOL" else int(value)


def _computing(vector: Vector, slots: Mapping[str, int]) -> Callable[[list[Any]], None]:
    """Computes on-demand features into their places."""
    from flyball.features.on_demand import compile_vector

    compute = compile_vector(vector)
    shown_names = ", ".join(one.name for one in vector.computed)
    read = [slots[name] for name in vector.inputs]
    kinds = [(place, field.datatype) for place, field in enumerate(vector.service.request)]
    typed = [(place, kind) for place, kind in kinds if kind in _WHOLE or kind == "BOOL"]
    made = [(slots[name], place) for place, name in enumerate(compute.features) if name in slots]

    def put(values: list[Any]) -> None:
        given = [values[slot] for slot in read]
        for place, kind in typed:  # a request's whole numbers and truths are floats in the vector
            if given[place] is not None:
                given[place] = given[place] != 0.0 if kind == "BOOL" else int(given[place])
        try:
            found = compute(given)
        except Exception as error:  # a person's own function may raise anything; the store is not to blame
            raise Internal(
                f"on-demand features ({shown_names}) can't be computed: {type(error).__name__}: {error}",
                "flyball features verify NAME tries them on many rows",
            ) from error
        for slot, place in made:
            values[slot] = found[place]

    return put


class Unanswered:
    """The vector when the store does not answer: the views' defaults, else null, and what follows from them."""

    def __init__(self, vector: Vector, places: Places) -> None:
        self._request = [
            (places.slots[one.name], one, CHECKS[one.datatype]) for one in vector.service.request
        ]
        self._values: list[Any] = [None] * places.width
        self._size, self._computing = len(vector.service.features), places.computing
        for view in vector.views:
            for name, value in view.defaults.items():
                slot = places.slots.get(f"{view.name}:{name}")
                if slot is not None:
                    self._values[slot] = value

    def values(self, request: Mapping[str, Any]) -> list[Any]:
        """In the service's order."""
        values = list(self._values)
        for slot, field, check in self._request:
            values[slot] = requested(field, check, request)
        if self._computing is not None:
            self._computing(values)
        return values[: self._size]


def bad_key(service: Service, needed: Sequence[str], name: str, entities: Mapping[str, Any]) -> Invalid:
    """Why a request's key is none."""
    if name not in entities:
        return Invalid(
            f"the request lacks entity {name!r}",
            f"service {service.name!r} needs: {', '.join(needed)}",
            field=name,
        )
    return Invalid(
        f"entity {name!r} is {shown(entities[name])}", "a key is a text, a whole number or null", field=name
    )


def beyond(needed: Sequence[str], entities: Mapping[str, Any]) -> Invalid:
    """Which key is a number that no source can hold."""
    wide = [one for one in needed if type(entities[one]) is int and entities[one].bit_length() > _BITS]
    name = wide[0] if wide else needed[0]
    return Invalid(
        f"entity {name!r} is {shown(entities[name])}",
        f"a key that is a whole number has at most {_BITS} bits",
        field=name,
    )


def requested(field: RequestField, check: Callable[[Any], Any], request: Mapping[str, Any]) -> Any:
    """One request field's value; :class:`Invalid` when it is missing or of another type."""
    if field.name not in request:
        raise Invalid(
            f"the request lacks field {field.name!r}", nearest(field.name, list(request)), field=field.name
        )
    value = request[field.name]
    if value is None and field.nullable:
        return None
    found = check(value)
    if found is None:
        raise Invalid(
            f"request field {field.name!r} is {shown(value)}",
            f"it must be {field.datatype}" + (" or null" if field.nullable else ""),
            field=field.name,
        )
    return found


def shown(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) < _SHOWN else text[: _SHOWN - 3] + "..."


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (float, int) and math.isfinite(value) else None


def _whole(bits: int) -> Callable[[Any], float | None]:
    limit = 1 << (bits - 1)
    return lambda value: float(value) if type(value) is int and -limit <= value < limit else None


CHECKS: dict[str, Callable[[Any], Any]] = {
    "FP64": _number,
    "FP32": _number,
    "INT64": _whole(64),
    "INT32": _whole(32),
    "BOOL": lambda value: float(value) if type(value) is bool else None,
    "BYTES": lambda value: value if type(value) is str else None,
}
