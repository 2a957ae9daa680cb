"""One order for everything offline: rows by key, happened, known and their place in the file; questions by key and time.

Latest values, windows and whatever else asks "as of t" read the same :class:`Index`. It costs one sort of whole
numbers: key, time and place are packed into 63 bits where they fit, which Polars sorts at 30 million a second and core,
and what comes out is the order, the keys and the times at once. Values are not sorted along; a column is brought into
order when somebody reads it.

>>> index = index_of(np.array([0, 0, 1]), np.array([20, 10, 30]), None, [np.array([2.0, 1.0, 3.0])])
>>> index.happened.tolist(), index.columns[0].tolist(), index.starts.tolist()
([10, 20, 30], [1.0, 2.0, 3.0], [0, 2, 3])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flyball.stores.online_chunks import Floats, Ints

_BITS = 63
_UNITS = (60_000_000, 1_000_000, 1_000)  # times are seldom finer than these, and then need fewer bits
Number = TypeVar("Number", np.int64, np.float64)
Bools = NDArray[np.bool_]
Take = Callable[[int, Ints], Floats]  # (column, rows of the source) -> its values there, NaN is null


class Instants:
    """Pairs of (code, time) in order, and where others fall among them.

    Held as one number per pair where 63 bits are enough, else as two arrays.
    """

    def __init__(
        self, packed: Ints | None, bits: int, low: int, unit: int, pairs: tuple[Ints, Ints] | None
    ) -> None:
        self._packed, self._bits, self._low, self._unit, self._pairs = packed, bits, low, unit, pairs

    def __len__(self) -> int:
        return len(self._apart[0] if self._packed is None else self._packed)

    @property
    def _apart(self) -> tuple[Ints, Ints]:
        assert self._pairs is not None, "either packed or apart"
        return self._pairs

    @cached_property
    def codes(self) -> Ints:
        return self._apart[0] if self._packed is None else self._packed >> self._bits

    @cached_property
    def times(self) -> Ints:
        if self._packed is None:
            return self._apart[1]
        times = self._packed & ((1 << self._bits) - 1)
        if self._unit > 1:
            times *= self._unit
        times += self._low
        return times

    def same(self) -> Bools:
        """Which pairs equal the one before them; of all but the first."""
        if self._packed is not None:
            return np.equal(self._packed[1:], self._packed[:-1])
        return np.equal(self.times[1:], self.times[:-1]) & np.equal(self.codes[1:], self.codes[:-1])

    def kept(self, keep: Bools) -> Instants:
        """Some of the pairs."""
        if self._packed is not None:
            return Instants(self._packed[keep], self._bits, self._low, self._unit, None)
        return Instants(None, 0, 0, 1, (self.codes[keep], self.times[keep]))

    def precedes_all_later(self, *, or_ties: bool = False) -> Bools:
        """Of pairs whose codes ascend: which have a time before (or equal to) those of all later pairs of their code."""
        keep = np.ones(len(self), dtype=bool)
        if len(self) < 2:
            return keep
        packed = self._packed
        if packed is None:
            ranks = np.unique(self.times, return_inverse=True)[1]
            packed = (self.codes << len(self).bit_length()) | ranks
        # The least of (code, time) over all later pairs is the least of this code while there are any.
        least = np.minimum.accumulate(packed[::-1])[::-1][1:]
        keep[:-1] = packed[:-1] <= least if or_ties else packed[:-1] < least
        return keep

    def starts(self, keys: int) -> Ints:
        """Where each code below ``keys`` begins, and the last ends."""
        if self._packed is None:
            return np.searchsorted(self.codes, np.arange(keys + 1))
        codes = np.minimum(np.arange(keys + 1), self._beyond)
        return np.searchsorted(self._packed, codes << self._bits)

    @cached_property
    def _beyond(self) -> int:
        """A code above all that there are; with a time it still fits into 63 bits."""
        return int(self._packed[-1] >> self._bits) + 1 if self._packed is not None and len(self) else 0

    def ends(self, codes: Ints, times: Ints, starts: Ints) -> Ints:
        """How far each code's pairs reach that are not after a time: the place behind the last of them.

        Quick when asked in order. A code without pairs, or beyond ``starts``, gives where it would begin.
        """
        if self._packed is None:
            return _ends_by_halving(self.times, starts, codes, times)
        within = times - self._low
        if self._unit > 1:
            within //= self._unit
        np.clip(within, -1, (1 << self._bits) - 1, out=within)  # -1 is the end of the code before
        within += np.minimum(codes, self._beyond) << self._bits
        return np.searchsorted(self._packed, within, side="right")


class Index:
    """A view's rows in order of (code, happened, known, place in the source), each distinct row once.

    ``codes``, ``happened``, ``known`` and ``columns[i]`` are arrays of one length, in that order; rows of key ``c`` are
    ``starts[c]:starts[c + 1]``. ``rows`` says where each came from. ``late``: some row became known after it happened.
    """

    def __init__(self, rows: Ints, instants: Instants, known: Ints | None, take: Take, keys: int) -> None:
        self.rows = rows
        self.starts = instants.starts(keys)
        self._instants = instants
        self._known = known  # by place in the source; None: no row is known later than it happened
        self._take = take

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def late(self) -> bool:
        return self._known is not None

    @property
    def codes(self) -> Ints:
        """The key of each row."""
        return self._instants.codes

    @property
    def happened(self) -> Ints:
        """When each row happened."""
        return self._instants.times

    @cached_property
    def known(self) -> Ints:
        """When each row became known. Without late rows this is ``happened``: which one was first tells nothing."""
        return self.happened if self._known is None else gathered(self._known, self.rows)

    @cached_property
    def ready(self) -> Ints:
        """From when on each row is visible: the later of happened and known."""
        return self.happened if self._known is None else np.maximum(self.happened, self.known)

    @cached_property
    def columns(self) -> Columns:
        """The stored columns, each brought into order when it is first read."""
        return Columns(self)

    def values(self, column: int, places: Ints) -> Floats:
        """Values of a column at some places of this order, without bringing all of it into order."""
        return self._take(column, self.rows[places])

    def ends(self, codes: Ints, times: Ints) -> Ints:
        """Per (code, time), the place behind the last row of that key that happened by then.

        The rows of a window are ``ends(codes, times - window):ends(codes, times)``. Quick when asked in order.
        """
        return self._instants.ends(codes, times, self.starts)

    @cached_property
    def orderly(self) -> tuple[Instants, Bools]:
        """``(key and ready, which rows)`` of the rows that become visible no later than all newer ones of their key.

        Of these a question sees all up to one place; the other rows are stragglers.
        """
        instants = _packed(self.codes, self.ready)
        keep = instants.precedes_all_later(or_ties=True)
        return instants.kept(keep), keep

    @cached_property
    def steps(self) -> tuple[Instants, Ints]:
        """``(key and ready, place)`` of the rows that are the newest of their key at some time.

        A row that becomes visible no earlier than a newer one of its key never is the newest, and is left out: what
        remains is a staircase on which the newest row at t is the last step that was ready by t.
        """
        instants = _packed(self.codes, self.ready)
        keep = instants.precedes_all_later()
        return instants.kept(keep), np.flatnonzero(keep)


class Columns(Sequence[Floats]):
    """Columns of an index; each is made when first read, and may be forgotten again."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._made: dict[int, Floats] = {}

    def __len__(self) -> int:
        raise TypeError("how many columns there are, the view says: view.stored_columns")

    def __getitem__(self, at: int) -> Floats:  # type: ignore[override]  # no slices: nobody needs them
        if at not in self._made:
            self._made[at] = self._index._take(at, self._index.rows)
        return self._made[at]

    def forget(self, at: int) -> None:
        """Let go of a column's array; reading it again makes it anew."""
        self._made.pop(at, None)


class Questions:
    """Pairs of (code, time) in order; ``order`` says where each was asked. Code -1 is a key that has no rows."""

    def __init__(self, codes: Ints, times: Ints) -> None:
        self.order, self._instants = sorted_by(codes + 1, times)
        self.codes: Ints = self._instants.codes - 1
        self.times: Ints = self._instants.times

    def __len__(self) -> int:
        return len(self.order)

    def in_asked_order(self, answers: NDArray[Number]) -> NDArray[Number]:
        """Answers to the sorted questions, put back into the order in which these were asked."""
        back = np.empty(len(self), dtype=answers.dtype)
        back[self.order] = answers
        return back

    def first_from(self, codes: Ints, times: Ints) -> Ints:
        """Per (code, time), the place of the first question about that key with ``t >= time``, or where its end is."""
        return self._instants.ends(codes + 1, times - 1, self.starts)

    @cached_property
    def starts(self) -> Ints:
        """The questions of code ``c`` are ``starts[c + 1]:starts[c + 2]``; those of unknown keys come first."""
        highest = int(self.codes[-1]) if len(self) else -1
        return np.searchsorted(self.codes, np.arange(-1, highest + 2))


def index_of(
    codes: Ints,
    happened: Ints,
    known: Ints | None,
    columns: Sequence[Floats] | Take,
    *,
    row_ids: Ints | None = None,
    width: int | None = None,
    keys: int | None = None,
) -> Index:
    """Put rows in order. ``codes`` count from 0; ``known`` None says that it is ``happened``.

    ``columns`` are arrays, or (with ``width``, their number) a function that gives a column's values at some rows: only
    rows that tie on key and both clocks are looked at, to find those that are there twice. ``keys`` is the number of
    keys, if there may be ones without rows after the last code.
    """
    take: Take = columns if callable(columns) else lambda column, rows: gathered(columns[column], rows)
    width = (0 if callable(columns) else len(columns)) if width is None else width
    keys = (int(codes.max()) + 1 if len(codes) else 0) if keys is None else keys
    rows, instants = sorted_by(codes, happened)
    late = known is not None and bool((known > happened).any())
    same = instants.same()
    if same.any():
        kept = _settle_ties(rows, same, known, row_ids, lambda some: [take(i, some) for i in range(width)])
        if kept is not None:
            rows, instants = rows[kept], instants.kept(kept)
    return Index(rows, instants, known if late else None, take, keys)


def newest(index: Index, questions: Questions) -> Ints:
    """For each sorted question, the place of the newest row that existed then; -1 without one."""
    if len(index) == 0:
        return np.full(len(questions), -1, dtype=np.int64)
    codes, times = questions.codes, questions.times
    if not index.late:
        steps, starts = None, index.starts
        last = index.ends(codes, times) - 1
    else:
        instants, steps = index.steps
        starts = np.searchsorted(steps, index.starts)
        last = instants.ends(codes, times, starts) - 1
    found = (codes >= 0) & (codes < len(starts) - 1)
    found[found] = last[found] >= starts[codes[found]]
    if steps is not None:
        last = steps[np.maximum(last, 0)]
    return np.where(found, last, -1)


def sorted_by(codes: Ints, times: Ints) -> tuple[Ints, Instants]:
    """The order of (code, time) pairs and the pairs in it; what ties stays in order. Codes count from 0."""
    rows = len(codes)
    instants = _packed(codes, times)
    packed, bits, row_bits = instants._packed, instants._bits, (rows - 1).bit_length()
    if packed is None:
        return _sorted_by_time_first(codes, times)
    if rows and (int(codes.max()) + 1).bit_length() + bits + row_bits <= _BITS:
        packed <<= row_bits
        packed |= np.arange(rows)
        packed = pl.Series(packed).sort().to_numpy()
        order = packed & ((1 << row_bits) - 1)
        packed = packed >> row_bits
    elif _ascending(times):  # the order is that of the keys alone
        order = _order_of(codes)
        packed = gathered(packed, order)
    else:
        both = pl.DataFrame({"packed": packed}).with_row_index("row").sort("packed", maintain_order=True)
        packed, order = both["packed"].to_numpy(), both["row"].to_numpy().astype(np.int64)
    return order, Instants(packed, bits, instants._low, instants._unit, None)


def _packed(codes: Ints, times: Ints) -> Instants:
    """Pairs as single numbers if they fit; codes count from 0."""
    rows = len(codes)
    if rows == 0:
        return Instants(np.empty(0, dtype=np.int64), 0, 0, 1, None)
    low, span = int(times.min()), int(times.max()) - int(times.min())
    free = _BITS - (int(codes.max()) + 1).bit_length()
    # A coarser unit leaves room for the place, which sorts twice as fast.
    unit = 1 if span.bit_length() + (rows - 1).bit_length() <= free or span >> _BITS else _unit(times, low)
    bits = (span // unit).bit_length()
    if bits > free:
        return Instants(None, 0, 0, 1, (codes, times))
    packed = times - low
    if unit > 1:
        packed //= unit
    packed |= codes << bits
    return Instants(packed, bits, low, unit, None)


def _sorted_by_time_first(codes: Ints, times: Ints) -> tuple[Ints, Instants]:
    """For times too fine to be packed with their key: by time, then by key, which keeps that order."""
    if _ascending(times):
        order = _order_of(codes)
    else:
        by_time = np.argsort(times, kind="stable")
        order = gathered(by_time, _order_of(gathered(codes, by_time))).copy()
    return order, Instants(None, 0, 0, 1, (gathered(codes, order), gathered(times, order)))


def _ascending(times: Ints) -> bool:
    return all((part[1:] >= part[:-1]).all() for part in (times[:10_000], times))


def _order_of(codes: Ints) -> Ints:
    """A stable order of whole numbers from 0 on that leave room for a place beside them."""
    bits = (len(codes) - 1).bit_length()
    packed = pl.Series((codes << bits) | np.arange(len(codes))).sort().to_numpy()
    return packed & ((1 << bits) - 1)


def _unit(times: Ints, low: int) -> int:
    """The coarsest of some units that all times are whole multiples of, from the first on."""
    for unit in _UNITS:
        if not ((times[:1000] - low) % unit).any() and not ((times - low) % unit).any():
            return unit
    return 1


def _ends_by_halving(had: Ints, starts: Ints, codes: Ints, times: Ints) -> Ints:
    """All questions halve their key's range at once: as many rounds as the longest range has bits."""
    codes = np.clip(codes, -1, len(starts) - 1)
    low = np.where(codes < 0, 0, starts[codes])
    high = np.where(
        (codes >= 0) & (codes < len(starts) - 1), starts[np.minimum(codes + 1, len(starts) - 1)], low
    )
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        reached = (low < high) & (had[np.minimum(middle, len(had) - 1)] <= times)
        low, high = np.where(reached, middle + 1, low), np.where(reached, high, middle)
    return low


def gathered(values: NDArray[Number], rows: Ints) -> NDArray[Number]:
    """``values[rows]``, which Polars does in a third of NumPy's time."""
    found: NDArray[Number] = pl.Series(values).gather(pl.Series(rows)).to_numpy()
    return found


def _settle_ties(
    rows: Ints,
    same: Bools,
    known: Ints | None,
    row_ids: Ints | None,
    values_of: Callable[[Ints], Sequence[Floats]],
) -> Bools | None:
    """Put rows of one key and instant in order of (known, place) within ``rows``; say which to keep when some repeat.

    Only these rows are sorted again and compared, so a source without ties pays nothing.
    """
    tied = np.zeros(len(rows), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    among = rows[places]
    group = np.cumsum(~same[np.maximum(places - 1, 0)] | (places == 0))
    if known is not None:
        among = among[np.lexsort((among, known[among], group))]
        rows[places] = among
        late_ones = known[among]
        new_group = np.concatenate(([True], (np.diff(group) != 0) | (np.diff(late_ones) != 0)))
        group = np.cumsum(new_group)
        full = np.zeros(len(group), dtype=bool)
        full[1:] = ~new_group[1:]
        full[:-1] |= ~new_group[1:]
    else:
        full = np.ones(len(group), dtype=bool)
    if not full.any():
        return None
    places = places[full]
    again = _repeated(group[full], among[full], row_ids, values_of)
    if not again.any():
        return None
    kept = np.ones(len(rows), dtype=bool)
    kept[places[again]] = False
    return kept


def _repeated(
    group: Ints, rows: Ints, row_ids: Ints | None, values_of: Callable[[Ints], Sequence[Floats]]
) -> Bools:
    """Which of these rows, equal in key and clocks within a group, repeat an earlier one of it."""
    names = {"group": group, **{f"v{i}": values for i, values in enumerate(values_of(rows))}}
    if row_ids is not None:
        names["id"] = row_ids[rows]
    frame = pl.DataFrame(names)  # NaN is null here, and equals itself
    again: Bools = ~frame.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    return again
