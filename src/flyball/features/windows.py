"""Windows of many questions at once, on the one sorted index that latest values are read from too.

A question sees its key's rows that happened after the window's edge and were ready by its time. Where rows become
visible in the order in which they happen, with whatever delay, those are one run of the index: two binary searches,
then a fold over the run (:mod:`.ranges`, :mod:`.ranks`). Rows that overtake one another are *stragglers*: each is seen by
one run of the sorted questions, and is added to them (:mod:`.cover`). What can't be added up (percentiles, numbers of
distinct values) is taken of the run of all rows where nothing in it is hidden, and else of a copy of the visible rows.

What profiles taught (10M rows, 1M questions, two lengths of count, sum, mean and max): the windows themselves take a
tenth of the sort; a column is brought into order once for all its windows and let go before the next; work is done on
65,536 questions at a time, whose part of the column stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flyball.features.cover import cover_count, cover_max, cover_sum
from flyball.features.definitions import Window
from flyball.features.index import Index, Questions
from flyball.features.ranges import greatest, least, merged, spreads, totals
from flyball.features.ranks import approx_distincts, counts_before, distincts, percentiles, spreads_below
from flyball.features.reducing import EXACT
from flyball.stores.online_chunks import Floats, Ints

_SECOND = 1_000_000
_FURTHEST = (
    1 << 61
)  # microseconds, 73,000 years: longer windows are no longer, and times less them are whole numbers
_TOGETHER = 1 << 22  # visible rows copied at a time
_WHOLE_SHIFT = float(1 << 40)

Bools = NDArray[np.bool_]
Runs = Callable[
    [Floats, Ints, Ints, Ints], Floats
]  # (values, low, high, where keys begin) -> one answer per run


def answers(
    index: Index, questions: Questions, windows: Iterable[Window], column_of: Mapping[str, int]
) -> dict[str, Floats]:
    """Each window by its name, for the sorted questions; NaN is null.

    ``column_of`` says which of the index's columns a window's column is. The arrays of columns are let go afterwards.
    """
    seen = _Seen(index, questions)
    by_column: dict[str | None, list[Window]] = {}
    for window in windows:
        by_column.setdefault(window.column, []).append(window)
    found: dict[str, Floats] = {}
    for column, its in by_column.items():
        if column is None:
            rows = _Column(seen, None)
        else:
            rows = _Column(seen, index.columns[column_of[column]])
            index.columns.forget(column_of[column])
        spans: dict[tuple[int, int], _Span] = {}
        for window in its:
            length = (window.window_s, window.hop_s)
            if length not in spans:
                spans[length] = _Span(rows, *length)
            found[window.name] = _answer(window, spans[length])
        del rows, spans
    return found


def edges(times: Ints, window_s: int, hop_s: int) -> Ints:
    """Where each question's window begins: rows that happened after it are inside."""
    begins = times - min(window_s * _SECOND, _FURTHEST)
    return begins // (hop_s * _SECOND) * (hop_s * _SECOND) if hop_s else begins


def leaves(happened: Ints, window_s: int, hop_s: int) -> Ints:
    """The first time whose window does not hold a row any more: ``edges(t) >= happened`` from then on."""
    hop = hop_s * _SECOND
    begins = -(-happened // hop) * hop if hop else happened
    return begins + min(window_s * _SECOND, _FURTHEST)


class _Seen:
    """Which rows each question sees: up to one place among the orderly ones, and some of the stragglers."""

    def __init__(self, index: Index, questions: Questions) -> None:
        self.index, self.questions = index, questions
        self.orderly: Bools | None = None  # None: all rows are
        self._before: Ints | None = None
        self._lows: dict[tuple[int, int], Ints] = {}
        self.starts = index.starts
        codes, times = questions.codes, questions.times
        if not index.late:
            self.high = index.ends(codes, times)
            return
        instants, orderly = index.orderly
        if not orderly.all():
            self.orderly, self._before = orderly, counts_before(orderly)
            self.starts = self._before[index.starts]
        self.high = instants.ends(codes, times, self.starts)

    def low(self, window_s: int, hop_s: int) -> Ints:
        """Where each question's window begins among the orderly rows; found once for all columns."""
        length = (window_s, hop_s)
        if length not in self._lows:
            low = self.first(window_s, hop_s)
            self._lows[length] = np.minimum(low if self._before is None else self._before[low], self.high)
        return self._lows[length]

    def first(self, window_s: int, hop_s: int) -> Ints:
        """Where each question's window begins among all rows."""
        times = edges(self.questions.times, window_s, hop_s)
        return self.index.ends(self.questions.codes, times)

    @cached_property
    def happened_high(self) -> Ints:
        """Up to which of all rows each question's time has come, known or not."""
        return self.index.ends(self.questions.codes, self.questions.times)

    def seen_from(self, rows: Ints) -> Ints:
        """The first question that sees each of some rows."""
        return self.questions.first_from(self.index.codes[rows], self.index.ready[rows])

    def left_at(self, rows: Ints, window_s: int, hop_s: int) -> Ints:
        """The first question whose window has left each of some rows behind."""
        times = leaves(self.index.happened[rows], window_s, hop_s)
        return self.questions.first_from(self.index.codes[rows], times)


class _Column:
    """One column of an index without its nulls. Without a column: the rows themselves, to be counted."""

    def __init__(self, seen: _Seen, column: Floats | None) -> None:
        self.seen, self.column = seen, column
        self.present: Bools | None = None  # None: no null
        if column is not None:
            present = ~np.isnan(column)
            self.present = None if present.all() else present

    @cached_property
    def all_values(self) -> Floats:
        """The values that are there, of all rows."""
        assert self.column is not None
        return self.column if self.present is None else self.column[self.present]

    @cached_property
    def before(self) -> Ints | None:
        """The place among those of each place in the index."""
        return None if self.present is None else counts_before(self.present)

    @cached_property
    def all_starts(self) -> Ints:
        starts = self.seen.index.starts
        return starts if self.before is None else self.before[starts]

    @cached_property
    def _orderly(self) -> tuple[Bools | None, Ints | None]:
        """Which of the orderly rows have a value, and how many before each of them."""
        if self.seen.orderly is None:
            return self.present, self.before
        if self.present is None:
            return None, None
        present = self.present[self.seen.orderly]
        return present, counts_before(present)

    @cached_property
    def values(self) -> Floats:
        """The values of orderly rows."""
        if self.seen.orderly is None:
            return self.all_values
        assert self.column is not None
        values = self.column[self.seen.orderly]
        present = self._orderly[0]
        return values if present is None else values[present]

    @cached_property
    def starts(self) -> Ints:
        """Where the keys begin among the values of orderly rows."""
        return self.among(self.seen.starts)

    def among(self, orderly_places: Ints) -> Ints:
        """Places among the orderly rows as places among their values."""
        before = self._orderly[1]
        return orderly_places if before is None else before[orderly_places]

    @cached_property
    def places(self) -> Ints:
        """The place in the index of each value of orderly rows."""
        return np.flatnonzero(_both(self.seen.orderly, self.present))

    @cached_property
    def stragglers(self) -> Ints:
        """The places of stragglers with a value; none as a rule."""
        if self.seen.orderly is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(_both(~self.seen.orderly, self.present))

    @cached_property
    def whole(self) -> bool:
        """Are all values whole numbers?"""
        return bool((np.rint(self.all_values) == self.all_values).all())

    @cached_property
    def shifts(self) -> Floats:
        """A whole number near the values of each key: squares of what is left stay small, whole numbers stay whole."""
        starts = self.all_starts
        sizes = np.diff(starts)
        mean = np.rint(totals(self.all_values, starts[:-1], starts[1:]) / np.maximum(sizes, 1))
        return np.where(np.abs(mean) < _WHOLE_SHIFT, mean, 0.0) + 0.0

    @cached_property
    def shifted(self) -> Floats:
        """The values of orderly rows less their key's shift."""
        index = self.seen.index
        if self.seen.orderly is None:
            return self.values - np.repeat(self.shifts, np.diff(self.all_starts))
        return self.values - self.shifts[index.codes[self.places]]

    @cached_property
    def seen_from(self) -> Ints:
        """The first question that sees each straggler."""
        return self.seen.seen_from(self.stragglers)


class _Span:
    """One length of window over one column: which values each question sees, and what several functions share."""

    def __init__(self, rows: _Column, window_s: int, hop_s: int) -> None:
        self.rows, self.length = rows, (window_s, hop_s)
        seen = rows.seen
        self.low, self.high = rows.among(seen.low(window_s, hop_s)), rows.among(seen.high)

    @cached_property
    def late(self) -> tuple[int, Ints, Ints] | None:
        """How many questions, and which run of them sees each straggler."""
        rows = self.rows
        if len(rows.stragglers) == 0:
            return None
        left = rows.seen_from
        right = np.maximum(rows.seen.left_at(rows.stragglers, *self.length), left)
        return len(self.low), left, right

    @cached_property
    def count(self) -> Floats:
        counted = self.high - self.low
        if self.late is not None:
            counted = counted + cover_count(*self.late)
        return counted.astype(np.float64)

    @cached_property
    def total(self) -> Floats:
        return self.summed(self.rows.values, lambda late: self.rows.column[late])  # type: ignore[index]  # it has one

    def summed(self, values: Floats, of_late: Callable[[Ints], Floats]) -> Floats:
        """The sum of what each question sees; 0 of nothing."""
        found = totals(values, self.low, self.high)
        return found if self.late is None else found + cover_sum(*self.late, of_late(self.rows.stragglers))

    def end(self, newest: bool) -> Floats:
        """The newest or the oldest value."""
        column = self.rows.column
        assert column is not None
        there = self.low < self.high
        if len(column) == 0:
            return np.full(len(self.low), np.nan)
        if self.late is None:
            values = self.rows.values
            at = np.where(there, self.high - 1 if newest else self.low, 0)
            return np.where(there, values[at], np.nan) if len(values) else np.full(len(at), np.nan)
        sign, places, nowhere = (1 if newest else -1), self.rows.places, -1 - len(column)
        of_late = cover_max(*self.late, sign * self.rows.stragglers, nothing=nowhere)
        at = np.where(there, self.high - 1 if newest else self.low, 0)
        of_run = np.where(there, sign * places[at], nowhere) if len(places) else nowhere
        best = np.maximum(of_late, of_run)
        return np.where(best == nowhere, np.nan, column[np.where(best == nowhere, 0, sign * best)])

    def of_runs(self, function: Runs) -> Floats:
        """A function of all the values that each question sees, which can't be put together from parts."""
        rows = self.rows
        if self.late is None:
            return function(rows.values, self.low, self.high, rows.starts)
        found = np.empty(len(self.low))
        low, high, in_one = self._runs_of_all()
        clean = np.flatnonzero(in_one)
        found[clean] = function(rows.all_values, low[clean], high[clean], rows.all_starts)
        for mine, values, begins, ends in self._copies(np.flatnonzero(~in_one), low):
            found[mine] = function(values, begins, ends, begins)
        return found

    @cached_property
    def _happened_high(self) -> Ints:
        high, before = self.rows.seen.happened_high, self.rows.before
        return high if before is None else before[high]

    def _runs_of_all(self) -> tuple[Ints, Ints, Bools]:
        """Runs among all values, and whether a question sees all of its run: what is hidden stands behind it."""
        rows, seen = self.rows, self.rows.seen
        index, questions = seen.index, seen.questions
        low = seen.first(*self.length)
        low, high = (low if rows.before is None else rows.before[low]), self._happened_high
        hidden = _both(index.ready > index.happened, rows.present)
        at = np.flatnonzero(hidden)
        left = questions.first_from(index.codes[at], index.happened[at])
        right = np.minimum(seen.seen_from(at), seen.left_at(at, *self.length))
        right = np.maximum(right, left)
        count = cover_count(len(low), left, right)
        place = at if rows.before is None else rows.before[at]
        nowhere = -1 - len(index)
        first = -cover_max(len(low), left, right, -place, nothing=nowhere)
        return low, high - count, (count == 0) | (first + count == high)

    def _copies(self, questions: Ints, low: Ints) -> Iterator[tuple[Ints, Floats, Ints, Ints]]:
        """Some questions' visible values, copied behind one another: ``(which, values, begins, ends)``."""
        rows, seen = self.rows, self.rows.seen
        index = seen.index
        ready = index.ready if rows.present is None else index.ready[rows.present]
        sizes = self._happened_high[questions] - low[questions]
        copied = np.cumsum(sizes)
        steps = np.searchsorted(copied, np.arange(0, int(copied[-1]) if len(copied) else 0, _TOGETHER))
        for begin, end in pairwise(np.unique(np.concatenate(([0], steps, [len(sizes)])))):
            mine, size = questions[begin:end], sizes[begin:end]
            of = np.repeat(np.arange(len(mine)), size)
            at = np.arange(len(of)) + (low[mine] - np.cumsum(size) + size)[of]
            visible = ready[at] <= seen.questions.times[mine][of]
            ends = np.cumsum(np.bincount(of[visible], minlength=len(mine)))
            yield mine, rows.all_values[at[visible]], np.concatenate(([0], ends[:-1])), ends


def _both(one: Bools | None, other: Bools | None) -> Bools:
    assert one is not None or other is not None
    if one is None:
        return other  # type: ignore[return-value]  # one of them is
    return one if other is None else one & other


def _answer(window: Window, span: _Span) -> Floats:
    """One window for all sorted questions, as :mod:`.reducing` defines it."""
    match window.function:
        case "count":
            return span.count
        case "sum":
            return np.where(span.count > 0, span.total, np.nan)
        case "mean":
            return np.where(span.count > 0, span.total / np.maximum(span.count, 1.0), np.nan)
        case "std":
            return _std(span)
        case "min" | "max":
            return _extreme(span, greatest if window.function == "max" else least, window.function == "max")
        case "first" | "last":
            return span.end(window.function == "last")
        case "distinct":
            return span.of_runs(distincts)
        case "approx_distinct":
            return span.of_runs(approx_distincts)
    return span.of_runs(lambda values, low, high, _: percentiles(values, low, high, window.share))


def _extreme(span: _Span, fold: Callable[[Floats, Ints, Ints], Floats], most: bool) -> Floats:
    found = fold(span.rows.values, span.low, span.high)
    if span.late is None:
        return found
    column, sign = span.rows.column, (1.0 if most else -1.0)
    assert column is not None
    late = sign * cover_max(*span.late, sign * column[span.rows.stragglers], nothing=np.nan)
    return np.asarray(np.fmax(found, late) if most else np.fmin(found, late))


def _std(span: _Span) -> Floats:
    """Exact sums of squares where whole numbers allow them: the bits are the same as of running sums."""
    rows, count = span.rows, span.count
    found = np.full(len(count), np.nan)
    some = count > 1
    if rows.whole:
        index, column = rows.seen.index, rows.column
        assert column is not None

        def late(at: Ints) -> Floats:
            return column[at] - rows.shifts[index.codes[at]]

        total = span.summed(rows.shifted, late)
        squares = span.summed(rows.shifted * rows.shifted, lambda at: late(at) ** 2)
        exact = some & (count * squares < EXACT)
        spread = count[exact] * squares[exact] - total[exact] ** 2
        found[exact] = np.sqrt(spread / (count[exact] * (count[exact] - 1.0)))
        some &= ~exact
    rest = np.flatnonzero(some)
    if len(rest):
        counted, _, squares = _spread(span, rest)
        found[rest] = np.sqrt(squares / (counted - 1.0))
    return found


def _spread(span: _Span, some: Ints) -> tuple[Floats, Floats, Floats]:
    """Count, mean and squared distances of what some questions see."""
    rows, seen = span.rows, span.rows.seen
    orderly = spreads(rows.values, span.low[some], span.high[some])
    if span.late is None:
        return orderly
    assert rows.column is not None
    ready, before = (
        seen.index.ready[rows.stragglers],
        counts_before(_placed(rows.stragglers, len(seen.index))),
    )
    low, high = before[seen.first(*span.length)[some]], before[seen.happened_high[some]]
    times = seen.questions.times[some]
    return merged(orderly, spreads_below(rows.column[rows.stragglers], ready, low, high, times))


def _placed(places: Ints, size: int) -> Bools:
    there = np.zeros(size, dtype=bool)
    there[places] = True
    return there
