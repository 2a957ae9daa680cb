"""Keys packed in bulk are those packed one by one, in the order of a store's addresses."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.features import rows
from flyball.features.rows import _keys, _order
from flyball.stores.online import pack_key

texts = st.text(alphabet=st.sampled_from("ab0é中\x00"), max_size=40)
parts = st.lists(st.tuples(texts, st.integers(-300, 70_000)), min_size=1, max_size=40)


@given(prefix=texts, found=st.lists(texts, min_size=1, max_size=40))
def test_texts_are_sorted_by_length_and_then_bytes(prefix: str, found: list[str]) -> None:
    series = pl.Series([prefix + one for one in found], dtype=pl.String)
    assert series.gather(_order(series)).to_list() == sorted(
        series.to_list(), key=lambda one: (len(one.encode()), one.encode())
    )


@pytest.mark.parametrize("sample", [1, 10_000])  # as if all were distinct, as if many were the same
@pytest.mark.parametrize("columns", [["a"], ["b"], ["a", "b"], ["b", "a"]])
@given(found=parts)
@settings(max_examples=40)
def test_keys_in_bulk_are_keys_one_by_one(columns: list[str], sample: int, found: list) -> None:
    frame = pl.DataFrame(found, schema={"a": pl.String, "b": pl.Int64}, orient="row").select(columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_FEW", 0)
        patch.setattr(rows, "_SAMPLE", sample)
        keys, codes = _keys(frame)
    assert [keys[code] for code in codes.tolist()] == [pack_key(row) for row in frame.rows()]
    assert len(set(keys)) == len(keys)
    if columns == ["a"]:
        assert keys == sorted(keys)


def test_a_key_that_is_too_long_is_hashed_as_ever() -> None:
    frame = pl.DataFrame({"a": [f"{'x' * 500}{i}" for i in range(5000)]})
    keys, codes = _keys(frame)
    assert keys[codes[17]] == pack_key((frame["a"][17],))
