"""Joins and back-fills split by entity, over processes or a Ray cluster; answers equal those of one process, in order.

Workers open the sources themselves, by their LazyFrames: files, buckets and databases are read where the work is. Only a
DataFrame, which nobody else can reach, is shipped. A part holds the rows of its own keys, so it is finished alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial

import msgspec
import numpy as np
import polars as pl

from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.features.definitions import View
from flyball.features.events import Frame, events_of, keys_of, said_of, source_of, taken_from, times_us
from flyball.features.filling import HISTORY_S, Filled, put
from flyball.features.joining import Asked, Span, join
from flyball.features.keys import Keys
from flyball.features.partitions import divided, part_of
from flyball.features.pools import Pool, opened
from flyball.features.reach import EARLIEST, LATEST, Mark, Reach, reach_of, what_changed, with_times
from flyball.features.rows import packed
from flyball.features.statistics import Statistics
from flyball.stores.online import no_rows, open_online
from flyball.stores.online_chunks import NEVER, Ints

PIECE_ROWS = 4_000_000  # of a source, read by one task
PART_ROWS = 20_000_000  # of a source, about, that one task holds to finish a part
_BATCH_ROWS = 1_000_000


@contextmanager
def joins(compute: str) -> Iterator[Callable[[View, list[str], Asked, Frame], dict[str, pl.Series]]]:
    """A function that joins one view's features (its own names for them) to questions, like
    :func:`flyball.features.joining.join`, by the workers that ``compute`` names.
    """
    with opened(compute) as pool:
        yield partial(_joined_view, pool)


def joined(
    asked: Asked, wanted: Sequence[str], views: Iterable[View], sources: Mapping[str, Frame], compute: str
) -> list[pl.Series]:
    """One column per wanted ``view:feature``, in order: the answers of :func:`flyball.features.offline.joined`."""
    columns: dict[str, pl.Series] = {}
    with joins(compute) as join_view:
        for view in views:
            names = [feature.partition(":")[2] for feature in view.features if feature in wanted]
            found = join_view(view, names, asked, source_of(view, sources))
            columns.update((f"{view.name}:{name}", series) for name, series in found.items())
    return [columns[name].alias(name) for name in wanted]


def _joined_view(
    pool: Pool, view: View, names: list[str], asked: Asked, source: Frame
) -> dict[str, pl.Series]:
    taken_from(view, source.clear() if isinstance(source, pl.DataFrame) else source)  # names what is missing
    keys_asked = keys_of(asked.frame, view.entity, asked.said)
    keys = Keys(keys_asked)
    codes = keys.codes(keys_asked)
    span = Span.of(view, names, asked.times[(codes >= 0) & (asked.times != NEVER)])
    pieces, rows = _pieces(source.select(*view.needed_columns), pool.workers)
    parts = max(2 * pool.workers, -(-rows // PART_ROWS))
    cuts = [partial(_cut_by_question, view, piece, keys, span, parts) for piece in pieces]
    of_part = np.where(codes >= 0, codes % parts, np.arange(len(codes)) % parts)
    places = [np.flatnonzero(of_part == part) for part in range(parts)]
    needed = keys_asked.with_columns(pl.Series("asked at", asked.times))
    empty = pl.DataFrame(schema=source.select(*view.needed_columns).collect_schema())
    finishes = [partial(_answer, view, names, needed[pl.Series(mine)], asked.said, empty) for mine in places]
    answers = pool.run(cuts, finishes)
    back = np.empty(len(codes), dtype=np.int64)
    back[np.concatenate(places)] = np.arange(len(codes))
    return {
        name: pl.concat([answer[name] for answer in answers]).gather(pl.Series(back)).rechunk()
        for name in names
    }


def _pieces(source: Frame, workers: int) -> tuple[list[Frame], int]:
    """A source in pieces that can be read apart, in order, and its rows (0: unknown): what is in files or in memory.

    A query is one piece: a database would run it anew for each.
    """
    if isinstance(source, pl.LazyFrame) and not _in_files(source):
        return [source], 0
    rows = (
        source.height if isinstance(source, pl.DataFrame) else int(source.select(pl.len()).collect().item())
    )
    piece = max(min(PIECE_ROWS, -(-rows // (2 * workers))), 1)
    return [source.slice(begin, piece) for begin in range(0, rows, piece)] or [source], rows


def _in_files(source: pl.LazyFrame) -> bool:
    """Whether a plan reads Parquet alone, where rows can be reached by their number without reading those before."""
    lines = source.explain(optimized=False).splitlines()
    scans = [line for line in lines if "SCAN" in line]
    return bool(scans) and all("parquet scan" in line.lower() for line in scans)


def _cut_by_question(view: View, piece: Frame, keys: Keys, span: Span, parts: int) -> list[pl.DataFrame]:
    """A piece's rows that matter to some question, by the part of their key."""
    found: list[list[pl.DataFrame]] = [[] for _ in range(parts)]
    said = said_of(view)
    for batch in _batches(piece):
        codes = keys.codes(keys_of(batch, view.entity, said))
        counts = codes >= 0
        for name in dict.fromkeys((view.happened, view.known)):
            counts &= (times_us(batch[name], said) <= span.high) & batch[name].is_not_null().to_numpy()
        if span.low > NEVER:
            counts &= times_us(batch[view.happened], said) >= span.low
        for share, rows in zip(
            found, divided(batch, np.where(counts, codes % parts, -1), parts), strict=True
        ):
            share.append(rows)
    return [pl.concat(share) for share in found]


def _batches(piece: Frame) -> Iterable[pl.DataFrame]:
    if isinstance(piece, pl.DataFrame):
        return [piece]
    batches = piece.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming")
    return [*batches] or [piece.clear().collect()]


def _answer(
    view: View,
    names: list[str],
    asked: pl.DataFrame,
    said: str,
    empty: pl.DataFrame,
    frames: list[pl.DataFrame],
) -> dict[str, pl.Series]:
    """The features of one part's questions from the rows of its keys."""
    times = asked["asked at"].to_numpy()
    questions = Asked(asked.drop("asked at"), times, said)
    return join(view, names, questions, pl.concat(frames) if frames else empty)


def fill(
    view: View,
    source: Frame,
    store_url: str,
    *,
    compute: str,
    since: datetime | None = None,
    until: datetime | None = None,
    latest: datetime | None = None,
    history_s: int | None = HISTORY_S,
    statistics: Statistics | None = None,
) -> Filled:
    """Fill a view from many workers, each with keys of its own; the mark moves when all are done.

    ``statistics`` get those of all the workers added.

    Killed, it begins again where the mark stands: rows that are there already count once. A store in files of one
    machine is refused for Ray.
    """
    if compute.startswith("ray") and store_url.startswith("lmdb:"):
        raise Invalid(
            "an online store in LMDB is of one machine: a cluster can't fill it",
            'stores.online = "redis://…", or compute processes',
        )
    frame = with_times(view, source, all_columns=False)
    store = open_online(store_url)
    mark = Mark.of(view, store)
    reached = mark.until_us if mark is not None else EARLIEST
    after = to_us(since) if since is not None else reached
    end = min(to_us(one) if one is not None else LATEST for one in (until, latest))
    span = reach_of(frame, after, to_us(until) if until else LATEST, end, reached)
    new = 0
    if span.rows:
        with opened(compute) as pool:
            pieces, rows = _pieces(source.select(*view.needed_columns), pool.workers)
            parts = max(2 * pool.workers, -(-rows // PART_ROWS))
            cuts = [partial(_cut_by_known, view, piece, after, end, parts) for piece in pieces]
            finishes = [partial(_bring, view, store_url, history_s)] * parts
            for count, brought in pool.run(cuts, finishes):
                new += count
                if statistics is not None:
                    statistics.join(brought)
    moved = _moved(view, frame, mark, span, after)
    if moved is not None:
        store.append(view.stored_as, no_rows(), marks={Mark.named(view): msgspec.msgpack.encode(moved)})
    now = moved or mark
    behind = "" if mark is None else what_changed(mark, span)
    return Filled(
        rows=span.rows,
        new=new,
        held_back=span.held_back,
        until_us=None if now is None else now.until_us,
        behind=behind,
    )


def _moved(view: View, frame: pl.LazyFrame, mark: Mark | None, span: Reach, after: int) -> Mark | None:
    """The mark behind the last row; ``None`` where it stays: nothing came, or a gap is left before it."""
    if not span.rows:
        return None
    joins = span.rows_before == 0 if mark is None else after <= mark.until_us
    if not joins or (mark is not None and span.high < mark.until_us):
        return None
    filled = reach_of(frame, span.high, LATEST, LATEST, span.high)
    rows, times = filled.rows_before, filled.times_before
    if mark is not None and after == mark.until_us:  # what came late stays missing until it is back-filled
        rows += mark.rows - span.rows_before
        times += mark.times - span.times_before
    return Mark(span.high, rows, times)


def _cut_by_known(view: View, piece: Frame, after: int, end: int, parts: int) -> list[pl.DataFrame]:
    """A piece's rows that became known in ``(after, end]``, by the part of their key."""
    found: list[list[pl.DataFrame]] = [[] for _ in range(parts)]
    said = said_of(view)
    for batch in _batches(piece):
        known: Ints = times_us(batch[view.known], said)
        counts = (known > after) & (known <= end) & batch[view.known].is_not_null().to_numpy()
        part = np.where(counts, part_of(keys_of(batch, view.entity, said), parts), -1)
        for share, rows in zip(found, divided(batch, part, parts), strict=True):
            share.append(rows)
    return [pl.concat(share) for share in found]


def _bring(
    view: View, store_url: str, history_s: int | None, frames: list[pl.DataFrame]
) -> tuple[int, Statistics]:
    """Put one part's rows into the store, in order of their known time; returns how many were new, and what they were."""
    new, brought = 0, Statistics(view)
    if not frames:
        return new, brought
    store = open_online(store_url)
    frame = pl.concat(frames).sort(view.known, maintain_order=True)
    try:
        for part in frame.iter_slices(_BATCH_ROWS):
            rows = packed(events_of(view, part))
            brought.add(rows)
            new += put(view, rows, store, history_s=history_s)
        return new, brought
    finally:
        store.close()
