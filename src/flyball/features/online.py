"""The feature vector of one request, in microseconds: a hot path, written by hand in plain Python.

Per view one chunk is read (:mod:`flyball.stores.online_chunks`). A window is the difference of two rows of
running sums, the newest one and the one before the window begins, found by bisection over the map itself; NumPy
would cost more to enter than these few words cost to read. Rows not yet visible at t are found from the newest ready
time noted beside each row and taken off one by one; as a rule there are none.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from flyball.core.clock import from_us
from flyball.errors import Invalid, Unavailable, nearest
from flyball.features.definitions import RequestField, Service, View
from flyball.stores.online import OnlineStore, Reading, pack_key, view_address
from flyball.stores.online_chunks import NEVER, layout_of

_SECOND = 1_000_000
_COUNT_ROWS, _COUNT, _SUM, _MEAN, _STD, _MIN, _MAX, _LAST = range(8)
_CODES = {"count": _COUNT, "sum": _SUM, "mean": _MEAN, "std": _STD, "min": _MIN, "max": _MAX, "last": _LAST}
_LOST = 1e6  # when all sums of squares are this many times the window's, too many digits have cancelled
Asked = tuple[Reading, bytes, memoryview, int, int]  # look, address, chunk of t, offset of its last row, t
Row = tuple[Any, ...]  # happened, known, row id, newest ready so far, values..., (count, sum, squares)...

# where it begins, values in it, newest visible row; last row and row before it, their headers; hidden rows
WindowEnds = tuple[int, float, Row, Row, Row, Row, Row | None, list[Row]]


class FeatureRow(msgspec.Struct, frozen=True):
    """The vector in the service's order, and when the newest row that entered each value happened."""

    values: list[Any]  # float or None; text where the request field is BYTES
    times_us: list[int | None]  # None for request fields, and where nothing entered


class OnlineReader:
    """Reads the vectors of one service; made once per worker, safe to use from several threads.

    An entity that no row is known of has nulls and counts of 0. A key that is missing, or a request field that is
    missing or of the wrong type, is :class:`Invalid` and named.
    """

    def __init__(
        self, service: Service, views: Iterable[View] | Mapping[str, View], store: OnlineStore
    ) -> None:
        self.service = service
        self.store = store
        slots = {name: slot for slot, name in enumerate(service.features)}
        used = service.uses(views)
        self.entities = service.entities(used)
        self._views = [(view.entity, view_address(view.stored_as), _ViewReader(view, slots)) for view in used]
        self._request = [(slots.get(field.name), field, _CHECKS[field.datatype]) for field in service.request]
        self._size = len(service.features)

    def read(self, entities: Mapping[str, Any], request: Mapping[str, Any], at_us: int) -> FeatureRow:
        """The vector as of ``at_us`` (microseconds since 1970, UTC), all views from one consistent look."""
        values: list[Any] = [None] * self._size
        row = FeatureRow(values, [None] * self._size)
        for slot, field, check in self._request:
            value = _requested(field, check, request)
            if slot is not None:
                values[slot] = value
        for name in self.entities:
            kind = type(entities.get(name, self))
            if kind is not str and kind is not int and kind is not type(None):
                raise self._bad_key(name, entities)
        reading = self.store.begin()
        try:
            tail_of = reading.tail
            for entity, prefix, view in self._views:
                address = prefix + pack_key([entities[name] for name in entity])
                tail = tail_of(address)
                if tail is None:
                    for slot in view.counts:
                        values[slot] = 0.0
                else:
                    view.read(reading, address, tail, at_us, row)
        finally:
            reading.close()
        return row

    def _bad_key(self, name: str, entities: Mapping[str, Any]) -> Invalid:
        if name not in entities:
            return Invalid(
                f"the request lacks entity {name!r}",
                f"service {self.service.name!r} needs: {', '.join(self.entities)}",
                field=name,
            )
        return Invalid(
            f"entity {name!r} is {entities[name]!r}", "a key is a text, a whole number or null", field=name
        )


class _ViewReader:
    """One view's part of the vector, with all names resolved to places."""

    def __init__(self, view: View, slots: Mapping[str, int]) -> None:
        self.name = view.name
        self.layout = layout_of(len(view.stored_columns))
        self.ttl_us = None if view.ttl_s is None else view.ttl_s * _SECOND
        columns = {name: i for i, name in enumerate(view.stored_columns)}
        self.latest = [
            (slots[f"{view.name}:{name}"], columns[name])
            for name in view.columns
            if f"{view.name}:{name}" in slots
        ]
        self.zeros: Row = (0,) * 4 + (0.0,) * (4 * self.layout.columns)
        by_length: dict[int, list[tuple[int, int, int, int, int]]] = {}
        self.counts: list[int] = []
        for window in view.windows:
            slot = slots.get(f"{view.name}:{window.name}")
            if slot is None:
                continue
            code = _COUNT_ROWS if window.column is None else _CODES[window.function]
            column = 0 if window.column is None else columns[window.column]
            k = 4 + self.layout.columns + 3 * column  # its count in a row, and (below) in a header
            by_length.setdefault(window.window_s * _SECOND, []).append((slot, code, column, k, k + 2))
            if window.function == "count":
                self.counts.append(slot)
        self.windows = sorted(by_length.items())

    def read(
        self,
        reading: Reading,
        address: bytes,
        tail: memoryview,
        at_us: int,
        into: FeatureRow,
    ) -> None:
        """Put this view's values and times into their slots."""
        layout = self.layout
        columns, _, _, _, ready, dropped, *_ = head = layout.header.unpack_from(tail)
        if columns != layout.columns:
            raise Unavailable(
                f"the online store holds other columns than view {self.name!r} has",
                f"flyball features materialize {self.name} --rebuild",
            )
        hidden: list[Row] = []
        if ready <= at_us:
            end = len(tail) - layout.row_bytes
            newest: Row | None = layout.row.unpack_from(tail, end)
        else:
            tail, end = self._end(reading, address, tail, at_us)
            own = layout.header.unpack_from(tail)
            head = (*own[:5], dropped, *own[6:])  # what was dropped is noted in the newest chunk only
            hidden = self._hidden(reading, address, tail, end, at_us)
            newest = next(self._visible(reading, address, tail, end, at_us), None)
        if newest is None:
            if dropped != NEVER:
                raise self._too_old(at_us, dropped)
            for slot in self.counts:
                into.values[slot] = 0.0
            return
        happened = newest[0]
        values, times = into.values, into.times_us
        if self.latest and (self.ttl_us is None or at_us - happened <= self.ttl_us):
            for slot, column in self.latest:
                value = newest[4 + column]
                if value == value:  # noqa: PLR0124 (only NaN differs from itself)
                    values[slot], times[slot] = value, happened
        if self.windows:
            self._aggregate((reading, address, tail, end, at_us), head, newest, hidden, into)

    def _end(self, reading: Reading, address: bytes, tail: memoryview, at_us: int) -> tuple[memoryview, int]:
        """The chunk and offset of the last row that happened by t; an offset before the first row when none did."""
        layout = self.layout
        chunk = tail
        if layout.word.unpack_from(tail, layout.start)[0] > at_us:
            chunk = reading.closed(address, at_us) or reading.oldest(address) or tail
        happened = chunk.cast("q")[layout.start // 8 :: layout.row_words]
        at = bisect_right(happened, at_us, 0, len(happened))
        return chunk, layout.start + (at - 1) * layout.row_bytes

    def _too_old(self, at_us: int, dropped: int) -> Invalid:
        return Invalid(
            f"view {self.name!r} can't be read as of {from_us(at_us).isoformat()}: the store has dropped its rows "
            f"until {from_us(dropped).isoformat()}",
            "materialize it with a longer history_s (None keeps all)",
            view=self.name,
        )

    def _hidden(self, reading: Reading, address: bytes, chunk: memoryview, end: int, at_us: int) -> list[Row]:
        """Rows that had happened by t and were not known yet; as a rule the newest few, or none."""
        found = []
        for row, newest_ready in self._walk(reading, address, chunk, end):
            if newest_ready <= at_us:
                break
            if row[1] > at_us:
                found.append(row)
        return found

    def _visible(
        self, reading: Reading, address: bytes, chunk: memoryview, end: int, at_us: int
    ) -> Iterator[Row]:
        """Visible rows from an offset on, newest first."""
        return (row for row, _ in self._walk(reading, address, chunk, end) if row[1] <= at_us)

    def _walk(
        self, reading: Reading, address: bytes, chunk: memoryview, end: int
    ) -> Iterator[tuple[Row, int]]:
        """Rows from an offset on, newest first, each with the newest ready time up to it."""
        layout = self.layout
        older: memoryview | None = chunk
        while older is not None:
            before_ready = layout.header.unpack_from(older)[3]
            for at in range(end, layout.start - 1, -layout.row_bytes):
                row = layout.row.unpack_from(older, at)
                yield row, max(before_ready, row[3])
            older = reading.closed(address, layout.word.unpack_from(older, layout.start)[0] - 1)
            end = 0 if older is None else len(older) - layout.row_bytes

    def _aggregate(
        self,
        asked: Asked,
        head: Row,
        newest: Row,
        hidden: list[Row],
        into: FeatureRow,
    ) -> None:
        """The windows: each the difference of the running sums at t and where the window begins."""
        layout, (_, _, chunk, end, at_us) = self.layout, asked
        values, times = into.values, into.times_us
        start, row_bytes, row_at = layout.start, layout.row_bytes, layout.row.unpack_from
        # A strided view over the map: bisection reads some eight of its words, nothing is copied.
        happened = chunk.cast("q")[start // 8 :: layout.row_words]
        size, oldest, newest_happened = (end - start) // row_bytes + 1, happened[0], newest[0]
        total = row_at(chunk, end) if hidden else newest
        late = hidden
        for window_us, features in self.windows:
            edge = at_us - window_us
            if edge < head[5]:
                raise self._too_old(at_us, head[5])
            if newest_happened <= edge:
                for slot, code, *_ in features:
                    if code <= _COUNT:
                        values[slot] = 0.0
                continue
            its: Row | None = None
            if oldest > edge and head[2]:  # begins in an older chunk
                its, first, gone = self._beginning(asked, edge)
                rows = head[2] + size - its[2] - first
            else:
                first = bisect_right(happened, edge, 0, size)
                gone = row_at(chunk, start + (first - 1) * row_bytes) if first else self.zeros
                rows = size - first
            if hidden:
                late = [row for row in hidden if row[0] > edge]
            for feature in features:
                slot, code, column, k, base = feature
                if code == _COUNT_ROWS:
                    values[slot] = float(rows - len(late))
                    times[slot] = newest_happened if rows > len(late) else None
                    continue
                count = total[k] - gone[k]
                if its is not None:
                    count += head[base] - its[base]
                for row in late:
                    count -= row[4 + column] == row[4 + column]
                if count:
                    window = (edge, count, newest, total, gone, head, its, late)
                    values[slot], times[slot] = self._reduce(asked, feature, window)
                elif code == _COUNT:
                    values[slot] = 0.0

    def _reduce(self, asked: Asked, feature: tuple[int, ...], window: WindowEnds) -> tuple[float | None, int]:
        """One feature over ``count`` values, at least one, and when its newest row happened."""
        _, code, column, k, base = feature
        edge, count, newest, total, gone, head, its, late = window
        value = newest[4 + column]
        if value != value:  # noqa: PLR0124 (only NaN differs from itself)
            newest = next(row for row in self._visible(*asked) if row[4 + column] == row[4 + column])
            value = newest[4 + column]
        if code == _COUNT:
            return count, newest[0]
        if code == _LAST:
            return value, newest[0]
        if code >= _MIN:
            found = self._values(asked, edge, column)
            return (min(found) if code == _MIN else max(found)), newest[0]
        shift, most = head[6 + column], total[k + 2]
        shifted, squares = total[k + 1] - gone[k + 1], most - gone[k + 2]
        if its is not None:
            shifted += head[base + 1] - its[base + 1]
            squares += head[base + 2] - its[base + 2]
            most += head[base + 2]
        for row in late:
            if row[4 + column] == row[4 + column]:
                off = row[4 + column] - shift
                shifted, squares = shifted - off, squares - off * off
        spread = count * squares - shifted * shifted
        if not head[1] and not spread * _LOST >= count * most:
            return _from_values(code, self._values(asked, edge, column)), newest[0]
        if code == _MEAN:
            return (shifted + shift * count) / count, newest[0]
        if code == _SUM:
            return shifted + shift * count, newest[0]
        if count < 2.0:
            return None, newest[0]
        return math.sqrt(max(spread, 0.0) / (count * (count - 1.0))), newest[0]

    def _beginning(self, asked: Asked, edge: int) -> tuple[Row, int, Row]:
        """Where a window begins before the chunk of t: that chunk's header, the index, and the row before it."""
        reading, address, chunk, _, _ = asked
        layout = self.layout
        older = reading.closed(address, edge)
        if older is None:
            return layout.header.unpack_from(reading.oldest(address) or chunk), 0, self.zeros
        happened = older.cast("q")[layout.start // 8 :: layout.row_words]
        first = bisect_right(happened, edge)  # at least 1: the chunk's first row happened by then
        row = layout.row.unpack_from(older, layout.start + (first - 1) * layout.row_bytes)
        return layout.header.unpack_from(older), first, row

    def _values(self, asked: Asked, edge: int, column: int) -> list[float]:
        """All values of a window, for what running sums can't tell: 0.5 ms per thousand rows."""
        found = []
        for row in self._visible(*asked):
            if row[0] <= edge:
                break
            if row[4 + column] == row[4 + column]:
                found.append(row[4 + column])
        return found


def _from_values(code: int, values: list[float]) -> float | None:
    """Sum, mean or standard deviation by adding up, without an error that matters."""
    total = math.fsum(values)
    if code == _SUM:
        return total
    mean = total / len(values)
    if code == _MEAN:
        return mean
    if len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (float, int) and math.isfinite(value) else None


def _whole(bits: int) -> Callable[[Any], float | None]:
    limit = 1 << (bits - 1)
    return lambda value: float(value) if type(value) is int and -limit <= value < limit else None


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "FP64": _number,
    "FP32": _number,
    "INT64": _whole(64),
    "INT32": _whole(32),
    "BOOL": lambda value: float(value) if type(value) is bool else None,
    "BYTES": lambda value: value if type(value) is str else None,
}


def _requested(field: RequestField, check: Callable[[Any], Any], request: Mapping[str, Any]) -> Any:
    if field.name not in request:
        raise Invalid(
            f"the request lacks field {field.name!r}", nearest(field.name, list(request)), field=field.name
        )
    value = request[field.name]
    if value is None and field.nullable:
        return None
    found = check(value)
    if found is None:
        shown = repr(value)
        raise Invalid(
            f"request field {field.name!r} is {shown if len(shown) < 80 else shown[:77] + '...'}",
            f"it must be {field.datatype}" + (" or null" if field.nullable else ""),
            field=field.name,
        )
    return found
