"""Feast 0.67 beside us: the same tables, views and calls; both through ``FeatureStore``, each in a process of its own.

The answers of both sides are compared before anything is timed. CPU seconds, all threads of a process together.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.measure import Row, compare, cpu_s, in_turns
from benchmarks.peers import python_of
from benchmarks.peers.feast import Feast
from flyball.compat.feast import FeatureStore

ROWS, KEYS, FILLED = 1_000_000, 100_000, 100_000
ASKED = (100_000, 1_000_000)  # entity rows
COLUMNS = tuple(f"x{number}" for number in range(8))
FEATURES = [f"v:{name}" for name in COLUMNS]
NOW = datetime.now(UTC).replace(microsecond=0)
US = pl.Datetime("us", "UTC")


def measured(repeats: int) -> list[Row]:
    """Joins, fillings, reads and what importing costs."""
    with tempfile.TemporaryDirectory() as folder, Feast() as feast:
        both = Both(feast, Path(folder))
        few = min(repeats, 3)  # Feast's take long
        return [
            _imports(few),
            *(both.joined(asked, offline, few) for asked in ASKED for offline in ("dask", "duckdb")),
            both.filled(few),
            both.read(1, repeats),
            both.read(100, repeats),
        ]


class Both:
    """One view over one table, in both stores."""

    def __init__(self, feast: Feast, folder: Path) -> None:
        self.feast, self.folder = feast, folder
        draw = np.random.default_rng(1)
        self._table(draw, ROWS).write_parquet(folder / "v.parquet")
        self._table(draw, FILLED).write_parquet(folder / "w.parquet")
        # The last third of the year: nearly all keys have rows by then, and Feast's default store loses the others.
        for asked in ASKED:
            seconds = draw.integers(0, 120 * 86400, asked)
            rows = {"k": draw.integers(0, KEYS, asked), "s": seconds, "row": np.arange(asked)}
            at = pl.lit(NOW).cast(US) - pl.duration(seconds="s")
            entities = pl.DataFrame(rows).select("k", "row", event_timestamp=at)
            entities.write_parquet(folder / f"asked{asked}.parquet")
        views = [self._view("v"), self._view("w")]
        for offline in ("dask", "duckdb"):
            feast.call("store", name=offline, folder=folder / offline, offline={"type": offline}, views=views)
        _project(folder / "ours", folder)
        self.ours = FeatureStore(folder / "ours")

    def _table(self, draw: np.random.Generator, rows: int) -> pl.DataFrame:
        seconds = draw.choice(
            365 * 86400, rows, replace=False
        )  # no ties: whose last row it is is no question
        values = {name: draw.normal(size=rows) for name in COLUMNS}
        made = pl.DataFrame({"k": draw.integers(0, KEYS, rows), "s": seconds, **values})
        return made.select("k", *COLUMNS, at=pl.lit(NOW).cast(US) - pl.duration(seconds="s"))

    def _view(self, name: str) -> dict[str, Any]:
        return {
            "name": name, "entity": ["k"], "path": str(self.folder / f"{name}.parquet"), "ttl_s": 0,
            "fields": dict.fromkeys(COLUMNS, "Float64"),
        }  # fmt: skip

    def joined(self, asked: int, offline: str, repeats: int) -> Row:
        """A join of one view, into a pandas frame on both sides."""
        out = self.folder / f"{offline}.parquet"
        entities = self.folder / f"asked{asked}.parquet"
        said = {"name": offline, "entity": entities, "features": FEATURES}
        self.feast.call("historical", out=out, **said)
        theirs = pl.read_parquet(out).sort("row")
        ours = self._join(entities)
        kept = pl.from_pandas(ours).filter(pl.col("row").is_in(theirs["row"].implode()))
        assert len(ours) == asked
        assert theirs.height >= 0.9 * asked, "Feast lost more rows than those before a key's first event"
        np.testing.assert_array_equal(kept.select(COLUMNS).to_numpy(), theirs.select(COLUMNS).to_numpy())

        def beside() -> float:
            self.feast.call("historical", out="", **said)
            return self.feast.cpu_s

        what = f"join of {ROWS:,} rows of {KEYS:,} keys to {asked:,}, beside {offline}"
        return compare(what, "CPU s", in_turns(lambda: cpu_s(partial(self._join, entities)), beside, repeats))

    def _join(self, entities: Path) -> Any:
        rows = pl.read_parquet(entities).to_pandas()
        return FeatureStore(self.folder / "ours").get_historical_features(rows, FEATURES).to_df()

    def filled(self, repeats: int) -> Row:
        """Materializing the smaller table into empty stores: LMDB here, SQLite there."""
        begin, end = NOW - timedelta(days=400), NOW
        pairs = []
        for turn in range(repeats):
            folder = self.folder / f"filled{turn}"
            _project(folder, self.folder)
            ours = FeatureStore(folder)
            self.feast.call(
                "store",
                name=f"filled{turn}",
                folder=folder / "feast",
                offline={"type": "duckdb"},
                views=[self._view("w")],
            )
            took = cpu_s(partial(ours.materialize, begin, end, ["w"]))
            self.feast.call(
                "materialize", name=f"filled{turn}", start=begin.isoformat(), end=end.isoformat(), views=["w"]
            )
            pairs.append((1e6 * took / FILLED, 1e6 * self.feast.cpu_s / FILLED))
        last = f"filled{repeats - 1}"
        rows = [{"k": key} for key in range(100)]
        features = [name.replace("v:", "w:") for name in FEATURES]
        theirs = self.feast.call("online", name=last, features=features, entity_rows=rows)["values"]
        assert FeatureStore(self.folder / last).get_online_features(features, rows).to_dict() == theirs
        self.store, self.name, self.features = ours, last, features
        return compare(f"materialize {FILLED:,} rows of 8", "us CPU/row", pairs)

    def read(self, entities: int, repeats: int) -> Row:
        """The latest 8 values of so many entities, into a dict."""
        keys = pl.read_parquet(self.folder / "w.parquet")["k"].unique(maintain_order=True).to_list()
        rows = [{"k": key} for key in keys[:entities]]  # all of them have values
        read, reads = self.store.get_online_features, 200 if entities == 1 else 20
        theirs = self.feast.call("online", name=self.name, features=self.features, entity_rows=rows)["values"]
        assert read(self.features, rows).to_dict() == theirs

        def ours() -> None:
            for _ in range(reads):
                read(self.features, rows).to_dict()

        found = self.feast.call(
            "online_times",
            name=self.name,
            features=self.features,
            entity_rows=rows,
            repeats=repeats,
            reads=reads,
        )
        pairs = [(cpu_s(ours) / reads * 1e6, 1e6 * beside) for beside in found["cpu_s"]]
        return compare(f"online, {entities} {'entity' if entities == 1 else 'entities'} x 8", "us CPU", pairs)


def _project(place: Path, tables: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "flyball.toml").write_text('[project]\nname = "bench"\ndefinitions = ["features.py"]\n')
    lines = ["from flyball.features import Source, View"]
    for name in ("v", "w"):
        url = f"parquet:{tables / name}.parquet"
        lines.append(f"{name}_rows = Source({f'{name}_rows'!r}, {url!r}, happened='at')")
        lines.append(f"{name} = View({name!r}, ('k',), {name}_rows, columns={COLUMNS!r})")
    (place / "features.py").write_text("\n".join(lines) + "\n")


def _imports(repeats: int) -> Row:
    """What a process pays before its first call."""
    ours = partial(_run_cpu_s, sys.executable, "from flyball.features import FeatureStore")
    beside = partial(_run_cpu_s, str(python_of("feast")), "from feast import FeatureStore")
    ours(), beside()
    return compare("import FeatureStore", "CPU s", in_turns(ours, beside, repeats))


def _run_cpu_s(python: str, code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
