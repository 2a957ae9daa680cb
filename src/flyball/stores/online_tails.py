"""Many tails at once, in NumPy: a million keys are filled in a second, where one by one they take a minute.

Keys that get the same number of rows are one array; what comes out is, byte for byte, what
:func:`flyball.stores.online_chunks.extend` and :func:`flyball.stores.online_chunks.build` make of each key alone.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from flyball.errors import Invalid
from flyball.stores.online import Rows
from flyball.stores.online_chunks import (
    EXACT_BELOW,
    HEAD_WORDS,
    NEVER,
    WHOLE,
    Floats,
    Header,
    Ints,
    Layout,
    bare_of,
    bare_rows,
    build,
    in_order,
    layout_of,
    shifts_of,
    torn,
)

Tail = bytes | memoryview
T = TypeVar("T")
_SLICE_ROWS = 1 << 15  # rows built at a time: what is worked on stays in the processor's cache


class Batch:
    """Distinct rows of several keys in order: those of group ``g`` are ``rows_at(begins[g] .. begins[g] + counts[g])``.

    The rows themselves lie as they came; moving them once, when they are written, is enough.
    """

    __slots__ = ("_order", "_rows", "begins", "codes", "counts")

    def __init__(self, codes: Ints, rows: Floats, order: Ints) -> None:
        self._rows, self._order = rows, order
        codes = codes[order]
        changes = np.flatnonzero(codes[1:] != codes[:-1]) + 1
        self.begins = np.concatenate(([0], changes)) if len(codes) else np.empty(0, dtype=np.int64)
        self.counts = np.diff(self.begins, append=len(codes))
        self.codes = codes[self.begins]

    def __len__(self) -> int:
        return len(self.begins)

    def rows_at(self, places: Ints) -> NDArray[np.float64]:
        """Bare rows by their places in order."""
        return self._rows[self._order[places]]

    def of(self, group: int) -> Floats:
        """The rows of one group."""
        begin = int(self.begins[group])
        return self._rows[self._order[begin : begin + int(self.counts[group])]]

    def slices(self, rows: int = _SLICE_ROWS) -> Iterator[tuple[int, int]]:
        """Runs of groups of about so many rows."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.begins, self.begins[first] + rows, side="left"))
            yield first, max(last, first + 1)
            first = max(last, first + 1)


def sorted_batch(rows: Rows) -> tuple[Layout, Batch, Sequence[bytes]]:
    """Rows in order of their keys' bytes and of time, each distinct one once; and the keys that the codes number."""
    layout = layout_of(rows.values.shape[1], rows.sums)
    keys, codes = _in_order_of_keys(rows.keys, rows.codes)
    bare = bare_rows(rows.happened, rows.known, rows.row_ids, rows.values)
    return layout, Batch(codes, bare, in_order(codes, bare)), keys


def _in_order_of_keys(keys: Sequence[bytes], codes: Ints) -> tuple[Sequence[bytes], Ints]:
    """Distinct sorted keys, and the codes that number them: a tree filled in its order takes half the time."""
    if all(map(operator.lt, keys, keys[1:])):
        return keys, codes
    ordered = sorted(set(keys))
    places = {key: place for place, key in enumerate(ordered)}
    return ordered, np.fromiter(map(places.__getitem__, keys), dtype=np.int64, count=len(keys))[codes]


def rebuilt(layout: Layout, chunks: Sequence[Tail], rows: Floats) -> tuple[list[tuple[int, bytes]], int]:
    """Chunks anew (the last is the tail) from those of one key, whole and in order, and more rows; how many are new."""
    if not chunks:
        return build(layout, Header(layout, shifts_of(rows)), rows), len(rows)
    header = Header.read(layout, chunks[0])
    header.dropped = Header.read(layout, chunks[-1]).dropped
    old = np.concatenate([bare_of(layout, chunk) for chunk in chunks])
    both = np.concatenate((old, rows))
    both = both[in_order(np.zeros(len(both), dtype=np.int64), both)]
    new = len(both) - len(old)
    return (build(layout, header, both) if new else []), new


def is_superseded(layout: Layout, following: Tail, before_us: int, as_of_us: int) -> bool:
    """Whether the chunk that another follows may go: all its rows happened by ``before_us``, and for every
    t >= ``as_of_us`` a newer one is visible.
    """
    after = layout.words(following).view(np.int64)
    return bool(after[0, 0] <= before_us and np.maximum(after[:, 0], after[:, 1]).min() <= as_of_us)


def head_of(layout: Layout, tail: Tail) -> bytes:
    """Of a tail, the words that latest values need: of its header, and its newest row without sums."""
    at = len(tail) - layout.row_bytes
    return bytes(tail[: 8 * HEAD_WORDS]) + bytes(tail[at : at + 8 * (4 + layout.columns)])


def chunks_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Parts of a list, of so many items."""
    return (items[at : at + size] for at in range(0, len(items), size))


def other_columns(view: str, layout: Layout, record: bytes) -> None:
    """Refuse rows of other columns than a view's record says it has."""
    _, columns, sums = msgspec.msgpack.decode(record)
    if (columns, sums) != (layout.columns, layout.sums):
        what = f"{columns} columns, not {layout.columns}"
        if columns == layout.columns:
            what = "sums beside its rows" if sums else "no sums beside its rows"
        raise Invalid(
            f"the online store holds view {view!r} with {what}",
            "clear the view first, then materialize it again",
            view=view,
        )


def grown(layout: Layout, batch: Batch, first: int, tails: Sequence[Tail | None]) -> list[Tail | None]:
    """The new tails of groups ``first``, ``first + 1``, …; ``None`` where it takes more than rows put at the end.

    That is where rows are older than the newest kept, or a tail grows too long.
    """
    counts = batch.counts[first : first + len(tails)]
    made: list[Tail | None] = [None] * len(tails)
    short = counts <= 2 * layout.half
    absent = np.ones(len(tails), dtype=bool)
    if tails.count(None) < len(tails):
        absent = np.fromiter((tail is None for tail in tails), dtype=bool, count=len(tails))
    for count, groups in _alike(counts, np.flatnonzero(absent & short)):
        found = _new(layout, batch, first + groups, count)
        if len(found) == len(made):
            return [*found]
        for group, new in zip(groups.tolist(), found, strict=True):
            made[group] = new
    there = np.flatnonzero(~absent & short)
    if len(there) == 0:
        return made
    old = [tail for group in there.tolist() if (tail := tails[group]) is not None]
    heads, lasts = _ends(layout, old)
    kept = (np.fromiter(map(len, old), dtype=np.int64, count=len(old)) - layout.start) // layout.row_bytes
    starts = batch.rows_at(batch.begins[first + there]).view(np.int64)[:, 0]
    fit = (starts > lasts.view(np.int64)[:, 0]) & (kept + counts[there] <= 2 * layout.half)
    for count, at in _alike(counts[there], np.flatnonzero(fit)):
        new_heads, rows = _behind(layout, batch, first + there[at], count, heads[at], lasts[at])
        packed, ends = new_heads.tobytes(), rows.tobytes()
        head, end = layout.start, count * layout.row_bytes
        for i, (place, group) in enumerate(zip(at.tolist(), there[at].tolist(), strict=True)):
            parts = (packed[i * head : i * head + head], old[place][head:], ends[i * end : i * end + end])
            made[group] = b"".join(parts)
    return made


def _alike(counts: Ints, groups: Ints) -> Iterator[tuple[int, Ints]]:
    """Groups with the same number of rows."""
    of = counts[groups]
    for count in np.unique(of).tolist():
        yield count, groups[of == count]


def _ends(layout: Layout, tails: Sequence[Tail]) -> tuple[Floats, Floats]:
    """Headers and last rows of tails, ``(tails, head_words)`` and ``(tails, row_words)``."""
    head, last = layout.start, -layout.row_bytes
    heads = b"".join([tail[:head] for tail in tails])
    lasts = b"".join([tail[last:] for tail in tails])
    if len(heads) != head * len(tails) or len(lasts) != layout.row_bytes * len(tails):
        raise torn()
    found = np.frombuffer(heads).reshape(-1, layout.head_words)
    if (found.view(np.int64)[:, 0] != layout.mark).any():
        raise torn()
    return found, np.frombuffer(lasts).reshape(-1, layout.row_words)


def _new(layout: Layout, batch: Batch, groups: Ints, count: int) -> list[bytes]:
    """The tails of keys that had none and get ``count`` rows each.

    Cut as bytes from one block, not as views of it: the garbage collector would walk a million views again and again.
    """
    heads = np.zeros((len(groups), layout.head_words))
    bits = heads.view(np.int64)
    bits[:, 0], bits[:, 1], bits[:, 3:6] = layout.mark, 1, NEVER
    if layout.sums:
        values = batch.rows_at(batch.begins[groups])[:, 3:]
        near = np.rint(values) + 0.0
        heads[:, HEAD_WORDS : HEAD_WORDS + layout.columns] = np.where(np.abs(values) < 2**40, near, 0.0)
    heads.view(np.uint64)[:, -1] = np.uint64(WHOLE) - heads.view(np.uint64).sum(axis=1)
    lasts = np.zeros((len(groups), layout.row_words))
    lasts.view(np.int64)[:, 3] = NEVER
    heads, rows = _behind(layout, batch, groups, count, heads, lasts)
    block = np.concatenate((heads, rows.reshape(len(groups), -1)), axis=1).tobytes()
    size = layout.start + count * layout.row_bytes
    return [block[at : at + size] for at in range(0, len(block), size)]


def _behind(
    layout: Layout, batch: Batch, groups: Ints, count: int, heads: Floats, lasts: Floats
) -> tuple[Floats, Floats]:
    """The headers that follow, and the rows ``(groups, count, row_words)`` to stand behind the last ones."""
    columns = layout.columns
    bare = batch.rows_at(batch.begins[groups][:, None] + np.arange(count))
    rows = np.empty((len(groups), count, layout.row_words))
    rows[:, :, :3], rows[:, :, 4 : 4 + columns] = bare[:, :, :3], bare[:, :, 3:]
    bits = rows.view(np.int64)
    newest: Any = bits[:, :, 3]
    np.maximum(bits[:, :, 0], bits[:, :, 1], out=newest)
    newest[:, 0] = np.maximum(newest[:, 0], lasts.view(np.int64)[:, 3])
    np.maximum.accumulate(newest, axis=1, out=newest)
    made = heads.copy()
    words = made.view(np.int64)
    words[:, 4] = np.maximum(words[:, 3], newest[:, -1])
    if layout.sums:
        rows[:, :, 4 + columns :] = _sums(columns, bare[:, :, 3:], made, lasts[:, 4 + columns :])
    change = made.view(np.uint64).sum(axis=1) - heads.view(np.uint64).sum(axis=1)
    change += rows.view(np.uint64).sum(axis=(1, 2))
    made.view(np.uint64)[:, -1] -= change
    return made, rows


def _sums(columns: int, values: NDArray[np.float64], heads: Floats, before: Floats) -> NDArray[np.float64]:
    """The running sums of rows behind those of the last row; notes in the headers where they are no longer exact."""
    groups, count = values.shape[:2]
    present = ~np.isnan(values)
    shifted = np.where(present, values - heads[:, None, HEAD_WORDS : HEAD_WORDS + columns], 0.0)
    sums = np.stack((present, shifted, shifted * shifted), axis=3).reshape(groups, count, -1)
    sums[:, 0] += before
    np.cumsum(sums, axis=1, out=sums)
    exact = heads.view(np.int64)[:, 1]
    whole = (np.rint(shifted) == shifted).all(axis=(1, 2))
    squares = heads[:, HEAD_WORDS + columns + 2 : HEAD_WORDS + 4 * columns : 3] + sums[:, -1, 2::3]
    exact[:] &= whole & (squares < EXACT_BELOW).all(axis=1)
    return sums
