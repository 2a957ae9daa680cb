"""Data in a bucket, between stores, against stores that are gone, frozen or answer garbage; and files larger than memory."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flyball.errors import FlyballError, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data
from flyball.versions.manifest import mentions
from flyball.versions.transfer import pull, push
from tests.s3 import S3

pytestmark = pytest.mark.integration


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://")
    yield ledger
    ledger.close()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.bin").write_bytes(os.urandom(1500))
    (folder / "large.bin").write_bytes(os.urandom(9_000_000))
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def test_data_in_a_bucket_is_added_changed_and_checked_out(s3: S3, ledger, raw, tmp_path):
    blobs = Blobs.open(s3.new(), state=tmp_path / "state")
    data.add(ledger, blobs, "raw", raw, actor="a")
    first = content_of(raw)
    before = sum(one.size_bytes for one in blobs.stats())
    with (raw / "large.bin").open("r+b") as file:
        file.seek(4_000_000)
        file.write(b"changed")
    data.add(ledger, blobs, "raw", raw, actor="a")
    assert sum(one.size_bytes for one in blobs.stats()) - before < 700_000
    for ref, files in (("raw@1", first), ("raw@2", content_of(raw))):
        assert content_of(data.use(ledger, blobs, ref).checkout(tmp_path / ref)) == files
        assert data.verify(ledger, blobs, ref) == []


def test_another_machine_finds_the_chunks_that_are_in_the_bucket(s3: S3, ledger, raw, tmp_path):
    url = s3.new()
    data.add(ledger, Blobs.open(url, state=tmp_path / "one"), "raw", raw, actor="a")
    (raw / "new.bin").write_bytes(b"one more")
    blobs = Blobs.open(url, state=tmp_path / "two")  # an empty index: the snapshot before is read
    before = sum(one.size_bytes for one in blobs.stats())
    data.add(ledger, blobs, "raw", raw, actor="b")
    assert sum(one.size_bytes for one in blobs.stats()) - before < 200_000


def test_pushed_to_a_bucket_and_pulled_by_another(s3: S3, ledger, raw, tmp_path):
    blobs = Blobs.open(f"file:{tmp_path / 'blobs'}", state=tmp_path / "state")
    kept = data.add(ledger, blobs, "raw", raw, actor="a")
    url = s3.new()
    assert push(ledger, blobs, "raw", Blobs.open(url)).sent > 0
    assert push(ledger, blobs, "raw", Blobs.open(url)).sent == 0
    theirs = Ledger.open("sqlite://")
    there = Blobs.open(f"file:{tmp_path / 'there'}", state=tmp_path / "there-state")
    assert pull(theirs, there, "raw", Blobs.open(url), actor="b").ref == kept.ref
    out = data.use(theirs, there, "raw").checkout(tmp_path / "out")
    assert content_of(out) == content_of(raw)
    theirs.close()

    pack = blobs.path(next(iter(mentions(blobs, kept.manifest))))
    flipped = bytearray(pack.read_bytes())
    flipped[1000] ^= 4
    pack.write_bytes(flipped)
    problems = data.problems_of(blobs, kept)
    assert any("chunk b3:" in str(one) for one in problems)
    assert len(data.repair(blobs, Blobs.open(url), problems)) == 1
    assert data.problems_of(blobs, kept) == []


def test_a_bucket_that_is_frozen_or_gone_is_said_in_bounded_time(raw, tmp_path):
    ledger = Ledger.open("sqlite://")
    with S3() as server:
        blobs = Blobs.open(server.new("&timeout=1s&retry_timeout_s=2"), state=tmp_path / "state")
        data.add(ledger, blobs, "raw", raw, actor="a")
        (raw / "large.bin").write_bytes(os.urandom(9_000_000))
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            data.add(ledger, blobs, "raw", raw, actor="a")
        assert time.monotonic() - began < 90
        server.signal(signal.SIGCONT)
        assert data.add(ledger, blobs, "raw", raw, actor="a").ref == "raw@2"
        assert data.verify(ledger, blobs, "raw") == []
        server.signal(signal.SIGKILL)
        with pytest.raises(Unavailable, match="does not answer"):
            data.use(ledger, blobs, "raw").read("large.bin")
    assert ledger.keys("snapshot") == ["raw@1", "raw@2"]
    ledger.close()


class _Garbage(http.server.BaseHTTPRequestHandler):
    """Answers everything with a page, as a proxy's login does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "19")
        self.send_header("Last-Modified", "Mon, 01 Apr 2013 12:00:00 GMT")
        self.send_header("ETag", '"x"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"<html>log in</html>")

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 (the names that http.server looks for)

    def log_message(self, *_: object) -> None:
        pass


def test_a_store_that_answers_with_pages_gives_no_data(ledger, raw, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Garbage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        url = f"s3://b/p?endpoint={endpoint}&region=us-east-1&access_key_id=a&secret_access_key=b"
        other = Blobs.open(url)
        with pytest.raises(FlyballError):
            pull(ledger, Blobs.open("memory:"), "raw@1", other, actor="a")
        with pytest.raises(FlyballError):
            other.get("b3:" + "0" * 64)
        assert ledger.keys("snapshot") == []
    finally:
        server.shutdown()
        server.server_close()


_BOUNDED = """
import resource, sys
from pathlib import Path
from flyball.service.workspace import Workspace
from flyball.versions import data
from flyball.service import data as verbs
root = Path(sys.argv[1])
ws = Workspace.open(root)
(root / "warm.bin").write_bytes(b"x" * 20_000_000)
data.add(ws.ledger, ws.blobs, "warm", root / "warm.bin", actor="a")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data.add(ws.ledger, ws.blobs, "big", root / "big.bin", actor="a")
assert data.verify(ws.ledger, ws.blobs, "big") == []
data.use(ws.ledger, ws.blobs, "big").checkout(root / "out")
data.add(ws.ledger, ws.blobs, "whole", root / "big.bin", actor="a", whole=True)
data.use(ws.ledger, ws.blobs, "whole").checkout(root / "out2")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_file_is_added_verified_and_checked_out_in_bounded_memory(tmp_path):
    (tmp_path / "flyball.toml").write_text("")
    with (tmp_path / "big.bin").open("wb") as file:
        for _ in range(500):
            file.write(os.urandom(1 << 20))
    grown_kib = subprocess.run(
        [sys.executable, "-c", _BOUNDED, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    assert int(grown_kib) < 150_000
    assert (tmp_path / "out/big.bin").stat().st_size == 500 << 20
