"""Simple arithmetic in a Feast function is read as expressions, and gives what the function gives."""

from __future__ import annotations

from typing import Any

import pytest

from flyball.features.expressions import compile_row
from flyball.service.feast.transforming import NotArithmetic, read

NAMES = {"a": "v:a", "b": "b", "v__a": "v:a"}
PANDAS = "def f(inputs):\n    df = pd.DataFrame()\n    df['y'] = {}\n    return df"
PYTHON = "def f(inputs):\n    return {{'y': [{} for a, b in zip(inputs['a'], inputs['b'])]}}"


def value(code: str, a: Any, b: Any) -> Any:
    expressions = read(code, NAMES)
    return compile_row(expressions, ["v:a", "b"])([a, b])[0]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("inputs['a'] + inputs['b'] * 2", 11.0),
        ("-(inputs['v__a'] - inputs['b']) ** 2", -1.0),
        ("(inputs['a'] / inputs['b']).astype('float32')", 0.75),
        ("inputs['a'] // inputs['b'] + inputs['a'] % inputs['b']", 3.0),
        ("np.where(inputs['a'] > 2, inputs['b'], 0)", 4.0),
        ("np.log(np.exp(inputs['a'])).round(3)", 3.0),
        ("inputs['a'].clip(lower=5).fillna(0)", 5.0),
        ("np.maximum(inputs['a'], inputs['b'])", 4.0),
        ("((inputs['a'] > 1) & ~(inputs['b'] < 1)).astype(int)", 1.0),
        ("inputs['a'].isna().astype('int64') + inputs['a'].abs()", 3.0),
    ],
)
def test_pandas(said: str, wanted: float) -> None:
    assert value(PANDAS.format(said), 3.0, 4.0) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("a + b", 7.0),
        ("a if a > b else b", 4.0),
        ("max(a, b) - min(a, b)", 1.0),
        ("0 if a is None else abs(a)", 3.0),
        ("float(a > 1 and b > 1)", 1.0),
        ("round(a / b, 1)", 0.8),
    ],
)
def test_python(said: str, wanted: float) -> None:
    assert value(PYTHON.format(said), 3.0, 4.0) == pytest.approx(wanted)


def test_steps_constants_and_columns_made_before_are_followed() -> None:
    code = (
        "RATE = 3\ndef f(inputs):\n    '''Twice.'''\n    total: float = inputs['a'] + RATE\n    out = {}\n"
        "    out['x'] = total\n    out['y'] = out['x'] * 2\n    return out"
    )
    assert {name: repr(expr) for name, expr in read(code, NAMES).items()} == {
        "x": 'col("v:a") + 3',
        "y": '(col("v:a") + 3) * 2',
    }


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (PANDAS.format("inputs['a'].rolling(3).mean()"), r"calls inputs\['a'\]\.rolling\(3\)\.mean"),
        (PANDAS.format("inputs['c']"), "'c', which is none of its inputs"),
        (PANDAS.format("inputs['a'].apply(lambda x: x)"), "lambda"),
        ("def f(inputs):\n    for x in inputs['a']:\n        pass\n    return {}", "has a for statement"),
        ("def f(inputs):\n    return inputs['a']", "something else than named columns"),
        ("def f(inputs, other):\n    return {}", "more than its inputs"),
        ("", "source is not to be had"),
    ],
)
def test_anything_else_says_why(code: str, why: str) -> None:
    with pytest.raises(NotArithmetic, match=why):
        read(code, NAMES)
