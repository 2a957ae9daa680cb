"""On-demand features: the same values per request and in batch, by expressions and by plain functions."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from flyball.errors import Invalid, NotFound
from flyball.features import OnDemand, RequestField, Service, View, col, when
from flyball.features.on_demand import compile_vector, compute_frame, function_of, on_demand
from flyball.features.services import Vector, resolve

SHOP = View(
    "shop",
    ("shop",),
    "sales",
    "at",
    columns=("price", "city", "open"),
    types={"city": "BYTES", "open": "BOOL"},
)
RATE = OnDemand(
    "rate",
    {"share": col("amount") / col("shop:price"), "whole": col("amount") * 1.5, "dear": col("amount") > 2,
     "town": col("shop:city").str.upper(), "shut": ~col("shop:open")},
    types={"whole": "INT64", "town": "BYTES", "shut": "BOOL"},
)  # fmt: skip
TWICE = OnDemand("twice", {"sum": col("rate:share") * 2 + col("rate:dear")})


@on_demand(inputs=("amount", "shop:city", "twice:sum"), outputs=("score", "known"), types={"known": "BOOL"})
def scored(amount: Any, city: Any, total: Any) -> tuple[Any, Any]:
    """A plain function."""
    return (amount or 0.0) + (total or 0.0), city is not None


def both(frame: pl.DataFrame) -> Any:
    return {"ratio": frame["shop:price"] / frame["amount"]}


@on_demand(inputs=("amount", "shop:price"), outputs=("ratio",), batch=both)
def ratio(amount: Any, price: Any) -> Any:
    return None if amount is None or price is None or not amount else price / amount


def vector(*features: str) -> Vector:
    known = [SHOP, RATE, TWICE, scored, ratio]
    return resolve(Service("s", features, request=(RequestField("amount", nullable=True),)), known)


ROWS: list[dict[str, Any]] = [
    {"amount": 5.0, "shop:price": 20.0, "shop:city": "ulm", "shop:open": True},
    {"amount": 0.0, "shop:price": 0.0, "shop:city": None, "shop:open": False},
    {"amount": None, "shop:price": None, "shop:city": "köln", "shop:open": None},
    {"amount": 1e149, "shop:price": 1e-140, "shop:city": "", "shop:open": True},
]
SCHEMA = {"amount": pl.Float64, "shop:price": pl.Float64, "shop:city": pl.String, "shop:open": pl.Boolean}


def test_a_request_and_a_training_set_get_the_same() -> None:
    found = vector(
        "twice:sum", "rate:town", "rate:whole", "rate:shut", "scored:score", "scored:known", "ratio:ratio"
    )
    compute = compile_vector(found)
    assert compute.features[:5] == ("rate:share", "rate:whole", "rate:dear", "rate:town", "rate:shut")
    frame = compute_frame(found, pl.DataFrame(ROWS, schema=SCHEMA))
    for row, together in zip(ROWS, frame.select(compute.features).rows(), strict=True):
        alone = compute([row[name] for name in found.inputs])
        assert tuple(alone) == together
        assert [type(one) for one in alone] == [type(one) for one in together]
    assert compute([5.0, 20.0, "ulm", True][: len(found.inputs)])[:5] == [0.25, 7, 1.0, "ULM", False]


def test_whole_numbers_of_a_request_are_numbers_like_others() -> None:
    found = vector("ratio:ratio", "rate:share")
    frame = pl.DataFrame(
        {"amount": [4, None], "shop:price": [2.0, 1.0], "shop:city": ["a", "b"], "shop:open": [True, None]}
    )
    compute = compile_vector(found)
    assert found.inputs[:2] == ("amount", "shop:price")
    together = compute_frame(found, frame).select(compute.features).rows()
    assert [tuple(compute(list(row))) for row in frame.select(found.inputs).rows()] == together
    assert dict(zip(compute.features, together[0], strict=True))["ratio:ratio"] == 0.5


def test_the_decorator_is_called_by_its_public_name_before_and_after_the_module_is_imported() -> None:
    import flyball as fb

    for _ in range(2):
        made = fb.features.on_demand(inputs=("a",), outputs=("b",))(abs)
        assert (made.features, made.python) == (("abs:b",), "builtins:abs")


def test_an_empty_training_set_has_the_columns() -> None:
    found = vector("twice:sum", "scored:score", "ratio:ratio")
    assert compute_frame(found, pl.DataFrame(schema=SCHEMA)).height == 0


def test_a_definition_that_does_not_fit_is_refused_where_it_is_made() -> None:
    with pytest.raises(Invalid, match=r"mixes|takes"):
        OnDemand("x", {"y": col("city").str.lower() + 1})
    with pytest.raises(Invalid, match="BYTES"):
        OnDemand("x", {"y": col("city").str.lower()})
    with pytest.raises(Invalid, match="epoch"):
        OnDemand("x", {"y": col("at").str.to_time()})
    with pytest.raises(Invalid, match=r"is a number|takes a number"):
        compile_vector(resolve(Service("s", ("x:y",)), [SHOP, OnDemand("x", {"y": col("shop:city") + 1})]))


def test_on_demand_views_that_read_one_another_in_a_circle_are_named() -> None:
    one, other = OnDemand("one", {"x": col("other:x")}), OnDemand("other", {"x": col("one:x")})
    with pytest.raises(Invalid, match="one -> other -> one"):
        resolve(Service("s", ("one:x",)), [one, other])


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        (lambda: "text", "returned 'text' for 'a'"),
        (lambda: (1, 2), "its outputs are a"),
        (lambda: {"b": 1}, "its outputs are a"),
        (lambda: 1 / 0, "fails on row 0: ZeroDivisionError.*it was given amount=1.0"),
    ],
)
def test_what_a_function_may_not_return_names_it(returns: Any, words: str) -> None:
    @on_demand(inputs=("amount",), outputs=("a",), name="odd")
    def odd(_amount: Any) -> Any:
        return returns()

    found = resolve(Service("s", ("odd:a",), request=(RequestField("amount"),)), [odd])
    with pytest.raises(Invalid) as caught:
        compute_frame(found, pl.DataFrame({"amount": [1.0]}))
    assert __import__("re").search(words, str(caught.value), 16), str(caught.value)


def test_a_batch_form_of_another_length_is_refused() -> None:
    @on_demand(inputs=("amount",), outputs=("a",), name="short", batch=lambda frame: frame["amount"].head(1))
    def short(amount: Any) -> Any:
        return amount

    found = resolve(Service("s", ("short:a",), request=(RequestField("amount"),)), [short])
    with pytest.raises(Invalid, match="1 rows of 2"):
        compute_frame(found, pl.DataFrame({"amount": [1.0, 2.0]}))


def test_a_function_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="can't be imported"):
        function_of(OnDemand("x", python="no_such_module:f", outputs=("a",)))
    with pytest.raises(NotFound, match="did you mean 'loads'"):
        function_of(OnDemand("x", python="json:laods", outputs=("a",)))
    with pytest.raises(Invalid, match="not a function"):
        function_of(OnDemand("x", python="math:pi", outputs=("a",)))


def test_conditions_over_missing_values_choose_the_last_case() -> None:
    one = OnDemand("one", {"x": when(col("amount") > 1).then(1).otherwise(0)})
    found = resolve(Service("s", ("one:x",), request=(RequestField("amount", nullable=True),)), [one])
    assert compile_vector(found)([None]) == [0.0]
