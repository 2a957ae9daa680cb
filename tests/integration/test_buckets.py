"""Blobs in a bucket, over a socket: the same promises, and clear errors when the store is gone, slow or lies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball.core.hashing import digest_bytes
from flyball.errors import Invalid, NotFound, Refused, Unavailable
from flyball.service.backup import backup
from flyball.service.gc import gc
from flyball.service.migrate import migrate
from flyball.service.restore import restore
from flyball.service.workspace import Workspace
from flyball.stores.blobs import Blobs
from flyball.versions import data
from tests.postgres import Postgres
from tests.s3 import S3
from tests.workspaces import close, everything, fill, new_workspace, write

pytestmark = pytest.mark.integration


def test_a_bucket_keeps_what_a_folder_keeps(s3: S3, tmp_path: Path) -> None:
    blobs = Blobs.open(s3.new())
    digest = blobs.put(b"hello")
    big = os.urandom(20_000_000)
    (tmp_path / "big").write_bytes(big)
    large = blobs.put_file(tmp_path / "big")
    assert large == digest_bytes(big)
    assert blobs.get(digest) == b"hello"
    assert blobs.read_range(large, 5_000_000, 10) == big[5_000_000:5_000_010]
    assert b"".join(blobs.stream(large)) == big
    assert sorted(blobs.ls()) == sorted([digest, large])
    assert blobs.stat(large).size_bytes == 20_000_000
    assert digest in blobs
    assert blobs.delete(digest)
    assert not blobs.delete(digest)
    assert digest not in blobs
    with pytest.raises(NotFound, match="no blob"):
        blobs.get(digest)
    blobs.put_named("snapshots/a", b"{}")
    assert blobs.ls_named("snapshots/") == ["snapshots/a"]
    assert "hidden" not in blobs.url


def test_a_bucket_that_is_not_there_or_a_wrong_option_is_named(s3: S3) -> None:
    url = s3.new().replace("bucket-", "missing-")
    with pytest.raises(Unavailable, match="s3://missing"):
        Blobs.open(url).put(b"x")
    with pytest.raises(Invalid, match="nonsense"):
        Blobs.open("s3://b/p?nonsense=1")
    with pytest.raises(Invalid, match="Account must be specified"):
        Blobs.open("az://container/p")
    with pytest.raises(Invalid, match="options that can't be read"):
        Blobs.open("s3://b/p?nonsense")
    Blobs.open("az://container/p?account_name=a&account_key=aGVsbG8=")
    Blobs.open("gs://bucket/p")


def test_a_store_that_is_gone_is_said_in_bounded_time() -> None:
    blobs = Blobs.open(
        "s3://b/p?endpoint=http://127.0.0.1:1&region=us-east-1&access_key_id=a&secret_access_key=hidden"
    )
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer") as caught:
        blobs.put(b"x")
    with pytest.raises(Unavailable):
        blobs.ls()
    assert time.monotonic() - began < 20
    assert "hidden" not in str(caught.value)


def test_a_frozen_store_is_said_in_bounded_time_and_goes_on_afterwards(s3: S3) -> None:
    blobs = Blobs.open(s3.new("&read_timeout=1s&retry_timeout_s=2"))
    digest = blobs.put(b"before")
    s3.signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            blobs.get(digest)
    finally:
        s3.signal(signal.SIGCONT)
    assert time.monotonic() - began < 20
    assert blobs.get(digest) == b"before"


class Lying:
    """A server that answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.url = (
            f"s3://b/p?endpoint=http://127.0.0.1:{self._server.getsockname()[1]}&region=us-east-1"
            "&access_key_id=a&secret_access_key=b&read_timeout=2s&retry_timeout_s=3"
        )
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with client:
                try:
                    client.settimeout(5)
                    client.recv(65536)
                    client.sendall(self._answer)
                except OSError:
                    continue

    def close(self) -> None:
        self._server.close()


@pytest.fixture(
    params=[
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 21\r\nConnection: close\r\n\r\n<html>sign in!</html>",
        b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"\x00\x01garbage\r\n\r\n",
        b"",
    ],
    ids=["a login page", "503", "403", "garbage", "nothing"],
)
def lying(request: pytest.FixtureRequest) -> Iterator[Lying]:
    server = Lying(request.param)
    yield server
    server.close()


def test_a_store_that_answers_garbage_is_never_believed(lying: Lying) -> None:
    blobs = Blobs.open(lying.url)
    began = time.monotonic()
    with pytest.raises((Unavailable, Refused)):
        blobs.get(digest_bytes(b"hello"))
    with pytest.raises(Unavailable):
        blobs.put(b"hello")
    assert time.monotonic() - began < 30


def test_a_workspace_moves_to_postgres_and_a_bucket_and_back(
    s3: S3, postgres: Postgres, tmp_path: Path
) -> None:
    ws = new_workspace(tmp_path / "project")
    fill(ws)
    before = everything(ws)
    url = postgres.new()
    done = migrate(s3.new(), to=url, write=True, check="all", ws=ws)
    assert "hidden" not in done.as_text().partition("\n")[0]
    close(ws)
    there = Workspace.open(ws.root)
    assert everything(there) == before
    data.use(there.ledger, there.blobs, "flights").checkout(tmp_path / "out")
    assert (tmp_path / "out" / "b.csv").read_text() == "x,y\n1,0\n"
    write(there, "note", "n", {"artifact": there.blobs.put(b"there")})
    after = everything(there)
    backup(str(tmp_path / "b.tar"), ws=there)
    restore(str(tmp_path / "b.tar"), into=str(tmp_path / "copy"))
    copy = Workspace.open(tmp_path / "copy")
    assert everything(copy) == after
    close(copy)
    migrate("file:.flyball/blobs2", to="sqlite:///.flyball/back.db", write=True, ws=there)
    close(there)
    back = Workspace.open(ws.root)
    assert everything(back) == after
    close(back)


def test_a_backup_goes_back_into_a_server_and_a_bucket(s3: S3, postgres: Postgres, tmp_path: Path) -> None:
    bucket, url = s3.new(), postgres.new()
    ws = new_workspace(tmp_path / "project", url, bucket)
    fill(ws)
    before = everything(ws)
    backup(str(tmp_path / "b.tar"), ws=ws)
    write(ws, "note", "later", {"artifact": ws.blobs.put(b"later")})
    for digest in before["blobs"]:
        ws.blobs.delete(digest)
    restore(str(tmp_path / "b.tar"), force=True, ws=ws)
    close(ws)
    again = Workspace.open(ws.root)
    assert again.ledger.keys("note") == []
    after = everything(again)
    assert after["tables"] == before["tables"]
    assert before["blobs"].items() <= after["blobs"].items()
    close(again)


def test_a_collection_in_a_bucket_goes_by_the_buckets_own_clock(s3: S3, tmp_path: Path) -> None:
    ws = new_workspace(tmp_path / "project", blobs=s3.new())
    kept, stray = ws.blobs.put(b"kept"), ws.blobs.put(b"stray")
    write(ws, "model", "m@1", {"artifact": kept})
    assert gc(ws=ws).blobs == 0
    time.sleep(1.1)  # the bucket tells ages in whole seconds
    assert gc(older_than="0s", ws=ws).removed == (stray,)
    assert ws.blobs.ls() == [kept]
    close(ws)


def test_processes_that_add_and_register_at_once_on_a_server_and_a_bucket_agree(
    s3: S3, postgres: Postgres, tmp_path: Path
) -> None:
    """As two machines would: nothing shared but the stores, each with a folder of its own."""
    bucket, url = s3.new(), postgres.new()
    close(new_workspace(tmp_path / "m0", url, bucket))
    code = """
import sys
from flyball.service.workspace import Workspace
from flyball.versions import data
from tests.workspaces import add_run, new_workspace
from pathlib import Path
root, url, bucket, me = sys.argv[1:]
ws = new_workspace(Path(root), url, bucket)
for n in range(6):
    source = Path(root) / "in.csv"
    source.write_text(f"who,n\\n{me},{n}\\n" * 50)
    data.add(ws.ledger, ws.blobs, "flights", source, actor=me)
    add_run(ws, f"run_{me}_{n}")
    with ws.ledger.transaction() as tx:
        number = tx.next_number("thing", "delays")
        tx.append("thing.registered", f"delays@{number}", actor=me, sets=[("thing", f"delays@{number}", {"n": number})])
ws.ledger.close()
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / f"m{n}"), url, bucket, f"w{n}"])
        for n in (1, 2, 3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    ws = Workspace.open(tmp_path / "m0")
    assert sorted(one["n"] for one in ws.ledger.ls("thing", dict)) == list(range(1, 19))
    snapshots = ws.ledger.keys("snapshot")
    assert sorted(snapshots, key=lambda key: int(key.partition("@")[2])) == [
        f"flights@{n}" for n in range(1, 19)
    ]
    assert all(ws.ledger.verify_event(event.seq) == "" for event in ws.ledger.events())
    for key in snapshots:
        data.use(ws.ledger, ws.blobs, key).checkout(tmp_path / "out" / key)
    assert gc(dry_run=True, older_than="0s", ws=ws).blobs == 0
    assert gc(older_than="0s", ws=ws).blobs == 0
    close(ws)
