"""A source's rows as arrays: what training and serving both start from, so that they can't differ.

Rows with a null key or clock never count; NaN, infinities and numbers beyond 1e150 are nulls; the same row
twice counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec
import numpy as np
import polars as pl

from flyball.errors import Invalid, NotFound, nearest
from flyball.features.definitions import View, text_code
from flyball.stores.online_chunks import Floats, Ints, clean

Frame = pl.DataFrame | pl.LazyFrame
_TEXTS = (pl.String, pl.Categorical, pl.Enum, pl.Null)
_WIDE = (pl.Int128, pl.UInt128)  # NumPy has none
_FEW = 4096  # rows up to which plain Python is quicker than a Polars expression
_AT_ONCE = 1 << 15
_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Events(msgspec.Struct, frozen=True):
    """Rows of one view: keys as a frame, the rest as arrays. Times in microseconds, UTC; NaN is null.

    A text is its :func:`~flyball.features.definitions.text_code` in ``values``; ``texts`` says which text that is.
    """

    keys: pl.DataFrame
    happened: Ints
    known: Ints
    row_ids: Ints
    values: Floats  # (rows, len(view.stored_columns))
    texts: Mapping[int, str] = {}

    def __len__(self) -> int:
        return len(self.happened)


def source_of(view: View, sources: Mapping[str, Frame]) -> Frame:
    """The frame a view reads; a missing one names the nearest."""
    if view.source not in sources:
        raise NotFound(
            f"view {view.name!r} reads source {view.source!r}, which was not given",
            nearest(view.source, list(sources)),
            view=view.name,
        )
    return sources[view.source]


def events_of(view: View, source: Frame) -> Events:
    """Take from a source what a view needs; a missing or wrong column is named.

    Columns go to NumPy one by one, without a Polars expression: planning one costs 0.4 ms, and fifty rows are
    pushed in less.
    """
    where = said_of(view)
    taken = taken_from(view, source)
    frame = taken.collect() if isinstance(taken, pl.LazyFrame) else taken
    required = (*view.entity, view.happened, view.known)
    if any(frame[name].null_count() for name in required):
        frame = frame.drop_nulls(required)
    texts: dict[int, str] = {}
    values = np.empty((len(frame), len(view.stored_columns)), dtype=np.float64)
    for i, name in enumerate(view.stored_columns):
        values[:, i] = floats_of(frame[name], view, texts)
    return Events(
        keys_of(frame, view.entity, where),
        times_us(frame[view.happened], where),
        times_us(frame[view.known], where),
        row_ids_of([frame[name] for name in view.row_id], len(frame), where),
        values,
        texts,
    )


def said_of(view: View) -> str:
    """A view's source, as errors name it."""
    return f"source {view.source!r} of view {view.name!r}"


def taken_from(view: View, source: Frame) -> Frame:
    """A source's rows with the view's derived columns, without those that its ``where`` leaves out; a column that is
    missing is named. Of a lazy frame only the columns that the view needs.
    """
    schema = source.collect_schema()
    for name in view.needed_columns:
        if name not in schema:
            raise Invalid(
                f"{said_of(view)} has no column {name!r}",
                nearest(name, schema.names()),
                view=view.name,
                column=name,
            )
    if view.derived or view.where is not None:
        from flyball.features import expressions

        lazy = expressions.apply(
            source.lazy().select(*view.needed_columns), view.derived, view.where, view.types
        )
        source = lazy if isinstance(source, pl.LazyFrame) else lazy.collect()
    if isinstance(source, pl.LazyFrame):
        names = (*view.entity, view.happened, view.known, *view.row_id, *view.stored_columns)
        return source.select(*dict.fromkeys(names))
    return source


def keys_of(frame: pl.DataFrame, entity: Sequence[str], where: str) -> pl.DataFrame:
    """Key columns as text or 64-bit whole numbers; another type is named."""
    return pl.DataFrame([_key(frame, name, where) for name in entity])


def _key(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    if name not in frame.columns:
        raise Invalid(f"{where} has no key column {name!r}", nearest(name, frame.columns), column=name)
    series = frame[name]
    if series.dtype.is_integer():
        if series.dtype == pl.Int64:
            return series
        found = series.cast(pl.Int64, strict=False)
        if found.null_count() > series.null_count():
            raise Invalid(f"{where}: key {name!r} has numbers beyond 63 bits", "cast it to text", column=name)
        return found
    if series.dtype in _TEXTS:
        return series if series.dtype == pl.String else series.cast(pl.String)
    raise Invalid(
        f"{where}: key {name!r} is {series.dtype}", "keys are text or whole numbers; cast it", column=name
    )


def times_us(series: pl.Series, where: str) -> Ints:
    """Microseconds since 1970, UTC. A time without a zone is read as UTC, a date as its midnight; null becomes 0."""
    if series.dtype == pl.Null:
        return np.zeros(len(series), dtype=np.int64)
    if not (series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime)):
        raise Invalid(
            f"{where}: {series.name!r} is {series.dtype}, not a time",
            f"parse it first: pl.col({series.name!r}).str.to_datetime(time_zone='UTC')",
            column=series.name,
        )
    if series.dtype == pl.Date or series.dtype.time_unit != "us":  # type: ignore[attr-defined]  # of a Datetime
        found_us = series.cast(pl.Datetime("us"), strict=False)
        if found_us.null_count() > series.null_count():
            raise Invalid(
                f"{where}: {series.name!r} has times that microseconds can't count",
                "were they read in the right unit?",
                column=series.name,
            )
        series = found_us
    times = series.cast(pl.Int64)  # whatever the zone, Polars keeps UTC; without a copy
    found: Ints = (times.fill_null(0) if times.null_count() else times).to_numpy()
    return found


def floats_of(series: pl.Series, view: View, texts: dict[int, str]) -> Floats:
    """A stored column as numbers, NaN for null; texts as their codes, which ``texts`` then knows."""
    dtype, said = series.dtype, said_of(view)
    if series.name in view.text_columns:
        return _coded(series, said, texts)
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        hint = "features are numbers or booleans; encode it as one first"
        if dtype in _TEXTS:
            hint = f"for a feature of texts say so: View(..., types={{{series.name!r}: 'BYTES'}})"
        raise Invalid(f"{said}: {series.name!r} is {dtype}", hint, column=series.name)
    as_they_are = (dtype.is_integer() and dtype not in _WIDE) or dtype.is_float()
    plain = series if as_they_are else series.cast(pl.Float64)
    values = plain.to_numpy()  # nulls are NaN
    found = np.empty(len(values))
    for begin in range(0, len(values), _AT_ONCE):  # what is worked on stays in the processor's cache
        found[begin : begin + _AT_ONCE] = clean(
            values[begin : begin + _AT_ONCE].astype(np.float64, copy=False)
        )
    return found


def _coded(series: pl.Series, said: str, texts: dict[int, str]) -> Floats:
    if series.dtype not in _TEXTS:
        raise Invalid(
            f"{said}: {series.name!r} is {series.dtype}, the view says that it is text",
            "cast it to pl.String, or leave it out of the view's types",
            column=series.name,
        )
    series = series.cast(pl.String)
    distinct = [text for text in series.unique().to_list() if text is not None]
    codes = {text: text_code(text) for text in distinct}
    for text, code in codes.items():
        if texts.setdefault(code, text) != text:
            raise Invalid(
                f"{said}: the texts {texts[code]!r} and {text!r} of {series.name!r} have the same code",
                "rename one of them; among a million texts this happens once in ten thousand times",
                column=series.name,
            )
    if len(series) < _FEW:
        return np.array(
            [np.nan if text is None else codes[text] for text in series.to_list()], dtype=np.float64
        )
    if not distinct:
        return np.full(len(series), np.nan)
    numbers = pl.Series([float(code) for code in codes.values()])
    found = series.replace_strict(pl.Series(distinct), numbers, default=None, return_dtype=pl.Float64)
    floats: Floats = found.to_numpy()
    return floats


def row_ids_of(columns: Sequence[pl.Series], rows: int, where: str) -> Ints:
    """64 bits that tell rows apart, the same in every process and version; 0 without columns."""
    ids = np.zeros(rows, dtype=np.uint64)
    for series in columns:
        if series.dtype in _TEXTS:
            texts = series.cast(pl.String).to_list()
            known = {text: _hash(text) for text in set(texts)}
            part = np.array([known[text] for text in texts], dtype=np.uint64)
        elif series.dtype.is_integer() or series.dtype == pl.Boolean:
            part = series.fill_null(0 if series.dtype.is_integer() else False).to_numpy().astype(np.uint64)
        elif series.dtype.is_temporal():
            part = times_us(series, where).astype(np.uint64)
        else:
            raise Invalid(
                f"{where}: row_id column {series.name!r} is {series.dtype}",
                "row ids are text, whole numbers or times",
                column=series.name,
            )
        if series.null_count() and series.dtype not in _TEXTS:  # whatever stands there, null is another id
            part = np.where(series.is_null().to_numpy(), np.uint64(_hash(None)), part)
        ids = (ids ^ part) * _PRIME
        ids ^= ids >> np.uint64(29)
    return ids.view(np.int64)


def _hash(text: str | None) -> int:
    data = b"\x00" if text is None else b"\x01" + text.encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
