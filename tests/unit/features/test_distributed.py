"""Joins and back-fills by processes: the answers of one process, in order, also when some of them die."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flyball.errors import Invalid, NotFound
from flyball.features import View, last, mean, point_in_time
from flyball.features.distributed import fill as fill_by_many
from flyball.features.distributed import joined
from flyball.features.joining import Asked
from flyball.features.partitions import divided, part_of
from flyball.features.pools import opened
from flyball.service.training import get_historical_features
from flyball.service.workspace import Workspace

START = datetime(2013, 4, 1, tzinfo=UTC)
VIEW = View(
    "route",
    ("carrier", "origin"),
    "landings",
    happened="landed_at",
    known="known_at",
    columns=("delay", "plane"),
    windows=(mean("delay", "6h"), last("plane", "1d")),
    types={"plane": "BYTES"},
    ttl_s=86400,
)


def tables(rows: int = 3000, asked: int = 500) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with nulls, unknown keys, ties and late corrections; questions with null keys and times among them."""
    draw = np.random.default_rng(7)
    carriers = np.array(["UA", "AA", "B6", "DL", "é", None], dtype=object)
    at = [START + timedelta(minutes=int(m)) for m in np.sort(draw.integers(0, 4000, rows))]
    source = pl.DataFrame(
        {
            "carrier": carriers[draw.integers(0, 6, rows)].tolist(),
            "origin": draw.integers(0, 9, rows),
            "landed_at": at,
            "known_at": [
                one + timedelta(minutes=int(m)) for one, m in zip(at, draw.integers(0, 90, rows), strict=True)
            ],
            "delay": [None if n % 13 == 0 else float(n % 97) for n in range(rows)],
            "plane": [None if n % 17 == 0 else f"N{n % 41}" for n in range(rows)],
        }
    )
    entities = pl.DataFrame(
        {
            "row": range(asked),
            "carrier": carriers[draw.integers(0, 6, asked)].tolist(),
            "origin": draw.integers(0, 12, asked),
            "t": [
                None if n % 50 == 7 else START + timedelta(minutes=int(m))
                for n, m in enumerate(draw.integers(0, 5000, asked))
            ],
        }
    )
    return source, entities


def test_processes_answer_as_one_does_in_order(tmp_path: Path) -> None:
    source, entities = tables()
    for n, part in enumerate(source.iter_slices(1000)):
        part.write_parquet(tmp_path / f"{n}.parquet")
    lazy = pl.scan_parquet(tmp_path / "*.parquet")
    expected = point_in_time(entities, "t", [VIEW], {"landings": source})
    found = joined(Asked.of(entities, "t"), VIEW.features, [VIEW], {"landings": lazy}, "processes:2")
    assert_frame_equal(entities.with_columns(found), expected)


def test_a_frame_a_query_and_nothing_are_joined_too() -> None:
    source, entities = tables(300, 60)
    for frame in (source, source.lazy().filter(pl.col("origin") < 99), source.clear().lazy()):
        expected = point_in_time(entities, "t", [VIEW], {"landings": frame})
        found = joined(Asked.of(entities, "t"), VIEW.features, [VIEW], {"landings": frame}, "processes:1")
        assert_frame_equal(entities.with_columns(found), expected)


def test_errors_of_a_worker_are_the_same_errors() -> None:
    source, entities = tables(30, 10)
    with pytest.raises(Invalid, match="has no column 'delay'"):
        joined(
            Asked.of(entities, "t"), VIEW.features, [VIEW], {"landings": source.drop("delay")}, "processes:1"
        )
    with opened("processes:1") as pool, pytest.raises(NotFound, match="no such thing"):
        pool.run([_refuse], [len])


def test_unknown_computes_are_named() -> None:
    with (
        pytest.raises(Invalid, match=r"nothing computes on 'spark'[\s\S]*processes, ray"),
        opened("spark"),
    ):
        pass
    with pytest.raises(Invalid, match="no number of processes"), opened("processes:many"):
        pass


def test_a_part_is_the_same_in_every_process() -> None:
    keys = pl.DataFrame({"carrier": ["UA", "é", None, ""], "origin": [1, -5, 2**62, None]})
    here = part_of(keys, 1000).tolist()
    script = (
        "import polars as pl\nfrom flyball.features.partitions import part_of\n"
        "print(part_of(pl.DataFrame({'carrier': ['UA', 'é', None, ''], 'origin': [1, -5, 2**62, None]}), 1000).tolist())"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(here)
    spread = part_of(pl.DataFrame({"n": range(10_000)}), 8)
    assert np.bincount(spread).min() > 1000


def test_rows_keep_their_order_inside_a_part() -> None:
    frame = pl.DataFrame({"n": range(9)})
    parts = [one["n"].to_list() for one in divided(frame, np.array([1, 0, 1, -1, 2, 1, 0, 2, -1]), 4)]
    assert parts == [[1, 6], [0, 2, 5], [4, 7], []]


def test_ray_does_not_fill_a_file_of_one_machine(tmp_path: Path) -> None:
    source, _ = tables(4)
    with pytest.raises(Invalid, match="LMDB is of one machine"):
        fill_by_many(VIEW, source, f"lmdb:{tmp_path}/x", compute="ray")


def _refuse() -> list[pl.DataFrame]:
    raise NotFound("no such thing", "look elsewhere")


def test_a_training_set_is_the_same_by_processes(tmp_path: Path) -> None:
    (tmp_path / "flyball.toml").write_text('[project]\nname = "p"\ndefinitions = ["defs.py"]\n')
    (tmp_path / "defs.py").write_text(
        "from flyball.features import Source, View, mean\n"
        "route = View('route', ('carrier', 'origin'), Source('landings', 'parquet:rows.parquet'), "
        "happened='landed_at', known='known_at', columns=('delay',), windows=(mean('delay', '6h'),))\n"
    )
    source, entities = tables(300, 40)
    source.write_parquet(tmp_path / "rows.parquet")
    ws = Workspace.open(tmp_path)
    asked = entities.with_columns(pl.col("t").dt.replace_time_zone("UTC"))
    features = ["route:delay", "route:delay_mean_6h"]
    here, there = (
        get_historical_features(asked, features, at="t", compute=compute, ws=ws).to_polars()
        for compute in ("", "processes:1")
    )
    assert here["route:delay"].null_count() < 40
    assert_frame_equal(here, there)
