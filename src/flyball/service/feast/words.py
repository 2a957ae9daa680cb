"""Feast's words, said without Feast: what a repository's own files call, kept as it was said.

``from feast import FeatureView`` costs 14 CPU seconds with Feast and needs its hundred packages. A definition needs
none of that: each word here keeps its arguments under Feast's names, and :mod:`flyball.service.feast.facts` reads them.

>>> driver = Entity(name="driver", join_keys=["driver_id"])
>>> trips = FeatureView(name="trips", entities=[driver], schema=[Field(name="rate", dtype=Float64)])
>>> trips.name, trips[["rate"]].projected
('trips', ['rate'])
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar


class _Named(type):
    """What is asked of a class that we know nothing of (``ConflictPolicy.LAST_WRITE_WINS``) is a name."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return Type(f"{cls.__name__}.{name}")


class Word(metaclass=_Named):
    """One object of a repository; what was said of it, by keyword, and what was not is ``None``."""

    positional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **said: Any) -> None:
        self.said: dict[str, Any] = {**dict(zip(self.positional, args, strict=False)), **said}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "said":
            raise AttributeError(name)
        return self.said.get(name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.said.get('name') or ''}>"


class Type:
    """A value's type: ``Float32``, ``Array(Int64)``."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return Type(f"{self.text}.{name}")

    def __call__(self, *inner: Any, **_named: Any) -> Type:
        return Type(f"{self.text}({', '.join(map(repr, inner))})")

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Type) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class _ValueTypes:
    """``ValueType.INT64`` and its like."""

    def __getattr__(self, name: str) -> Type:
        if name.startswith("_"):
            raise AttributeError(name)
        return Type(name)


Float32, Float64, Int32, Int64 = Type("Float32"), Type("Float64"), Type("Int32"), Type("Int64")
Bool, String, Bytes, UnixTimestamp = Type("Bool"), Type("String"), Type("Bytes"), Type("UnixTimestamp")
Array = Type("Array")
ValueType = _ValueTypes()


class PushMode(Enum):
    """Where a push goes."""

    ONLINE = 1
    OFFLINE = 2
    ONLINE_AND_OFFLINE = 3


class Field(Word):
    """One feature, or one value that a request brings."""


class Feature(Word):
    """The old name of a field."""

    positional = ("name", "dtype")


class Entity(Word):
    """What features are of."""


class Project(Word):
    """The name of it all."""


class Aggregation(Word):
    """One aggregate over a window of time."""

    positional = ("column", "function", "time_window", "slide_interval", "name")


class Source(Word):
    """Where rows come from: any class of Feast whose name ends in ``Source``."""


class FileSource(Source):
    """A file, or many."""


class PushSource(Source):
    """Rows that someone pushes; ``batch_source`` holds their history."""


class RequestSource(Source):
    """Values that the request itself brings."""


class View(Word):
    """Any feature view; ``view[["a", "b"]]`` takes some of its features."""

    projected: list[str] | None = None
    alias: str | None = None
    join_keys_by: dict[str, str] | None = None

    def _copied(self, **changed: Any) -> Any:
        other = copy.copy(self)
        other.__dict__.update(changed)
        return other

    def __getitem__(self, features: list[str]) -> Any:
        return self._copied(projected=list(features))

    def with_name(self, name: str) -> Any:
        """The same view under another name."""
        return self._copied(alias=name)

    def with_join_key_map(self, join_key_map: dict[str, str]) -> Any:
        """The same view by another column of the entity rows."""
        return self._copied(join_keys_by=dict(join_key_map))


class FeatureView(View):
    """Features of a source."""


class BatchFeatureView(View):
    """Features that a job computes."""


class StreamFeatureView(View):
    """Features that a stream brings."""


class OnDemandFeatureView(View):
    """Features computed from others and from the request."""


class FeatureService(Word):
    """The features of a model."""


def on_demand_feature_view(**said: Any) -> Callable[[Any], OnDemandFeatureView]:
    """``@on_demand_feature_view(sources=[...], schema=[...])`` over the function that computes them."""
    return _decorator(OnDemandFeatureView, said)


def batch_feature_view(**said: Any) -> Callable[[Any], BatchFeatureView]:
    """``@batch_feature_view(...)`` over the function that transforms the source's rows."""
    return _decorator(BatchFeatureView, said)


def stream_feature_view(**said: Any) -> Callable[[Any], StreamFeatureView]:
    """``@stream_feature_view(...)`` over the function that transforms the stream's rows."""
    return _decorator(StreamFeatureView, said)


def _decorator(kind: Any, said: dict[str, Any]) -> Callable[[Any], Any]:
    def over(function: Any) -> Any:
        return kind(**{"name": function.__name__, **said, "udf": function})

    return over
