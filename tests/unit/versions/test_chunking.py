"""Cutting by content: in segments on all cores as in one pass, and a change moves no other cut."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.versions.chunking import AVERAGE_BYTES, MOST_BYTES, Cutter, cut_bytes


def cut(path, segment_bytes: int, forced=()) -> list[bytes]:
    found = []
    with Cutter(segment_bytes=segment_bytes) as cutter, open(path, "rb") as file:
        for segment in cutter.cut(file.fileno(), forced):
            found += [bytes(piece.data) for piece in segment.pieces]
            segment.release()
    return found


parts = st.one_of(
    st.integers(0, 2**32).flatmap(
        lambda seed: st.integers(0, 900_000).map(lambda n: random.Random(seed).randbytes(n))
    ),
    st.integers(0, 900_000).map(bytes),
    st.tuples(st.binary(min_size=1, max_size=50), st.integers(0, 20_000)).map(lambda one: one[0] * one[1]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(parts, max_size=4), st.sampled_from([262_144, 300_001, 1 << 20]), st.randoms())
def test_segments_are_cut_as_one_pass_would(tmp_path_factory, pieces, segment_bytes, randoms) -> None:
    data = b"".join(pieces)
    path = tmp_path_factory.mktemp("cut") / "file"
    path.write_bytes(data)
    forced = (
        sorted(randoms.sample(range(1, len(data)), 3)) if len(data) > 10 and randoms.random() < 0.5 else []
    )
    found = cut(path, segment_bytes, forced)
    assert b"".join(found) == data
    assert found == [bytes(piece.data) for piece in cut_bytes(data, forced)]
    assert all(0 < len(one) <= MOST_BYTES for one in found)


def test_an_insertion_changes_the_chunks_around_it_and_no_other() -> None:
    data = os.urandom(8 << 20)
    before = {piece.digest for piece in cut_bytes(data)}
    after = cut_bytes(data[: 3 << 20] + b"one more row\n" + data[3 << 20 :])
    assert sum(len(piece.data) for piece in after if piece.digest not in before) < 6 * AVERAGE_BYTES


def test_a_file_that_is_cut_short_while_it_is_cut_ends_there(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_000))
    found = []
    with Cutter(threads=1, segment_bytes=500_000) as cutter, open(path, "rb") as file:
        for segment in cutter.cut(file.fileno()):
            found.append(len(segment.data))
            os.truncate(path, 600_000)
            segment.release()
    assert sum(found) < 3_000_000


@pytest.mark.parametrize("size", [0, 1, AVERAGE_BYTES])
def test_small_files_are_few_chunks(tmp_path, size) -> None:
    (tmp_path / "file").write_bytes(os.urandom(size))
    assert b"".join(cut(tmp_path / "file", 1 << 20)) == (tmp_path / "file").read_bytes()
