"""The one sorted index: order, ties, repeated rows, and the newest row as of a time, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.features.index import Questions, index_of, newest, sorted_by

FINE = (1, 1_000, 60_000_000, 7)  # units of time: some leave room to pack the place, some a common divisor
FAR = 1 << 60  # beyond 63 bits with any key

rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(-3, 4), st.sampled_from([0.0, 1.0, np.nan])),
    max_size=40,
)
asked = st.lists(st.tuples(st.integers(-1, 6), st.integers(-2, 12)), max_size=20)


@given(
    rows=rows,
    asked=asked,
    unit=st.sampled_from(FINE),
    far=st.booleans(),
    late=st.booleans(),
    many=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_rows_and_answers_are_those_of_plain_python(
    rows: list[tuple[int, int, int, float]],
    asked: list[tuple[int, int]],
    unit: int,
    far: bool,
    late: bool,
    many: bool,
) -> None:
    base = FAR if far else 1_700_000_000_000_000
    codes = np.array([row[0] + ((row[0] == 4) << 40 if many else 0) for row in rows], dtype=np.int64)
    if many:  # few keys with large numbers: as many bits as a million keys have
        codes = np.where(codes > 4, 70_000, codes)
    happened = np.array([base * (row[1] > 4) + row[1] * unit for row in rows], dtype=np.int64)
    known = happened + np.array([row[2] * unit for row in rows], dtype=np.int64) if late else None
    values = np.array([row[3] for row in rows])
    index = index_of(codes, happened, known, [values], keys=70_001 if many else 5)
    clocks = happened if known is None else known
    order, seen = [], set()
    for place in sorted(range(len(rows)), key=lambda r: (codes[r], happened[r], clocks[r], r)):
        row = (codes[place], happened[place], clocks[place], str(values[place]))
        if row not in seen:
            seen.add(row)
            order.append(place)
    assert index.rows.tolist() == order
    np.testing.assert_array_equal(index.codes, codes[order])
    np.testing.assert_array_equal(index.happened, happened[order])
    np.testing.assert_array_equal(index.columns[0], values[order])
    assert index.starts[-1] == len(order)
    times = np.array([base * (at > 4) + at * unit for _, at in asked], dtype=np.int64)
    questions = Questions(np.array([code for code, _ in asked], dtype=np.int64), times)
    found = questions.in_asked_order(newest(index, questions))
    for (code, _), time, place in zip(asked, times, found, strict=True):
        visible = [
            at for at, row in enumerate(order)
            if codes[row] == code and happened[row] <= time and clocks[row] <= time
        ]  # fmt: skip
        assert place == (visible[-1] if visible else -1)


@pytest.mark.parametrize("span", [1 << 10, 1 << 40, (1 << 62) - 1])
def test_ties_stay_in_order_however_pairs_are_packed(span: int) -> None:
    rng = np.random.default_rng(0)
    codes, times = rng.integers(0, 50_000, 4_000), rng.integers(0, 8, 4_000) * (span // 8)
    order, pairs = sorted_by(codes, times)
    expected = np.lexsort((times, codes))
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(pairs.times, times[expected])
    np.testing.assert_array_equal(pairs.codes, codes[expected])


def test_rows_that_differ_in_their_id_are_two() -> None:
    codes, times, values = np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.int64), [np.ones(3)]
    assert len(index_of(codes, times, None, values)) == 1
    assert len(index_of(codes, times, None, values, row_ids=np.array([1, 2, 1]))) == 2


def test_an_index_of_nothing_answers_nothing() -> None:
    nothing = np.empty(0, dtype=np.int64)
    index = index_of(nothing, nothing, None, [np.empty(0)], keys=3)
    questions = Questions(np.array([-1, 0, 5]), np.array([1, 2, 3]))
    assert newest(index, questions).tolist() == [-1, -1, -1]
    assert index.starts.tolist() == [0, 0, 0, 0]
    assert index.ends(questions.codes, questions.times).tolist() == [0, 0, 0]
