"""Latest values of numbers and texts against an oracle in plain Python: both clocks, ties, TTL edges, duplicates, unknown
and null keys; in memory, lazily, and spilled to disk in parts.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.features import View, Window, point_in_time
from flyball.features.timeline import rows_between

START = datetime(2013, 4, 1, tzinfo=UTC)
UNITS = [timedelta(minutes=1), timedelta(microseconds=1), timedelta(days=7)]
SCHEMA: dict[str, Any] = {
    "a": pl.String,
    "b": pl.Int64,
    "happened": pl.Datetime("us", "UTC"),
    "known": pl.Datetime("us", "UTC"),
    "number": pl.Float64,
    "text": pl.String,
}
ASKED: dict[str, Any] = {"a": pl.String, "b": pl.Int64, "at": pl.Datetime("us", "UTC"), "label": pl.Int64}
Rows = list[dict[str, Any]]

keys = {"a": st.sampled_from(["x", "x", "y", "z", None]), "b": st.sampled_from([1, 1, 2, 10**12, None])}
steps = st.sampled_from([*range(12), *range(12), None])
source_rows = st.lists(
    st.fixed_dictionaries(
        {
            **keys,
            "happened": steps,
            "late": st.sampled_from([0, 0, 0, 0, -1, 1, 2, 5, None]),
            "number": st.sampled_from([1.0, 2.0, 0.0, -0.0, math.nan, math.inf, 1e200, None]),
            "text": st.sampled_from(["p", "q", "", None]),
        }
    ),
    max_size=50,
)
questions = st.lists(
    st.fixed_dictionaries(
        {
            **keys,
            "at": st.one_of(st.integers(-2, 20), st.none()),
            "label": st.integers(0, 1),
        }
    ),
    max_size=20,
)
ENTITIES = [("a",), ("b",), ("a", "b")]


def at(step: int | None, unit: timedelta) -> datetime | None:
    return None if step is None else START + unit * step


def tables(source: Rows, asked: Rows, unit: timedelta) -> tuple[Rows, Rows]:
    rows = []
    for row in source:
        happened, late = row["happened"], row["late"]
        known = None if happened is None or late is None else at(happened + late, unit)
        rows.append(
            {
                **{name: row[name] for name in SCHEMA if name in row},
                "happened": at(happened, unit),
                "known": known,
            }
        )
    return rows, [{**row, "at": at(row["at"], unit)} for row in asked]


def seen_by(view: View, source: Rows, question: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(happened, known, place, number, text) of the distinct rows that existed then, the first of equal ones."""
    t, key = question["at"], tuple(question[name] for name in view.entity)
    found: dict[tuple[Any, ...], int] = {}
    for place, row in enumerate(source):
        clocks = (row[view.happened], row[view.known])
        if t is None or None in key or None in clocks or key != tuple(row[name] for name in view.entity):
            continue
        if max(clocks) <= t:
            found.setdefault((*clocks, number(row["number"]), row["text"]), place)
    return sorted((*row[:2], place, *row[2:]) for row, place in found.items()) if found else []


def number(value: float | None) -> float | None:
    return None if value is None or not abs(value) <= 1e150 else value + 0.0


@pytest.mark.parametrize("how", ["in memory", "lazy", "spilled"])
@given(
    source=source_rows,
    asked=questions,
    unit=st.sampled_from(UNITS),
    entity=st.sampled_from(ENTITIES),
    known=st.sampled_from(["happened", "known"]),
    ttl_s=st.sampled_from([None, 0, 120, 604800]),
)
@settings(max_examples=60, deadline=None)
def test_latest_values_are_the_oracles(
    how: str,
    source: Rows,
    asked: Rows,
    unit: timedelta,
    entity: tuple[str, ...],
    known: str,
    ttl_s: int | None,
) -> None:
    windows = (Window("rows", None, "count", 180), Window("word", "text", "last", 600))
    view = View(
        "v",
        entity,
        "src",
        "happened",
        known,
        ("number", "text"),
        windows,
        ttl_s=ttl_s,
        types={"text": "BYTES"},
    )
    rows, wanted = tables(source, asked, unit)
    table, entities = pl.DataFrame(rows, schema=SCHEMA), pl.DataFrame(wanted, schema=ASKED)
    given_as = table if how == "in memory" else table.lazy()
    budget = 0 if how == "spilled" else 1 << 30
    found = point_in_time(entities, "at", [view], {"src": given_as}, memory_bytes=budget)
    assert found.select(*ASKED).equals(entities)
    for answer, question in zip(found.to_dicts(), wanted, strict=True):
        seen = seen_by(view, rows, question)
        newest = seen[-1] if seen else None
        if newest and ttl_s is not None and question["at"] - newest[0] > timedelta(seconds=ttl_s):
            newest = None
        assert (answer["v:number"], answer["v:text"]) == (newest[3:] if newest else (None, None)), question
        inside = [row for row in seen if question["at"] - row[0] < timedelta(seconds=180)]
        assert answer["v:rows"] == len(inside)
        words = [
            row[4] for row in seen if question["at"] - row[0] < timedelta(seconds=600) and row[4] is not None
        ]
        assert answer["v:word"] == (words[-1] if words else None)


@given(
    source=source_rows,
    start=st.integers(-2, 12),
    length=st.integers(0, 14),
    every=st.sampled_from([None, 1, 3]),
    entity=st.sampled_from(ENTITIES),
)
@settings(max_examples=100, deadline=None)
def test_rows_from_a_range_of_time_are_the_oracles(
    source: Rows, start: int, length: int, every: int | None, entity: tuple[str, ...]
) -> None:
    view = View("v", entity, "src", "happened", "known", ("number",))
    rows, _ = tables(source, [], UNITS[0])
    begin, end = START + UNITS[0] * start, START + UNITS[0] * (start + length)
    found = rows_between(
        [view], lambda _: pl.DataFrame(rows, schema=SCHEMA).lazy(), start=begin, end=end,
        every=None if every is None else UNITS[0] * every,
    )  # fmt: skip
    visible = [
        (max(row["happened"], row["known"]), tuple(row[name] for name in entity))
        for row in rows
        if None not in (row["happened"], row["known"], *(row[name] for name in entity))
    ]
    if every is None:
        expected = {(at, key) for at, key in visible if begin <= at <= end}
    else:
        moments = [begin + UNITS[0] * step for step in range(0, length + 1, every)]
        expected = {(moment, key) for moment in moments for at, key in visible if at <= moment}
    assert [(row[-1], row[:-1]) for row in found.rows()] == sorted(expected)
    assert found.columns == [*entity, "at"]
