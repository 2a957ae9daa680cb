"""A pipeline is drawn, not run: what handles may do, and what is said when they are misused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import Enum
from typing import Literal

import polars as pl
import pytest

from flyball.errors import Invalid
from flyball.pipelines import graph, pipeline, step, tracing, when
from flyball.pipelines.definition import read, returned_items


class Verdict:
    passed = True


@step
def rows(n: int = 3) -> pl.DataFrame:
    return pl.DataFrame({"n": range(n)})


@step
def split(frame: pl.DataFrame, at: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    return frame.head(at), frame.tail(frame.height - at)


@step(name="judge")
def gate(frame: pl.DataFrame) -> Verdict:
    return Verdict()


@step(cache=False)
def register(name: str, model: object, *more: object, aliases: list[str] = ()) -> None: ...  # type: ignore[assignment]


def test_outside_a_pipeline_a_step_is_the_function_it_was():
    first, second = split(rows(5), at=2)
    assert (first.height, second.height) == (2, 3)
    assert (rows.__name__, gate.name, tracing()) == ("rows", "judge", None)


def test_a_graph_shows_nodes_edges_and_conditions_without_running_a_step():
    @pipeline
    def train(until: date, at: int = 2):
        first, second = split(rows(), at)
        verdict = gate(second)
        with when(verdict.passed):
            register("delays", first, verdict, aliases=["challenger"])
            with when(~verdict.best.slice["UA"]):
                register("other", [first, {"of": second}])

    drawn = graph(train)
    assert [node.name for node in drawn.nodes] == ["rows", "split", "judge", "register", "register-2"]
    assert drawn.nodes[3].when == ("judge.passed",)
    assert drawn.nodes[4].when == ("judge.passed", "not judge.best.slice['UA']")
    edges = {(edge.of, edge.to, edge.role) for edge in drawn.edges}
    assert {
        ("rows", "split", "frame"),
        ("judge", "register", "when"),
        ("split", "register-2", "model"),
    } <= edges
    assert "register(name='delays', model=split[0]" in drawn.text()
    assert "when judge.passed" in drawn.text()


def test_a_pipeline_may_call_a_pipeline():
    @pipeline
    def inner():
        return rows()

    @pipeline
    def outer():
        gate(inner())

    assert [node.name for node in graph(outer).nodes] == ["rows", "judge"]


@pytest.mark.parametrize(
    ("misuse", "said"),
    [
        (bool, "with fb.when"),
        (lambda handle: handle > 3, "inside a step"),
        (lambda handle: handle == 3, "inside a step"),
        (lambda handle: handle + 1, "inside a step"),
        (len, "inside a step"),
        (lambda handle: f"{handle:.2f}", "inside a step"),
        (lambda handle: handle.filter(True), "inside a step"),
        (list, "tuple"),
        (lambda handle: handle.__setitem__("a", 1), "inside a step"),
    ],
)
def test_looking_at_a_value_that_is_not_there_yet_says_what_to_do(misuse, said):
    @pipeline
    def wrong():
        misuse(rows())

    with pytest.raises(Invalid) as caught:
        graph(wrong)
    assert said in caught.value.hint
    assert "rows" in caught.value.what
    assert tracing() is None  # and the next one starts afresh


def test_wrong_arguments_of_a_step_are_found_before_anything_runs():
    @pipeline
    def wrong():
        split(rows())

    with pytest.raises(Invalid, match="split"):
        graph(wrong)


def test_when_outside_a_run_can_only_go_on():
    with when(True):
        seen = 1
    assert seen
    with pytest.raises(Invalid, match="outside of a run"), when(False):
        pass


class Size(Enum):
    SMALL = "small"


@pytest.mark.parametrize(
    ("given", "annotation", "value"),
    [
        ("2013-04-01", date, date(2013, 4, 1)),
        ("2013-04-01", datetime, datetime(2013, 4, 1, tzinfo=UTC)),
        ("2013-04-01T03:00:00Z", datetime, datetime(2013, 4, 1, 3, tzinfo=UTC)),
        (date(2013, 4, 1), date, date(2013, 4, 1)),
        ("200", int, 200),
        ("0.5", float, 0.5),
        (1, float, 1.0),
        ("true", bool, True),
        ("0", bool, False),
        ("12", str, "12"),
        ("null", int | None, None),
        ("7", int | None, 7),
        ("[1, 2]", list[int], [1, 2]),
        ("small", Size, Size.SMALL),
        ("a", Literal["a", "b"], "a"),
    ],
)
def test_parameters_are_read_by_annotation(given, annotation, value):
    found = read(given, annotation, "x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "annotation"),
    [
        ("soon", date),
        ("1.5", int),
        ("x", float),
        ("maybe", bool),
        ("{", list[int]),
        (1.5, int),
        ("c", Literal["a"]),
    ],
)
def test_a_parameter_that_does_not_fit_is_invalid(given, annotation):
    with pytest.raises(Invalid, match="must be"):
        read(given, annotation, "train: x")


def test_unknown_and_missing_parameters_are_named():
    @pipeline
    def train(until: date, trees: int = 200): ...

    with pytest.raises(Invalid, match="no parameter 'tree'") as caught:
        train.bind({"tree": "1"})
    assert "did you mean 'trees'" in caught.value.hint
    with pytest.raises(Invalid, match="needs the parameter 'until'") as caught:
        train.bind({})
    assert caught.value.hint == "-p until=2013-04-01"
    assert train.bind({"until": "2013-04-01"}) == {"until": date(2013, 4, 1), "trees": 200}


def test_how_many_values_a_step_returns_is_read_from_its_annotation():
    def two() -> tuple[int, int]: ...
    def text() -> "pl.DataFrame": ...  # noqa: UP037
    def any_number() -> tuple[int, ...]: ...
    def silent(): ...

    real = {"return": tuple[int, int, int]}
    three = type(two)(two.__code__, {})
    three.__annotations__ = real
    assert [returned_items(one) for one in (two, text, any_number, silent, three)] == [2, None, None, None, 3]
