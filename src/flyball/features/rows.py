"""A view's rows the way a store takes them: keys packed once each, rows numbered by key.

Keys come sorted by their bytes: a B-tree that is filled in its own order takes a third of the time (measured with
LMDB, 1M keys with 600 bytes each: 4.0 s of CPU in random order, 1.4 s sorted).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import polars as pl

from flyball.features.definitions import View
from flyball.features.events import Events, Frame, events_of
from flyball.stores.online import Rows, pack_key
from flyball.stores.online_chunks import Ints

_encode = msgspec.msgpack.Encoder().encode
_SHORT = 64  # bytes of a text up to which a packed key of a few columns is never hashed
_FEW = 4096  # rows up to which plain Python numbers keys before Polars has planned it
_SAMPLE = 10_000
_WORDS = 4


def rows_of(view: View, source: Frame) -> Rows:
    """The rows of a view in a frame of its source, those without key or clocks left out; a wrong column is named."""
    return packed(events_of(view, source))


def packed(events: Events) -> Rows:
    """Events with their keys packed."""
    keys, codes = _keys(events.keys)
    texts: Mapping[int, str] = getattr(events, "texts", None) or {}
    return Rows(keys, codes, events.happened, events.known, events.row_ids, events.values, texts)


def _keys(frame: pl.DataFrame) -> tuple[list[bytes], Ints]:
    """The distinct keys, packed, and which of them each row has."""
    if frame.height <= _FEW:
        places: dict[tuple[Any, ...], int] = {}
        keys = zip(*(frame[name].to_list() for name in frame.columns), strict=True)
        codes = np.fromiter(
            (places.setdefault(key, len(places)) for key in keys), dtype=np.int64, count=frame.height
        )
        return [pack_key(key) for key in places], codes
    codes, first = _numbered(frame[frame.columns[0]])
    columns = [first]
    for name in frame.columns[1:]:
        more, values = _numbered(frame[name])
        pairs, codes = np.unique(codes * len(values) + more, return_inverse=True)
        which, of = np.divmod(pairs, len(values))
        columns = [*(column.gather(which) for column in columns), values.gather(of)]
    short = len(columns) <= 4 and all(map(_is_short, columns))
    pack = _encode if short else pack_key
    return list(map(pack, zip(*(column.to_list() for column in columns), strict=True))), codes


def _numbered(series: pl.Series) -> tuple[Ints, pl.Series]:
    """The place of each value among the distinct ones, and those in the order of their packed bytes: numbers by size,
    texts by length first.
    """
    if series.dtype == pl.Int64:
        values, codes = np.unique(series.to_numpy(), return_inverse=True)
        return codes.astype(np.int64, copy=False), pl.Series(values)
    if series[:_SAMPLE].n_unique() < 0.97 * _SAMPLE:  # most values are of a few texts: hash, and sort those
        texts = series.unique()
        texts = texts.gather(_order(texts))
        return series.cast(pl.Enum(texts)).to_physical().to_numpy().astype(np.int64), texts
    order = _order(series)
    ordered = series.gather(order)
    begins = ordered.ne_missing(ordered.shift(1))
    codes = np.empty(len(series), dtype=np.int64)
    codes[order] = np.cumsum(begins.to_numpy()) - 1
    return codes, ordered.filter(begins)


def _order(texts: pl.Series) -> Ints:
    """Positions that sort texts by length and then bytes.

    As words of eight bytes behind what all of them begin with: a third of the time of sorting them as texts.
    """
    low, high = (bytes(str(one), "utf8") for one in (texts.min(), texts.max()))
    same = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
    rest = lengths - same
    longest = int(rest.max(initial=0))
    if longest >= 8 * _WORDS:
        by_length = pl.DataFrame({"text": texts}).with_row_index("place")
        ordered = by_length.sort(pl.col("text").str.len_bytes(), "text", maintain_order=True)
        return ordered["place"].to_numpy().astype(np.int64)
    data = np.frombuffer(texts.str.join("").item().encode() + bytes(8 * _WORDS), dtype=np.uint8)
    windows: Any = np.ndarray((len(data) - 7,), dtype=">u8", buffer=data, strides=(1,))  # one at every byte
    starts = np.cumsum(lengths) - lengths + same
    words = [
        (_kept(windows[starts], np.minimum(rest, 7)) >> np.uint64(8))
        | (rest.astype(np.uint64) << np.uint64(56))
    ]
    words += [_kept(windows[starts + at], np.clip(rest - at, 0, 8)) for at in range(7, longest, 8)]
    return np.argsort(words[0], kind="stable") if len(words) == 1 else np.lexsort(words[::-1])


def _kept(words: Any, count: Ints) -> Any:
    """Words with their first ``count`` bytes, the others 0."""
    drop = (8 * (8 - count)).astype(np.uint64)
    shifted = words.astype(np.uint64) >> np.minimum(drop, 63) << np.minimum(drop, 63)
    return np.where(count > 0, shifted, np.uint64(0))


def _is_short(column: pl.Series) -> bool:
    return column.dtype == pl.Int64 or column.is_empty() or bool((column.str.len_bytes() <= _SHORT).all())
