"""Parquet whose row groups begin where the rows say so, and where the columns of any Parquet file lie.

A row that is inserted changes its own row group, not every one after it; a column that is computed anew leaves the bytes
of the others as they were. The footer is Thrift's compact protocol, read and written here as plain trees: field number to
(type, value). Only offsets are changed in it.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

MAGIC = b"PAR1"
LEAST_AVERAGE_ROWS = 8 * 1024  # of a row group
_MOST_GROUPS = 512
_MOST_COLUMN_CHUNKS = 20_000  # what a footer holds at most, about
_SAME_VALUES = 64
_LEAST_BYTES = 4 << 10  # column chunks shorter than that share a chunk with their neighbours
_MOST_FOOTER_BYTES = 64 << 20

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
Tree = dict[int, tuple[int, Any]]


class NotParquetError(ValueError):
    """The bytes are no Parquet footer that can be read."""


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame, the same bytes for the same rows, in row groups that are cut by content."""
    bounds = row_bounds(frame)
    if len(bounds) <= 2:
        frame.write_parquet(path, compression="zstd")
        return
    with path.open("wb") as file:
        file.write(MAGIC)
        footer: Tree = {}
        for start, end in itertools.pairwise(bounds):
            part = io.BytesIO()
            frame.slice(start, end - start).write_parquet(
                part, compression="zstd", row_group_size=end - start
            )
            read = read_footer(part, part.tell())
            _copy_columns(read, part.getbuffer(), file)
            footer = _joined(footer, read) if footer else read
        _numbered(footer)
        encoded = _write_struct(footer)
        file.write(encoded + struct.pack("<I", len(encoded)) + MAGIC)


def average_rows(rows: int, columns: int) -> int:
    """How long row groups are on average: a power of two, longer where there would be very many.

    >>> average_rows(336_776, 10), average_rows(100_000_000, 50)
    (8192, 262144)
    """
    average = LEAST_AVERAGE_ROWS
    while rows // average > min(_MOST_GROUPS, max(1, _MOST_COLUMN_CHUNKS // max(columns, 1))):
        average *= 2
    return average


def row_bounds(frame: pl.DataFrame) -> list[int]:
    """Where row groups begin, and the end: a row's own value decides whether one begins there.

    The value is that of the column with the most different ones: when another column is computed anew, the row groups stay.

    >>> row_bounds(pl.DataFrame({"n": range(10)}))
    [0, 10]
    """
    average = average_rows(frame.height, frame.width)
    least, most = average // 4, average * 4
    if frame.height <= least:
        return [0, frame.height]
    try:
        hashes = _telling(frame).hash(seed=0)
        weak = ((hashes & (average // 2 - 1)) == 0).arg_true()
        strong = (hashes.gather(weak) & (2 * average - 1)) == 0
    except (pl.exceptions.PolarsError, TypeError):  # values that have no hash
        return [*range(0, frame.height, average), frame.height]
    bounds = [0]
    for row, is_strong in [*zip(weak.to_list(), strong.to_list(), strict=True), (frame.height, False)]:
        while row - bounds[-1] > most:
            bounds.append(bounds[-1] + most)
        # few marks count until the average is reached, many after it: as normalised chunking does, so lengths vary less
        if row - bounds[-1] >= (least if is_strong else average):
            bounds.append(row)
    if bounds[-1] != frame.height:
        bounds.append(frame.height)
    return bounds


def _telling(frame: pl.DataFrame) -> pl.Series:
    """The column with the most different values among those that have them; all columns when none tells rows apart."""
    plain = [name for name, kind in frame.schema.items() if not kind.is_nested() and kind != pl.Object]
    if plain:
        counts = frame.select(pl.col(plain).approx_n_unique()).row(0)
        most = max(counts)
        if most >= frame.height // _SAME_VALUES:
            # a count is an estimate: the first that is about as telling, so that it stays the same one
            return frame[next(name for name, count in zip(plain, counts, strict=True) if count >= 0.9 * most)]
    return frame.to_struct()


def column_bounds(file: BinaryIO, size_bytes: int) -> list[int]:
    """Offsets where a column of a row group begins or ends, in order; none when the file is not Parquet.

    Short columns are left out: they share chunks with their neighbours.
    """
    found: set[int] = set()
    try:
        for column in _columns(read_footer(file, size_bytes)):
            start, length = _extent(column[3][1])
            if length >= _LEAST_BYTES:
                found |= {start, start + length}
    except (NotParquetError, KeyError, TypeError, ValueError, AttributeError):
        return []
    return sorted(offset for offset in found if 0 < offset < size_bytes)


def read_footer(file: BinaryIO, size_bytes: int) -> Tree:
    """The footer of a Parquet file as a tree."""
    if size_bytes < 12:
        raise NotParquetError("too short")
    file.seek(size_bytes - 8)
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length > min(size_bytes - 12, _MOST_FOOTER_BYTES):
        raise NotParquetError("no footer")
    file.seek(size_bytes - 8 - length)
    content = file.read(length)
    try:
        return _Reader(content).struct()
    except (IndexError, struct.error, RecursionError) as error:
        raise NotParquetError("a broken footer") from error


def _copy_columns(footer: Tree, data: memoryview, file: BinaryIO) -> None:
    """Append the columns of a part and say in its footer where they lie now.

    Nothing else comes along: Polars writes a copy of each column's description behind it, with offsets that would differ
    from part to part (``file_offset``, which the format has retired).
    """
    for group in _row_groups(footer):
        group_start = file.tell()
        for column in group[1][1][1]:
            meta = column[3][1]
            start, length = _extent(meta)
            moved = file.tell() - start
            file.write(data[start : start + length])
            for number in (9, 10, 11):
                if number in meta and meta[number][1] > 0:
                    meta[number] = (meta[number][0], meta[number][1] + moved)
            column[2] = (_I64, 0)
            for number in (4, 5, 6, 7):  # page indexes, and Bloom filters, stay behind
                column.pop(number, None)
            for number in (14, 15):
                meta.pop(number, None)
        if 5 in group:
            group[5] = (group[5][0], group_start)


def _extent(meta: Tree) -> tuple[int, int]:
    """Where a column of a row group lies: start and length."""
    offsets = [meta[number][1] for number in (9, 11) if number in meta]
    return min(offset for offset in offsets if offset > 0), meta[7][1]


def _row_groups(footer: Tree) -> list[Tree]:
    groups: list[Tree] = footer[4][1][1] if 4 in footer else []
    return groups


def _columns(footer: Tree) -> Iterator[Tree]:
    for group in _row_groups(footer):
        yield from group[1][1][1]


def _joined(one: Tree, other: Tree) -> Tree:
    rows = (one[3][0], one[3][1] + other[3][1])
    kind, groups = one[4][1]
    return {**one, 3: rows, 4: (one[4][0], (kind, [*groups, *_row_groups(other)]))}


def _numbered(footer: Tree) -> None:
    for ordinal, group in enumerate(_row_groups(footer)):
        if 7 in group:
            group[7] = (group[7][0], min(ordinal, 32767))


class _Reader:
    """Thrift's compact protocol, from bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self) -> Tree:
        tree: Tree = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._zigzag()
            tree[number] = (kind, self._value(kind, field=True))
        return tree

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _bytes(self, length: int) -> bytes:
        if self._at + length > len(self._content):
            raise IndexError
        self._at += length
        return self._content[self._at - length : self._at]

    def _value(self, kind: int, *, field: bool = False) -> Any:
        if kind in (_TRUE, _FALSE):
            return (kind == _TRUE) if field else self._byte()
        if kind == _BYTE:
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            many = head >> 4 if head >> 4 != 15 else self._varint()
            return head & 15, [self._value(head & 15) for _ in range(many)]
        if kind == _STRUCT:
            return self.struct()
        raise NotParquetError(f"type {kind} in the footer")


def _write_struct(tree: Tree) -> bytes:
    out = bytearray()
    last = 0
    for number, (kind, value) in sorted(tree.items()):
        head = kind if kind not in (_TRUE, _FALSE) else (_TRUE if value else _FALSE)
        if 0 < number - last <= 15:
            out.append((number - last) << 4 | head)
        else:
            out.append(head)
            out += _write_varint(_zigzagged(number))
        if kind not in (_TRUE, _FALSE):
            out += _write_value(kind, value)
        last = number
    out.append(0)
    return bytes(out)


def _write_value(kind: int, value: Any) -> bytes:
    if kind in (_TRUE, _FALSE, _BYTE):
        return bytes([value])
    if kind in (_I16, _I32, _I64):
        return _write_varint(_zigzagged(value))
    if kind == _DOUBLE:
        return bytes(value)
    if kind == _BINARY:
        return _write_varint(len(value)) + bytes(value)
    if kind in (_LIST, _SET):
        inner, items = value
        head = (
            bytes([len(items) << 4 | inner])
            if len(items) < 15
            else bytes([0xF0 | inner]) + _write_varint(len(items))
        )
        return head + b"".join(_write_value(inner, item) for item in items)
    return _write_struct(value)


def _zigzagged(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
