"""Features by themselves, from a worker: our own JSON, and that of Feast's feature server, whose clients can switch.

Hand-written like the path of predictions: definitions come from the plan, readers are made once per service and kept,
and a store that does not answer is left alone for a moment; declared defaults stand in, or the answer is 503.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from flyball.core.plan import Plan
from flyball.errors import FlyballError, Invalid, NotFound, nearest
from flyball.serve.lookup import definitions
from flyball.serve.metrics import Metrics
from flyball.wire.features import FeastBody, read_feast, read_features
from flyball.wire.predict import read_time

if TYPE_CHECKING:
    from flyball.features.services import Service
    from flyball.features.vectors import VectorReader, Vectors
    from flyball.stores.online import OnlineStore, Reading

log = logging.getLogger(__name__)
_MOST_READERS = 256  # of services named on the spot; the oldest makes room
_STATUSES = (
    "INVALID",
    "PRESENT",
    "NULL_VALUE",
    "NOT_FOUND",
    "OUTSIDE_MAX_AGE",
    "INVALID",
)  # Feast's words for ours
_NO_TIME = "1970-01-01T00:00:00Z"
_encode = msgspec.json.Encoder().encode


class LateStore:
    """The online store of a plan, opened when it is first read, and anew after it failed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.near = url.startswith("lmdb:")
        self._store: OnlineStore | None = None

    def begin(self) -> Reading:
        """One look at the store."""
        if self._store is None:
            from flyball.stores.online import open_online

            self._store = open_online(self.url, readonly=True)
        return self._store.begin()

    def forget(self) -> None:
        """Let go of it; it is opened anew when it is next asked."""
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except (FlyballError, OSError) as error:  # it is broken already
                log.debug("the online store could not be closed", extra={"because": str(error)})


class FeatureAnswers:
    """What one plan answers feature reads with. Safe to use from several threads."""

    def __init__(self, plan: Plan, metrics: Metrics) -> None:
        self.plan = plan
        self.waits = not plan.online.startswith(
            "lmdb:"
        )  # a read may wait for the network: not in the loop's thread
        self._metrics = metrics
        self._store: Any = LateStore(plan.online)
        self._known: Mapping[str, Any] | None = None
        self._patience: Any = None
        self._readers: dict[Any, VectorReader] = {}
        self._called: WeakKeyDictionary[VectorReader, dict[bool, dict[str, str]]] = WeakKeyDictionary()

    def answer(self, service: str, body: bytes) -> bytes:
        """``POST /features/{service}``: values, statuses and times by feature; of a list of entities, lists."""
        entities, fields, alone, at = read_features(body)
        at_us = time.time_ns() // 1000 if at is None else read_time(at, "at")
        reader = self._reader(service)
        _refuse_strays(reader, entities, fields, alone)
        try:
            found = self._read(reader, entities, fields, at_us)
        except Invalid as error:
            raise _placed(error, reader, alone) from None
        columns = [(name, found.column(name), found.status(name), found.times(name)) for name in found.names]
        pick: Callable[[list[Any]], Any] = (lambda column: column[0]) if alone else (lambda column: column)
        return _encode(
            {
                "values": {name: pick(values) for name, values, _, _ in columns},
                "statuses": {name: pick(statuses) for name, _, statuses, _ in columns},
                "times": {name: pick(times) for name, _, _, times in columns},
            }
        )

    def listed(self) -> dict[str, Any]:
        """``GET /features``: what can be asked for, and what each service must be asked with."""
        found: dict[str, Any] = {}
        for name in self.plan.features.services:
            try:
                reader = self._reader(name)
            except FlyballError as error:  # its on-demand code is not here, say; the others are
                found[name] = error.as_json()
                continue
            found[name] = {
                "entities": list(reader.entities),
                "request": {field.name: field.datatype for field in reader.service.request},
                "features": {feature: reader.places.types[feature] for feature in reader.service.features},
            }
        return {"services": found}

    def answer_feast(self, body: bytes) -> bytes:
        """``POST /get-online-features``: the answer of Feast 0.67's feature server."""
        asked = read_feast(body)
        reader = self._reader(
            asked.feature_service or tuple(name.replace("@v", "@") for name in asked.features)
        )
        names, full = self._called.setdefault(reader, {}), asked.full_feature_names
        called = names.get(full)
        if called is None:
            called = names[full] = _called(reader, full=full)
        found = self._read(reader, asked.entities, asked.entities, time.time_ns() // 1000)
        return _encode(_as_feast(reader, found, asked, called))

    def _read(self, reader: VectorReader, entities: Any, fields: Any, at_us: int) -> Vectors:
        from flyball.features.patience import read

        failures = self._patience.failures
        try:
            found = read(reader, self._patience, entities, fields, at_us)
        finally:
            if self._patience.failures > failures:
                self._metrics.count("online_store_failures")
                self._store.forget()
            if self._patience.failures:
                self._metrics.count("online_store_absent")
        return found

    def _reader(self, asked: str | tuple[str, ...]) -> VectorReader:
        reader = self._readers.get(asked)
        if reader is None:
            from flyball.features.patience import Patience
            from flyball.features.vectors import VectorReader

            if self._known is None:
                self._patience = Patience()
                self._known = definitions(self.plan.features.views, self.plan.features.on_demand)
            reader = VectorReader(self._service(asked), self._known, self._store)
            while len(self._readers) >= _MOST_READERS:
                self._readers.pop(next(iter(self._readers)), None)
            self._readers[asked] = reader
        return reader

    def _service(self, asked: str | tuple[str, ...]) -> Service:
        from flyball.features.services import Service, service_for

        if isinstance(asked, tuple):
            return service_for(asked, self._known or {})
        services = self.plan.features.services
        if asked not in services:
            raise NotFound(
                f"no feature service {asked!r}",
                nearest(asked, list(services)) + "; flyball features apply makes new ones known here",
                field="service",
            )
        return msgspec.convert(services[asked], Service)


def _refuse_strays(reader: VectorReader, entities: Any, fields: Any, alone: bool) -> None:
    """A name that nobody asked for is most likely misspelt."""
    keys, names = frozenset(reader.entities), frozenset(field.name for field in reader.service.request)
    for kind, rows, known in (("entities", entities, keys), ("features", fields, names)):
        for at, row in enumerate(rows):
            stray = next((name for name in row if name not in known), None)
            if stray is not None:
                place = f"{kind}.{stray}" if alone else f"{kind}[{at}].{stray}"
                raise Invalid(f"unknown {kind} {stray!r}", nearest(stray, sorted(known)), field=place)


def _placed(error: Invalid, reader: VectorReader, alone: bool) -> Invalid:
    """Say where in the request a wrong key or field stands."""
    name, row = error.facts.get("field"), error.facts.get("row")
    if name is None:
        return error
    kind = "entities" if name in reader.entities else "features"
    what = error.what.removeprefix(f"row {row}: ") if alone else error.what
    return Invalid(what, error.hint, field=f"{kind}.{name}" if alone else f"{kind}[{row}].{name}")


def _as_feast(
    reader: VectorReader, found: Vectors, asked: FeastBody, called: Mapping[str, str]
) -> dict[str, Any]:
    """Keys first, then request fields, then features: those of one view together, what is computed last."""
    request = [field.name for field in reader.service.request]
    given = [name for name in asked.entities if name in reader.entities or name in request]
    rows = len(found)
    results = [
        {
            "values": asked.entities[name],
            "statuses": ["PRESENT"] * rows,
            "event_timestamps": [_NO_TIME] * rows,
        }
        for name in given
    ]
    names = list(given)
    for feature, name in called.items():
        names.append(name)
        place = found.place(feature)
        results.append(
            {
                "values": found.column(feature),
                "statuses": [_STATUSES[status] for status in found.statuses[:, place].tolist()],
                "event_timestamps": [*map(_feast_time, found.times(feature))],
            }
        )
    return {"results": results, "metadata": {"feature_names": names}}


def _called(reader: VectorReader, *, full: bool) -> dict[str, str]:
    """Feature -> its name in Feast's answer, in Feast's order."""
    views = [view.name for view in reader.vector.views] + [one.name for one in reader.vector.computed]
    features = [name for name in reader.service.features if ":" in name]
    features.sort(key=lambda name: views.index(name.partition(":")[0]))
    called = {name: name.replace(":", "__") if full else name.partition(":")[2] for name in features}
    short = list(called.values())
    for name in short:
        if short.count(name) > 1:
            raise Invalid(
                f"two of the features are called {name!r}",
                "full_feature_names: true calls them view__feature",
                field="features",
            )
    return called


@lru_cache(maxsize=4096)  # all features of a row happened at once
def _feast_time(shown: str | None) -> str:
    """Feast writes whole seconds without a fraction, milliseconds with three digits."""
    if shown is None:
        return _NO_TIME
    return shown.replace("000Z", "Z") if "." in shown else shown


def feast_error(error: FlyballError) -> bytes:
    """An error as Feast's client reads it: a JSON text that holds the class to raise and what to say."""
    kind = "FeatureViewNotFoundException" if isinstance(error, NotFound) else "FeastError"
    return _encode(json.dumps({"module": "feast.errors", "class": kind, "message": str(error)}))
