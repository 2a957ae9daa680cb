"""How the rows of one key lie in an online store: chunks of about two hundred rows with running sums beside them.

Measured alternatives: one value per key makes each append rewrite a busy key's whole month (150 kB a tick); one value
per row makes a 30-day window read 4,800 of them. A chunk costs one memory copy of at most 20 kB to append to, and a
window of any length costs one binary search, because a row carries the sums of all rows before it in its chunk and
a chunk's header those of all chunks before it: an aggregate is a difference of two rows.

Rows are sorted by (happened, known) and, where both are equal, lie in the order in which they arrived: the later one is
the newer (decision 014). Otherwise what is stored does not depend on the order of arrival. The newest chunk of a key is
its *tail*, kept at the key's own address; older ones are *closed*, filed under the time of their first row. Rows of one
instant never straddle two chunks. Null is NaN. All words are 8 bytes, little-endian.

header  mark | exact | rows before | newest ready before | newest ready | dropped until
        | shift per column | (count, sum, sum of squares) before per column | check
row     happened | known | row id | newest ready so far in the chunk | values | (count, sum, sum of squares) per column

Sums are of ``value - shift``; the shift is a whole number near the key's first value, so that squares stay small.
``ready`` is the later of happened and known: from then on the row is visible. A view without windows keeps no shifts and
no sums (:attr:`Layout.sums`), a quarter of the bytes; the mark tells the number of columns and which of the two it is.
``check`` makes all words of a chunk add up to a constant: adding a row changes it without a look at the others.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.errors import Unavailable

HALF = 128  # a tail that outgrows twice this closes its first half; fewer rows where they are wide
_HALF_BYTES = 12 << 10
NEVER = -(1 << 63)  # before every time
EXACT_BELOW = float(1 << 53)
_SQUARABLE = 1e150
_AT_ONCE = 1 << 15
HEAD_WORDS = 6
_PLAIN = 1 << 32
WHOLE = 0x666C7962616C6C32  # what the words of a whole chunk add up to
_MASK = (1 << 64) - 1

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Layout:
    """Offsets and codecs for rows of ``columns`` values, with running sums beside them or without."""

    __slots__ = (
        "columns",
        "head_words",
        "header",
        "mark",
        "row",
        "row_bytes",
        "row_words",
        "start",
        "sums",
        "word",
    )

    def __init__(self, columns: int, sums: bool) -> None:
        self.columns, self.sums = columns, sums
        self.mark = columns if sums else columns | _PLAIN
        summed = 4 * columns if sums else 0
        self.word = struct.Struct("<q")
        # shift per column, then (count, sum, squares) per column
        self.header = struct.Struct(f"<6q{summed}dQ")
        self.row = struct.Struct(f"<4q{columns + summed * 3 // 4}d")
        self.head_words = HEAD_WORDS + summed + 1
        self.start = 8 * self.head_words  # where the first row begins
        self.row_words = 4 + columns + summed * 3 // 4
        self.row_bytes = 8 * self.row_words

    @property
    def half(self) -> int:
        """Rows of a closed chunk; a tail has at most twice as many."""
        return min(HALF, max(16, _HALF_BYTES // self.row_bytes))

    def count(self, chunk: bytes | memoryview) -> int:
        """Rows in a chunk; a length that is no whole number of rows means the store is corrupt."""
        rows, rest = divmod(len(chunk) - self.start, self.row_bytes)
        if rest or rows < 1:
            raise torn()
        return rows

    def words(self, chunk: bytes | memoryview) -> Floats:
        """The rows as numbers, ``(rows, row_words)``; the first four columns are integers by their bits."""
        self.count(chunk)
        return np.frombuffer(chunk, dtype="<f8", offset=self.start).reshape(-1, self.row_words)


@cache
def layout_of(columns: int, sums: bool = True) -> Layout:
    """The layout for this many columns; ``sums`` where the view has windows."""
    return Layout(columns, sums)


def layout_in(chunk: bytes | memoryview) -> Layout:
    """The layout that a whole chunk says it has; anything else is a corrupt store."""
    mark = int.from_bytes(chunk[:8], "little")
    if not is_whole(chunk) or (mark & ~_PLAIN) > 1 << 16:
        raise torn()
    layout = layout_of(mark & ~_PLAIN, not mark & _PLAIN)
    layout.count(chunk)
    return layout


def is_whole(chunk: bytes | memoryview) -> bool:
    """Whether no bit of a chunk has changed since it was written."""
    return len(chunk) % 8 == 0 and len(chunk) > 8 and _added(chunk) == WHOLE


def torn() -> Unavailable:
    """What a chunk that can't be right means."""
    return Unavailable(
        "the online store holds a torn chunk", "flyball features materialize --rebuild fills it again"
    )


def _added(words: bytes | memoryview) -> int:
    """All words of some bytes added up, in 64 bits."""
    return int(np.frombuffer(words, dtype="<u8").sum())


def bare_rows(happened: Ints, known: Ints, row_ids: Ints, values: Floats) -> Floats:
    """Rows without sums, ``(rows, 3 + columns)``: what goes into :func:`build`. Integers are kept by their bits."""
    rows = np.empty((len(happened), 3 + values.shape[1]), dtype=np.float64)
    bits = rows.view(np.int64)
    bits[:, 0], bits[:, 1], bits[:, 2] = happened, known, row_ids
    for begin in range(0, len(rows), _AT_ONCE):  # what is worked on stays in the processor's cache
        rows[begin : begin + _AT_ONCE, 3:] = clean(values[begin : begin + _AT_ONCE])
    return rows


def clean(values: Floats) -> Floats:
    """One zero, one null: NaN, infinities and what has no square as a float become NaN."""
    plain = values + 0.0
    odd = ~(np.abs(plain) <= _SQUARABLE)
    if odd.any():
        plain[odd] = np.nan
    return plain


def bare_of(layout: Layout, chunk: bytes | memoryview) -> Floats:
    """The rows of a whole chunk without their sums; one that a bit has changed in is refused."""
    if not is_whole(chunk):
        raise torn()
    words = layout.words(chunk)
    return np.concatenate((words[:, :3], words[:, 4 : 4 + layout.columns]), axis=1)


def in_order(codes: Ints, rows: Floats) -> Ints:
    """Positions that sort bare rows by (code, happened, known), each distinct row once; ties stay in the order given.

    A row equal to an earlier one in everything is left out. Only rows that tie on (code, happened) are looked at
    further: ten times faster than sorting by all of it.
    """
    bits = rows.view(np.int64)
    order = np.lexsort((bits[:, 0], codes))
    sorted_codes, happened = codes[order], bits[order, 0]
    same = (sorted_codes[1:] == sorted_codes[:-1]) & (happened[1:] == happened[:-1])
    if not same.any():
        return order
    tied = np.flatnonzero(_with_neighbours(same))
    among = order[tied]
    group = np.concatenate(([0], np.cumsum(~same)))[tied]
    among = order[tied] = among[np.lexsort((bits[among, 1], group))]
    known = bits[among, 1]
    same = (group[1:] == group[:-1]) & (known[1:] == known[:-1])
    if not same.any():
        return order
    full = np.flatnonzero(_with_neighbours(same))  # equal in code, happened and known
    among, group = among[full], np.concatenate(([0], np.cumsum(~same)))[full]
    by_all = np.lexsort([*bits[among, 2:].T, group])
    ids = bits[among[by_all], 2:]
    again = (group[by_all][1:] == group[by_all][:-1]) & (ids[1:] == ids[:-1]).all(axis=1)
    if not again.any():
        return order
    keep = np.ones(len(order), dtype=bool)
    keep[tied[full[by_all[1:][again]]]] = False
    return order[keep]


def _with_neighbours(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows equal the one before or after, from which pairs of neighbours are equal."""
    found = np.zeros(len(same) + 1, dtype=bool)
    found[1:] |= same
    found[:-1] |= same
    return found


def shifts_of(rows: Floats) -> tuple[float, ...]:
    """A whole number near the first value of each column; 0 where there is none or it is huge."""
    found = []
    for column in rows.T[3:]:
        present = column[~np.isnan(column)]
        first = float(np.rint(present[0])) if len(present) else 0.0
        found.append(first + 0.0 if abs(first) < 2**40 else 0.0)
    return tuple(found)


class Header:
    """The header of one chunk, as an object while chunks are built."""

    __slots__ = ("before_ready", "check", "dropped", "exact", "ready", "rows_before", "shifts", "sums_before")

    def __init__(self, layout: Layout, shifts: Sequence[float]) -> None:
        self.exact = 1
        self.rows_before = self.check = 0
        self.before_ready = self.ready = self.dropped = NEVER
        self.shifts: list[float] = list(shifts) if layout.sums else []
        self.sums_before: list[float] = [0.0] * (3 * layout.columns) if layout.sums else []

    @classmethod
    def read(cls, layout: Layout, chunk: bytes | memoryview) -> Header:
        """The header in a chunk; another number of columns than expected means the store is corrupt."""
        if len(chunk) < layout.start:
            raise torn()
        mark, exact, rows_before, before_ready, ready, dropped, *floats, check = layout.header.unpack_from(
            chunk
        )
        if mark != layout.mark:
            raise Unavailable(
                f"the online store holds rows of {mark & ~_PLAIN} columns where {layout.columns} belong",
                "flyball features materialize --rebuild fills it again",
            )
        summed = layout.columns if layout.sums else 0
        header = cls(layout, floats[:summed])
        header.exact, header.rows_before, header.before_ready = exact, rows_before, before_ready
        header.ready, header.dropped, header.check = ready, dropped, check
        header.sums_before = floats[summed:]
        return header

    def pack(self, layout: Layout) -> bytes:
        """Its bytes, the check as it is noted."""
        return layout.header.pack(
            layout.mark, self.exact, self.rows_before, self.before_ready, self.ready, self.dropped,
            *self.shifts, *self.sums_before, self.check,
        )  # fmt: skip

    def with_rows(self, layout: Layout, body: bytes) -> bytes:
        """The chunk of this header and these rows, its check made anew."""
        self.check = 0
        self.check = (WHOLE - _added(self.pack(layout)) - _added(body)) & _MASK
        return self.pack(layout) + body


def with_dropped(layout: Layout, tail: bytes, until_us: int) -> bytes:
    """The tail, noting that rows of its key were dropped until then."""
    header = Header.read(layout, tail)
    header.check = (header.check + header.dropped - until_us) & _MASK
    header.dropped = until_us
    return header.pack(layout) + tail[layout.start :]


def build(layout: Layout, header: Header, rows: Floats) -> list[tuple[int, bytes]]:
    """Chunks ``(first happened, bytes)`` of sorted distinct bare rows; the last is the tail.

    ``header`` says what came before, and is moved on.
    """
    happened = np.ascontiguousarray(rows.view(np.int64)[:, 0])
    chunks: list[tuple[int, bytes]] = []
    for begin, end in cuts(happened, layout.half):
        words = np.empty((end - begin, layout.row_words), dtype=np.float64)
        words[:, :3] = rows[begin:end, :3]
        bits = words.view(np.int64)
        bits[:, 3] = np.maximum.accumulate(np.maximum(bits[:, 0], bits[:, 1]))
        values = rows[begin:end, 3:]
        words[:, 4 : 4 + layout.columns] = values
        if layout.sums:
            words[:, 4 + layout.columns :] = _running_sums(values, header)
        header.ready = max(header.before_ready, int(bits[-1, 3]))
        chunks.append((int(happened[begin]), header.with_rows(layout, words.tobytes())))
        header.rows_before += end - begin
        header.before_ready = header.ready
        last = words[-1, 4 + layout.columns :].tolist()
        header.sums_before = [a + b for a, b in zip(header.sums_before, last, strict=True)]
    return chunks


def _running_sums(values: Floats, header: Header) -> Floats:
    """(count, sum, sum of squares) per column up to and with each row; notes in the header whether they are exact."""
    present = ~np.isnan(values)
    shifted = np.where(present, values - np.array(header.shifts), 0.0)
    sums = np.stack((present.astype(np.float64), shifted, shifted * shifted), axis=2).reshape(len(values), -1)
    np.cumsum(sums, axis=0, out=sums)
    if header.exact:
        whole = bool((np.rint(shifted) == shifted).all())
        top = max(
            (b + s for b, s in zip(header.sums_before[2::3], sums[-1, 2::3].tolist(), strict=True)),
            default=0.0,
        )
        header.exact = int(whole and top < EXACT_BELOW)
    return sums


def cuts(happened: Ints, half: int) -> list[tuple[int, int]]:
    """Where to cut sorted times into chunks of ``half``, never inside one instant; the tail keeps one to two halves."""
    found, begin, total = [], 0, len(happened)
    while total - begin > 2 * half:
        end = int(np.searchsorted(happened, happened[begin + half], side="left"))
        if end <= begin:  # a half of one instant: the chunk takes all of them
            end = int(np.searchsorted(happened, happened[begin], side="right"))
        if end >= total:
            break
        found.append((begin, end))
        begin = end
    found.append((begin, total))
    return found


def extend(layout: Layout, tail: bytes | memoryview | None, rows: Sequence[tuple[Any, ...]]) -> bytes:
    """The tail with newer rows at its end, in plain Python: for a few rows it beats NumPy four times.

    ``rows`` are ``(happened, known, row id, values...)``, sorted, distinct, and later than all in the tail (a new
    key has no tail); the caller sees to it that the result is not too long.
    """
    columns = layout.columns
    if tail is None:
        first = [_first(row, i) for i in range(columns) for row in rows[:1]]
        header, old, added = Header(layout, first), b"", WHOLE
        newest, sums = NEVER, [0.0] * (3 * columns) if layout.sums else []
    else:
        header, old = Header.read(layout, tail), bytes(tail[layout.start :])
        added = _added(tail[: layout.start])
        last = layout.row.unpack_from(tail, len(tail) - layout.row_bytes)
        newest, sums = last[3], list(last[4 + columns :])
    packed = []
    for row in rows:
        happened, known, row_id, *values = row
        newest = max(newest, happened, known)
        if layout.sums:
            _add_to(sums, values, header)
        packed.append(layout.row.pack(happened, known, row_id, newest, *values, *sums))
    header.ready, header.check = max(header.before_ready, newest), 0
    new = b"".join(packed)
    header.check = (added - _added(header.pack(layout)) - _added(new)) & _MASK
    return header.pack(layout) + old + new


def _add_to(sums: list[float], values: Sequence[float], header: Header) -> None:
    """Add a row's values to the running sums."""
    for i, value in enumerate(values):
        if value == value:  # noqa: PLR0124 (only NaN differs from itself)
            shifted = value - header.shifts[i]
            sums[3 * i] += 1.0
            sums[3 * i + 1] += shifted
            sums[3 * i + 2] += shifted * shifted
            if header.exact and not (
                shifted.is_integer() and header.sums_before[3 * i + 2] + sums[3 * i + 2] < EXACT_BELOW
            ):
                header.exact = 0


def _first(row: Sequence[Any], column: int) -> float:
    value = row[3 + column]
    return float(round(value)) + 0.0 if abs(value) < 2**40 else 0.0  # of null, 0: NaN is not below
