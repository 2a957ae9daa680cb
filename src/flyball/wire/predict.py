"""Our own JSON: ``POST /predict/{endpoint}`` and ``POST /feedback``."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from flyball.core.clock import parse_time, to_us
from flyball.errors import Invalid, nearest
from flyball.wire.faults import decode

_LONGEST_ID = 200
_MOST_ROWS = 100_000

Value = float | int | str | bool | None


class Instance(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One row that is asked for: entity keys, request fields, and (in a replay) its own time."""

    entities: dict[str, Value] = {}
    features: dict[str, Value] = {}
    id: str | None = None
    at: str | None = None


class PredictBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One instance, or several under ``instances``."""

    entities: dict[str, Value] = {}
    features: dict[str, Value] = {}
    id: str | None = None
    at: str | None = None
    instances: list[Instance] | None = None


class Answer(msgspec.Struct, gc=False):
    """What a client gets for one row. ``probability`` is that of the arm it was assigned to."""

    id: str
    prediction: float | None
    model: str
    arm: str
    probability: float
    fallback: bool


class Answers(msgspec.Struct, gc=False):
    """What a client gets for ``instances``, in their order."""

    predictions: list[Answer]


class LabelItem(msgspec.Struct, forbid_unknown_fields=True):
    """What happened to one prediction. ``known`` is when that became known; now, when left out."""

    id: str
    value: float | bool
    known: str | None = None


class LabelsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Several labels under ``labels``, or one by itself."""

    labels: list[LabelItem] | None = None
    id: str | None = None
    value: float | bool | None = None
    known: str | None = None


_predict = msgspec.json.Decoder(PredictBody)
_labels = msgspec.json.Decoder(LabelsBody)
encode_answer = msgspec.json.Encoder().encode


def read_predict(body: bytes) -> PredictBody | list[Instance]:
    """The rows that are asked for: the body itself when there is one, a list when there is ``instances``."""
    asked = decode(_predict, body, "the request")
    if asked.instances is None:
        if asked.id is not None:
            check_id(asked.id)
        return asked
    if asked.entities or asked.features or asked.id is not None or asked.at is not None:
        raise Invalid(
            "instances can't stand beside entities, features, id or at",
            "put them into each instance",
            field="instances",
        )
    if not 0 < len(asked.instances) <= _MOST_ROWS:
        raise Invalid(
            f"instances holds {len(asked.instances)} rows", f"send 1 to {_MOST_ROWS}", field="instances"
        )
    for instance in asked.instances:
        if instance.id is not None:
            check_id(instance.id)
    return asked.instances


def check_id(given: str) -> None:
    """Refuse an id that could not be found again."""
    if not given or len(given) > _LONGEST_ID:
        raise Invalid(
            f"an id has 1 to {_LONGEST_ID} letters, this one {len(given)}", "shorten it", field="id"
        )


def read_time(text: str, field: str) -> int:
    """ISO 8601 to microseconds since 1970."""
    try:
        return to_us(parse_time(text))
    except (ValueError, OverflowError):
        raise Invalid(
            f"{field} is not a time: {text[:60]!r}", "like 2013-04-01T12:00:00Z", field=field
        ) from None


def read_labels(body: bytes) -> list[tuple[str, float, int | None]]:
    """Labels as (prediction id, value, when known in microseconds or None)."""
    asked = decode(_labels, body, "the feedback")
    items = asked.labels
    if items is None:
        if asked.id is None or asked.value is None:
            field = "id" if asked.id is None else "value"
            raise Invalid(f"the feedback lacks {field}", 'like {"id": "p_…", "value": 1}', field=field)
        items = [LabelItem(asked.id, asked.value, asked.known)]
    elif asked.id is not None or asked.value is not None or asked.known is not None:
        raise Invalid("labels can't stand beside id, value or known", "put them into labels", field="labels")
    found = []
    for index, item in enumerate(items):
        check_id(item.id)
        known_us = None if item.known is None else read_time(item.known, f"labels[{index}].known")
        found.append((item.id, float(item.value), known_us))
    return found


def number(value: Value, field: str) -> float | None:
    """A request's value as the model will see it; ``None`` stays unknown."""
    if value is None:
        return None
    if isinstance(value, str):
        raise Invalid(f"{field} is text: {value[:60]!r}", "send a number, or null", field=field)
    as_float = float(value)
    if not math.isfinite(as_float) or abs(as_float) > 3.4e38:
        raise Invalid(f"{field} is out of range: {value}", "send a number that float32 can hold", field=field)
    return as_float


def unknown_field(kind: str, given: Any, known: list[str]) -> Invalid:
    """The error for a name that nobody asked for."""
    return Invalid(f"unknown {kind} {given!r}", nearest(str(given), known), field=f"{kind}.{given}")


def aware_text(at: datetime) -> str:
    """A time as a request carries it."""
    return at.isoformat()
