"""What an online store holds, whatever the batches it came in: checked on bytes, with chunks of a few rows."""

import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.stores import online_chunks
from flyball.stores.online import OnlineStore, Rows, open_online, pack_key, view_address
from flyball.stores.online_chunks import Header, build, extend, layout_of, shifts_of
from flyball.stores.online_tails import grown, sorted_batch

VIEW = "v@1"
row = st.tuples(
    st.integers(0, 5),  # key
    st.integers(0, 30),  # happened
    st.integers(0, 4),  # how much later it became known
    st.integers(0, 1),  # row id
    st.lists(
        st.one_of(st.integers(-5, 5).map(float), st.sampled_from([0.1, 1e9, float("nan"), -0.0])),
        min_size=2,
        max_size=2,
    ),
)
sums = st.booleans()


def batch(rows: list[Any], with_sums: bool) -> Rows:
    columns = [np.array([row[i] for row in rows], dtype=np.int64) for i in range(4)]
    keys = [pack_key((f"N{at}",)) for at in range(6)]
    values = np.array([row[4] for row in rows], dtype=np.float64).reshape(len(rows), 2)
    return Rows(keys, columns[0], columns[1], columns[1] + columns[2], columns[3], values, sums=with_sums)


def contents(store: OnlineStore, with_sums: bool) -> dict[int, list[bytes]]:
    """All chunks of each key, oldest first."""
    layout, found = layout_of(2, with_sums), {}
    reading = store.begin()
    for key in range(6):
        address = view_address(VIEW) + pack_key((f"N{key}",))
        chunk, chunks = reading.tail(address), []
        while chunk is not None:
            assert online_chunks.is_whole(chunk)
            chunks.insert(0, bytes(chunk))
            first = int(layout.words(chunk).view(np.int64)[0, 0])
            chunk = reading.closed(address, first - 1)
        found[key] = chunks
    reading.close()
    return found


def rows_in(chunks: dict[int, list[bytes]], with_sums: bool) -> dict[int, list[bytes]]:
    layout = layout_of(2, with_sums)
    return {
        key: [row.tobytes() for chunk in its for row in online_chunks.bare_of(layout, chunk)]
        for key, its in chunks.items()
    }


@given(rows=st.lists(row, min_size=1, max_size=60), later=st.lists(row, max_size=40), with_sums=sums)
@settings(max_examples=150, deadline=None)
def test_many_keys_at_once_are_byte_for_byte_what_each_is_alone(
    rows: list[Any], later: list[Any], with_sums: bool
) -> None:
    layout, first, _ = sorted_batch(batch(rows, with_sums))
    tails: dict[int, Any] = {}
    for group, tail in enumerate(grown(layout, first, 0, [None] * len(first))):
        alone = build(layout, Header(layout, shifts_of(first.of(group)[:1])), first.of(group))
        assert tail is not None
        assert bytes(tail) == alone[-1][1]
        tails[int(first.codes[group])] = tail
    if not later:
        return
    _, second, _ = sorted_batch(batch(later, with_sums))
    old = [tails.get(code) for code in second.codes.tolist()]
    for group, tail in enumerate(grown(layout, second, 0, old)):
        before, mine = old[group], second.of(group)
        times = mine.view(np.int64)[:, :3].tolist()
        plain = [(*time, *values) for time, values in zip(times, mine[:, 3:].tolist(), strict=True)]
        newer = before is None or times[0][0] > layout.words(before).view(np.int64)[-1, 0]
        assert (tail is not None) == newer
        if tail is not None:
            assert bytes(tail) == extend(layout, before, plain)


@given(
    rows=st.lists(row, max_size=60, unique_by=lambda row: row[:3]),  # no ties in key and both clocks
    with_sums=sums,
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_order_of_batches_does_not_matter_but_among_ties(
    rows: list[Any], with_sums: bool, data: st.DataObject
) -> None:
    found = []
    for _ in range(2):
        shuffled = data.draw(st.permutations(rows))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            patch.setattr(online_chunks, "HALF", 2)
            store = open_online(f"lmdb:{folder}")
            new = 0
            for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
                new += store.append(VIEW, batch(shuffled[begin:end], with_sums))
            assert new == len(rows)
            assert store.append(VIEW, batch(rows, with_sums)) == 0
            found.append(rows_in(contents(store, with_sums), with_sums))
            store.close()
    assert found[0] == found[1]


@given(rows=st.lists(row, max_size=50), with_sums=sums, data=st.data())
@settings(max_examples=60, deadline=None)
def test_rows_tied_in_both_clocks_lie_as_they_arrived(
    rows: list[Any], with_sums: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(online_chunks, "HALF", 2)
        store = open_online(f"lmdb:{folder}")
        for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            store.append(VIEW, batch(rows[begin:end], with_sums))
        found = rows_in(contents(store, with_sums), with_sums)
        store.close()
    for key in range(6):
        mine = batch([one for one in rows if one[0] == key], with_sums)
        bare = online_chunks.bare_rows(mine.happened, mine.known, mine.row_ids, mine.values)
        distinct = list(dict.fromkeys(one.tobytes() for one in bare))
        wanted = sorted(distinct, key=lambda one: tuple(np.frombuffer(one, dtype=np.int64)[:2].tolist()))
        assert found[key] == wanted
