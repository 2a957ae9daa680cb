"""Keys as numbers: each asked for has one, all others have none."""

from __future__ import annotations

from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.features.keys import Keys

numbers = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from([-(1 << 63), (1 << 63) - 1, 1 << 40]))
texts = st.one_of(st.none(), st.sampled_from(["", "a", "A", "ä", "a" * 50]))
pairs = st.lists(st.tuples(numbers, texts), max_size=20)


@given(asked=pairs, had=pairs, columns=st.sampled_from([("n",), ("t",), ("n", "t"), ("t", "n", "m")]))
@settings(max_examples=200, deadline=None)
def test_equal_keys_have_equal_numbers_and_unasked_ones_none(
    asked: list[tuple[Any, Any]], had: list[tuple[Any, Any]], columns: tuple[str, ...]
) -> None:
    def frame(rows: list[tuple[Any, Any]]) -> pl.DataFrame:
        schema = {"n": pl.Int64, "t": pl.String, "m": pl.Int64}
        return pl.DataFrame([(n, t, n) for n, t in rows], schema=schema, orient="row").select(columns)

    keys = Keys(frame(asked))
    numbered: dict[tuple[Any, ...], int] = {}
    for key, code in zip(frame(asked).rows(), keys.codes(frame(asked)).tolist(), strict=True):
        assert (code == -1) == (None in key)
        assert numbered.setdefault(key, code) == code
    whole = {key: code for key, code in numbered.items() if code >= 0}
    assert sorted(whole.values()) == list(range(len(keys)))
    for key, code in zip(frame(had).rows(), keys.codes(frame(had)).tolist(), strict=True):
        assert code == whole.get(key, -1)
