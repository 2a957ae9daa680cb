"""Features of entities now: beside bare reads of ready-made values (LMDB, one packed MGET of Redis) and beside Feast.

Each side answers first what the other does. Reads inside this process are CPU time; where a server takes part, time on
the wall. Feast runs in its own process and times its own calls.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from msgspec import to_builtins

from benchmarks.measure import Row, compare, cpu_s, timed, wall_s
from benchmarks.peers import python_of
from benchmarks.peers.feast import Feast
from benchmarks.peers.redis_server import redis_server
from benchmarks.peers.vectors import Vectors, ViewPlaces, write
from flyball.core.clock import to_us
from flyball.core.plan import Plan, ServedFeatures, publish
from flyball.errors import FlyballError
from flyball.features import Service, View, count, max, mean, push, sum
from flyball.features.online import OnlineReader
from flyball.features.vectors import VectorReader
from flyball.stores.online import open_online

_NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
_KEYS, _ROWS, _MANY, _READS = 2000, 40, 100, 500
_COLUMNS = tuple(f"f{number}" for number in range(8))
_VIEW = View("driver", ("driver",), "trips", happened="at", columns=_COLUMNS, ttl_s=90 * 86400)
_WINDOWS = View(
    "moving", ("driver",), "trips", happened="at",
    windows=tuple(make("f0", days) for days in ("7d", "30d") for make in (count, sum, mean, max)),
)  # fmt: skip
_UNPACK = struct.Struct("<8d").unpack


def measured(repeats: int) -> list[Row]:
    """One entity, a hundred, windows; the same from Redis; and Feast over SQLite and Redis."""
    with tempfile.TemporaryDirectory() as folder, redis_server() as redis, Feast() as feast:
        rows = _trips()
        reads = [_Reads(f"lmdb:{folder}/online", rows)]
        found = _bare_lmdb(reads[0], Path(folder), repeats)
        try:
            reads.append(_Reads(f"{redis}/1", rows))
            found += _bare_redis(reads[1], f"{redis}/2", repeats)
        except FlyballError as error:  # the engine is optional
            print(f"features_online: Redis not measured: {error}")
        for kind, mine, online in (
            ("SQLite", reads[0], {"type": "sqlite", "path": "online.db"}),
            ("Redis", reads[-1], {"type": "redis", "connection_string": redis.removeprefix("redis://")}),
        ):
            found += _feast(feast, kind, mine, rows, online, Path(folder) / kind, repeats)
        found += _servers(reads[0], Path(folder), repeats)
        for one in reads:
            one.store.close()
        return found


class _Reads:
    """One filled store and what is asked of it."""

    def __init__(self, url: str, rows: pl.DataFrame) -> None:
        self.url = url
        writing = open_online(url)
        for view in (_VIEW, _WINDOWS):
            push(view, rows, writing, history_s=None)
        writing.close()
        self.store = open_online(url, readonly=True)
        service = Service("latest", _VIEW.features)
        self.one = OnlineReader(service, [_VIEW], self.store)
        self.many = VectorReader(service, [_VIEW], self.store)
        self.moving = OnlineReader(Service("moving", _WINDOWS.features), [_WINDOWS], self.store)
        self.moving_many = VectorReader(Service("moving", _WINDOWS.features), [_WINDOWS], self.store)
        self.at_us = to_us(_NOW)
        self.entities = [{"driver": number} for number in range(_READS)]
        self.keys = {"driver": list(range(_MANY))}

    def each(self, reader: OnlineReader) -> list[list[Any]]:
        """One read per entity."""
        return [reader.read(entities, {}, self.at_us).values for entities in self.entities]

    def together(self, reader: VectorReader) -> np.ndarray[Any, Any]:
        """All entities in one read."""
        return reader.read(self.keys, (), self.at_us).to_numpy()


def _trips() -> pl.DataFrame:
    """Rows of the last forty days, numbers that floats hold exactly."""
    random = np.random.default_rng(0)
    ages = np.arange(_ROWS)[None, :] * 86_400 + random.integers(0, 80_000, (_KEYS, _ROWS))
    times = np.datetime64(int(_NOW.timestamp()), "s") - ages.ravel().astype("timedelta64[s]")
    values = {name: random.integers(-1000, 1000, _KEYS * _ROWS) / 4 for name in _COLUMNS}
    frame = pl.DataFrame(
        {"driver": np.repeat(np.arange(_KEYS), _ROWS), "at": times.astype("datetime64[us]")} | values
    )
    return frame.with_columns(pl.col("at").dt.replace_time_zone("UTC")).sort("at")


def _bare_lmdb(reads: _Reads, folder: Path, repeats: int) -> list[Row]:
    found = []
    for name, reader, features in (
        ("latest values", reads.one, 8),
        ("windows of 7 and 30 days", reads.moving, 8),
    ):
        places = [ViewPlaces(name, ("driver",), tuple(range(features)))]
        vectors = reads.each(reader)
        write(folder / name, places, zip(reads.entities, vectors, strict=True))
        bare = Vectors(folder / name, places)

        def beside(bare: Vectors = bare) -> list[list[Any]]:
            answers: list[list[Any]] = []
            for entities in reads.entities:
                vector: list[Any] = [None] * 8
                bare.read(entities, vector)
                answers.append(vector)
            return answers

        np.testing.assert_array_equal(np.array(beside(), float), np.array(vectors, float))
        cpu = partial(timed, repeats=repeats, unit="us CPU", clock=cpu_s)
        what = f"8 {name} of one entity, beside one get of the answer"
        found.append(cpu(what, partial(reads.each, reader), beside, per_s=1e6 / _READS))
        many = reads.many if reader is reads.one else reads.moving_many
        packed = partial(_gets, bare, places[0])
        np.testing.assert_array_equal(reads.together(many), packed())
        what = f"8 {name} of {_MANY} entities into NumPy, beside {_MANY} gets"
        found.append(cpu(what, _times(20, partial(reads.together, many)), _times(20, packed), per_s=1e6 / 20))
        bare.close()
    return found


def _gets(bare: Vectors, view: ViewPlaces) -> np.ndarray[Any, Any]:
    """The answers of the first entities, from one transaction."""
    with bare._env.begin() as txn:
        parts = [txn.get(f"{view.name}\0{number}".encode()) for number in range(_MANY)]
    return np.frombuffer(b"".join(parts)).reshape(_MANY, -1)


def _bare_redis(reads: _Reads, url: str, repeats: int) -> list[Row]:
    client: Any = import_module("redis").Redis.from_url(url)
    vectors = np.array(reads.each(reads.one))
    for number, vector in enumerate(vectors.tolist()):
        client.set(f"driver:{number}", struct.pack("<8d", *vector))

    def one_by_one() -> list[Any]:
        return [_UNPACK(client.mget([f"driver:{number}"])[0]) for number in range(_READS)]

    def together() -> np.ndarray[Any, Any]:
        found = client.mget([f"driver:{number}" for number in range(_MANY)])
        return np.frombuffer(b"".join(found)).reshape(_MANY, -1)

    np.testing.assert_array_equal(np.array(one_by_one()), vectors)
    np.testing.assert_array_equal(reads.together(reads.many), together())
    wall = partial(timed, repeats=repeats, unit="us", clock=wall_s)
    many = partial(reads.together, reads.many)
    each = partial(reads.each, reads.one)
    rows = [
        wall(
            "Redis: 8 latest values of one entity, beside one packed MGET",
            each,
            one_by_one,
            per_s=1e6 / _READS,
        ),
        wall(
            f"Redis: of {_MANY} entities, beside one packed MGET",
            _times(20, many),
            _times(20, together),
            per_s=1e6 / 20,
        ),
    ]
    client.close()
    return rows


def _times(count: int, work: Callable[[], Any]) -> Callable[[], None]:
    def again() -> None:
        for _ in range(count):
            work()

    return again


def _feast(
    feast: Feast,
    kind: str,
    reads: _Reads,
    rows: pl.DataFrame,
    online: dict[str, Any],
    folder: Path,
    repeats: int,
) -> list[Row]:
    """Feast with the same rows: its own client, into a dict, as its documents show it."""
    folder.mkdir()
    rows.write_parquet(folder / "trips.parquet")
    view = {"name": "driver", "entity": ["driver"], "path": folder / "trips.parquet", "ttl_s": 90 * 86400}
    fields = dict.fromkeys(_COLUMNS, "Float64")
    feast.call(
        "store", name=f"over_{kind}", folder=folder, offline={"type": "duckdb"}, online=online,
        views=[{**view, "path": str(view["path"]), "fields": fields}],
    )  # fmt: skip
    start, end = _NOW - timedelta(days=60), _NOW + timedelta(seconds=1)
    feast.call("materialize", name=f"over_{kind}", start=start.isoformat(), end=end.isoformat())
    found = []
    features = [f"driver:{name}" for name in _COLUMNS]
    for many in (1, _MANY):
        keys = {"driver": list(range(many))}
        theirs = feast.call("online", name=f"over_{kind}", features=features, entity_rows=keys)["values"]
        mine = reads.many.read(keys, (), reads.at_us).to_dict(keys=False)
        assert all(mine[f"driver:{name}"] == theirs[name] for name in _COLUMNS), "the answers differ"
        ours = (
            partial(reads.each, reads.one) if many == 1 else _times(20, partial(reads.together, reads.many))
        )
        per_s = 1e6 / (_READS if many == 1 else 20)
        found.append(_beside_feast(feast, kind, features, keys, ours, per_s, repeats))
    return found


def _beside_feast(
    feast: Feast,
    kind: str,
    features: Sequence[str],
    keys: dict[str, list[int]],
    ours: Callable[[], Any],
    per_s: float,
    repeats: int,
) -> Row:
    count = len(keys["driver"])
    clock, unit = (cpu_s, "us CPU") if kind == "SQLite" else (wall_s, "us")
    pairs = []
    for _ in range(repeats + 1):
        theirs = feast.call(
            "online_times", name=f"over_{kind}", features=features, entity_rows=keys, repeats=1, reads=20
        )["cpu_s"][0]
        pairs.append((clock(ours) * per_s, (theirs if kind == "SQLite" else feast.wall_s / 20) * 1e6))
    what = "one entity" if count == 1 else f"{count} entities"
    return compare(f"8 latest values of {what}, beside Feast over {kind}", unit, pairs[1:])


def _servers(reads: _Reads, folder: Path, repeats: int) -> list[Row]:
    """One worker of ours beside Feast's feature server, asked the same JSON over one kept connection, in turns."""
    features = ServedFeatures(
        services={"latest": to_builtins(Service("latest", _VIEW.features))},
        views={"driver": to_builtins(_VIEW)},
    )
    publish(Plan(generation=1, online=reads.url, features=features), folder / "run" / "plan.json")
    port = _free_port()
    ours = [sys.executable, "-m", "flyball.serve.supervisor", "--plan", folder / "run" / "plan.json"]
    ours += ["--log", folder / "log", "--port", port, "--workers", "1"]
    theirs_port = _free_port()
    theirs = [python_of("feast").with_name("feast"), "-c", folder / "SQLite", "serve", "-p", theirs_port]
    rows = []
    with _running(ours, port), _running(theirs, theirs_port):
        mine, other = HTTPConnection("127.0.0.1", port), HTTPConnection("127.0.0.1", theirs_port)
        for many in (1, _MANY):
            names = [f"driver:{name}" for name in _COLUMNS]
            body = json.dumps({"features": names, "entities": {"driver": list(range(many))}}).encode()
            assert _values(_post(mine, body)) == _values(_post(other, body)), "the answers differ"
            ask, beside = (_times(20, partial(_post, one, body)) for one in (mine, other))
            what = f"HTTP: 8 latest values of {many} in Feast's JSON, beside Feast's server over SQLite"
            rows.append(timed(what, ask, beside, repeats=repeats, unit="us", per_s=1e6 / 20, clock=wall_s))
    return rows


def _post(connection: HTTPConnection, body: bytes) -> Any:
    connection.request("POST", "/get-online-features", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return text


def _values(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    return {
        name: one["values"]
        for name, one in zip(found["metadata"]["feature_names"], found["results"], strict=True)
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _running(command: Sequence[Any], port: int) -> Iterator[None]:
    """A server that answers on its port, ended afterwards."""
    server = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > until or server.poll() is not None:
                    raise RuntimeError(f"{command[0]} does not start") from None
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait(30)
