"""Expressions as they are written: operators, what is refused at once, and what compares as data."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import Invalid
from flyball.features import expressions
from flyball.features.expressions import Expr, check, col, columns_of, lit, when
from flyball.features.expressions.kinds import check_derived
from flyball.features.expressions.operations import OPS
from flyball.features.expressions.tree import call, same, shown


class Holder(msgspec.Struct, frozen=True):
    derived: dict[str, Expr] = {}
    where: Expr | None = None


def nested(levels: int) -> Expr:
    found = col("a")
    for _ in range(levels):
        found = found + 1
    return found


def test_what_is_written_is_what_is_shown() -> None:
    assert repr(2 - col("a") * np.float64(3)) == '2 - (col("a") * 3)'
    assert repr(~(col("a") > 1) & col("b").is_null()) == '(~(col("a") > 1)) & col("b").is_null()'
    assert repr(col("t").dt.hour("America/New_York")) == "col(\"t\").dt.hour('America/New_York')"
    assert repr(lit(date(2013, 1, 1))) == 'lit(datetime.fromisoformat("2013-01-01T00:00:00+00:00"))'
    assert repr(col("a").cast("INT64")) == 'col("a").cast("INT64")'
    assert repr(col("a").str.slice(-3)) == 'col("a").str.slice(-3)'
    assert repr(col("a").map({"UA": 1}, 0)) == "col(\"a\").map({'UA': 1}, 0)"
    assert repr(when(col("a") > 1).then(1).otherwise(None)) == 'when(col("a") > 1).then(1).otherwise(None)'


LITERALS = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(-1e9, 1e9),
    st.integers(-100, 100),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=3),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),  # noqa: DTZ001 (hypothesis takes naive bounds)
)
NAMES = st.one_of(st.sampled_from(["a", "view:feature"]), st.text(min_size=1, max_size=4))
NEEDS = {"hash_bucket": 1, "round": 0, "tail": 1}


@st.composite
def trees(draw: st.DrawFn, levels: int = 4) -> Expr:
    """Any expression that can be written."""
    op = draw(st.sampled_from(["col", "lit", *OPS])) if levels else draw(st.sampled_from(["col", "lit"]))
    if op == "col":
        return col(draw(NAMES))
    if op in ("lit", "time"):
        return lit(draw(LITERALS))
    if op == "map":
        keys = draw(st.lists(LITERALS.filter(lambda one: one is not None), min_size=1, max_size=3))
        plain = [lit(one).args[0] for one in keys if lit(one).op == "lit"] or [1.0]
        mapping = {key: draw(st.floats(-9, 9)) for key in plain}
        return draw(trees(levels - 1)).map(mapping, draw(st.one_of(st.none(), st.floats(-9, 9))))
    if op == "is_in":
        return draw(trees(levels - 1)).is_in(draw(st.lists(st.floats(-9, 9), min_size=1, max_size=3)))
    args: list[Any] = []
    for kind in OPS[op].takes:
        if kind == "#i":
            args.append(draw(st.integers(NEEDS.get(op, 0), 9)))
        elif kind == "#v":
            args.append(draw(st.one_of(st.none(), st.integers(0, 9))))
        elif kind == "#z":
            args.append(draw(st.sampled_from(["UTC", "America/New_York"])))
        elif kind == "#s":
            args.append(draw(st.text("ab'\"\\", min_size=1, max_size=3)))
        else:
            args.append(draw(trees(levels - 1)))
    if OPS[op].more:
        args += [draw(trees(levels - 1)) for _ in range(2)]
        if op == "when":
            args = args[: len(args) - 1 + len(args) % 2]
    return call(op, *args)


@settings(max_examples=400)
@given(trees())
def test_what_is_shown_is_the_same_read_as_python(written: Expr) -> None:
    words = {**{name: getattr(expressions, name) for name in expressions.__all__}, "datetime": datetime}
    assert same(eval(shown(written), words), written)


def test_records_with_expressions_compare_as_data() -> None:
    one = Holder({"late": col("a") > 15}, col("b").is_null())
    assert one == Holder({"late": col("a") > 15}, col("b").is_null())
    assert one != Holder({"late": col("a") > 16}, col("b").is_null())
    assert one != Holder({"late": col("a") > 15})
    assert msgspec.json.decode(msgspec.json.encode(one), type=Holder) == one
    assert not bool(lit(1.0) == lit(True))
    assert Holder({"one": lit(1)}) == Holder({"one": lit(1)})
    assert bool(col("a") != col("b"))


def test_a_deep_expression_is_shown_in_a_blink() -> None:
    assert len(repr(nested(140))) < 2000


def test_an_expression_has_no_truth() -> None:
    with pytest.raises(Invalid, match="no truth until it has a row"):
        _ = col("a") > 1 and col("b") > 1
    with pytest.raises(Invalid, match="between"):
        _ = 1 < col("a") < 2


def test_columns_are_named_once_in_order() -> None:
    assert columns_of((col("b") + col("a")) * col("b")) == ("b", "a")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Expr("ad", ()), "no operation 'ad'.*did you mean 'and'"),
        (lambda: Expr("add", (1.0,)), "takes 2 arguments, not 1"),
        (lambda: col("t").dt.hour("America/New_Yrok"), "no time zone.*did you mean 'America/New_York'"),
        (lambda: col("t").dt.hour("../../etc/passwd"), "no time zone"),
        (lambda: col("a") + math.nan, "can't be held by a float64"),
        (lambda: col("a") + (2**53 + 1), "can't be held by a float64"),
        (lambda: col("a") * [1], "neither an expression nor a literal"),
        (lambda: col("a").is_in("UA"), "takes a list of literals"),
        (lambda: col("a").is_in([]), "takes a list of literals"),
        (lambda: col("a").is_in([None]), "no None"),
        (lambda: col("a").map({}), "without entries"),
        (lambda: col("a").cast("FP46"), "no cast to 'FP46'.*FP64"),
        (lambda: col("a").round(99), "round to 99"),
        (lambda: col("s").str.replace("", "x"), "empty text"),
        (lambda: col("s").str.hash_bucket(0), "0 buckets"),
        (lambda: lit("a\x00b"), "NUL"),
        (lambda: lit("\ud800"), "half a character"),
        (lambda: when(col("a") > 1).otherwise(1), "without then"),
        (lambda: check(nested(200)), "nested deeper"),
    ],
)
def test_what_no_engine_could_compute_is_refused_at_once(make: Any, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        make()
    assert __import__("re").search(words, str(caught.value), 16), str(caught.value)


def test_a_wrong_word_names_the_right_one() -> None:
    with pytest.raises(AttributeError, match="did you mean 'abs'"):
        col("a").abz()
    with pytest.raises(AttributeError, match=r"it is \.str\.lower"):
        col("a").lower()
    with pytest.raises(AttributeError, match="did you mean 'weekday'"):
        col("t").dt.weekdy()


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        (col("s").str.lower() + 1, "takes a number"),
        (col("s").str.lower() == 1, "mixes a number and a text"),
        (col("a") + col("a").str.length(), "takes a text|takes a number"),
        (when(col("a")).then(1).otherwise(col("a") + 1), "takes a number|takes a boolean"),
        ((col("a") > 1) & (col("b") + 1), "takes a boolean"),
        (col("t").dt.hour() + col("t"), "takes a number|takes a time"),
        (lit(1) == 1, "compares two literals"),
        (col("a") == None, "is null, whatever the row"),  # noqa: E711 (what one may write by mistake)
        (col("t").dt.from_epoch().cast("FP64"), "no such cast"),
    ],
)
def test_kinds_that_do_not_fit_are_named(expression: Expr, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        check(expression)


def test_a_column_is_what_it_is_used_as() -> None:
    assert check(col("s").str.upper()) == "BYTES"
    assert check(col("a")) == "FP64"
    assert check(col("a"), {"a": "BYTES"}) == "BYTES"
    assert check(col("a") == "x") == "BOOL"
    assert check(col("x").str.to_time()) == "TIME"
    assert check(col("flag") & (col("a") > datetime(2013, 1, 1, tzinfo=UTC))) == "BOOL"
    with pytest.raises(Invalid, match="did you mean 'delay'"):
        check(col("dealy") > 1, columns=["delay", "carrier"])


def test_derived_columns_may_read_one_another_but_not_in_a_circle() -> None:
    found = check_derived({"b": col("a") > 1, "a": col("x") * 2}, col("b"))
    assert found == {"a": "FP64", "b": "BOOL"}
    with pytest.raises(Invalid, match="circle: a -> b -> a"):
        check_derived({"a": col("b"), "b": col("a")}, None)
    with pytest.raises(Invalid, match="circle: a -> a"):
        check_derived({"a": col("a") + 1}, None)
    with pytest.raises(Invalid, match="no condition"):
        check_derived({}, col("a") + 1)


def test_importing_expressions_loads_no_engine() -> None:
    code = "import flyball.features.expressions, flyball.features.on_demand, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"polars", "duckdb", "sqlglot", "numba"} & {name.partition(".")[0] for name in out.split()}
