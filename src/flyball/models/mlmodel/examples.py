"""The input example that came with a folder, as rows; and more rows around it, to prove an export on."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import polars as pl

from flyball.errors import Invalid
from flyball.models.mlmodel.folder import Folder, check_path
from flyball.models.mlmodel.reading import MLmodel
from flyball.models.signature import Sample

_PROVED_ROWS = 200


def example_of(folder: Folder, mlmodel: MLmodel) -> Sample | None:
    """The rows of the input example; ``None`` when there is none, or when it is no table of numbers."""
    for path in (mlmodel.example.get("serving_input_path"), mlmodel.example.get("artifact_path")):
        if not path or check_path(path) not in folder or not str(path).endswith(".json"):
            continue
        try:
            content = msgspec.json.decode(folder.read(path))
        except msgspec.DecodeError as error:
            raise Invalid(
                f"the input example {path} is not JSON: {error}", "copy the whole file", path=path
            ) from error
        rows = _rows(content)
        if rows is not None and len(rows):
            return rows
    return None


def around(example: Sample, rows: int = _PROVED_ROWS) -> Sample:
    """At least so many rows: the example's own, then its columns shuffled apart and moved a little.

    They are not data: two programs that answer all of them equally are taken to be the same program.
    """
    values = _array(example)
    if len(values) >= rows:
        return example
    random = np.random.default_rng(0)
    spread = np.nanstd(values, axis=0) if len(values) > 1 else np.zeros(values.shape[1])
    spread = np.where(spread > 0, spread, np.abs(np.nan_to_num(values[0])) * 0.5 + 1.0)
    more = np.stack(
        [random.permutation(np.resize(column, rows - len(values))) for column in values.T], axis=1
    )
    more = more + random.normal(size=more.shape) * spread
    found = np.vstack([values, more]).astype(np.float32)
    if isinstance(example, pl.DataFrame):
        return pl.DataFrame(found, schema=example.columns)
    return found


def _array(example: Sample) -> np.ndarray[Any, Any]:
    if isinstance(example, pl.DataFrame):
        return example.select(pl.all().cast(pl.Float64)).to_numpy()
    return example.astype(np.float64)


def _rows(content: Any) -> Sample | None:
    """MLflow's ways to write rows: split, records, instances, inputs, or a plain list of lists."""
    if isinstance(content, dict):
        for key in ("dataframe_split", "dataframe_records", "instances", "inputs"):
            if key in content:
                return _rows(content[key])
        if "columns" in content and "data" in content:
            return _frame([str(name) for name in content["columns"]], content["data"])
        if content and all(isinstance(one, list) for one in content.values()):
            return _frame(list(content), list(zip(*content.values(), strict=False)))
        return None
    if isinstance(content, list) and content:
        if all(isinstance(row, dict) for row in content):
            names = list(content[0])
            return _frame(names, [[row.get(name) for name in names] for row in content])
        if all(isinstance(row, list) for row in content):
            values = _numbers(content)
            return values if values is not None and values.ndim == 2 else None
    return None


def _frame(names: list[str], rows: Any) -> pl.DataFrame | None:
    values = _numbers(rows)
    if values is None or values.ndim != 2 or values.shape[1] != len(names) or len(set(names)) != len(names):
        return None
    return pl.DataFrame(values, schema=names)


def _numbers(rows: Any) -> np.ndarray[Any, Any] | None:
    try:
        return np.array([[math.nan if one is None else float(one) for one in row] for row in rows])
    except (TypeError, ValueError):
        return None  # text, or rows of different lengths
