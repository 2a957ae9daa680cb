"""One view's part of a vector, from the chunks of one key: a hot path, written by hand in plain Python.

A latest value is the last row of the newest chunk (:mod:`flyball.stores.online_chunks`); of that row only the words
that are asked for are unpacked. A window is the difference of two rows of running sums, the newest one and the one
before the window begins, found by bisection over the map itself; NumPy would cost more to enter than these few words
cost to read. Only what sums can't tell (extremes, percentiles, distinct values) takes the values themselves, by NumPy.
Rows not yet visible at t are found from the newest ready time noted beside each row and taken off one by one; as a
rule there are none.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flyball.core.clock import from_us
from flyball.errors import Invalid, Unavailable
from flyball.features.definitions import View, Window
from flyball.features.reducing import reducer
from flyball.stores.online import Reading, view_address
from flyball.stores.online_chunks import HEAD_WORDS, NEVER, layout_of

# How a value came about. The first four are Feast's FieldStatus.
PRESENT, NULL, NOT_FOUND, OUTSIDE_TTL = 1, 2, 3, 4
UNANSWERED = 5  # the store did not answer: the view's default, or null
STATUS_NAMES = ("INVALID", "PRESENT", "NULL", "NOT_FOUND", "OUTSIDE_TTL", "UNANSWERED")

ATTEMPTS = 5  # at a read whose rows are being rewritten
HEAD_BYTES = 8 * HEAD_WORDS  # of a chunk, before what depends on its columns
_SECOND = 1_000_000
_COUNT_ROWS, _COUNT, _SUM, _MEAN, _STD, _LAST, _OF_VALUES = range(7)
_CODES = {"count": _COUNT, "sum": _SUM, "mean": _MEAN, "std": _STD, "last": _LAST}
_ZERO_OF_NOTHING = ("count", "distinct", "approx_distinct")
_LOST = 1e6  # when all sums of squares are this many times the window's, too many digits have cancelled
_GLANCE = struct.Struct("<q24xq")  # of a chunk: how many columns, and when its last row is ready

Asked = tuple[Reading, bytes, memoryview, int, int]  # look, address, chunk of t, offset of its last row, t
Row = tuple[Any, ...]  # happened, known, row id, newest ready so far, values..., (count, sum, squares)...
Feature = tuple[int, int, int, int, int, Callable[[list[float]], float | None]]

# where it begins, values in it, newest visible row; last row and row before it, their headers; hidden rows
WindowEnds = tuple[int, float, Row, Row, Row, Row, Row | None, list[Row]]


class ViewReader:
    """One view, with all names resolved to places. ``slots`` says where in the vector each wanted feature stands."""

    def __init__(self, view: View, slots: Mapping[str, int]) -> None:
        self.name = view.name
        self.entity = view.entity
        self.prefix = view_address(view.stored_as)
        self.layout = layout_of(len(view.stored_columns), bool(view.windows))
        self.ttl_us = None if view.ttl_s is None else view.ttl_s * _SECOND
        places = {name: i for i, name in enumerate(view.stored_columns)}
        wanted = [name for name in view.columns if f"{view.name}:{name}" in slots]
        self.latest = sorted(
            ((slots[f"{view.name}:{name}"], places[name]) for name in wanted), key=lambda pair: pair[1]
        )
        self.latest_slots = [slot for slot, _ in self.latest]
        first = self.latest_slots[0] if wanted else 0
        side_by_side = self.latest_slots == list(range(first, first + len(wanted)))
        self.latest_slice = slice(first, first + len(wanted)) if side_by_side and wanted else None
        self._glimpse = _picked([column for _, column in self.latest])
        self._zeros: Row = (0,) * 4 + (0.0,) * (4 * self.layout.columns)
        by_edge: dict[tuple[int, int], list[Feature]] = {}
        self.zero_slots: list[int] = []  # what is 0 of nothing
        for window in view.windows:
            slot = slots.get(f"{view.name}:{window.name}")
            if slot is not None:
                column = 0 if window.column is None else places[window.column]
                edge = (window.window_s * _SECOND, window.hop_s * _SECOND)
                by_edge.setdefault(edge, []).append(_feature(slot, window, column, self.layout.columns))
                if window.function in _ZERO_OF_NOTHING:
                    self.zero_slots.append(slot)
        self.windows = sorted((window_us, hop_us, found) for (window_us, hop_us), found in by_edge.items())
        self.window_slots = [feature[0] for *_, found in self.windows for feature in found]

    def nothing(self, values: list[Any]) -> None:
        """The values of a key that no row is known of."""
        for slot in self.zero_slots:
            values[slot] = 0.0

    def read(
        self,
        reading: Reading,
        address: bytes,
        tail: memoryview,
        at_us: int,
        values: list[Any],
        times: list[int | None],
    ) -> int:
        """Put this view's values and times into their slots; the status of its latest values, ``PRESENT`` for null too.

        ``NOT_FOUND`` says that no row exists at t: then the windows are of nothing as well.
        """
        columns, ready = _GLANCE.unpack_from(tail)
        layout = self.layout
        if columns != layout.mark:
            raise self.torn()
        if ready <= at_us and not self.windows:
            found = self._glimpse.unpack_from(tail, len(tail) - layout.row_bytes)
            return self._put_latest(found, at_us, values, times)
        return self._read_all(reading, address, tail, at_us, values, times)

    def read_head(
        self,
        reading: Reading,
        address: bytes,
        head: bytes,
        at_us: int,
        values: list[Any],
        times: list[int | None],
    ) -> int:
        """:meth:`read` for a view without windows, from the head of the newest chunk alone if its newest row is visible."""
        columns, ready = _GLANCE.unpack_from(head)
        if columns != self.layout.mark:
            raise self.torn()
        if ready <= at_us:
            return self._put_latest(self._glimpse.unpack_from(head, HEAD_BYTES), at_us, values, times)
        tail = reading.tail(address)
        if tail is None:  # cleared since
            self.nothing(values)
            return NOT_FOUND
        return self._read_all(reading, address, tail, at_us, values, times)

    def _put_latest(self, found: Row, at_us: int, values: list[Any], times: list[int | None]) -> int:
        """Put values, which stand behind the time when they happened."""
        happened = found[0]
        if self.ttl_us is not None and at_us - happened > self.ttl_us:
            return OUTSIDE_TTL
        slots = self.latest_slice
        if (
            slots is not None and (total := sum(found)) == total
        ):  # NaN, which a null makes of it, differs from itself
            values[slots] = found[1:]
            times[slots] = [happened] * (len(found) - 1)
            return PRESENT
        for slot, value in zip(self.latest_slots, found[1:], strict=True):
            if value == value:  # noqa: PLR0124 (only NaN differs from itself)
                values[slot], times[slot] = value, happened
        return PRESENT

    def _read_all(
        self,
        reading: Reading,
        address: bytes,
        tail: memoryview,
        at_us: int,
        values: list[Any],
        times: list[int | None],
    ) -> int:
        layout = self.layout
        head = layout.header.unpack_from(tail)
        dropped = head[5]
        hidden: list[Row] = []
        if head[4] <= at_us:
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
            self.nothing(values)
            return NOT_FOUND
        status = PRESENT
        if self.latest:
            latest = (newest[0], *[newest[4 + column] for _, column in self.latest])
            status = self._put_latest(latest, at_us, values, times)
        if self.windows:
            self.nothing(values)
            self._aggregate((reading, address, tail, end, at_us), head, newest, hidden, values, times)
        return status

    def torn(self) -> Unavailable:
        """The chunk of a key does not look like one of this view."""
        return Unavailable(
            f"the online store holds other columns than view {self.name!r} has",
            f"flyball features materialize {self.name} --rebuild",
        )

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
        values: list[Any],
        times: list[int | None],
    ) -> None:
        """The windows: each the difference of the running sums at t and where the window begins."""
        layout, (_, _, chunk, end, at_us) = self.layout, asked
        start, row_bytes, row_at = layout.start, layout.row_bytes, layout.row.unpack_from
        # A strided view over the map: bisection reads some eight of its words, nothing is copied.
        happened = chunk.cast("q")[start // 8 :: layout.row_words]
        size, oldest, newest_happened = (end - start) // row_bytes + 1, happened[0], newest[0]
        total = row_at(chunk, end) if hidden else newest
        late = hidden
        for window_us, hop_us, features in self.windows:
            edge = at_us - window_us
            if hop_us:
                edge -= edge % hop_us
            if edge < head[5]:
                raise self._too_old(at_us, head[5])
            if newest_happened <= edge:
                continue  # its zeros stand already
            its: Row | None = None
            if oldest > edge and head[2]:  # begins in an older chunk
                its, first, gone = self._beginning(asked, edge)
                rows = head[2] + size - its[2] - first
            else:
                first = bisect_right(happened, edge, 0, size)
                gone = row_at(chunk, start + (first - 1) * row_bytes) if first else self._zeros
                rows = size - first
            if hidden:
                late = [row for row in hidden if row[0] > edge]
            for feature in features:
                slot, code, column, k, base, _ = feature
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

    def _reduce(self, asked: Asked, feature: Feature, window: WindowEnds) -> tuple[float | None, int]:
        """One feature over ``count`` values, at least one, and when its newest row happened."""
        _, code, column, k, base, of_values = feature
        edge, count, newest, total, gone, head, its, late = window
        value = newest[4 + column]
        if value != value:  # noqa: PLR0124 (only NaN differs from itself)
            newest = next(row for row in self._visible(*asked) if row[4 + column] == row[4 + column])
            value = newest[4 + column]
        if code == _COUNT:
            return count, newest[0]
        if code == _LAST:
            return value, newest[0]
        if code == _OF_VALUES:
            return of_values(self._values(asked, edge, column, count)), newest[0]
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
            return of_values(self._values(asked, edge, column, count)), newest[0]
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
            return layout.header.unpack_from(reading.oldest(address) or chunk), 0, self._zeros
        happened = older.cast("q")[layout.start // 8 :: layout.row_words]
        first = bisect_right(happened, edge)  # at least 1: the chunk's first row happened by then
        row = layout.row.unpack_from(older, layout.start + (first - 1) * layout.row_bytes)
        return layout.header.unpack_from(older), first, row

    def _values(self, asked: Asked, edge: int, column: int, count: float) -> list[float]:
        """All values of a window, ``count`` of them, oldest first, for what sums can't tell: 20 us per thousand rows."""
        reading, address, chunk, end, at_us = asked
        layout = self.layout
        parts: list[Any] = []
        older: memoryview | None = chunk
        while older is not None:
            rows = (end - layout.start) // layout.row_bytes + 1
            words = np.frombuffer(older, np.float64, rows * layout.row_words, layout.start).reshape(rows, -1)
            bits = words.view(np.int64)
            first = int(bits[:, 0].searchsorted(edge, "right"))
            found = words[first:, 4 + column]
            if first and not parts and len(found) == count:  # the whole window, all there and visible
                return found.tolist()  # type: ignore[no-any-return]  # floats
            parts.append(found[(bits[first:, 1] <= at_us) & ~np.isnan(found)])
            if first:
                break
            older = reading.closed(address, int(bits[0, 0]) - 1)
            end = 0 if older is None else len(older) - layout.row_bytes
        parts.reverse()
        whole: list[float] = np.concatenate(parts).tolist()
        return whole


class Begun(NamedTuple):
    """What was brought of a view's keys, ``None`` for one that has no rows: newest chunks, or only their heads."""

    chunks: Sequence[Any]
    heads: bool


def begin(
    reading: Reading, views: Sequence[ViewReader], addresses: Sequence[Sequence[bytes]], *, near: bool = False
) -> list[Begun]:
    """What reading starts from, by view and key.

    From a store that is elsewhere, one exchange for all views with windows, which need the newest chunk, and one for
    each kind of the others, which need its head. A near one gives a chunk for less than a copy of its head.
    """
    found: dict[int, Begun] = {}
    waiting: dict[Any, list[int]] = {}
    for at, view in enumerate(views):
        waiting.setdefault(None if near or view.windows else view.layout, []).append(at)
    for layout, mine in waiting.items():
        asked = [address for at in mine for address in addresses[at]]
        brought: Sequence[Any] = reading.tails(asked) if layout is None else reading.heads(asked, layout)
        first = 0
        for at in mine:
            last = first + len(addresses[at])
            found[at] = Begun(brought[first:last], layout is not None)
            first = last
    return [found[at] for at in range(len(views))]


def _feature(slot: int, window: Window, column: int, columns: int) -> Feature:
    """Slot, what to do, the column, and where its count stands in a row and in a header; the function of all values."""
    code = _COUNT_ROWS if window.column is None else _CODES.get(window.function, _OF_VALUES)
    k = 4 + columns + 3 * column
    return slot, code, column, k, k + 2, reducer(window.function, window.share)


def _picked(columns: list[int]) -> struct.Struct:
    """Of a row: when it happened, and the values of some columns, which ascend."""
    words = "".join("d" if column in columns else "8x" for column in range(max(columns, default=-1) + 1))
    return struct.Struct(f"<q24x{words}")
