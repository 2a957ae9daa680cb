"""Figures and tables as bytes. No library is imported to find out whose a figure is: it says so itself."""

from __future__ import annotations

import io
from typing import Any

from flyball.errors import Invalid


def figure_bytes(figure: Any, path: str) -> bytes:
    """A figure of matplotlib (or seaborn, on it) or plotly as the bytes of a file of that ending."""
    module = type(figure).__module__.partition(".")[0]
    ending = path.rpartition(".")[2].lower() if "." in path else ""
    if not ending:
        raise Invalid(f"{path!r} has no ending, so its format is unknown", "run.figure(figure, 'roc.svg')")
    if not hasattr(figure, "savefig") and hasattr(figure, "get_figure"):  # axes
        figure = figure.get_figure()
    if hasattr(figure, "savefig"):
        buffer = io.BytesIO()
        try:
            figure.savefig(buffer, format=ending, bbox_inches="tight")
        except ValueError as error:
            raise Invalid(f"matplotlib can't write {ending!r}", "svg, png and pdf it can") from error
        return buffer.getvalue()
    if module == "plotly":
        if ending == "html":
            return str(figure.to_html(include_plotlyjs="cdn")).encode()
        if ending == "json":
            return str(figure.to_json()).encode()
        return bytes(figure.to_image(format=ending))  # plotly says which package it needs
    raise Invalid(
        f"a {type(figure).__module__}.{type(figure).__name__} is no figure we know",
        "figures of matplotlib and plotly; for others run.artifact(bytes, path)",
    )


def table_bytes(frame: Any) -> bytes:
    """A table as Parquet."""
    module = type(frame).__module__.partition(".")[0]
    buffer = io.BytesIO()
    if module == "pandas" and hasattr(frame, "to_parquet"):
        try:
            frame.to_parquet(buffer)
        except ImportError as error:
            raise Invalid("pandas writes Parquet with pyarrow", "pip install pyarrow") from error
        return buffer.getvalue()
    import polars as pl

    try:
        if isinstance(frame, pl.LazyFrame):
            frame = frame.collect()
        table = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
        table.write_parquet(buffer)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise Invalid(
            f"a {type(frame).__name__} is no table: {error}",
            "a Polars or pandas frame, an Arrow table, a list of dicts or a dict of lists",
        ) from error
    return buffer.getvalue()
