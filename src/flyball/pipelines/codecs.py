"""Values as bytes and back: frames as Arrow IPC, arrays as npy, plain data and records as JSON, the rest pickled.

A value whose codec does not give the same value back is pickled. What is shared within a run without a copy is only
what can't be changed in place; everything else is decoded anew for each step, as it would be after a restart.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from datetime import date, datetime, timedelta
from importlib import import_module
from typing import Any

import msgspec
import numpy as np
import polars as pl

from flyball.errors import Invalid

Pickler = Callable[[Any], bytes]
_SCALARS = {"date": date, "datetime": datetime, "timedelta": timedelta}


class Encoded(msgspec.Struct, frozen=True):
    """A value's bytes, the codec that reads them and, for records, the type."""

    codec: str
    data: bytes
    type: str = ""


def encode(value: Any) -> Encoded:
    """The bytes of a value; :class:`Invalid` when nothing can write it (a generator, a connection).

    >>> encode([1, 2]), decode("json", b"[1,2]", "")
    (Encoded(codec='json', data=b'[1,2]', type=''), [1, 2])
    """
    if isinstance(value, pl.DataFrame | pl.LazyFrame | pl.Series):
        encoded = _encode_polars(value)
        if encoded is not None:
            return encoded
    if type(value) is np.ndarray and not value.dtype.hasobject:
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        return Encoded("npy", buffer.getvalue())
    if is_plain(value):
        return Encoded("json", msgspec.json.encode(value))
    said_by_json = getattr(value, "tzinfo", None) is None and not getattr(value, "fold", 0)
    if type(value) in _SCALARS.values() and said_by_json:
        return Encoded("scalar", msgspec.json.encode(value), type(value).__name__)
    if isinstance(value, msgspec.Struct) and (encoded := _encode_struct(value)) is not None:
        return encoded
    return _encode_pickle(value)


def decode(codec: str, data: bytes, kind: str) -> Any:
    """The value of these bytes."""
    match codec:
        case "frame":
            return pl.read_ipc(io.BytesIO(data))
        case "lazyframe":
            return pl.read_ipc(io.BytesIO(data)).lazy()
        case "series":
            return pl.read_ipc(io.BytesIO(data)).to_series().rename(kind)
        case "npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        case "json":
            return msgspec.json.decode(data)
        case "scalar":
            return msgspec.json.decode(data, type=_SCALARS[kind])
        case "struct":
            return msgspec.json.decode(data, type=_found(kind))
        case "pickle":
            return pickle.loads(data)
    raise Invalid(f"an artifact has the unknown codec {codec!r}", "was it written by a newer flyball?")


def shared(value: Any) -> Any:
    """The value as another step may get it without decoding it again, or ``...`` when it could be changed in place."""
    if isinstance(value, pl.DataFrame):
        return value.clone()  # columns are shared; adding or dropping one in place stays with the clone
    if isinstance(value, pl.LazyFrame | str | int | float | bool | date | timedelta) or value is None:
        return value
    return ...


def is_plain(value: Any) -> bool:
    """Whether JSON gives exactly this value back: no tuples, no NaN, keys are text, integers fit 64 bits."""
    if value is None or type(value) in (bool, str):
        return type(value) is not str or _is_text(value)
    if type(value) is int:
        return -(2**63) <= value < 2**64
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is list:
        return all(is_plain(one) for one in value)
    if type(value) is dict:
        return all(type(key) is str and _is_text(key) and is_plain(one) for key, one in value.items())
    return False


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode_polars(value: pl.DataFrame | pl.LazyFrame | pl.Series) -> Encoded | None:
    if isinstance(value, pl.Series):
        codec, kind, frame = "series", value.name, value.to_frame("series")
    else:
        codec, kind = ("frame", "") if isinstance(value, pl.DataFrame) else ("lazyframe", "")
        frame = value.lazy().collect()
    if any(column.dtype == pl.Object for column in frame):
        return None
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="zstd")
    return Encoded(codec, buffer.getvalue(), kind)


def _encode_struct(value: msgspec.Struct) -> Encoded | None:
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    try:
        data = msgspec.json.encode(value)
        found = msgspec.json.decode(data, type=type(value))
        # Equal is not the same: 3 o'clock in New York equals 7 in UTC. Their texts differ.
        same = _found(kind) is type(value) and bool(found == value) and repr(found) == repr(value)
    except (TypeError, ValueError, AttributeError, ImportError, RecursionError, msgspec.MsgspecError):
        return None
    return Encoded("struct", data, kind) if same else None


def _found(kind: str) -> Any:
    module, _, name = kind.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _encode_pickle(value: Any) -> Encoded:
    try:
        return Encoded("pickle", _pickler()(value), f"{type(value).__module__}:{type(value).__qualname__}")
    except Exception as error:
        raise Invalid(
            f"a {type(value).__name__} can't be kept between steps: {error}",
            "return data (a frame, an array, numbers, a fitted model), not a live object",
        ) from error


def _pickler() -> Pickler:
    """cloudpickle when it is there (it can write what a notebook or script defined), else pickle."""
    try:
        dumps: Pickler = import_module("cloudpickle").dumps
    except ImportError:
        return pickle.dumps
    return dumps
