"""A project of ours over the same tables as real Feast's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

T = datetime(2024, 1, 1, tzinfo=UTC)


def hours(count: float) -> datetime:
    """So many hours after the beginning."""
    return T + timedelta(hours=count)


def project(folder: Path, views: Sequence[Mapping[str, Any]], more: str = "", extra: str = "") -> None:
    """Write a project that defines what ``Feast.call("store", views=…)`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["from flyball.features import Service, Source, View", ""]
    for view in views:
        known = ', known="created"' if view.get("created") else ""
        name = view.get("push") or f"{view['name']}_source"
        lines.append(
            f"{view['name']}_source = Source({name!r}, {'parquet:' + str(view['path'])!r}, happened='at'{known})"
        )
        types = {
            field: {"Int64": "INT64", "String": "BYTES"}[kind]
            for field, kind in view["fields"].items()
            if kind != "Float64"
        }
        lines.append(
            f"{view['name']} = View({view['name']!r}, {tuple(view['entity'])!r}, {view['name']}_source, "
            f"columns={tuple(view['fields'])!r}, ttl_s={view.get('ttl_s') or None}, types={types!r})"
        )
    (folder / "features.py").write_text("\n".join([*lines, extra]) + "\n")
    (folder / "flyball.toml").write_text(f'[project]\nname = "peer"\ndefinitions = ["features.py"]\n{more}')


def frame(rows: Sequence[tuple[Any, ...]], *names: str) -> pl.DataFrame:
    """Rows as a frame; times as microseconds, UTC."""
    return pl.DataFrame(rows, schema=list(names), orient="row").with_columns(
        pl.selectors.datetime().cast(pl.Datetime("us", "UTC"))
    )
