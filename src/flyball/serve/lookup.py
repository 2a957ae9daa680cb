"""Feature values of one request: from the online store when the endpoint has a feature service, else from the request.

The store is opened when it is first needed, and again a moment after it failed; meanwhile a view's defaults, else
nulls, stand in, which is counted. A value of the future can't come out: the reader takes the request's own time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.plan import Endpoint
from flyball.core.records import Field, Signature
from flyball.errors import FlyballError, Internal, Invalid, Unavailable, nearest
from flyball.serve.metrics import Metrics
from flyball.wire.predict import Value, number, unknown_field

if TYPE_CHECKING:
    from flyball.features.definitions import View
    from flyball.features.online import OnlineReader
    from flyball.features.services import OnDemand

log = logging.getLogger(__name__)
_USUAL = frozenset((float, type(None)))
_FLOAT, _LARGEST = {float}, 3.4e38  # what JSON numbers usually are, and the last that float32 holds

Vector = tuple[list[float | None], list[int | None]]  # values and their source times, in signature order


class FromRequest:
    """The request brings every feature, by the names of the model's inputs."""

    waits = False

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
    """The request brings entity keys and request fields; the rest is looked up as of the request's time.

    A store that fails, or answers too late, is left alone for a moment (:class:`flyball.features.patience.Patience`):
    meanwhile, and whenever it does not answer, a view's defaults stand in, else null. Both are counted.
    """

    def __init__(self, endpoint: Endpoint, online: str, metrics: Metrics) -> None:
        from flyball.features.asking import Places, Unanswered
        from flyball.features.patience import Patience
        from flyball.features.services import Service, resolve

        assert endpoint.service is not None
        self.service = msgspec.convert(endpoint.service, Service)
        self.known = definitions(endpoint.views, endpoint.on_demand)
        vector = resolve(self.service, self.known)
        self.waits = not online.startswith(
            "lmdb:"
        )  # a read may wait for the network: not in the loop's thread
        places = Places(vector)
        self.types = {name: places.types[name] for name in self.service.features if ":" in name}
        self._unanswered = Unanswered(vector, places)
        self._entities = vector.entities
        self._request = {field.name: field for field in self.service.request}
        self._looked_up = tuple(name for name in self.service.features if ":" in name)
        self._url, self._metrics = online, metrics
        self._reader: OnlineReader | None = None
        self._patience = Patience()

    def read(self, entities: Mapping[str, Value], request: Mapping[str, Value], at_us: int) -> Vector:
        """The values in the service's order, with the time each happened."""
        if len(entities) != len(self._entities) or len(request) > len(self._request):
            self._refuse_strays(entities, request)
        if not self._patience.failures or self._patience.may_ask():
            try:
                row = (self._reader or self._open()).read(entities, request, at_us)
            except (Invalid, Internal):
                self._check(entities, request)  # says it with the place in the request, if it can
                raise
            except Exception as error:  # noqa: BLE001 (a store that breaks must not break the answer; it is logged)
                self._note_failure(error)
            else:
                if self._patience.failures:
                    self._patience.answered()
                return self._plain(row.values), row.times_us
        self._check(entities, request)
        self._metrics.count("online_store_absent")
        values = self._plain(self._unanswered.values(request))
        return values, [None] * len(values)

    def _plain(self, values: list[Any]) -> list[float | None]:
        if _USUAL.issuperset(map(type, values)):
            return values
        return [_plain(name, value) for name, value in zip(self.service.features, values, strict=True)]

    def _open(self) -> OnlineReader:
        from flyball.features.online import OnlineReader
        from flyball.stores.online import open_online

        try:
            store = open_online(self._url, readonly=True)
        except FlyballError as error:  # a wrong URL among them: not the request's fault
            raise Unavailable(error.what, error.hint) from error
        self._reader = reader = OnlineReader(self.service, self.known, store)
        return reader

    def _note_failure(self, error: Exception) -> None:
        self._patience.failed()
        self._metrics.count("online_store_failures")
        log.warning(
            "the online store does not answer; defaults or nulls stand in",
            extra={"because": str(error), "failures": self._patience.failures},
            exc_info=not isinstance(error, FlyballError | OSError),
        )
        reader, self._reader = self._reader, None
        if reader is not None:
            try:
                reader.store.close()
            except Exception:  # it is broken already
                log.debug("the online store could not be closed", exc_info=True)

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


def definitions(
    views: Mapping[str, dict[str, Any]], on_demand: Mapping[str, dict[str, Any]]
) -> dict[str, View | OnDemand]:
    """The plan's definitions by name."""
    from flyball.features.definitions import View
    from flyball.features.services import OnDemand

    known: dict[str, View | OnDemand] = {name: msgspec.convert(one, View) for name, one in views.items()}
    return known | {name: msgspec.convert(one, OnDemand) for name, one in on_demand.items()}


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
    for name, kind in found.types.items():
        if kind == "BYTES":
            raise Invalid(
                f"the feature service {found.service.name!r} gives {endpoint.name!r} texts: {name}",
                "a model takes numbers; compute one of the text on demand",
                endpoint=endpoint.name,
                feature=name,
            )
    return found


def _plain(name: str, value: Any) -> float | None:
    if value is None or isinstance(value, str):
        return number(value, f"features.{name}")
    as_float = float(value)
    return None if math.isnan(as_float) else as_float
