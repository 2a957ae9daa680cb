"""Training data at ten million rows: latest values and windows, beside bare engines that are given the same files.

Every measurement is a process of its own, from Parquet files to a table in memory: seconds on the wall after imports, and
the most memory it ever held (everything that is loaded included). Events lie in their files in order of time, keys are
whole numbers, no row is late: bare engines know nothing of the second clock, and are not asked to.

``python -m benchmarks.features_offline 100000000`` joins a hundred million events once and prints seconds and memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from benchmarks.measure import Row, compare

EVENTS, FEW_EVENTS, ASKED, KEYS = 10_000_000, 1_000_000, 1_000_000, 100_000
_YEAR_US = 365 * 86_400_000_000
_START_US = 1_356_998_400_000_000  # 2013-01-01
_DAYS = (7, 30)
_WIDE = tuple(f"f{i}" for i in range(8))
_NARROW = ("g0", "g1")
_PART = 5_000_000  # rows generated at a time


class Measured(msgspec.Struct, frozen=True):
    """What one process needed."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def measured(repeats: int) -> list[Row]:
    """Both tables; at most three repeats, since each takes minutes."""
    with tempfile.TemporaryDirectory(prefix="flyball-bench-") as name:
        folder = Path(name)
        generate(folder, EVENTS)
        rows: list[Row] = []
        for case, others in CASES.items():
            _same_answers(folder, case, others)
            turns = [_turn(folder, case, others, turn) for turn in range(min(repeats, 3))]
            for other in others:
                pairs = [(turn["ours"].wall_s, turn[other].wall_s) for turn in turns]
                rows.append(compare(f"{_SAID[case]}, beside {_SAID[other]}", "s", pairs))
            for other in others:
                sizes = [(turn["ours"].peak_mib, turn[other].peak_mib) for turn in turns]
                rows.append(compare(f"{_SAID[case]}: memory, beside {_SAID[other]}", "MiB", sizes))
        return rows


def generate(folder: Path, events: int) -> None:
    """The files: events in order of time, and the questions."""
    _table(folder / "wide", events, _WIDE, seed=1)
    _table(folder / "narrow", FEW_EVENTS, _NARROW, seed=2)
    random = np.random.default_rng(3)
    asked = pl.DataFrame({"key": random.integers(0, KEYS, ASKED), "at": _times(random, ASKED)})
    asked.with_columns(_as_time("at")).write_parquet(folder / "asked.parquet")


def _table(folder: Path, events: int, columns: tuple[str, ...], *, seed: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for begin in range(0, events, _PART):
        rows = min(_PART, events - begin)
        span = _YEAR_US * rows // events
        times = np.sort(random.integers(0, span, rows)) + _START_US + _YEAR_US * begin // events
        frame = pl.DataFrame({"key": random.integers(0, KEYS, rows), "happened": times})
        frame = frame.with_columns(
            pl.Series(name, np.round(random.normal(100.0, 30.0, rows), 2)) for name in columns
        )
        frame.with_columns(_as_time("happened")).write_parquet(folder / f"{begin // _PART:04d}.parquet")


def _times(random: np.random.Generator, rows: int) -> np.ndarray[Any, Any]:
    return random.integers(0, _YEAR_US, rows) + _START_US


def _as_time(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("us", "UTC"))


def _turn(folder: Path, case: str, others: list[str], turn: int) -> dict[str, Measured]:
    """Each side once; every other turn begins at the other end."""
    sides = ["ours", *others]
    return {side: _child(folder, case, side) for side in (sides if turn % 2 == 0 else sides[::-1])}


def _same_answers(folder: Path, case: str, others: list[str]) -> None:
    for side in ("ours", *others):
        _child(folder, case, side, keep=True)
    ours = pl.read_parquet(folder / f"{case}-ours.parquet")
    for other in others:
        theirs = pl.read_parquet(folder / f"{case}-{other}.parquet")
        assert theirs.columns == ours.columns, (case, other)
        for name in ours.columns:
            mine, its = ours[name].to_numpy(), theirs[name].to_numpy()
            # two events of one key in one microsecond may be taken in either order: none in this data
            np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-9, err_msg=f"{case} {other} {name}")


def _child(folder: Path, case: str, side: str, *, keep: bool = False) -> Measured:
    words = [
        sys.executable,
        "-m",
        "benchmarks.features_offline",
        case,
        side,
        str(folder),
        "keep" if keep else "",
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Measured)


# What runs in a process of its own, from files to a frame of answers in the order of the questions.


def join_ours(folder: Path) -> pl.DataFrame:
    from flyball.features import View, point_in_time

    views = [
        View("wide", ("key",), "wide", happened="happened", known="happened", columns=_WIDE),
        View("narrow", ("key",), "narrow", happened="happened", known="happened", columns=_NARROW),
    ]
    sources = {name: pl.scan_parquet(folder / name) for name in ("wide", "narrow")}
    found = point_in_time(pl.read_parquet(folder / "asked.parquet"), "at", views, sources)
    return found.select(pl.col(f"wide:{name}").alias(name) for name in _WIDE).hstack(
        found.select(pl.col(f"narrow:{name}").alias(name) for name in _NARROW)
    )


def join_polars(folder: Path) -> pl.DataFrame:
    asked = pl.read_parquet(folder / "asked.parquet").with_row_index("place").sort("at")
    for name in ("wide", "narrow"):
        events = pl.read_parquet(folder / name)
        asked = asked.join_asof(
            events, left_on="at", right_on="happened", by="key", check_sortedness=False, coalesce=True
        )
        asked = asked.drop("happened", strict=False)
    return asked.sort("place").select(*_WIDE, *_NARROW)


def join_duckdb(folder: Path) -> pl.DataFrame:
    import duckdb

    chosen = ", ".join((*(f"w.{name}" for name in _WIDE), *(f"n.{name}" for name in _NARROW)))
    found = duckdb.sql(f"""
        WITH asked AS (SELECT *, file_row_number AS place FROM read_parquet('{folder}/asked.parquet', file_row_number=true))
        SELECT {chosen} FROM asked
        ASOF LEFT JOIN read_parquet('{folder}/wide/*.parquet') w ON asked.key = w.key AND asked.at >= w.happened
        ASOF LEFT JOIN read_parquet('{folder}/narrow/*.parquet') n ON asked.key = n.key AND asked.at >= n.happened
        ORDER BY place
    """)
    return found.pl()


def windows_ours(folder: Path) -> pl.DataFrame:
    from flyball.features import View, count, max, mean, point_in_time, sum

    made = [
        one
        for days in _DAYS
        for one in (count(f"{days}d"), *(make("f0", f"{days}d") for make in (sum, mean, max)))
    ]
    view = View("v", ("key",), "wide", happened="happened", known="happened", windows=tuple(made))
    source = {"wide": pl.scan_parquet(folder / "wide")}
    found = point_in_time(pl.read_parquet(folder / "asked.parquet"), "at", [view], source)
    return found.select(pl.col(name).alias(_name(one)) for name, one in zip(view.features, made, strict=True))


def _name(window: Any) -> str:
    return f"{window.function}_{window.window_s // 86400}"


def windows_numpy(folder: Path) -> pl.DataFrame:
    """One sort of key and time in one number, two binary searches per length, ``reduceat`` over the ranges."""
    events = pl.read_parquet(folder / "wide", columns=["key", "happened", "f0"])
    asked = pl.read_parquet(folder / "asked.parquet")
    span = 2 * _YEAR_US  # room for what begins before the year
    had = events["key"].to_numpy() * span + (
        events["happened"].to_physical().to_numpy() - _START_US + _YEAR_US
    )
    order = np.argsort(had)
    had, values = had[order], np.append(events["f0"].to_numpy()[order], 0.0)
    of = asked["key"].to_numpy() * span + (asked["at"].to_physical().to_numpy() - _START_US + _YEAR_US)
    asked_order = np.argsort(of)
    of = of[asked_order]
    high = np.searchsorted(had, of, side="right")
    found = {}
    for days in _DAYS:
        low = np.searchsorted(had, of - days * 86_400_000_000, side="right")
        ends = np.stack((low, high), axis=1).reshape(-1)
        rows = high - low
        total = np.where(rows > 0, np.add.reduceat(values, ends)[::2], np.nan)
        most = np.where(rows > 0, np.maximum.reduceat(values, ends)[::2], np.nan)
        with np.errstate(invalid="ignore"):
            answers = {"count": rows.astype(float), "sum": total, "mean": total / rows, "max": most}
        for name, answer in answers.items():
            back = np.empty(len(of))
            back[asked_order] = answer
            found[f"{name}_{days}"] = back
    return pl.DataFrame(found).fill_nan(None)


def windows_polars(folder: Path) -> pl.DataFrame:
    """Questions are put among the events as rows without a value, and rolling windows taken of all."""
    events = pl.read_parquet(folder / "wide", columns=["key", "happened", "f0"])
    asked = pl.read_parquet(folder / "asked.parquet").with_row_index("place")
    questions = asked.select(
        "key", pl.col("at").alias("happened"), pl.lit(None, pl.Float64).alias("f0"), "place"
    )
    both = pl.concat([events.with_columns(pl.lit(None, pl.UInt32).alias("place")), questions]).sort(
        "key", "happened"
    )
    answers = asked.select("place")
    value = pl.col("f0")
    for days in _DAYS:
        rolled = both.rolling("happened", period=f"{days}d", group_by="key").agg(
            value.count().cast(pl.Float64).alias(f"count_{days}"),
            value.sum().alias(f"sum_{days}"),
            value.mean().alias(f"mean_{days}"),
            value.max().alias(f"max_{days}"),
        )
        rolled = (
            rolled.drop("key", "happened").hstack(both.select("place")).filter(pl.col("place").is_not_null())
        )
        empty = pl.col(f"count_{days}") == 0
        rolled = rolled.with_columns(
            pl.when(empty).then(None).otherwise(pl.col(f"sum_{days}")).alias(f"sum_{days}")
        )
        answers = answers.join(rolled, on="place", how="left", maintain_order="left")
    return answers.drop("place")


def windows_duckdb(folder: Path) -> pl.DataFrame:
    import duckdb

    parts = []
    for days in _DAYS:
        parts.append(f"""
            SELECT place, count(f0)::DOUBLE AS count_{days}, sum(f0) AS sum_{days}, avg(f0) AS mean_{days},
                   max(f0) AS max_{days}
            FROM asked LEFT JOIN events e
              ON asked.key = e.key AND e.happened <= asked.at AND e.happened > asked.at - INTERVAL {days} DAY
            GROUP BY place""")
    chosen = ", ".join(f"{name}_{days}" for days in _DAYS for name in ("count", "sum", "mean", "max"))
    duckdb.sql("SET TimeZone = 'UTC'")
    duckdb.sql(f"""
        CREATE VIEW asked AS SELECT *, file_row_number AS place
            FROM read_parquet('{folder}/asked.parquet', file_row_number=true);
        CREATE VIEW events AS SELECT key, happened, f0 FROM read_parquet('{folder}/wide/*.parquet')""")
    return duckdb.sql(
        f"SELECT {chosen} FROM ({parts[0]}) JOIN ({parts[1]}) USING (place) ORDER BY place"
    ).pl()


CASES = {"join": ["polars", "duckdb"], "windows": ["numpy", "polars", "duckdb"]}
_SAID = {
    "join": "latest of 10M x 8 and 1M x 2 events, 1M rows",
    "windows": "7 d and 30 d count, sum, mean, max of 10M events, 1M rows",
    "polars": "Polars",
    "duckdb": "DuckDB",
    "numpy": "NumPy",
}
SIDES: dict[str, Callable[[Path], pl.DataFrame]] = {
    "join ours": join_ours, "join polars": join_polars, "join duckdb": join_duckdb,
    "windows ours": windows_ours, "windows numpy": windows_numpy, "windows polars": windows_polars,
    "windows duckdb": windows_duckdb,
}  # fmt: skip


def run(case: str, side: str, folder: Path, *, keep: bool) -> Measured:
    """One side in this process."""
    import_module_of = {"duckdb": "duckdb", "ours": "flyball.features.offline"}
    if side in import_module_of:
        __import__(import_module_of[side])
    work = SIDES[f"{case} {side}"]
    wall, cpu = time.perf_counter(), time.process_time()
    found = work(folder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert found.height == ASKED, found.height
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if keep:
        found.write_parquet(folder / f"{case}-{side}.parquet")
    return Measured(wall, cpu, peak)


def main(words: list[str]) -> None:
    """A child of :func:`measured`; or, with a number of events, all of ours once at that size."""
    if len(words) == 1:
        with tempfile.TemporaryDirectory(prefix="flyball-bench-") as name:
            generate(Path(name), int(words[0]))
            for case in CASES:
                print(case, json.dumps(msgspec.to_builtins(_child(Path(name), case, "ours"))), flush=True)
        return
    case, side, folder, keep = words
    print(msgspec.json.encode(run(case, side, Path(folder), keep=keep == "keep")).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
