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
    frame = pl.DataFrame({"text": series})
    in_order = (pl.col("text").str.len_bytes(), pl.col("text"))
    if series[:_SAMPLE].n_unique() < 0.97 * _SAMPLE:  # most values are of a few texts: hash, and sort those
        texts = frame.unique().sort(in_order)["text"]
        return series.cast(pl.Enum(texts)).to_physical().to_numpy().astype(np.int64), texts
    ordered = frame.with_row_index("place").sort(in_order)
    begins = ordered["text"].ne_missing(ordered["text"].shift(1))
    codes = np.empty(len(series), dtype=np.int64)
    codes[ordered["place"].to_numpy()] = np.cumsum(begins.to_numpy()) - 1
    return codes, ordered["text"].filter(begins)


def _is_short(column: pl.Series) -> bool:
    return column.dtype == pl.Int64 or column.is_empty() or bool((column.str.len_bytes() <= _SHORT).all())
