"""Decode JSON so that a client's mistake becomes an :class:`Invalid` that names the field, never a trace."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import msgspec

from flyball.errors import Invalid

T = TypeVar("T")


def decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    """The decoded body, or :class:`Invalid` with the field and what was expected there.

    >>> decode(msgspec.json.Decoder(list[int]), b'[1, "x"]', "the request")
    Traceback (most recent call last):
    ...
    flyball.errors.Invalid: the request is wrong at [1]: Expected `int`, got `str`
      send the type that is expected there
    """
    if not body:
        raise Invalid(
            f"{what} is empty", 'send a JSON object, for example {"entities": {"id": 7}}', field="$"
        )
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `")
        field = place.rstrip("`").removeprefix("$").lstrip(".") or "$"
        hint = "send the type that is expected there"
        if "unknown field" in said:
            field, hint = said.split("`")[1], "leave it out, or look for a misspelt name"
        if "missing required field" in said:
            field, hint = said.split("`")[1], "add it"
        field = _in_mapping(body, field)
        raise Invalid(f"{what} is wrong at {field}: {said}", hint, field=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        bad = not_finite(body)
        if bad is not None:
            raise Invalid(
                f"{what} holds NaN or infinity at {bad}, which JSON has no word for",
                "send null where a value is unknown",
                field=bad,
            ) from None
        raise Invalid(
            f"{what} is not JSON: {error}", "was it cut off, or encoded otherwise?", field="$"
        ) from None


def _in_mapping(body: bytes, field: str) -> str:
    """The key that ``features[...]`` stands for: the first one that holds no plain value."""
    path, any_key, _ = field.partition("[...]")
    if not any_key:
        return field
    try:
        found = json.loads(body)
        for step in path.replace("[", ".").replace("]", "").split(".") if path else []:
            found = found[int(step)] if isinstance(found, list) else found[step]
        wrong = (
            key
            for key, value in found.items()
            if isinstance(value, list | dict) or _find(value, "") is not None
        )
        return f"{path}.{next(wrong)}" if path else next(wrong)
    except (ValueError, LookupError, RecursionError, AttributeError, StopIteration):
        return field


def not_finite(body: bytes) -> str | None:
    """Where a bare NaN or Infinity stands in almost-JSON, as a path; ``None`` when there is none.

    >>> not_finite(b'{"features": {"wind": [1, NaN]}}')
    'features.wind[1]'
    """
    if b"NaN" not in body and b"Infinity" not in body:
        return None
    try:
        return _find(json.loads(body), "")
    except (ValueError, RecursionError):
        return None


def _find(value: Any, path: str) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    if isinstance(value, dict):
        inner = ((f"{path}.{key}" if path else str(key), one) for key, one in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{index}]", one) for index, one in enumerate(value))
    else:
        return None
    return next((found for place, one in inner if (found := _find(one, place)) is not None), None)
