"""Real Feast in a process of its own, told by JSON lines what to do; it takes 14 CPU seconds to start, so it is kept.

Runs with Feast's own Python (``python_of("feast")``). Each line names a call in ``do``; each answer is one line, with
the CPU and wall seconds that the call alone took.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
import traceback
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from feast.aggregation import Aggregation
from feast.aggregation.tiling.orchestrator import apply_sawtooth_window_tiling
from feast.aggregation.tiling.tile_subtraction import convert_cumulative_to_windowed
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, repo_operations

TYPES = {"Float64": Float64, "Int64": Int64, "String": String}
STORES: dict[str, FeatureStore] = {}


def store(name, folder, offline, views, online=None, keys="Int64"):
    """A repository of views: {name, entity: [...], path, fields: {name: type}, ttl_s, created, push}."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    lines = [
        f"project: {name}",
        "provider: local",
        "registry: registry.db",
        f"offline_store: {json.dumps(offline)}",
        f"online_store: {json.dumps(online or {'type': 'sqlite', 'path': 'online.db'})}",
        "entity_key_serialization_version: 3",
    ]
    (root / "feature_store.yaml").write_text("\n".join(lines))
    made = FeatureStore(repo_path=str(root))
    kind = ValueType.INT64 if keys == "Int64" else ValueType.STRING
    entities = {}
    objects = []
    for view in views:
        for key in view["entity"]:
            entities.setdefault(key, Entity(name=key, join_keys=[key], value_type=kind))
        source = FileSource(
            name=f"{view['name']}_source", path=view["path"], timestamp_field="at",
            created_timestamp_column="created" if view.get("created") else "",
        )  # fmt: skip
        if view.get("push"):
            source = PushSource(name=view["push"], batch_source=source)
        objects.append(
            FeatureView(
                name=view["name"],
                entities=[entities[key] for key in view["entity"]],
                ttl=timedelta(seconds=view.get("ttl_s") or 0),
                schema=[Field(name=n, dtype=TYPES[t]) for n, t in view["fields"].items()]
                + [Field(name=k, dtype=TYPES[keys]) for k in view["entity"]],
                source=source,
            )
        )
    made.apply([*entities.values(), *objects])
    STORES[name] = made


def _features(name, features):
    """Names of features, or a service by its name."""
    return STORES[name].get_feature_service(features) if isinstance(features, str) else features


def historical(name, entity, features, out, full=False, known=False):
    """The join, written as Parquet; without a file, only done."""
    rows = pq.read_table(entity).to_pandas()
    job = STORES[name].get_historical_features(
        rows, _features(name, features), full_feature_names=full, filter_by_created_timestamp=known
    )
    found = job.to_df()
    if out:
        found.to_parquet(out)
    return {"rows": len(found)}


def materialize(name, start, end, views=None):
    STORES[name].materialize(datetime.fromisoformat(start), datetime.fromisoformat(end), views)


def push(name, source, rows):
    frame = pd.DataFrame(rows)
    for column in ("at", "created"):
        if column in frame:
            frame[column] = pd.to_datetime(frame[column], utc=True)
    STORES[name].push(source, frame)


def online(name, features, entity_rows, full=False):
    found = STORES[name].get_online_features(_features(name, features), entity_rows, full_feature_names=full)
    names = list(found.proto.metadata.feature_names.val)
    statuses = {n: [int(s) for s in r.statuses] for n, r in zip(names, found.proto.results, strict=True)}
    return {"values": found.to_dict(), "statuses": statuses, "times": found.to_dict(True)}


def online_times(name, features, entity_rows, repeats, reads):
    """CPU seconds of one read, each repeat: the reads themselves, into a dict."""
    read = STORES[name].get_online_features
    took = []
    for _ in range(repeats):
        began = time.process_time()
        for _ in range(reads):
            read(features, entity_rows).to_dict()
        took.append((time.process_time() - began) / reads)
    return {"cpu_s": took}


def remote(folder, url, views):
    """A store whose online rows are read from a feature server at a URL."""
    store("remote", folder, {"type": "duckdb"}, views, {"type": "remote", "path": url})


def repository(name, folder):
    """What a repository's own files define, as `feast apply` reads them."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    found = repo_operations.parse_repo(Path(folder))
    made = FeatureStore(repo_path=folder)
    made.apply([
        *found.entities, *found.feature_views, *found.stream_feature_views, *found.on_demand_feature_views,
        *found.feature_services, *found.data_sources,
    ])  # fmt: skip
    STORES[name] = made


def windows(path, function, window_s, hop_s):
    """The windows that Feast's tiles give, by their ends."""
    window, hop = timedelta(seconds=window_s), timedelta(seconds=hop_s)
    aggregations = [Aggregation(column="x", function=function, time_window=window, name="w")]
    rows = pq.read_table(path).to_pandas()
    tiles = apply_sawtooth_window_tiling(rows, aggregations, ["k"], "at", window, hop)
    found = convert_cumulative_to_windowed(tiles, ["k"], "at", window, aggregations)
    return {str(end.isoformat()): value for end, value in zip(found["at"], found["w"], strict=True)}


CALLS = {
    one.__name__: one
    for one in (store, repository, historical, materialize, push, online, online_times, remote, windows)
}


def main():
    out = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps({"ready": True, "cpu_s": time.process_time()}), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        call = CALLS[asked.pop("do")]
        noise = io.StringIO()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
                answer = {"ok": call(**asked)}
        except Exception as error:  # noqa: BLE001  # the answer says what Feast raised
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        answer["call_cpu_s"], answer["wall_s"] = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps(answer, default=str), file=out, flush=True)


if __name__ == "__main__":
    main()
