"""The page on sources: its Python runs, and its table names every kind there is."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from flyball.features.sources.places import KNOWN, place_of

PAGE = Path(__file__).parents[3] / "docs" / "sources.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_every_block_runs_in_a_project_that_holds_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flyball.toml").write_text('[project]\nname = "p"\ndefinitions = ["features.py"]\n')
    first, *_ = found = blocks()
    (tmp_path / "features.py").write_text(first)
    (tmp_path / "landings").mkdir()
    at = datetime(2013, 4, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {"carrier": ["UA"], "landed_at": [at], "reported_at": [at], "delay": [3.0], "gate": [1]}
    )
    frame.write_parquet(tmp_path / "landings" / "1.parquet")
    names: dict[str, object] = {}
    for block in found:
        exec(block, names)
        for one in list(names.values()):
            if type(one).__name__ == "Source":
                place_of(one, tmp_path)  # type: ignore[arg-type]  # a Source by its name
    names["ws"].ledger.close()  # type: ignore[attr-defined]  # the workspace of the page


def test_the_table_names_every_kind() -> None:
    said = PAGE.read_text()
    others = {
        "pq",
        "ndjson",
        "jsonl",
        "gcs://",
        "abfs://",
        "abfss://",
        "azure://",
        "adl://",
        "amqps://",
        "rediss://",
        "file",
    }
    for kind in set(KNOWN) - others:
        assert f"`{kind}" in said, kind
