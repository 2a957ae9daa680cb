"""Frames of the user's own library as a Parquet file: Polars, pandas, Arrow, whatever speaks Arrow's C stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from flyball.errors import Invalid, Unavailable
from flyball.versions import parquet

ROWS_PER_GROUP = 64 * 1024


def is_frame(source: Any) -> bool:
    """Whether this is a frame. Nothing is imported to find out: who has a frame has its library loaded."""
    return isinstance(source, pl.DataFrame | pl.LazyFrame) or (
        hasattr(source, "__arrow_c_stream__") and not isinstance(source, str | Path)
    )


def written(source: Any, path: Path) -> Path:
    """Write a frame as Parquet, the same bytes for the same frame; a lazy one piece by piece. Returns the path."""
    try:
        if isinstance(source, pl.LazyFrame):
            source.sink_parquet(path, compression="zstd", row_group_size=ROWS_PER_GROUP, maintain_order=True)
        else:
            frame = source if isinstance(source, pl.DataFrame) else _polars(source)
            parquet.write(frame, path)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise Invalid(
            f"the frame of {path.stem!r} can't be written as Parquet: {error}", "cast that column"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"the frame of {path.stem!r} can't be written to {path.parent}: {error.strerror or error}",
            "free some space, or set TMPDIR to a larger disk",
        ) from error
    return path


def _polars(source: Any) -> pl.DataFrame:
    """Through Arrow; pandas' index is kept when it has a name."""
    if type(source).__module__.partition(".")[0] == "pandas":
        if type(source).__name__ == "Series":
            source = source.to_frame()
        return pl.from_pandas(source, include_index=source.index.name is not None)
    return pl.DataFrame(source)
