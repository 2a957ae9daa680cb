"""Packs: many chunks in one blob, each found again by its digest, and an index that is never trusted."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import Refused
from flyball.stores import pack_session
from flyball.stores.blobs import Blobs
from flyball.stores.pack_index import InMemory, index_of, rebuild
from flyball.stores.pack_session import PackSession
from flyball.stores.packs import PackReader, PackWriter, body_of, find_pack, new_compressor, read_rows


class Piece(NamedTuple):
    digest: bytes
    data: bytes


def piece(data: bytes) -> Piece:
    return Piece(blake3(data).digest(), data)


def put(blobs: Blobs, *batches: list[bytes]):
    """What one session makes of batches of chunks: places in order, packs, and the session."""
    places: list[tuple[int, int]] = []
    with ThreadPoolExecutor(2) as pool, PackSession(blobs, pool) as session:
        for batch in batches:
            session.put([piece(data) for data in batch], places.extend)
        packs = session.finish()
    return places, packs, session


@pytest.fixture(params=["memory:", "file:"])
def blobs(request, tmp_path):
    return Blobs.open("memory:" if request.param == "memory:" else f"file:{tmp_path / 'blobs'}")


@given(st.lists(st.binary(max_size=3000), max_size=30))
def test_every_chunk_comes_back_from_its_pack(chunks: list[bytes]) -> None:
    blobs = Blobs.open("memory:")
    with PackWriter(blobs) as writer:
        compressor = new_compressor()
        for chunk in chunks:
            writer.add(blake3(chunk).digest(), len(chunk), body_of(chunk, compressor))
        pack = writer.keep()
    reader = PackReader(blobs)
    assert [reader.chunk(pack, number) for number in range(len(chunks))] == chunks
    assert find_pack(blobs, pack.digest, blobs.size_bytes(pack.digest)) == pack
    assert [row.digest for row in read_rows(blobs, pack)] == [blake3(chunk).digest() for chunk in chunks]


@given(st.lists(st.lists(st.binary(max_size=200), max_size=6), max_size=12), st.integers(1, 4))
def test_the_same_chunk_is_stored_once_however_often_it_comes(batches, times) -> None:
    blobs = Blobs.open("memory:")
    for turn in range(times):
        places, packs, session = put(blobs, *batches)
        flat = [data for batch in batches for data in batch]
        reader = PackReader(blobs)
        assert [reader.chunk(packs[pack], number) for pack, number in places] == flat
        assert session.new_chunks == (len(set(flat)) if turn == 0 else 0)


def test_what_does_not_get_shorter_is_stored_as_it_is() -> None:
    noise, words = os.urandom(100_000), b"ja nein " * 10_000
    assert body_of(noise, new_compressor()) is noise
    assert len(body_of(words, new_compressor())) < len(words) / 50


def test_many_chunks_become_packs_of_bounded_size(blobs, monkeypatch) -> None:
    monkeypatch.setattr("flyball.stores.packs.PACK_BYTES", 100_000)
    chunks = [os.urandom(30_000) for _ in range(40)]
    places, packs, _ = put(blobs, *([chunk] for chunk in chunks))
    assert 8 <= len(packs) <= 14
    reader = PackReader(blobs)
    assert [reader.chunk(packs[pack], number) for pack, number in places] == chunks


def test_the_index_is_rebuilt_from_the_packs(blobs) -> None:
    chunks = [os.urandom(1000) for _ in range(50)]
    put(blobs, chunks[:20], chunks[20:])
    blobs.put(b"a blob that is no pack")
    digests = [blake3(chunk).digest() for chunk in chunks]
    anew = InMemory()
    assert rebuild(blobs, anew) == 1
    assert anew.find(digests) == index_of(blobs).find(digests)
    assert None not in anew.find(digests)
    assert anew.find([blake3(b"other").digest()]) == [None]


def test_an_index_that_names_the_wrong_pack_costs_space_never_data(blobs) -> None:
    _, (other,), _ = put(blobs, [b"something else" * 10])
    chunk = os.urandom(500)
    index_of(blobs).add(other, [blake3(chunk).digest()])  # as after a power cut
    (place,), packs, session = put(blobs, [chunk])
    assert session.new_chunks == 1
    assert PackReader(blobs).chunk(packs[place[0]], place[1]) == chunk


def test_a_pack_that_was_collected_is_not_relied_on(blobs) -> None:
    chunk = os.urandom(500)
    _, (pack,), _ = put(blobs, [chunk])
    blobs.delete(pack.digest)
    (place,), packs, session = put(blobs, [chunk])
    assert session.new_chunks == 1
    assert PackReader(blobs).chunk(packs[place[0]], place[1]) == chunk


def test_a_broken_index_file_is_begun_anew(tmp_path) -> None:
    folder = tmp_path / "blobs"
    (folder / ".chunks").mkdir(parents=True)
    (folder / ".chunks/data.mdb").write_bytes(b"no database" * 1000)
    chunk = os.urandom(500)
    (place,), packs, _ = put(Blobs.open(f"file:{folder}"), [chunk])
    assert PackReader(Blobs.open(f"file:{folder}")).chunk(packs[place[0]], place[1]) == chunk


@pytest.mark.parametrize("at", [3, 20, -60, -30])
def test_a_flipped_byte_anywhere_in_a_pack_is_refused_and_named(tmp_path: Path, at: int) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    chunk = os.urandom(5000)
    (place,), (pack,), _ = put(blobs, [chunk])
    stored = blobs.path(pack.digest)
    data = bytearray(stored.read_bytes())
    data[at] ^= 1
    stored.write_bytes(data)
    with pytest.raises(Refused) as caught:
        PackReader(blobs, whole=True).chunk(pack, place[1])
    assert pack.digest in caught.value.what
    if at in (20, -60):  # in the chunk, in its row
        with pytest.raises(Refused, match=pack.digest):
            PackReader(blobs).chunk(pack, place[1])


def test_a_session_that_fails_leaves_no_half_pack(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    with pytest.raises(RuntimeError), ThreadPoolExecutor(1) as pool, PackSession(blobs, pool) as session:
        session.put([piece(b"x" * 100)], lambda _: None)
        session.flush()
        raise RuntimeError
    assert blobs.ls() == []
    assert not list(tmp_path.glob(".part/*"))


def test_what_was_written_is_forgotten_in_time_and_found_in_the_index(blobs, monkeypatch) -> None:
    monkeypatch.setattr(pack_session, "_MOST_WRITTEN", 5)
    chunks = [os.urandom(100) for _ in range(40)]
    places, packs, session = put(blobs, *([chunk] for chunk in chunks * 2))
    assert session.new_chunks == 40
    reader = PackReader(blobs)
    assert [reader.chunk(packs[pack], number) for pack, number in places] == chunks * 2
