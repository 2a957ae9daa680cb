"""A Ray cluster of two nodes on this machine: the answers of one process, also when a node dies in the middle."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

from flyball.errors import NotFound
from flyball.features import point_in_time
from flyball.features.distributed import fill as fill_by_many
from flyball.features.distributed import joined
from flyball.features.filling import fill
from flyball.features.joining import Asked
from flyball.features.pools import opened
from flyball.features.reach import Mark
from flyball.stores.online import open_online
from tests.integration.features.test_distributed import answers
from tests.redis_servers import RedisServer
from tests.unit.features.test_distributed import START, VIEW, tables

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),
]  # Ray's own warnings are its matter
_NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What tasks name must be found by their processes: they start in this folder's root.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[3])
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**_NODE, "include_dashboard": False})
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        del os.environ["PYTHONPATH"]


def test_a_join_on_ray_is_that_of_one_process(cluster: Any, tmp_path: Path) -> None:
    source, entities = tables()
    for n, part in enumerate(source.iter_slices(1000)):
        part.write_parquet(tmp_path / f"{n}.parquet")
    lazy = pl.scan_parquet(tmp_path / "*.parquet")
    found = joined(Asked.of(entities, "t"), VIEW.features, [VIEW], {"landings": lazy}, "ray")
    assert_frame_equal(
        entities.with_columns(found), point_in_time(entities, "t", [VIEW], {"landings": source})
    )


def test_a_backfill_on_ray_brings_redis_what_one_process_brings(cluster: Any, tmp_path: Path) -> None:
    source, entities = tables(2000, 50)
    source.write_parquet(tmp_path / "rows.parquet")
    lazy = pl.scan_parquet(tmp_path / "rows.parquet")
    server = RedisServer(tmp_path / "redis").start()
    try:
        alone = open_online(f"lmdb:{tmp_path}/alone")
        there = open_online(server.url)
        half = START + timedelta(hours=30)
        for until in (half, None):
            one = fill(VIEW, lazy, alone, until=until, history_s=None)
            assert fill_by_many(VIEW, lazy, server.url, compute="ray", until=until, history_s=None) == one
        assert Mark.of(VIEW, there) == Mark.of(VIEW, alone)
        assert answers(there, entities) == answers(alone, entities)
        alone.close()
        there.close()
    finally:
        server.stop()


def test_an_error_of_a_task_is_the_same_error(cluster: Any) -> None:
    with opened("ray") as pool, pytest.raises(NotFound, match="no such thing"):
        pool.run([_refuse], [_values, _values])


def test_a_node_that_dies_in_the_middle_costs_time_and_no_answer(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(**_NODE)
    until = time.monotonic() + 30
    while len([one for one in _ray().nodes() if one["Alive"]]) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    answers: list[Any] = []
    cuts = [partial(_begin_and_wait, tmp_path, n) for n in range(6)]
    with opened("ray") as pool:
        assert pool.workers == 2
        job = threading.Thread(target=lambda: answers.append(pool.run(cuts, [_values, _values])))
        job.start()
        while len(list(tmp_path.glob("began-*"))) < 2:  # one on each node
            assert time.monotonic() < until
            time.sleep(0.05)
        pids = {int(file.read_text()) for file in tmp_path.glob("began-*")}
        cluster.remove_node(node, allow_graceful=False)
        while all(map(psutil.pid_exists, pids)):  # its worker goes after it
            assert time.monotonic() < until
            time.sleep(0.05)
        (tmp_path / "go").touch()
        job.join(timeout=50)
    assert answers == [[[0, 1, 2, 3, 4, 5], [100, 101, 102, 103, 104, 105]]]
    begun = [len(file.read_text().split()) for file in sorted(tmp_path.glob("began-*"))]
    assert sum(begun) == 7  # one began twice


def _begin_and_wait(folder: Path, n: int) -> list[pl.DataFrame]:
    with (folder / f"began-{n}").open("a") as file:
        file.write(f"{os.getpid()} ")
    while not (folder / "go").exists():
        time.sleep(0.02)
    return [pl.DataFrame({"n": [n]}), pl.DataFrame({"n": [100 + n]})]


def _refuse() -> list[pl.DataFrame]:
    raise NotFound("no such thing", "look elsewhere")


def _values(frames: list[pl.DataFrame]) -> list[int]:
    return [value for frame in frames for value in frame["n"].to_list()]


def _ray() -> Any:
    import ray

    return ray
