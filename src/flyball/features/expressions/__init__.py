"""Expressions: written once, run in batch by Polars or DuckDB and per row by one Python function."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flyball.features.expressions.tree import (
    Expr,
    coalesce,
    col,
    columns_of,
    concat,
    greatest,
    least,
    lit,
    when,
)

if TYPE_CHECKING:
    from flyball.features.expressions.batch import apply, to_polars
    from flyball.features.expressions.duck import to_duckdb
    from flyball.features.expressions.kinds import check
    from flyball.features.expressions.parsing import sql
    from flyball.features.expressions.rows import compile_row

__all__ = [
    "Expr",
    "apply",
    "check",
    "coalesce",
    "col",
    "columns_of",
    "compile_row",
    "concat",
    "greatest",
    "least",
    "lit",
    "sql",
    "to_duckdb",
    "to_polars",
    "when",
]

_WHERE = {
    **dict.fromkeys(("apply", "to_polars"), "batch"),
    "to_duckdb": "duck",
    "check": "kinds",
    "sql": "parsing",
    "compile_row": "rows",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"flyball.features.expressions.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
