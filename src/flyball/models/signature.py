"""What goes into a model and what comes out, by name and type, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from flyball.core.records import Field, Signature
from flyball.errors import Invalid, nearest

Sample = pl.DataFrame | np.ndarray[Any, Any]
PROBABILITY = "probability"  # of class 1
PREDICTION = "prediction"


def infer(sample: Sample, output: str, *, allows_nulls: bool) -> Signature:
    """The signature of a model that takes rows such as these: one FP32 field per column, one FP32 output.

    Every engine is fed float32 rows in this order. An array's columns are called f0, f1, ...

    >>> infer(np.zeros((1, 2)), "probability", allows_nulls=False).inputs[1]
    Field(name='f1', datatype='FP32', shape=(-1, 1), nullable=False)
    """
    inputs = tuple(Field(name, "FP32", nullable=allows_nulls) for name in names_of(sample))
    return Signature(inputs, (Field(output, "FP32", nullable=False),))


def names_of(sample: Sample) -> list[str]:
    """The columns of a sample; text and other things that are not numbers are :class:`Invalid`."""
    if isinstance(sample, pl.DataFrame):
        wrong = [
            name
            for name, kind in sample.schema.items()
            if not (kind.is_numeric() or kind in {pl.Boolean, pl.Null})
        ]
        if wrong:
            kinds = ", ".join(f"{name} is {sample.schema[name]}" for name in wrong)
            raise Invalid(
                f"a model's inputs are numbers: {kinds}", "encode them as numbers in a feature", fields=wrong
            )
        return sample.columns
    if sample.ndim != 2:
        raise Invalid(
            f"the sample has shape {sample.shape}, not (rows, features)", "pass a 2-D array or a frame"
        )
    return [f"f{index}" for index in range(sample.shape[1])]


def rows_for(signature: Signature, rows: Sample) -> Sample:
    """The columns a model takes, in its order; other columns of a frame are left out, a missing one is named."""
    names = [field.name for field in signature.inputs]
    if isinstance(rows, pl.DataFrame):
        for name in names:
            if name not in rows.columns:
                raise Invalid(f"the rows have no column {name!r}", nearest(name, rows.columns), field=name)
        return rows.select(names)
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise Invalid(
            f"the rows have shape {rows.shape}; the model takes (n, {len(names)})", ", ".join(names[:20])
        )
    return rows


def as_array(rows: Sample, dtype: Any = None) -> np.ndarray[Any, Any]:
    """Rows as a 2-D array, nulls as NaN."""
    if isinstance(rows, pl.DataFrame):
        kind = pl.Float32 if dtype == np.float32 else pl.Float64
        rows = rows.select(pl.all().cast(kind)).to_numpy()
    return rows if dtype is None else rows.astype(dtype, copy=False)


def is_float32(rows: Sample) -> bool:
    """Whether every column holds float32, as a server's rows do."""
    if isinstance(rows, pl.DataFrame):
        return all(kind == pl.Float32 for kind in rows.dtypes)
    return bool(rows.dtype == np.float32)
