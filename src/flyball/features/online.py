"""The feature vector of one request, in microseconds: a hot path, written by hand in plain Python.

All views are read in one consistent look; :mod:`flyball.features.reading` reduces what a view's key holds. On-demand
features are computed last, from request fields and what was looked up. Many entities at once are read by
:mod:`flyball.features.vectors`, with the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import msgspec

from flyball.features.asking import CHECKS, Places, as_typed, bad_key, beyond, requested
from flyball.features.reading import ATTEMPTS, ViewReader, begin
from flyball.features.services import Known, Service, resolve
from flyball.stores.online import OnlineStore, Reading, Rewritten, pack_key

_encode = msgspec.msgpack.Encoder().encode
_LONGEST_BYTES = 400  # a longer key is hashed, by pack_key


class FeatureRow(msgspec.Struct, frozen=True, gc=False):
    """The vector in the service's order, and when the newest row that entered each value happened."""

    values: list[Any]  # float or None; text, int or bool where that is the feature's type
    times_us: list[int | None]  # None for request fields, what is computed, and where nothing entered


class OnlineReader:
    """Reads the vectors of one service; made once per worker, safe to use from several threads.

    An entity that no row is known of has nulls and counts of 0. A key that is missing, or a request field that is
    missing or of the wrong type, is :class:`Invalid` and named.
    """

    def __init__(self, service: Service, known: Known, store: OnlineStore) -> None:
        self.service = service
        self.store = store
        self.vector = vector = resolve(service, known)
        self.entities = vector.entities
        places = Places(vector)
        views = [ViewReader(view, places.slots) for view in vector.views]
        self._views = [(view, view.entity[0] if len(view.entity) == 1 else None) for view in views]
        self._near = store.near
        alone = len(views) == 1 and len(views[0].entity) == 1 and (self._near or bool(views[0].windows))
        self._alone = (views[0], views[0].entity[0]) if alone else None
        self._request = [
            (places.slots[field.name], field, CHECKS[field.datatype]) for field in service.request
        ]
        self._size, self._width = len(service.features), places.width
        self._typed = places.typed
        self._computing = places.computing

    def read(
        self, entities: Mapping[str, Any], request: Mapping[str, Any], at_us: int, *, attempt: int = 1
    ) -> FeatureRow:
        """The vector as of ``at_us`` (microseconds since 1970, UTC), all views from one consistent look."""
        values: list[Any] = [None] * self._width
        times: list[int | None] = [None] * self._width
        for slot, field, check in self._request:
            values[slot] = requested(field, check, request)
        for name in self.entities:
            kind = type(entities.get(name, self))
            if kind is not str and kind is not int and kind is not type(None):
                raise bad_key(self.service, self.entities, name, entities)
        reading = self.store.begin()
        try:
            if self._alone is not None:  # the usual small service: a third less time than the general way
                view, key = self._alone
                packed = _encode((entities[key],))
                address = view.prefix + (
                    packed if len(packed) <= _LONGEST_BYTES else pack_key((entities[key],))
                )
                tail = reading.tail(address)
                if tail is None:
                    view.nothing(values)
                else:
                    view.read(reading, address, tail, at_us, values, times)
            else:
                self._read_views(reading, entities, at_us, values, times)
            if self._typed:
                as_typed(values, self._typed, reading)
        except Rewritten:
            if attempt >= ATTEMPTS:
                raise
            return self.read(entities, request, at_us, attempt=attempt + 1)
        except OverflowError:  # asked here, not of every key before: no store has such a one
            raise beyond(self.entities, entities) from None
        finally:
            reading.close()
        if self._computing is not None:
            self._computing(values)
        if self._width > self._size:
            del values[self._size :], times[self._size :]
        return FeatureRow(values, times)

    def _read_views(
        self,
        reading: Reading,
        entities: Mapping[str, Any],
        at_us: int,
        values: list[Any],
        times: list[int | None],
    ) -> None:
        addresses = []
        for view, key in self._views:
            parts = (entities[key],) if key else [entities[name] for name in view.entity]
            packed = _encode(parts)
            addresses.append(view.prefix + (packed if len(packed) <= _LONGEST_BYTES else pack_key(parts)))
        if self._near:
            begun: Iterable[Any] = zip(reading.tails(addresses), repeat(False))
        else:
            found = begin(reading, [view for view, _ in self._views], [(address,) for address in addresses])
            begun = ((chunks[0], heads) for chunks, heads in found)
        for (view, _), address, (chunk, heads) in zip(self._views, addresses, begun, strict=True):
            if chunk is None:
                view.nothing(values)
            elif heads:
                view.read_head(reading, address, chunk, at_us, values, times)
            else:
                view.read(reading, address, chunk, at_us, values, times)
