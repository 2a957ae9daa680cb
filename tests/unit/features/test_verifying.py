"""Verifying finds a planted difference and shows it small; a right definition passes, with windows and without."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flyball.features import OnDemand, View, Window, col, verifying, when
from flyball.features.definitions import FUNCTIONS, OF_TEXT
from flyball.features.on_demand import on_demand
from flyball.features.verifying import Ways, disagreement, verify

FLIGHTS = View(
    "flights", ("carrier",), "landed", "at", "known", columns=("late", "city"), ttl_s=600, types={"city": "BYTES"},
    derived={"late": col("delay").clip(-100, 1000) > 15, "hour": col("at").dt.hour("America/New_York")},
    where=col("delay").is_not_null(),
    windows=(Window("rows", None, "count", 3600), Window("delay", "delay", "mean", 3600), Window("latest", "hour", "max", 7200),
             Window("town", "city", "last", 600)),
)  # fmt: skip
RATE = OnDemand("rate", {"share": col("a") % col("b"), "town": col("s").str.upper()}, types={"town": "BYTES"})
ALONE = Ways({name: way for name, way in Ways.installed().by_name.items() if name != "numba"})


def test_a_right_view_has_one_meaning_online_and_offline() -> None:
    found = verify(FLIGHTS, rows=150)
    assert found.disagreement is None
    assert (found.questions, found.checked[:3]) == (150, ("late", "hour", "where"))


def test_a_bare_flag_is_a_condition() -> None:
    view = View(
        "v", ("k",), "s", "at", columns=("x",), where=col("flag"), derived={"ok": ~col("flag") | col("sure")}
    )
    found = verify(view, rows=60)
    assert found.disagreement is None
    assert found.questions == 60


def test_every_function_with_and_without_hops_is_the_same_online_and_offline() -> None:
    windows = [
        Window(f"{one}_{hop}", "x", one, 3600, hop_s=hop, share=0.3 if one == "percentile" else 0.0)  # type: ignore[arg-type]  # one of them
        for one in FUNCTIONS
        for hop in (0, 600)
    ]
    windows += [Window(f"town_{one}", "city", one, 1800) for one in OF_TEXT]  # type: ignore[arg-type]  # as above
    view = View(
        "v", ("k", "n"), "s", "at", "known", columns=("x", "city", "flag", "seats"), windows=tuple(windows), ttl_s=900,
        types={"city": "BYTES", "flag": "BOOL", "seats": "INT64"}, row_id=("rid",), derived={"flag": col("x") > 0},
        where=(col("x") > -1e5) | col("x").is_null(),
    )  # fmt: skip
    found = verify(view, rows=80)
    assert found.disagreement is None
    assert len(found.checked) == 2 + 4 + len(windows)


def test_right_on_demand_features_have_one_meaning() -> None:
    found = verify(RATE, rows=300)
    assert found.disagreement is None
    assert {"row", "polars"} <= set(found.engines)


@pytest.mark.parametrize(
    ("fault", "part", "row"),
    [
        (lambda x: 0.0 if x is None else x, 'col("b")', {"b": None}),
        (lambda x: 2.0 if x == 1.5 else x, 'col("b")', {"b": 1.5}),
    ],
)
def test_a_planted_fault_is_found_and_made_small(fault: Any, part: str, row: dict[str, Any]) -> None:
    right = ALONE.by_name["polars"]
    ways = Ways({**ALONE.by_name, "polars": lambda e, rows, types: [fault(x) for x in right(e, rows, types)]})
    expression = when(col("a") > 3).then(col("b") * 2).otherwise(col("b") + col("a") / 2)
    found = disagreement({"out": expression}, {}, ways, 2000, random.Random(0))
    assert found is not None
    assert found.what == "out"
    assert len(found.expression) < len(repr(expression)) / 2
    assert (found.expression, found.row) == (part, row) or found.expression != part, (
        "alone, over the plainest row"
    )
    assert "polars" in found.as_text()
    again = disagreement({"out": expression}, {}, ways, 2000, random.Random(0))
    assert again == found, "the same seed, the same finding"


def test_a_batch_form_that_differs_from_its_function_is_found() -> None:
    @on_demand(inputs=("a", "b"), outputs=("r",), batch=lambda frame: frame["a"] / frame["b"])
    def r(a: float | None, b: float | None) -> float | None:
        return None if a is None or not b else (0.0 if a < 0 else a / b)

    found = verify(r, rows=200).disagreement
    assert found is not None
    assert found.what == "r:r"
    assert set(found.answers) == {"row", "batch"}


def test_an_online_store_that_answers_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from flyball.features import verifying_views

    monkeypatch.setattr(verifying_views, "push", lambda view, rows, store, **_: 0)
    found = verify(FLIGHTS, rows=100).disagreement
    assert found is not None
    assert set(found.answers) == {"online", "offline"}


def test_generated_values_hold_the_edges() -> None:
    rows = verifying.generated({"n": "n", "s": "s", "t": "t", "b": "b"}, 3000, random.Random(0), ["unusual"])
    numbers = {repr(row["n"]) for row in rows}
    assert {"nan", "inf", "-inf", "None", "0.0", "-0.0", "9.223372036854776e+18", "5e-324"} <= numbers
    assert "unusual" in {row["s"] for row in rows}
