"""Filling the online store beside a bare loop of LMDB puts and beside Feast's SQLite; latest values from Redis beside one
``MGET`` of packed values. What was written is read back and compared before anything is timed.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import lmdb
import numpy as np
import polars as pl

from benchmarks.measure import Row, compare, cpu_s, in_turns, timed, wall_s
from benchmarks.peers import python_of
from flyball.features import Service, View, mean
from flyball.features.filling import push
from flyball.features.vectors import VectorReader
from flyball.stores.online import open_online, pack_key, view_address
from flyball.stores.online_chunks import layout_of

_COLUMNS = tuple(f"c{at}" for at in range(8))
_AT_US = 1_700_000_000_000_000
_DAY_US = 86_400_000_000
_ROWS = 1_000_000
_FEAST_ROWS = 20_000
_BATCH = 1_000_000


def measured(repeats: int) -> list[Row]:
    """Rows per CPU second into LMDB, against bare puts and Feast; one read of 100 keys from Redis."""
    latest = View("v", ("id",), "s", happened="at", known="at", columns=_COLUMNS)
    windows = View(
        "w", ("id",), "s", happened="at", known="at", columns=_COLUMNS, windows=(mean("c0", "7d"),)
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        one = _rows(_ROWS, _ROWS)
        rows = [
            _beside_puts("1M keys, one row of 8 columns each", latest, one, place, repeats),
            _beside_puts("the same with windows, so with running sums", windows, one, place, repeats),
        ]
        many = _rows(10 * _ROWS, _ROWS // 10)
        rows.append(_beside_puts("10M rows of 100k keys", latest, many, place, 1))
        rows.append(_beside_feast(latest, place))
        rows += _redis(latest, place, repeats)
    return rows


def _rows(rows: int, keys: int) -> pl.DataFrame:
    chance = np.random.default_rng(7)
    ids = chance.permutation(rows) if rows == keys else chance.integers(0, keys, rows)
    at = np.sort(chance.integers(_AT_US, _AT_US + 30 * _DAY_US, rows)).astype("datetime64[us]")
    return pl.DataFrame({"id": ids, "at": at, **{name: chance.normal(size=rows) for name in _COLUMNS}})


def _beside_puts(what: str, view: View, frame: pl.DataFrame, place: Path, repeats: int) -> Row:
    """From a frame to the commit; the bare side puts one packed row after the other under ready-made keys."""
    pack = struct.Struct("<8d").pack
    keys = [pack_key((key,)) for key in frame["id"].to_list()]
    packed = [pack(*row) for row in frame.select(_COLUMNS).iter_rows()]

    def ours() -> float:
        shutil.rmtree(place / "ours", ignore_errors=True)
        store = open_online(f"lmdb:{place}/ours")
        spent = cpu_s(lambda: [push(view, part, store) for part in frame.iter_slices(_BATCH)])
        store.close()
        return spent * 1e6 / len(frame)

    def bare() -> float:
        shutil.rmtree(place / "bare", ignore_errors=True)
        with lmdb.open(str(place / "bare"), map_size=8 << 30, sync=False, metasync=False) as env:
            return cpu_s(lambda: _put(env, keys, packed)) * 1e6 / len(frame)

    ours()
    store = open_online(f"lmdb:{place}/ours", readonly=True)
    last = dict(zip(keys, packed, strict=True))
    layout, reading = layout_of(len(_COLUMNS), bool(view.windows)), store.begin()
    for key in list(last)[:: len(last) // 1000]:
        (head,) = reading.heads([view_address(view.stored_as) + key], layout)
        assert head is not None
        assert bytes(head[-64:]) == last[key]
    reading.close()
    store.close()
    return compare(f"{what}, beside bare puts", "us CPU/row", in_turns(ours, bare, repeats))


def _put(env: lmdb.Environment, keys: list[bytes], values: list[bytes]) -> None:
    with env.begin(write=True) as txn:
        put = txn.put
        for key, value in zip(keys, values, strict=True):
            put(key, value)


def _beside_feast(view: View, place: Path) -> Row:
    frame = _rows(_FEAST_ROWS, _FEAST_ROWS)
    parquet, folder = place / "rows.parquet", place / "feast"
    frame.with_columns(pl.col("at").dt.replace_time_zone("UTC")).write_parquet(parquet)
    folder.mkdir()
    script = Path(__file__).parent / "peers" / "feast_online_write.py"
    asked = [str(python_of("feast")), "-P", str(script), str(parquet), str(folder)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    feast = float(done.stdout.split()[-1])
    shutil.rmtree(place / "ours", ignore_errors=True)
    store = open_online(f"lmdb:{place}/ours")
    ours = cpu_s(lambda: push(view, frame, store)) / len(frame)
    store.close()
    return compare(f"{_FEAST_ROWS:,} rows, beside Feast to SQLite", "us CPU/row", [(ours * 1e6, feast * 1e6)])


def _redis(view: View, place: Path, repeats: int) -> list[Row]:
    """100 keys: our values with times and states, beside a client's MGET unpacked by NumPy. On the wall: both wait."""
    import redis
    from tests.redis_servers import RedisServer

    server = RedisServer(place / "redis").start()
    try:
        frame = _rows(5_000, 1_000)
        store = open_online(f"{server.url}?timeout_ms=1000")
        push(view, frame, store)
        client = redis.Redis.from_url(server.url, protocol=2)
        kept = {key: row for key, *row in frame.select("id", *_COLUMNS).iter_rows()}
        client.mset({f"bare:{key}": struct.pack("<8d", *row) for key, row in kept.items()})
        asked = list(kept)[:100]
        names = [f"bare:{key}" for key in asked]
        reader = VectorReader(Service("s", view.features), [view], store)
        at_us, columns = _AT_US + 31 * _DAY_US, {"id": asked}
        layout = layout_of(len(_COLUMNS), sums=False)
        addresses = [view_address(view.stored_as) + pack_key((key,)) for key in asked]

        def vectors() -> np.ndarray:
            return reader.read(columns, (), at_us).values

        def heads() -> np.ndarray:
            reading = store.begin()
            found = np.frombuffer(b"".join(head or b"" for head in reading.heads(addresses, layout)))
            reading.close()
            return found.reshape(len(asked), -1)[:, -8:]

        def bare() -> np.ndarray:
            return np.frombuffer(b"".join(client.mget(names))).reshape(len(asked), -1)

        rows = []
        for what, ours in (("vectors", vectors), ("heads alone", heads)):
            np.testing.assert_array_equal(ours(), bare())
            rows.append(
                timed(f"Redis, 100 keys x 8: {what}, beside one MGET", lambda ours=ours: [ours() for _ in range(200)],
                      lambda: [bare() for _ in range(200)], repeats=repeats, unit="us", per_s=1e6 / 200, clock=wall_s)
            )  # fmt: skip
        store.close()
        client.close()
        return rows
    finally:
        server.stop()
