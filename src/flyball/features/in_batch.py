"""On-demand features of many rows at once, in Polars: the same values as :mod:`flyball.features.on_demand` gives a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from flyball.errors import Invalid, nearest
from flyball.features.expressions.batch import check_columns, kinds_in, with_expressions
from flyball.features.on_demand import as_outputs, function_of, typed, typed_expressions, types_of
from flyball.features.services import OnDemand, Vector

_DTYPES = {
    "FP64": pl.Float64, "FP32": pl.Float64, "INT64": pl.Int64, "INT32": pl.Int32, "BOOL": pl.Boolean, "BYTES": pl.String,
}  # fmt: skip
_NUMBERS = ("FP64", "FP32", "INT64", "INT32")


def computed(one: OnDemand, vector: Vector | None, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the features of one on-demand view."""
    for need in one.needs:
        if need not in frame.columns:
            raise Invalid(
                f"on-demand view {one.name!r} reads {need!r}, which is not there",
                nearest(need, frame.columns),
            )
    if one.python:
        columns = _by_function(one, _as_asked(one, vector, frame))
    else:
        schema, typed_ones = frame.schema, typed_expressions(one, vector)
        known = kinds_in(schema)
        for expression in typed_ones.values():
            check_columns(expression, schema, known)
        types = {**types_of(one, vector), **{name: kind for name, kind in known.items() if kind}}
        needed = frame.select(one.needs) if one.needs else frame.select(pl.int_range(pl.len()).alias("__row"))
        made = with_expressions(needed, {f"{one.name}:{name}": e for name, e in typed_ones.items()}, types)
        columns = [made[name] for name in one.features]
    kinds = [_DTYPES[kind] for kind in one.output_types.values()]
    return frame.with_columns(
        column.cast(kind, strict=False).alias(name)
        for column, kind, name in zip(columns, kinds, one.features, strict=True)
    )


def _as_asked(one: OnDemand, vector: Vector | None, frame: pl.DataFrame) -> pl.DataFrame:
    """The inputs of a plain function as a request brings them: its own numbers and booleans are floats."""
    columns = []
    for need in one.needs:
        column = frame[need]
        kind = vector.type_of(need) if vector is not None else one.types.get(need, "FP64")
        if ":" not in need and kind != "BYTES" and not column.dtype.is_temporal():
            column = column.cast(pl.Float64)
        if column.dtype.is_float():
            column = column.to_frame().select(pl.when(pl.col(need).abs() <= 1e150).then(pl.col(need)))[need]
        columns.append(column)
    return pl.DataFrame(columns)


def _by_function(one: OnDemand, inputs: pl.DataFrame) -> list[pl.Series]:
    function, batch = function_of(one)
    kinds = one.output_types
    if batch is None:
        rows = [_one_row(one, function, row, at) for at, row in enumerate(inputs.iter_rows())]
        by_output = list(zip(*rows, strict=True)) if rows else [()] * len(kinds)
        return [
            pl.Series([typed(value, kind, one, name) for value in values], dtype=_DTYPES[kind])
            for values, (name, kind) in zip(by_output, kinds.items(), strict=True)
        ]
    found = batch(inputs)
    if isinstance(found, pl.DataFrame):
        found = {name: found[name] for name in found.columns}
    parts = as_outputs(one, found if isinstance(found, Mapping) else [found])
    columns = []
    for part, (name, kind) in zip(parts, kinds.items(), strict=True):
        column = part if isinstance(part, pl.Series) else pl.Series(part)
        if len(column) != len(inputs):
            raise Invalid(
                f"the batch form of {one.python} gave {len(column)} rows of {len(inputs)}",
                "one value per row",
            )
        columns.append(_clean(column, kind, one, name))
    return columns


def _one_row(one: OnDemand, function: Any, row: tuple[Any, ...], at: int) -> Any:
    try:
        return as_outputs(one, function(*row))
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in zip(one.needs, row, strict=True))
        raise Invalid(
            f"{one.python} fails on row {at}: {type(error).__name__}: {error}", f"it was given {given}"
        ) from error


def _clean(column: pl.Series, kind: str, one: OnDemand, name: str) -> pl.Series:
    """A column that a batch function returned, as its declared type."""
    dtype = column.dtype
    fits = (
        dtype in (pl.String, pl.Categorical, pl.Enum)
        if kind == "BYTES"
        else dtype.is_numeric() or dtype == pl.Boolean
    )
    if not fits and dtype != pl.Null:
        raise Invalid(
            f"the batch form of {one.python} gave {dtype} for {name!r}, which is {kind}",
            "cast it, or types={...}",
        )
    if kind == "BYTES":
        return column.cast(pl.String)
    x = pl.col("x")
    number = column.cast(pl.Float64).alias("x").to_frame().select(pl.when(x.abs() <= 1e150).then(x))["x"]
    if kind == "BOOL":
        return number != 0.0
    return number.to_frame().select(x.truncate())["x"] if kind in ("INT64", "INT32") else number
