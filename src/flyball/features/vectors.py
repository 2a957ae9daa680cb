"""The feature vectors of many entities at once, into NumPy; every value says how it came about.

One look at the store, one exchange with it (:meth:`flyball.stores.online.Reading.tails`). Latest values of all keys are
taken by NumPy from the last rows of their chunks; windows, and keys with rows that are not visible yet, one by one by
:mod:`flyball.features.reading`. The answers are those of :class:`flyball.features.online.OnlineReader`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from flyball.errors import Invalid, nearest
from flyball.features.asking import CHECKS, KEYS, Places, bad_key, beyond, requested
from flyball.features.definitions import text_code
from flyball.features.reading import (
    ATTEMPTS,
    HEAD_BYTES,
    NOT_FOUND,
    NULL,
    OUTSIDE_TTL,
    PRESENT,
    UNANSWERED,
    Begun,
    ViewReader,
    begin,
)
from flyball.features.services import Known, Service, resolve
from flyball.features.shapes import Shaped
from flyball.stores.online import OnlineStore, Reading, Rewritten, pack_key
from flyball.stores.online_chunks import HEAD_WORDS, NEVER, Floats, Ints

Columns = Mapping[str, Sequence[Any]]
Rows = Columns | Sequence[Mapping[str, Any]]
Statuses = NDArray[np.uint8]

_encode = msgspec.msgpack.Encoder().encode
_LONGEST_BYTES = 400  # a longer key is hashed, by pack_key


class Vectors(Shaped):
    """Vectors of several entities: ``values``, ``statuses`` and ``times_us`` are ``(entities, features)``.

    ``values`` are floats, NaN where there is none; texts are codes, which ``texts`` explains. ``times_us`` says when the
    newest row that entered a value happened, in microseconds since 1970; the least integer (NumPy's NaT) where nothing
    did. ``keys`` are the columns that were asked with.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        types: Mapping[str, str],
        keys: Columns,
        values: Floats,
        statuses: Statuses,
        times_us: Ints,
        texts: Mapping[int, str],
    ) -> None:
        self.names, self.types, self.keys, self.texts = names, types, keys, texts
        self.values, self.statuses, self.times_us = values, statuses, times_us

    def __len__(self) -> int:
        return len(self.values)


class VectorReader:
    """Reads the vectors of one service for many entities; made once, safe to use from several threads."""

    def __init__(self, service: Service, known: Known, store: OnlineStore) -> None:
        self.service = service
        self.store = store
        self.vector = vector = resolve(service, known)
        self.entities = vector.entities
        self.places = places = Places(vector)
        self._near = store.near
        self.has_defaults = any(view.defaults for view in vector.views)
        self._views = [ViewReader(view, places.slots) for view in vector.views]
        self._texts = [slot for slot, kind in places.typed if kind == "BYTES"]
        self._defaults = {
            places.slots[f"{view.name}:{name}"]: value
            for view in vector.views
            for name, value in view.defaults.items()
            if f"{view.name}:{name}" in places.slots
        }

    def read(self, entity_rows: Rows, request_rows: Rows = (), at_us: int = 0) -> Vectors:
        """The vectors as of ``at_us`` (microseconds since 1970, UTC), all from one consistent look.

        ``entity_rows`` and ``request_rows`` are columns (name -> values) or rows (one mapping each). A missing or wrong
        key or field is :class:`Invalid`, with its row; a store that does not answer is ``Unavailable``.
        """
        attempt = 0
        while True:
            made, keys = self._asked(entity_rows, request_rows)
            if len(made):
                reading = self.store.begin()
                try:
                    self._look_up(reading, keys, at_us, made)
                    self._read_texts(reading, made)
                except Rewritten:
                    attempt += 1
                    if attempt == ATTEMPTS:
                        raise
                    continue
                finally:
                    reading.close()
            return self._finish(made, keys)

    def unanswered(self, entity_rows: Rows, request_rows: Rows = ()) -> Vectors:
        """The vectors without the store: the views' defaults, else null; each such value says ``UNANSWERED``."""
        made, keys = self._asked(entity_rows, request_rows)
        for name in self.vector.looked_up:
            slot = self.places.slots[name]
            made.statuses[:, slot] = UNANSWERED
            value = self._defaults.get(slot)
            if value is not None:
                made.values[:, slot] = made.coded(value)
        return self._finish(made, keys)

    def _asked(self, entity_rows: Rows, request_rows: Rows) -> tuple[_Made, dict[str, list[Any]]]:
        """The keys and request fields, checked, with room for what is to be read."""
        keys = {name: self._keys(name, entity_rows) for name in self.entities}
        fields = {
            field.name: _column(field.name, request_rows, "field", self._lacks_field)
            for field in self.service.request
        }
        lengths = {name: len(column) for name, column in (*keys.items(), *fields.items())}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise Invalid(
                f"the columns asked with differ in length: {shown}", "give each entity's row all of them"
            )
        rows = next(iter(lengths.values())) if lengths else _length(entity_rows)
        made = _Made(rows, self.places.width)
        for field in self.service.request:
            column, check = fields[field.name], CHECKS[field.datatype]
            made.put_values(self.places.slots[field.name], _checked(field, column, check))
        return made, keys

    def _keys(self, name: str, rows: Rows) -> list[Any]:
        column = _column(
            name, rows, "entity", lambda missing, row: bad_key(self.service, self.entities, missing, row)
        )
        if not KEYS.issuperset(map(type, column)):
            column = [value.item() if isinstance(value, np.generic) else value for value in column]
        if not KEYS.issuperset(map(type, column)):
            at = next(at for at, value in enumerate(column) if type(value) not in KEYS)
            error = bad_key(self.service, self.entities, name, {name: column[at]})
            raise Invalid(f"row {at}: {error.what}", error.hint, row=at, **error.facts)
        return column

    def _lacks_field(self, name: str, row: Mapping[str, Any]) -> Invalid:
        return Invalid(f"the request lacks field {name!r}", nearest(name, list(row)), field=name)

    def _look_up(self, reading: Reading, keys: Mapping[str, list[Any]], at_us: int, made: _Made) -> None:
        packed: dict[tuple[str, ...], list[bytes]] = {}
        addresses: list[list[bytes]] = []
        for view in self._views:
            if view.entity not in packed:
                try:
                    packed[view.entity] = _packed([keys[name] for name in view.entity])
                except OverflowError:
                    largest = {name: max((key for key in keys[name] if type(key) is int), key=abs, default=0)
                               for name in view.entity}  # fmt: skip
                    raise beyond(view.entity, largest) from None
            prefix = view.prefix
            addresses.append([prefix + key for key in packed[view.entity]])
        begun = begin(reading, self._views, addresses, near=self._near)
        for view, mine, one in zip(self._views, addresses, begun, strict=True):
            _read_view(view, reading, mine, one, at_us, made)

    def _read_texts(self, reading: Reading, made: _Made) -> None:
        for slot in self._texts:
            column = made.values[:, slot]
            for code in np.unique(column[~np.isnan(column)]).tolist():
                text = reading.text(int(code))
                if text is not None:
                    made.texts[int(code)] = text

    def _finish(self, made: _Made, keys: Mapping[str, list[Any]]) -> Vectors:
        places, features = self.places, self.service.features
        types = {name: places.types[name] for name in features}
        vectors = Vectors(
            places.names, places.types, keys, made.values, made.statuses, made.times, made.texts
        )
        if places.computing is not None:
            self._compute(vectors, made)
        width = len(features)
        return Vectors(
            features,
            types,
            keys,
            made.values[:, :width],
            made.statuses[:, :width],
            made.times[:, :width],
            made.texts,
        )

    def _compute(self, vectors: Vectors, made: _Made) -> None:
        """On-demand features, row by row by the same function that serves one."""
        places = self.places
        assert places.computing is not None
        columns = [vectors.column(name) for name in places.names]
        rows = [list(row) for row in zip(*columns, strict=True)]
        for row in rows:
            places.computing(row)
        for one in self.vector.computed:
            for name in one.features:
                slot = places.slots.get(name)
                if slot is not None:
                    made.put_values(slot, [row[slot] for row in rows])


class _Made:
    """Vectors while they are made."""

    def __init__(self, rows: int, width: int) -> None:
        self.values = np.full((rows, width), np.nan)
        self.statuses = np.full((rows, width), NOT_FOUND, dtype=np.uint8)
        self.times = np.full((rows, width), NEVER, dtype=np.int64)
        self.texts: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.values)

    def coded(self, value: Any) -> float:
        """A value as a float: of a text, its code."""
        if type(value) is not str:
            return float(value)
        code = text_code(value)
        self.texts[code] = value
        return float(code)

    def put_values(self, slot: int, column: Sequence[Any]) -> None:
        """A column that has no times: what the request brings and what is computed."""
        if not all(type(value) is float for value in column):
            column = [math.nan if value is None else self.coded(value) for value in column]
        self.values[:, slot] = column
        self.statuses[:, slot] = np.where(np.isnan(self.values[:, slot]), NULL, PRESENT)


def _read_view(
    view: ViewReader, reading: Reading, addresses: Sequence[bytes], begun: Begun, at_us: int, made: _Made
) -> None:
    """One view of all keys."""
    chunks = begun.chunks
    present = [row for row, chunk in enumerate(chunks) if chunk is not None]
    for slot in view.zero_slots:
        made.values[:, slot] = 0.0
    if not present:
        return
    if view.windows:
        _read_each(view, reading, [(row, addresses[row], chunks[row]) for row in present], at_us, made)
        return
    found = chunks if len(present) == len(chunks) else [chunks[row] for row in present]
    waiting = _read_latest(view, found, begun.heads, np.array(present), at_us, made)
    if waiting:
        there: list[Any] = [chunks[row] for row in waiting]
        if begun.heads:
            there = reading.tails([addresses[row] for row in waiting])
        pairs = zip(waiting, there, strict=True)
        still = [
            (row, addresses[row], tail) for row, tail in pairs if tail is not None
        ]  # others are cleared since
        if still:
            _read_each(view, reading, still, at_us, made)


def _read_latest(
    view: ViewReader, chunks: Sequence[Any], heads: bool, rows: Ints, at_us: int, made: _Made
) -> list[int]:
    """Latest values from the newest rows of chunks; returns the rows whose newest one is not visible yet."""
    layout = view.layout
    if heads:
        joined, width = b"".join(chunks), HEAD_WORDS + 4 + layout.columns
    else:
        last = -layout.row_bytes
        joined = b"".join([part for chunk in chunks for part in (chunk[:HEAD_BYTES], chunk[last:])])
        width = HEAD_WORDS + layout.row_words
    if len(joined) != 8 * width * len(chunks):
        raise view.torn()
    words = np.frombuffer(joined, np.float64).reshape(-1, width)
    bits = words.view(np.int64)
    if (bits[:, 0] != layout.mark).any():
        raise view.torn()
    ready = bits[:, 4] <= at_us
    waiting: list[int] = []
    if not ready.all():
        waiting = rows[~ready].tolist()
        rows, words, bits = rows[ready], words[ready], bits[ready]
    happened = bits[:, HEAD_WORDS]
    columns = [HEAD_WORDS + 4 + column for _, column in view.latest]
    values = words[:, columns]
    statuses = np.where(np.isnan(values), np.uint8(NULL), np.uint8(PRESENT))
    times = np.where(statuses == PRESENT, happened[:, None], NEVER)
    if view.ttl_us is not None:
        outside = at_us - happened > view.ttl_us
        if outside.any():
            values[outside], statuses[outside], times[outside] = np.nan, OUTSIDE_TTL, NEVER
    whole = view.latest_slice is not None and len(rows) == len(made)
    where: Any = (slice(None), view.latest_slice) if whole else np.ix_(rows, np.array(view.latest_slots))
    made.values[where], made.statuses[where], made.times[where] = values, statuses, times
    return waiting


def _read_each(
    view: ViewReader, reading: Reading, asked: Sequence[tuple[int, bytes, Any]], at_us: int, made: _Made
) -> None:
    """Keys one by one: windows, and rows that are not all visible."""
    width = made.values.shape[1]
    slots = [*view.latest_slots, *view.window_slots]
    values, times, states = [], [], []
    for _, address, tail in asked:
        row: list[Any] = [None] * width
        at: list[int | None] = [None] * width
        states.append(view.read(reading, address, tail, at_us, row, at))
        values.append([row[slot] for slot in slots])
        times.append([NEVER if (time := at[slot]) is None else time for slot in slots])
    where = np.ix_([row for row, _, _ in asked], slots)
    found = np.array(values, dtype=np.float64)
    statuses = np.where(np.isnan(found), np.uint8(NULL), np.uint8(PRESENT))
    state = np.array(states)
    statuses[state == NOT_FOUND] = NOT_FOUND
    statuses[state == OUTSIDE_TTL, : len(view.latest_slots)] = OUTSIDE_TTL
    made.values[where], made.statuses[where], made.times[where] = found, statuses, np.array(times)


def _packed(columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """The keys of all rows as bytes."""
    if len(columns) == 1:
        packed = [_encode((value,)) for value in columns[0]]
    else:
        packed = [_encode(parts) for parts in zip(*columns, strict=True)]
    if packed and max(map(len, packed)) > _LONGEST_BYTES:
        packed = [pack_key(parts) for parts in zip(*columns, strict=True)]
    return packed


def _column(
    name: str, rows: Rows, kind: str, missing: Callable[[str, Mapping[str, Any]], Invalid]
) -> list[Any]:
    """One column of what is asked, as a list."""
    if isinstance(rows, Mapping):
        if name not in rows:
            raise missing(name, rows)
        column: Any = rows[name]
        if isinstance(column, list):
            return column
        if isinstance(column, str) or not hasattr(column, "__len__"):
            raise Invalid(
                f"{kind} {name!r} is one value, not a column", f"write {{{name!r}: [...]}}", field=name
            )
        return list(column.tolist() if hasattr(column, "tolist") else column)
    try:
        return [row[name] for row in rows]
    except KeyError:
        at = next(at for at, row in enumerate(rows) if name not in row)
        error = missing(name, rows[at])
        raise Invalid(f"row {at}: {error.what}", error.hint, row=at, **error.facts) from None


def _length(rows: Rows) -> int:
    return len(next(iter(rows.values()), ())) if isinstance(rows, Mapping) else len(rows)


def _checked(field: Any, column: list[Any], check: Callable[[Any], Any]) -> list[Any]:
    """A request field's values; a wrong one is named with its row."""
    found = []
    for at, value in enumerate(column):
        try:
            found.append(requested(field, check, {field.name: value}))
        except Invalid as error:
            raise Invalid(f"row {at}: {error.what}", error.hint, row=at, **error.facts) from None
    return found
