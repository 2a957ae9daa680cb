"""One view joined to many questions, in memory or, for sources that are larger, part by part from the disk.

A join needs the keys and clocks of all rows but values of a few: rows are put in order by number (:mod:`.index`), and
values are taken where an answer needs them. A source given lazily is read in batches; when more than ``memory_bytes`` of
rows that can matter have come, they are spilled into parts by key, each read back alone, with the same answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from flyball.errors import FlyballError, Invalid, Unavailable, nearest
from flyball.features.definitions import View
from flyball.features.events import Frame, floats_of, keys_of, row_ids_of, said_of, taken_from, times_us
from flyball.features.index import Index, Questions, index_of, newest
from flyball.features.keys import Keys
from flyball.features.windows import answers
from flyball.stores.online_chunks import NEVER, Floats, Ints, clean

MEMORY_BYTES = 2 << 30  # of a source's rows, before they are spilled
_BATCH_BYTES = 96 << 20
_SORT_BYTES = 64  # per row: its code, the packed key and time, the order, and what sorting holds meanwhile
_PARTS = 64
_MOST = 0.75  # with a greater share of rows that matter, the others are not sorted out
_SECOND = 1_000_000
_CODE = "code of the key"  # a column's name that no source has


class Asked(msgspec.Struct, frozen=True):
    """The questions: whose key columns, and as of when. ``times`` in microseconds, NEVER for a row that asks nothing."""

    frame: pl.DataFrame
    times: Ints
    said: str = "the entity rows"

    @classmethod
    def of(cls, frame: pl.DataFrame, at: str, said: str = "the entity rows") -> Asked:
        if at not in frame.columns:
            raise Invalid(f"{said} have no column {at!r}", nearest(at, frame.columns), column=at)
        times = times_us(frame[at], said)
        if frame[at].null_count():
            times = np.where(frame[at].is_null().to_numpy(), NEVER, times)
        return cls(frame, times, said)


class Span(msgspec.Struct, frozen=True):
    """Rows that can matter to some question: what happened within it, and became known before its end."""

    low: int
    high: int

    @classmethod
    def of(cls, view: View, names: Sequence[str], times: Ints) -> Span:
        """``times`` are those of questions about keys that there are."""
        if len(times) == 0:
            return cls(0, -1)
        reach: int | None = view.longest_s
        if any(column in names for column in view.columns):
            reach = None if view.ttl_s is None else max(view.ttl_s, view.longest_s)
        high = int(times.max())
        return cls(NEVER if reach is None else int(times.min()) - reach * _SECOND, high)


def join(
    view: View, names: Sequence[str], asked: Asked, source: Frame, *, memory_bytes: int = MEMORY_BYTES
) -> dict[str, pl.Series]:
    """The named features of a view (its own names for them) for all questions, in order: Float64, texts String."""
    keys_asked = keys_of(asked.frame, view.entity, asked.said)
    keys = Keys(keys_asked)
    codes = keys.codes(keys_asked)
    never = asked.times == NEVER
    times = asked.times
    if never.any():
        codes, times = np.where(never, -1, codes), np.where(never, 0, times)
    span = Span.of(view, names, times[codes >= 0])
    taken = taken_from(view, source)
    _check(view, keys, taken)
    with tempfile.TemporaryDirectory(prefix="flyball-join-", ignore_cleanup_errors=True) as folder:
        parts = _Parts(view, keys, span, Path(folder), memory_bytes)
        rows = parts.take(taken) if (codes >= 0).any() else parts.read([])
        if rows is not None:
            return _answers(view, names, rows, len(keys), codes, times)
        return _by_parts(view, names, parts, codes, times)


def _by_parts(
    view: View, names: Sequence[str], parts: _Parts, codes: Ints, times: Ints
) -> dict[str, pl.Series]:
    """Each part's questions answered from its rows, and put together in the order in which they were asked."""
    of_part = parts.part_of(codes)
    found: dict[str, list[pl.Series]] = {name: [] for name in names}
    places = []
    for group in parts.groups():
        mine = np.flatnonzero(np.isin(of_part, group))
        places.append(mine)
        if len(mine):
            rows = parts.read(group)
            for name, answer in _answers(
                view, names, rows, len(parts.keys), codes[mine], times[mine]
            ).items():
                found[name].append(answer)
    back = np.empty(len(codes), dtype=np.int64)
    back[np.concatenate(places)] = np.arange(len(codes))
    return {name: pl.concat(answers).gather(pl.Series(back)).rechunk() for name, answers in found.items()}


class Rows(msgspec.Struct, frozen=True):
    """Rows of a source that can matter: the codes of their keys, and their clocks."""

    frame: pl.DataFrame
    codes: Ints
    happened: Ints
    known: Ints | None  # None: it is the same column
    picked: Ints | None = (
        None  # those rows of the frame that count; None for all. ``codes`` and clocks are theirs
    )

    def series(self, name: str, rows: Ints) -> pl.Series:
        """A column's values at some of the rows that count; of an empty frame null."""
        at = rows if self.picked is None else self.picked[rows]
        return self.frame[name].gather(pl.Series(at))


def _rows_that_matter(view: View, keys: Keys, span: Span, frame: pl.DataFrame) -> Rows:
    """Rows of known keys with both clocks, within the span."""
    said = said_of(view)
    codes = keys.codes(keys_of(frame, view.entity, said))
    clocks = [times_us(frame[name], said) for name in dict.fromkeys((view.happened, view.known))]
    count = codes >= 0
    for place, name in enumerate(dict.fromkeys((view.happened, view.known))):
        count &= clocks[place] <= span.high
        if frame[name].null_count():
            there = frame[name].is_not_null().to_numpy()
            count &= there
            clocks[place] = np.where(there, clocks[place], clocks[place][np.argmax(there)])
    if span.low > NEVER:
        count &= clocks[0] >= span.low
    frame = frame.select(*dict.fromkeys((*view.row_id, *view.stored_columns)))  # keys and clocks may go
    if np.count_nonzero(count) > _MOST * len(count):
        # Few rows are left out: they become rows of a key that nobody asks for, and nothing needs to be copied.
        if not count.all():
            codes = np.where(count, codes, len(keys))
        return Rows(frame, codes, clocks[0], clocks[1] if len(clocks) > 1 else None)
    picked = np.flatnonzero(count)
    happened, *known = (times[picked] for times in clocks)
    return Rows(frame, codes[picked], happened, known[0] if known else None, picked)


def _answers(
    view: View, names: Sequence[str], rows: Rows, keys: int, codes: Ints, times: Ints
) -> dict[str, pl.Series]:
    """Answers from rows in memory."""
    questions = Questions(codes, times)
    texts: dict[int, str] = {}
    index = _index(view, rows, keys, texts)
    found: dict[str, pl.Series] = {}
    columns = [column for column in view.columns if column in names]
    if columns:
        places = newest(index, questions)
        if view.ttl_s is not None and len(index):
            old = questions.times - index.happened[np.maximum(places, 0)] > view.ttl_s * _SECOND
            places[old] = -1
        source_rows = np.where(places >= 0, index.rows[np.maximum(places, 0)], -1) if len(index) else places
        source_rows = questions.in_asked_order(source_rows)
        for column in columns:
            found[column] = _latest(view, rows, column, source_rows)
    windows = [window for window in view.windows if window.name in names]
    if windows:
        column_of = {column: place for place, column in enumerate(view.stored_columns)}
        for name, values in answers(index, questions, windows, column_of).items():
            answer = pl.Series(name, questions.in_asked_order(values)).fill_nan(None)
            window = next(one for one in windows if one.name == name)
            if view.output_types[name] == "BYTES" and window.column in view.text_columns:
                answer = _decoded(answer, texts)
            found[name] = answer
    return found


def _index(view: View, rows: Rows, keys: int, texts: dict[int, str]) -> Index:
    def take(column: int, at: Ints) -> Floats:
        return floats_of(rows.series(view.stored_columns[column], at), view, texts)

    row_ids = None
    if view.row_id:
        row_ids = row_ids_of([rows.frame[name] for name in view.row_id], len(rows.frame), said_of(view))
        row_ids = row_ids if rows.picked is None else row_ids[rows.picked]
    width = len(view.stored_columns)
    return index_of(rows.codes, rows.happened, rows.known, take, row_ids=row_ids, width=width, keys=keys + 1)


def _latest(view: View, rows: Rows, column: str, at: Ints) -> pl.Series:
    """A column's values at some rows, null at -1."""
    text = column in view.text_columns
    if len(rows.codes) == 0:
        return pl.Series(column, [None], dtype=pl.String if text else pl.Float64).new_from_index(0, len(at))
    there = at >= 0
    found = rows.series(column, np.maximum(at, 0))
    if not there.all():
        found = found.set(pl.Series(~there), None)
    if text:
        return found.cast(pl.String)
    return pl.Series(column, clean(found.cast(pl.Float64).to_numpy())).fill_nan(None)


def _decoded(codes: pl.Series, texts: dict[int, str]) -> pl.Series:
    if not texts:
        return codes.cast(pl.String).set(codes.is_not_null(), None)
    numbers = pl.Series([float(code) for code in texts])
    return codes.replace_strict(
        numbers, pl.Series(list(texts.values())), default=None, return_dtype=pl.String
    )


def _check(view: View, keys: Keys, source: Frame) -> None:
    """Name a column of a wrong type before anything is read."""
    schema = source.collect_schema()
    empty = pl.DataFrame(schema={name: schema[name] for name in schema.names()})
    said = said_of(view)
    had = keys_of(empty, view.entity, said)
    for name in (view.happened, view.known):
        times_us(empty[name], said)
    for name in view.stored_columns:
        floats_of(empty[name], view, {})
    row_ids_of([empty[name] for name in view.row_id], 0, said)
    keys.check(list(had.schema.items()), view.name)


class _Parts:
    """A source's rows that matter: in memory while they are few, else on disk in parts by key."""

    def __init__(self, view: View, keys: Keys, span: Span, folder: Path, memory_bytes: int) -> None:
        self.view, self.keys, self.span = view, keys, span
        self._folder, self._memory_bytes = folder, memory_bytes
        self._bytes = [0] * _PARTS
        self._files: list[list[Path]] = [[] for _ in range(_PARTS)]

    def take(self, source: Frame) -> Rows | None:
        """All rows that matter, if memory holds them; else None, and they lie in parts."""
        if isinstance(source, pl.DataFrame):
            return _rows_that_matter(self.view, self.keys, self.span, source)
        held: list[pl.DataFrame] = []
        size = 0.0
        for batch in _batches(source, said_of(self.view)):
            if size > self._memory_bytes:
                self._spill(batch)
                continue
            held.append(batch)
            size += batch.estimated_size() + _SORT_BYTES * batch.height
            if size > self._memory_bytes:
                while held:
                    self._spill(held.pop(0))
        if size > self._memory_bytes:
            return None
        frame = pl.concat(held) if held else source.clear().collect()
        del held
        return _rows_that_matter(self.view, self.keys, self.span, frame)

    def part_of(self, codes: Ints) -> Ints:
        return np.maximum(codes, 0) % _PARTS

    def _spill(self, batch: pl.DataFrame) -> None:
        rows = _rows_that_matter(self.view, self.keys, self.span, batch)
        if len(rows.codes) == 0:
            return
        part = self.part_of(rows.codes).astype(np.uint8)
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=_PARTS))
        at = pl.Series(order if rows.picked is None else rows.picked[order])
        view = self.view
        plain = dict.fromkeys((view.happened, view.known, *view.row_id, *view.stored_columns))
        code = pl.Series(_CODE, rows.codes[order])
        frame = batch.select(*plain).select(pl.all().gather(at)).with_columns(code)
        for number, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > begin:
                files = self._files[number]
                path = self._folder / f"{number:02d}-{len(files):06d}.arrow"
                self._write(frame[int(begin) : int(end)], path)
                files.append(path)
                self._bytes[number] += path.stat().st_size + _SORT_BYTES * int(end - begin)

    def _write(self, rows: pl.DataFrame, path: Path) -> None:
        try:
            rows.write_ipc(path, compression="uncompressed")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise Unavailable(
                f"the rows of {said_of(self.view)} can't be spilled to {path.parent}: {error}",
                "free some space, set TMPDIR to a larger disk, or allow more memory_bytes",
            ) from error

    def groups(self) -> Iterator[list[int]]:
        """Parts that are read together: as many as memory holds."""
        group: list[int] = []
        size = 0
        for number, part_bytes in enumerate(self._bytes):
            if group and size + part_bytes > self._memory_bytes // 2:
                yield group
                group, size = [], 0
            group.append(number)
            size += part_bytes
        yield group

    def read(self, group: Iterable[int]) -> Rows:
        """The rows of some parts; those of a key are in the order in which they came."""
        frames = [pl.read_ipc(path) for number in group for path in self._files[number]]
        for number in group:
            for path in self._files[number]:
                path.unlink()
        view = self.view
        names = (view.happened, view.known)
        if not frames:
            empty = np.empty(0, dtype=np.int64)
            columns = dict.fromkeys((*view.row_id, *view.stored_columns), pl.Null)
            return Rows(pl.DataFrame(schema=columns), empty, empty, None)
        frame = pl.concat(frames)
        clocks = [times_us(frame[name], said_of(view)) for name in dict.fromkeys(names)]
        return Rows(frame, frame[_CODE].to_numpy(), clocks[0], clocks[1] if len(clocks) > 1 else None)


def _batches(source: pl.LazyFrame, said: str) -> Iterator[pl.DataFrame]:
    """A source in batches, in its order; a file that is broken or went away meanwhile is named."""
    width = 8 * len(source.collect_schema())
    rows = max(_BATCH_BYTES // max(width, 1), 1)
    try:
        yield from source.collect_batches(chunk_size=rows, maintain_order=True, engine="streaming")
    except FlyballError:
        raise  # some are kinds of OSError
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Invalid(
            f"{said} can't be read to its end: {error}", "is it complete, and of one schema?"
        ) from error
