"""An online store in trouble: bits that change, disks that fill up, servers that die, hang and come back."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from flyball.errors import Unavailable
from flyball.stores.online import OnlineStore, open_online, pack_key, view_address
from flyball.stores.online_check import check, set_aside
from flyball.testing.online import VIEW, Row, batch, rows_of
from tests.filling import small_disk
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.integration
ADDRESS = view_address(VIEW) + pack_key(("N1",))


def rows(count: int, keys: int = 40) -> list[Row]:
    return [(f"N{at % keys}", at, at, 0, float(at)) for at in range(count)]


def filled(url: str, count: int = 20_000) -> None:
    store = open_online(url)
    store.append(VIEW, batch(rows(count)), marks={"filled": b"%d" % count})
    store.close()


def length(store: OnlineStore) -> int:
    return sum(len(rows_of(store, f"N{key}")) for key in range(40))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_one_changed_bit_is_found_and_the_store_is_filled_again(tmp_path: Path, share: float) -> None:
    url, file = f"lmdb:{tmp_path}/online", tmp_path / "online" / "data.mdb"
    filled(url)
    assert check(url) > 40
    data = bytearray(file.read_bytes())
    place = data.find((7).to_bytes(8, "little") * 2, int(share * len(data))) if share < 0.3 else 0
    place = place if place > 0 else int(share * len(data)) | 5
    data[place] ^= 16
    file.write_bytes(data)
    with pytest.raises(Unavailable, match="corrupt") as error:
        check(url)
    assert "materialize --rebuild" in error.value.hint
    reader = open_online(url, readonly=True)
    aside = set_aside(url)
    assert aside is not None
    assert (aside / "data.mdb").exists()
    assert reader.mark("filled") is None
    assert rows_of(reader, "N3") == []
    filled(url)
    assert length(reader) == 20_000
    assert check(url) > 40
    reader.close()


def test_whatever_bytes_change_a_check_ends_with_an_answer(tmp_path: Path) -> None:
    """Also where they hold the pages together: the process that looks may die of it, this one does not."""
    url, file = f"lmdb:{tmp_path}/online", tmp_path / "online" / "data.mdb"
    filled(url, 4000)
    whole = file.read_bytes()
    for number, at in enumerate(
        (16, 8192 + 12, 3 * 4096 + 10, len(whole) - 4096 + 16, len(whole) // 2 & ~4095 | 13)
    ):
        data = bytearray(whole)
        data[at : at + 8] = bytes([255 - number] * 8)
        file.write_bytes(data)
        try:
            assert check(url, timeout_s=60) >= 40
        except Unavailable as error:
            assert "online store" in error.what  # noqa: PT017 (both ends are right; none is a crash)


def test_a_store_of_another_version_is_not_misread(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "online")) as env, env.begin(write=True) as txn:
        txn.put(ADDRESS, bytes(800))
    with pytest.raises(Unavailable, match="another version"):
        open_online(f"lmdb:{tmp_path}/online", readonly=True)
    set_aside(f"lmdb:{tmp_path}/online")
    filled(f"lmdb:{tmp_path}/online", 100)


def test_a_full_disk_leaves_whole_batches_and_a_repeat_works(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        store = open_online(f"lmdb:{disk}/online")
        written = -1
        with pytest.raises(Unavailable, match="disk") as error:
            for number in range(100):
                more = [(f"N{key}", number * 10 + i, 0, 0, 1.0) for key in range(40) for i in range(10)]
                store.append(VIEW, batch(more), marks={"filled": b"%d" % number})
                written = number
        assert "free some space" in error.value.hint
        assert written > 1
        assert store.mark("filled") == b"%d" % written
        assert {len(rows_of(store, f"N{key}")) for key in range(40)} == {10 * written + 10}
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert store.append(VIEW, batch(more), marks={"filled": b"%d" % (written + 1)}) == 400
        assert store.mark("filled") == b"%d" % (written + 1)
        store.close()
        assert check(f"lmdb:{disk}/online") >= 40


LIMITED = """
import resource, sys
from flyball.errors import Unavailable
from flyball.stores.online import open_online
from flyball.testing.online import VIEW, batch
store = open_online(sys.argv[1])
for number in range(1000):
    more = [(f"N{key}", number * 10 + i, 0, 0, 1.0) for key in range(40) for i in range(10)]
    try:
        store.append(VIEW, batch(more), marks={"filled": b"%d" % number})
    except Unavailable as error:
        assert store.mark("filled") == b"%d" % (number - 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert store.append(VIEW, batch(more), marks={"filled": b"%d" % number}) == 400
        print(number, error.what)
        break
"""


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))

    url = f"lmdb:{tmp_path}/online"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, url], preexec_fn=limit, capture_output=True, text=True, check=True
    )
    number, what = done.stdout.split(maxsplit=1)
    assert "full" in what
    store = open_online(url, readonly=True)
    assert store.mark("filled") == number.encode()
    assert {len(rows_of(store, f"N{key}")) for key in range(40)} == {10 * int(number) + 10}
    store.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", durable=True).start()
    yield server
    server.stop()


def waited_s(store: OnlineStore) -> float:
    """How long a look waits for a store that can't answer."""
    begun = time.perf_counter()
    with pytest.raises(Unavailable):
        tail_of(store)
    return time.perf_counter() - begun


def tail_of(store: OnlineStore) -> bytes | None:
    reading = store.begin()
    try:
        tail = reading.tail(ADDRESS)
        return None if tail is None else bytes(tail)
    finally:
        reading.close()


def test_redis_dead_hanging_and_back_again(server: RedisServer) -> None:
    url = f"{server.url}?timeout_ms=200"
    filled(url, 400)
    store = open_online(url, readonly=True)
    before = tail_of(store)
    assert before is not None
    server.send(signal.SIGSTOP)
    assert 0.15 < waited_s(store) < 1.0
    server.send(signal.SIGCONT)
    assert tail_of(store) == before
    server.send(signal.SIGKILL)
    assert waited_s(store) < 1.0
    server.start()
    assert tail_of(store) == before
    assert store.mark("filled") == b"400"
    tail_of(store)
    server.send(signal.SIGKILL)
    server.start()
    assert tail_of(store) == before  # a connection that went stale is no failure
    assert check(url) == 40
    store.close()


def test_a_server_that_nobody_answers_for_is_waited_for_briefly() -> None:
    for place in (
        "192.0.2.1:6379",
        "no-such-host.invalid:6379",
    ):  # addresses that lead nowhere, by their definition
        store = open_online(f"redis://{place}/0?timeout_ms=100")
        assert waited_s(store) < 1.5
        with pytest.raises(Unavailable):
            open_online(f"redis://{place}/0?write_timeout_ms=100").append(VIEW, batch(rows(3)))


def test_a_full_redis_takes_no_half_of_a_batch(server: RedisServer) -> None:
    import redis

    store = open_online(f"{server.url}?timeout_ms=5000")
    store.append(VIEW, batch(rows(400)), marks={"filled": b"1"})
    client = redis.Redis.from_url(server.url)
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 2000)
    more = [(f"N{at % 40}", 10_000 + at, 10_000 + at, 0, 1.0) for at in range(2000)]
    with pytest.raises(Unavailable, match="full"):
        for _ in range(20):
            store.append(VIEW, batch(more), marks={"filled": b"2"})
            more = [(key, at + 10_000, at + 10_000, 0, 1.0) for key, at, *_ in more]
    kept = {len(rows_of(store, f"N{key}")) for key in range(40)}
    assert len(kept) == 1
    client.config_set("maxmemory", 0)
    assert store.append(VIEW, batch(more), marks={"filled": b"3"}) == 2000
    assert store.mark("filled") == b"3"
    client.close()
    store.close()


WRITER = """
import itertools, sys
from flyball.stores.online import open_online
from flyball.testing.online import VIEW, batch
store = open_online(sys.argv[1])
begin = int(store.mark("filled") or b"0")
for number in itertools.count(begin):
    times = range(number * 40, number * 40 + 40)
    rows = [(f"N{key}", at, at, int(sys.argv[2]), 1.0) for key in range(25) for at in times]
    store.append(VIEW, batch(rows), marks={"filled" + sys.argv[2]: b"%d" % (number + 1)})
    print(number, flush=True)
"""


def killed_after(url: str, number: int, writer_id: int = 0) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(writer_id)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= number:
                time.sleep(0.002)  # somewhere within the next batch
                writer.kill()
                break


@pytest.mark.parametrize("engine", ["lmdb", "redis"])
def test_marks_and_rows_agree_when_a_writer_is_killed(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"lmdb:{tmp_path}/online"
    if engine == "redis":
        url = request.getfixturevalue("server").url + "?timeout_ms=5000"
    for after in (2, 5):
        killed_after(url, after)
        store = open_online(url)
        filled_to = int(store.mark("filled0") or b"0")
        assert {len(rows_of(store, f"N{key}")) for key in range(25)} == {40 * filled_to}
        assert filled_to > after
        store.clear(VIEW)
        store.close()


def test_two_writers_of_one_redis_lose_nothing(server: RedisServer) -> None:
    url = f"{server.url}?timeout_ms=5000"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, str(i)], stdout=subprocess.PIPE, text=True)
        for i in (1, 2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 12:
                break
    for writer in writers:
        writer.kill()
        writer.communicate()
    store = open_online(url)
    marks = [int(store.mark(f"filled{i}") or b"0") for i in (1, 2)]
    for key in range(25):
        found = [row[2] for row in rows_of(store, f"N{key}")]
        assert [found.count(i) for i in (1, 2)] == [40 * mark for mark in marks]
    assert store.check() >= 25
    store.close()
