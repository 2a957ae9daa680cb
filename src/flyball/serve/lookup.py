"""Feature values of one request: from the online store when the endpoint has a feature service, else from the request.

The store is opened when it is first needed, and again each second while it is absent; meanwhile its features are null,
which is counted. A value of the future can't come out: the reader takes the request's own time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.plan import Endpoint
from flyball.core.records import Field, Signature
from flyball.errors import FlyballError, Invalid, nearest
from flyball.serve.metrics import Metrics
from flyball.wire.predict import Value, number, unknown_field

if TYPE_CHECKING:
    from flyball.features.online import OnlineReader

log = logging.getLogger(__name__)
_RETRY_S = 1.0
_USUAL = frozenset((float, type(None)))
_FLOAT, _LARGEST = {float}, 3.4e38  # what JSON numbers usually are, and the last that float32 holds

Vector = tuple[list[float | None], list[int | None]]  # values and their source times, in signature order


class FromRequest:
    """The request brings every feature, by the names of the model's inputs."""

    def __init__(self, signature: Signature) -> None:
        self._fields = signature.inputs
        self._names = [field.name for field in signature.inputs]
        self._known = frozenset(self._names)
        self._no_times: list[int | None] = [None] * len(self._names)

    def read(self, entities: Mapping[str, Value], request: Mapping[str, Value], at_us: int) -> Vector:
        """The values in signature order; a name too many or too few is refused."""
        values: list[Any] = [*map(request.get, self._names)]
        usual = set(map(type, values)) == _FLOAT and min(values) > -_LARGEST and max(values) < _LARGEST
        if not usual:
            values = [self._one(field, request) for field in self._fields]
        if len(request) != len(self._fields):
            self._refuse_stray(request)
        return values, self._no_times

    def _refuse_stray(self, request: Mapping[str, Value]) -> None:
        stray = next((name for name in request if name not in self._known), None)
        if stray is not None:
            raise unknown_field("features", stray, self._names)

    def _one(self, field: Field, request: Mapping[str, Value]) -> float | None:
        value = request.get(field.name)
        if value is None and (field.name not in request or not field.nullable):
            self._refuse_stray(request)
            missing = field.name not in request
            raise Invalid(
                f"features.{field.name} is {'missing' if missing else 'null'}",
                "send null where a value is unknown" if field.nullable else "this model needs it",
                field=f"features.{field.name}",
            )
        return number(value, f"features.{field.name}")


class FromStore:
    """The request brings entity keys and request fields; the rest is looked up as of the request's time."""

    def __init__(self, endpoint: Endpoint, online: str, metrics: Metrics) -> None:
        from flyball.features.definitions import Service, View

        assert endpoint.service is not None
        self.service = msgspec.convert(endpoint.service, Service)
        self.views = {name: msgspec.convert(view, View) for name, view in endpoint.views.items()}
        self._entities = self.service.entities(self.views)
        self._request = {field.name: field for field in self.service.request}
        self._looked_up = tuple(name for name in self.service.features if ":" in name)
        self._url, self._metrics = online, metrics
        self._reader: OnlineReader | None = None
        self._retry_at = 0.0

    def read(self, entities: Mapping[str, Value], request: Mapping[str, Value], at_us: int) -> Vector:
        """The values in the service's order, with the time each happened."""
        if len(entities) != len(self._entities) or len(request) > len(self._request):
            self._refuse_strays(entities, request)
        names, reader = self.service.features, self._reader or self._open()
        if reader is not None:
            try:
                row = reader.read(entities, request, at_us)
                values = row.values
                if not _USUAL.issuperset(map(type, values)):
                    values = [_plain(name, value) for name, value in zip(names, values, strict=True)]
                return values, row.times_us
            except Invalid:
                self._check(entities, request)  # says it with the place in the request, if it can
                raise
            except Exception:  # a store that breaks must not break the answer
                log.exception("the online store failed; its features are null")
                self._reader, self._retry_at = None, time.monotonic() + _RETRY_S
        self._check(entities, request)
        self._metrics.count("online_store_absent")
        values = [None if ":" in name else _plain(name, request.get(name)) for name in names]
        return values, [None] * len(values)

    def _check(self, entities: Mapping[str, Value], request: Mapping[str, Value]) -> None:
        for name in self._entities:
            if name not in entities:  # a null key is a key: nothing is known of it
                self._refuse_strays(entities, request)
                raise Invalid(
                    f"the entity {name!r} is missing",
                    f"send entities: {', '.join(self._entities)}",
                    field=f"entities.{name}",
                )
        for name, field in self._request.items():
            value = request.get(name)
            if value is None:
                if not field.nullable:
                    self._refuse_strays(entities, request)
                    raise Invalid(
                        f"features.{name} is {'null' if name in request else 'missing'}",
                        f"this endpoint needs {', '.join(self._request)}",
                        field=f"features.{name}",
                    )
            elif field.datatype != "BYTES":
                number(value, f"features.{name}")

    def _refuse_strays(self, entities: Mapping[str, Value], request: Mapping[str, Value]) -> None:
        for name in entities:
            if name not in self._entities:
                raise unknown_field("entities", name, list(self._entities))
        for name in request:
            if name in self._looked_up:
                raise Invalid(
                    f"features.{name} is looked up, not sent", "leave it out", field=f"features.{name}"
                )
            if name not in self._request:
                raise unknown_field("features", name, list(self._request))

    def _open(self) -> OnlineReader | None:
        if time.monotonic() < self._retry_at:
            return None
        try:
            from flyball.features.online import OnlineReader
            from flyball.stores.online import open_online

            store = open_online(self._url, readonly=True)
            self._reader = OnlineReader(self.service, self.views, store)
        except (FlyballError, OSError) as error:
            log.warning("the online store is absent; its features are null", extra={"because": str(error)})
            self._retry_at = time.monotonic() + _RETRY_S
        return self._reader


def lookup_for(
    endpoint: Endpoint, signature: Signature, online: str, metrics: Metrics
) -> FromRequest | FromStore:
    """The way this endpoint gets its features; a service that does not fit the model is refused."""
    if endpoint.service is None:
        return FromRequest(signature)
    found = FromStore(endpoint, online, metrics)
    if len(found.service.features) != len(signature.inputs):
        raise Invalid(
            f"the feature service {found.service.name!r} has {len(found.service.features)} features, "
            f"the model of {endpoint.name!r} takes {len(signature.inputs)}",
            nearest(found.service.name, [found.service.name]),
            endpoint=endpoint.name,
        )
    return found


def _plain(name: str, value: Any) -> float | None:
    if value is None or isinstance(value, str):
        return number(value, f"features.{name}")
    as_float = float(value)
    return None if math.isnan(as_float) else as_float
