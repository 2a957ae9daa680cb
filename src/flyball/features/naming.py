"""What definitions have in common: names, types of values, durations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import msgspec

from flyball.errors import Invalid, nearest

Datatype = Literal["FP64", "FP32", "INT64", "INT32", "BOOL", "BYTES"]
DATATYPES: tuple[str, ...] = get_args(Datatype)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def seconds(text: str | int) -> int:
    """A duration in seconds.

    >>> seconds("90s"), seconds("3h"), seconds("30d"), seconds(60)
    (90, 10800, 2592000, 60)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = re.fullmatch(r"\s*(\d+)\s*([smhdw])\s*", str(text))
    if found is None:
        raise Invalid(f"{text!r} is not a duration", "like '90s', '15m', '3h', '7d' or '2w'")
    return int(found[1]) * _SECONDS[found[2]]


def named(noun: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} can't name a {noun}",
            "a letter or '_', then letters, digits, '_', '-' or '.'; ':' divides view and feature",
        )


def typed(said: str, types: Mapping[str, str], columns: Iterable[str]) -> None:
    known = list(columns)
    if not isinstance(types, Mapping):
        raise Invalid(f"{said} has types {types!r}", "write types={'city': 'BYTES'}")
    for name, kind in types.items():
        if name not in known:
            raise Invalid(f"{said} gives {name!r} a type", nearest(name, known), column=name)
        if kind not in DATATYPES:
            raise Invalid(
                f"{said}: {name!r} has an unknown type {kind!r}", nearest(kind, list(DATATYPES)), column=name
            )


def as_tuples(record: msgspec.Struct, noun: str, *fields: str, of: type = str) -> None:
    """Lists become tuples, so that equal definitions are equal; one thing without its comma is the usual slip, and named."""
    for field in fields:
        value = getattr(record, field)
        if isinstance(value, str):
            raise Invalid(f"{noun}: {field} is a text, not a tuple", f"write {field}=({value!r},)")
        if not isinstance(value, Iterable):
            said = of.__name__ if isinstance(value, of) else repr(value)
            raise Invalid(f"{noun}: {field} is {said}, not a tuple", f"write {field}=(..., ) with its comma")
        items = tuple(value)
        for item in items:
            if not isinstance(item, of):
                wanted = "texts" if of is str else f"{of.__name__} objects"
                raise Invalid(f"{noun}: {field} holds {item!r}", f"{field} are {wanted}")
        msgspec.structs.force_setattr(record, field, items)
