"""Filling the online store beside the least that could be done instead: a packed row per key put into bare LMDB, and
JSON decoded into a frame. What was filled is compared before anything is timed.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import polars as pl

from benchmarks.measure import Row, compare, cpu_s, in_turns, wall_s
from flyball.core.clock import to_us
from flyball.features import OnlineReader, Service, View
from flyball.features.filling import fill
from flyball.features.messages import Schema
from flyball.features.statistics import Statistics
from flyball.stores.online import open_online

KEYS = 1_000_000
MESSAGES = 50_000
_COLUMNS = tuple(f"c{i}" for i in range(8))
VIEW = View("v", ("user",), "s", happened="at", columns=_COLUMNS)


def measured(repeats: int) -> list[Row]:
    """A first filling of a million keys from Parquet, CPU and wall; and messages of a stream."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "rows.parquet")
        rows = _rows()
        rows.write_parquet(source)
        _compared(source, rows)
        filled = partial(_fill, source)
        bare = partial(_bare, source)
        what = f"fill {KEYS:,} keys x {len(_COLUMNS)} from Parquet"
        per = 1e6 / KEYS
        pairs = in_turns(lambda: cpu_s(filled) * per, lambda: cpu_s(bare) * per, repeats)
        walls = in_turns(lambda: KEYS / wall_s(filled), lambda: KEYS / wall_s(bare), repeats)
        return [
            compare(f"{what}, beside bare LMDB", "us CPU/row", pairs),
            compare(f"{what}, beside bare LMDB", "rows/s", walls),
            _messages(repeats),
        ]


def _rows() -> pl.DataFrame:
    chance = np.random.default_rng(7)
    at = pl.Series(1_772_323_200_000_000 + np.arange(KEYS) * 1000).cast(pl.Datetime("us", "UTC"))
    users = [f"user_{i}" for i in chance.permutation(KEYS)]
    return pl.DataFrame({"user": users, "at": at, **{name: chance.normal(size=KEYS) for name in _COLUMNS}})


def _fill(source: Path, folder: str | None = None) -> None:
    """With the statistics that the verb keeps of it."""
    with tempfile.TemporaryDirectory() as own:
        store = open_online(f"lmdb:{folder or own}?map_bytes={4 << 30}")
        fill(VIEW, pl.scan_parquet(source), store, seen=Statistics(VIEW).add)
        store.close()


def _bare(source: Path) -> None:
    """Key and packed values, in the order of the keys; no other row of a key could be told from it, or merged."""
    rows = pl.read_parquet(source).sort("user")
    encode = msgspec.msgpack.Encoder().encode
    keys = [key.encode() for key in rows["user"].to_list()]
    times = rows["at"].to_physical().to_list()
    values = rows.select(_COLUMNS).rows()
    with tempfile.TemporaryDirectory() as folder:
        store = lmdb.open(folder, map_size=4 << 30, sync=False)
        with store.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(zip(keys, map(encode, zip(times, values, strict=True)), strict=True))
        store.close()


def _compared(source: Path, rows: pl.DataFrame) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _fill(source, folder)
        store = open_online(f"lmdb:{folder}", readonly=True)
        reader = OnlineReader(Service("s", VIEW.features), [VIEW], store)
        for row in rows.gather_every(KEYS // 1000).iter_rows(named=True):
            read = reader.read(row, {}, to_us(row["at"])).values
            assert read == [row[name] for name in _COLUMNS]
        store.close()


def _messages(repeats: int) -> Row:
    """JSON of a stream into typed rows, the bad ones told apart, beside a decoder that trusts every message."""
    lines = [
        json.dumps({"user": f"u{i % 999}", "at": f"2026-03-01T00:{i % 60:02}:00Z", **dict.fromkeys(_COLUMNS, i / 7)})
        for i in range(MESSAGES)
    ]  # fmt: skip
    decode = msgspec.json.Decoder(dict[str, Any]).decode

    def ours() -> pl.DataFrame:
        rows, bad = Schema([VIEW]).frame([decode(line) for line in lines])
        assert not bad
        return rows

    def bare() -> pl.DataFrame:
        found = pl.DataFrame([decode(line) for line in lines], infer_schema_length=None)
        return found.with_columns(pl.col("at").str.to_datetime(time_unit="us", time_zone="UTC"))

    assert ours().select("user", "at", *_COLUMNS).equals(bare().select("user", "at", *_COLUMNS))
    per = 1e6 / MESSAGES
    pairs = in_turns(lambda: cpu_s(ours) * per, lambda: cpu_s(bare) * per, repeats)
    return compare(f"{MESSAGES:,} messages to rows, beside trusting them", "us CPU/row", pairs)
