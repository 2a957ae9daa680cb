"""How the rows of one key lie in an online store: chunks of about two hundred rows with running sums beside them.

Measured alternatives: one value per key makes each append rewrite a busy key's whole month (150 kB a tick); one value
per row makes a 30-day window read 4,800 of them. A chunk costs one memory copy of at most 20 kB to append to, and a
window of any length costs one binary search, because a row carries the sums of all rows before it in its chunk and
a chunk's header those of all chunks before it: an aggregate is a difference of two rows.

Rows are sorted by (happened, known) and, where both are equal, lie in the order in which they arrived: the later one is
the newer (decision 014). Otherwise what is stored does not depend on the order of arrival. The newest chunk of a key is
its *tail*, kept at the key's own address; older ones are *closed*, filed under the time of their first row. Rows of one
instant never straddle two chunks. Null is NaN. All words are 8 bytes, little-endian.

header  n_columns | exact | rows before | newest ready before | newest ready | dropped until
        | shift per column | (count, sum, sum of squares) before per column
row     happened | known | row id | newest ready so far in the chunk | values | (count, sum, sum of squares) per column

Sums are of ``value - shift``; the shift is a whole number near the key's first value, so that squares stay small.
``ready`` is the later of happened and known: from then on the row is visible.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.errors import Unavailable

HALF = 128  # a tail that outgrows twice this closes its first half
NEVER = -(1 << 63)  # before every time
_EXACT_BELOW = float(1 << 53)
_SQUARABLE = 1e150
_HEAD = 6

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Layout:
    """Offsets and codecs for rows of ``columns`` values."""

    __slots__ = (
        "base",
        "columns",
        "head",
        "header",
        "prefix",
        "prefix_at",
        "row",
        "row_bytes",
        "row_words",
        "start",
        "word",
    )

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.head = struct.Struct("<6q")
        self.word = struct.Struct("<q")
        self.base = struct.Struct(
            f"<{4 * columns}d"
        )  # shift per column, then (count, sum, squares) per column
        self.header = struct.Struct(f"<6q{4 * columns}d")
        self.row = struct.Struct(f"<4q{4 * columns}d")
        self.prefix = struct.Struct(f"<{3 * columns}d")
        self.start = 8 * (_HEAD + 4 * columns)  # where the first row begins
        self.row_words = 4 + 4 * columns
        self.row_bytes = 8 * self.row_words
        self.prefix_at = 8 * (4 + columns)

    def count(self, chunk: bytes | memoryview) -> int:
        """Rows in a chunk; a length that is no whole number of rows means the store is corrupt."""
        rows, rest = divmod(len(chunk) - self.start, self.row_bytes)
        if rest or rows < 1:
            raise Unavailable(
                "the online store holds a torn chunk", "flyball features materialize --rebuild fills it again"
            )
        return rows

    def words(self, chunk: bytes | memoryview) -> Floats:
        """The rows as numbers, ``(rows, row_words)``; the first four columns are integers by their bits."""
        self.count(chunk)
        return np.frombuffer(chunk, dtype="<f8", offset=self.start).reshape(-1, self.row_words)


@cache
def layout_of(columns: int) -> Layout:
    """The layout for this many columns."""
    return Layout(columns)


def bare_rows(happened: Ints, known: Ints, row_ids: Ints, values: Floats) -> Floats:
    """Rows without sums, ``(rows, 3 + columns)``: what goes into :func:`build`. Integers are kept by their bits."""
    rows = np.empty((len(happened), 3 + values.shape[1]), dtype=np.float64)
    bits = rows.view(np.int64)
    bits[:, 0], bits[:, 1], bits[:, 2] = happened, known, row_ids
    rows[:, 3:] = clean(values)
    return rows


def clean(values: Floats) -> Floats:
    """One zero, one null: NaN, infinities and what has no square as a float become NaN."""
    return np.where(np.abs(values) <= _SQUARABLE, values + 0.0, np.nan)


def bare_of(layout: Layout, chunk: bytes | memoryview) -> Floats:
    """The rows of a chunk without their sums."""
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

    __slots__ = ("before_ready", "dropped", "exact", "ready", "rows_before", "shifts", "sums_before")

    def __init__(self, layout: Layout, shifts: Sequence[float]) -> None:
        self.exact = 1
        self.rows_before = 0
        self.before_ready = self.ready = self.dropped = NEVER
        self.shifts: list[float] = list(shifts)
        self.sums_before: list[float] = [0.0] * (3 * layout.columns)

    @classmethod
    def read(cls, layout: Layout, chunk: bytes | memoryview) -> Header:
        """The header in a chunk; another number of columns than expected means the store is corrupt."""
        columns, exact, rows_before, before_ready, ready, dropped, *floats = layout.header.unpack_from(chunk)
        if columns != layout.columns:
            raise Unavailable(
                f"the online store holds rows of {columns} columns where {layout.columns} belong",
                "flyball features materialize --rebuild fills it again",
            )
        header = cls(layout, floats[: layout.columns])
        header.exact, header.rows_before, header.before_ready = exact, rows_before, before_ready
        header.ready, header.dropped = ready, dropped
        header.sums_before = floats[layout.columns :]
        return header

    def pack(self, layout: Layout) -> bytes:
        """Its bytes."""
        return layout.header.pack(
            layout.columns, self.exact, self.rows_before, self.before_ready, self.ready, self.dropped,
            *self.shifts, *self.sums_before,
        )  # fmt: skip


def build(layout: Layout, header: Header, rows: Floats) -> list[tuple[int, bytes]]:
    """Chunks ``(first happened, bytes)`` of sorted distinct bare rows; the last is the tail.

    ``header`` says what came before, and is moved on.
    """
    happened = np.ascontiguousarray(rows.view(np.int64)[:, 0])
    chunks: list[tuple[int, bytes]] = []
    for begin, end in _cuts(happened):
        words = np.empty((end - begin, layout.row_words), dtype=np.float64)
        words[:, :3] = rows[begin:end, :3]
        bits = words.view(np.int64)
        bits[:, 3] = np.maximum.accumulate(np.maximum(bits[:, 0], bits[:, 1]))
        values = rows[begin:end, 3:]
        words[:, 4 : 4 + layout.columns] = values
        sums = _running_sums(values, header)
        words[:, 4 + layout.columns :] = sums
        header.ready = max(header.before_ready, int(bits[-1, 3]))
        chunks.append((int(happened[begin]), header.pack(layout) + words.tobytes()))
        header.rows_before += end - begin
        header.before_ready = header.ready
        header.sums_before = [a + b for a, b in zip(header.sums_before, sums[-1].tolist(), strict=True)]
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
        header.exact = int(whole and top < _EXACT_BELOW)
    return sums


def _cuts(happened: Ints) -> list[tuple[int, int]]:
    """Where to cut sorted times into chunks of HALF, never inside one instant; the tail keeps HALF to 2 HALF."""
    cuts, begin, total = [], 0, len(happened)
    while total - begin > 2 * HALF:
        end = int(np.searchsorted(happened, happened[begin + HALF], side="left"))
        if end <= begin:  # HALF rows of one instant: the chunk takes all of them
            end = int(np.searchsorted(happened, happened[begin], side="right"))
        if end >= total:
            break
        cuts.append((begin, end))
        begin = end
    cuts.append((begin, total))
    return cuts


def extend(layout: Layout, tail: bytes | memoryview | None, rows: Sequence[tuple[Any, ...]]) -> bytes:
    """The tail with newer rows at its end, in plain Python: for a few rows it beats NumPy four times.

    ``rows`` are ``(happened, known, row id, values...)``, sorted, distinct, and later than all in the tail (a new
    key has no tail); the caller sees to it that the result is not too long.
    """
    columns = layout.columns
    if tail is None:
        first = [_first(row, i) for i in range(columns) for row in rows[:1]]
        header, body = Header(layout, first), b""
        newest, sums = NEVER, [0.0] * (3 * columns)
    else:
        header, body = Header.read(layout, tail), bytes(tail[layout.start :])
        last = layout.row.unpack_from(tail, len(tail) - layout.row_bytes)
        newest, sums = last[3], list(last[4 + columns :])
    parts = [b"", body]
    for row in rows:
        happened, known, row_id, *values = row
        newest = max(newest, happened, known)
        for i, value in enumerate(values):
            if value == value:  # noqa: PLR0124 (only NaN differs from itself)
                shifted = value - header.shifts[i]
                sums[3 * i] += 1.0
                sums[3 * i + 1] += shifted
                sums[3 * i + 2] += shifted * shifted
                if header.exact and not (
                    shifted.is_integer() and header.sums_before[3 * i + 2] + sums[3 * i + 2] < _EXACT_BELOW
                ):
                    header.exact = 0
        parts.append(layout.row.pack(happened, known, row_id, newest, *values, *sums))
    header.ready = max(header.before_ready, newest)
    parts[0] = header.pack(layout)
    return b"".join(parts)


def _first(row: Sequence[Any], column: int) -> float:
    value = row[3 + column]
    return float(round(value)) + 0.0 if abs(value) < 2**40 else 0.0  # of null, 0: NaN is not below
