"""Frames of the prediction log: every record comes back, and a torn tail costs only the torn record."""

from __future__ import annotations

import math
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from flyball.stores.prediction_log import (
    Label,
    LogWriter,
    Prediction,
    Record,
    Shadow,
    Tail,
    frame,
    read_from,
    segments,
    unframe,
)

texts = st.text(max_size=20)
micros = st.integers(-(2**62), 2**62)
numbers = st.none() | st.floats(allow_nan=False)
values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts
predictions = st.builds(
    Prediction,
    id=texts,
    at_us=micros,
    endpoint=texts,
    assigned=texts,
    arm=st.sampled_from(["champion", "candidate", "pinned"]),
    rho=st.floats(0, 1),
    model=texts,
    output=numbers,
    features=st.lists(numbers, max_size=5),
    times_us=st.lists(st.none() | micros, max_size=5),
    entities=st.dictionaries(texts, values, max_size=3),
    fallback=st.booleans(),
    error=texts,
    latency_us=micros,
    candidate_latency_us=st.none() | micros,
    generation=micros,
    pid=micros,
)
shadows = st.builds(
    Shadow,
    id=texts,
    at_us=micros,
    endpoint=texts,
    model=texts,
    output=numbers,
    error=texts,
    latency_us=micros,
)
labels = st.builds(Label, id=texts, value=st.floats(allow_nan=False), known_us=micros, received_us=micros)
records = st.lists(st.one_of(predictions, shadows, labels), min_size=1, max_size=6)


@given(records)
def test_every_record_comes_back(given_records: list[Record]) -> None:
    data = b"".join(map(frame, given_records))
    assert unframe(data) == (given_records, len(data))


def test_a_nan_comes_back_as_nan() -> None:
    (back,), _ = unframe(frame(Label("p", math.nan, 1, 2)))
    assert isinstance(back, Label)
    assert math.isnan(back.value)


def test_a_torn_tail_is_seen_at_every_byte() -> None:
    whole = [Label(f"p_{n}", float(n), n, n) for n in range(3)]
    frames = [frame(record) for record in whole]
    data = b"".join(frames)
    ends = [len(b"".join(frames[:count])) for count in range(4)]
    for cut in range(len(data) + 1):
        complete = max(count for count in range(4) if ends[count] <= cut)
        assert unframe(data[:cut]) == (whole[:complete], ends[complete])


@given(records, st.data())
def test_a_damaged_byte_never_becomes_another_record(
    given_records: list[Record], data: st.DataObject
) -> None:
    clean = b"".join(map(frame, given_records))
    place = data.draw(st.integers(0, len(clean) - 1))
    damaged = clean[:place] + bytes([clean[place] ^ data.draw(st.integers(1, 255))]) + clean[place + 1 :]
    found, _ = unframe(damaged)
    left = iter(given_records)
    assert all(
        any(one == other for other in left) for one in found
    )  # in order, and nothing that was not written
    assert len(found) < len(given_records)


def test_a_tail_reads_a_segment_that_was_torn_and_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    tail = Tail(tmp_path)
    one, two = Label("p_1", 1.0, 1, 1), Label("p_2", 0.0, 2, 2)
    writer.append([one])
    (segment,) = segments(tmp_path)
    torn = frame(two)
    for cut in range(1, len(torn)):
        with segment.open("ab") as file:
            file.write(torn[cut - 1 : cut])
        assert tail.read() == ([one] if cut == 1 else [])
    with segment.open("ab") as file:
        file.write(torn[-1:])
    assert tail.read() == [two]
    assert read_from(segment)[0] == [one, two]
    writer.close()
