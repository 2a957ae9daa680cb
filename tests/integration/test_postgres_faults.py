"""PostgreSQL that is killed, frozen, full, refused or behind a hole: clear errors, in bounded time, nothing lost."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flyball.errors import FlyballError, Unavailable
from flyball.stores.metadata import Ledger
from tests.filling import small_disk
from tests.postgres import Postgres

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A server of this module's own, since its tests kill it."""
    with Postgres() as server:
        yield server


@pytest.fixture
def url(own: Postgres) -> str:
    return own.new()


def note(ledger: Ledger, key: str) -> None:
    with ledger.transaction() as tx:
        tx.append("note.made", key, actor="x", sets=[("note", key, {})])


def test_after_a_restart_of_the_server_the_next_write_just_works(own: Postgres, url: str) -> None:
    ledger = Ledger.open(url)
    note(ledger, "before")
    own.kill()
    with pytest.raises(Unavailable, match="does not answer"):
        note(ledger, "meanwhile")
    own.start()
    note(ledger, "after")
    assert ledger.keys("note") == ["before", "after"]
    assert ledger.verify("note", "after") == ""
    ledger.close()


def test_a_server_killed_in_the_middle_of_a_transaction_leaves_nothing_of_it(own: Postgres, url: str) -> None:
    ledger = Ledger.open(url)
    with pytest.raises(Unavailable), ledger.transaction() as tx:
        tx.append("note.made", "a", actor="x", sets=[("note", "a", {})])
        own.kill()
        own.start()
        tx.append("note.made", "b", actor="x", sets=[("note", "b", {})])
    assert ledger.events() == []
    note(ledger, "c")
    ledger.close()


def test_a_commit_whose_answer_was_lost_is_asked_for_and_counts_once(own: Postgres, url: str) -> None:
    """The connection goes between doing and saying so: we look, instead of guessing."""
    ledger = Ledger.open(url)
    tries = 0
    with Proxy(own.port) as proxy:
        behind = Ledger.open(url.replace(str(own.port), str(proxy.port)))
        with behind.transaction() as tx:
            tx.append("note.made", "a", actor="x", sets=[("note", "a", {})])
            proxy.swallow_then_cut = True  # COMMIT goes to the server, its answer never comes back
            tries += 1
        behind.close()
    assert ledger.keys("note") == ["a"]
    assert tries == 1
    ledger.close()


def test_a_frozen_server_is_an_error_in_bounded_time(own: Postgres, url: str) -> None:
    ledger = Ledger.open(url + "&answer_s=1")
    note(ledger, "a")
    own.signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            note(ledger, "b")
    finally:
        own.signal(signal.SIGCONT)
    assert time.monotonic() - began < 20
    note(ledger, "c")
    ledger.close()


def test_a_writer_frozen_with_the_lock_stops_others_for_a_bounded_time(own: Postgres, url: str) -> None:
    ledger = Ledger.open(url + "&lock_s=1")
    code = f"""
import os, signal, sys
from flyball.stores.metadata import Ledger
ledger = Ledger.open({url!r})
with ledger.transaction() as tx:
    tx.append("note.made", "a", actor="x", sets=[("note", "a", {{}})])
    print("in", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    with pytest.raises(Unavailable, match="was busy"):
        note(ledger, "b")
    process.kill()
    process.wait()
    process.stdout.close()
    note(ledger, "c")
    assert ledger.keys("note") == ["c"]
    ledger.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://flyball@127.0.0.1:1/x", "does not answer"),
        ("postgresql://flyball@nowhere.invalid/x", "does not answer"),
        ("postgresql://flyball@127.0.0.1:{port}/missing", "does not let us in|does not answer"),
        ("postgresql://nobody-here:secret@127.0.0.1:{port}/postgres", "does not let us in|does not answer"),
    ],
)
def test_a_server_that_is_not_there_or_says_no_is_named(own: Postgres, url: str, says: str) -> None:
    with pytest.raises(Unavailable, match=says) as caught:
        Ledger.open(url.format(port=own.port))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64, b"E\x00\x00"])
def test_a_port_that_speaks_something_else_is_an_error_not_a_hang(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
listening = socket.socket(fileno={server.fileno()})
kept = []
while True:
    got, _ = listening.accept()
    kept.append(got)
    got.recv(1000)
    got.sendall({answer!r})
"""
        answering = subprocess.Popen([sys.executable, "-c", code], pass_fds=[server.fileno()])
        began = time.monotonic()
        try:
            with pytest.raises(FlyballError):
                Ledger.open(f"postgresql://x@127.0.0.1:{server.getsockname()[1]}/x?connect_timeout=2")
        finally:
            answering.kill()
            answering.wait()
        assert time.monotonic() - began < 20


def test_a_full_disk_under_the_server_says_so_and_loses_nothing(own: Postgres, url: str) -> None:
    with small_disk(own.folder / "small", "3m") as place:
        if own._as:
            shutil.chown(place, **own._as)
        own.run(f"create tablespace small location '{place}'")
        ledger = Ledger.open(url.replace("search_path", "default_tablespace%3Dsmall%20-csearch_path"))
        written = 0
        with pytest.raises(Unavailable, match="is full"):
            for written in range(1000):
                with ledger.transaction() as tx:
                    tx.append(
                        "note.made", "a", actor="x", sets=[("note", str(written), {"text": _noise(20_000)})]
                    )
        assert len(ledger.events()) == written > 3
        assert ledger.verify("note", str(written - 1)) == ""
        ledger.close()
        own.run(f"drop schema {url.rpartition('%3D')[2]} cascade")
        own.run("drop tablespace small")


def test_without_its_driver_the_error_names_what_to_install() -> None:
    code = """
import sys
sys.modules["psycopg"] = None
from flyball.errors import Unavailable
from flyball.stores.metadata import Ledger
try:
    Ledger.open("postgresql://x@localhost/x")
except Unavailable as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "pip install 'flyball[postgres]'" in said


def test_processes_that_write_at_once_keep_the_chain_and_give_each_number_once(
    url: str, tmp_path: Path
) -> None:
    code = f"""
from flyball.stores.metadata import Ledger
ledger = Ledger.open({url!r})
for _ in range(30):
    with ledger.transaction() as tx:
        number = tx.next_number("note", "a")
        tx.append("note.made", "a", actor="x", sets=[("note", f"a@{{number}}", {{"n": number}})])
"""
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    ledger = Ledger.open(url)
    assert sorted(one["n"] for one in ledger.ls("note", dict)) == list(range(1, 91))
    assert [ledger.verify_event(event.seq) for event in ledger.events()] == [""] * 90
    ledger.close()


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    code = f"""
import os
from flyball.stores.metadata import Ledger
ledger = Ledger.open({url!r})
def note(key):
    with ledger.transaction() as tx:
        tx.append("note.made", key, actor="x", sets=[("note", key, {{}})])
note("parent")
child = os.fork()
for n in range(20):
    note(f"{{child == 0}}{{n}}")
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert len(ledger.keys("note")) == 41
else:
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def _noise(letters: int) -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=letters))


class Proxy:
    """Passes bytes between a client and a server, until it is told to lose what the server says and cut the line."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.swallow_then_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, into: socket.socket, from_server: bool) -> None:
        try:
            while data := source.recv(65536):
                if from_server and self.swallow_then_cut:
                    self.swallow_then_cut = False
                    break
                into.sendall(data)
        except OSError:
            pass
        for one in (source, into):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
