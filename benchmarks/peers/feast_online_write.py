"""Run by Feast's own Python: write rows of a Parquet file to its SQLite online store; prints CPU seconds a row."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast.types import Float64

from feast import Entity, FeatureStore, FeatureView, Field, FileSource


def main(parquet: str, folder: str) -> None:
    frame = pd.read_parquet(parquet)
    columns = [name for name in frame.columns if name not in ("id", "at")]
    Path(folder, "feature_store.yaml").write_text(
        "project: p\nregistry: registry.db\nprovider: local\nonline_store:\n  type: sqlite\n  path: online.db\n"
        "entity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=folder)
    entity = Entity(name="id", join_keys=["id"])
    source = FileSource(path=parquet, timestamp_field="at")
    schema = [Field(name=name, dtype=Float64) for name in columns]
    view = FeatureView(name="v", entities=[entity], schema=schema, source=source, ttl=timedelta(days=30))
    store.apply([entity, view])
    started = time.process_time()
    store.write_to_online_store("v", frame)
    print((time.process_time() - started) / len(frame))


main(*sys.argv[1:])
