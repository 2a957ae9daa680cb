"""The same events by materialize, push and stream: three stores, one answer, and it is that of the offline join."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.features.streams import Message, last_of
from flyball.service.features import sources, views
from flyball.service.filling import materialize, push
from flyball.service.sources import offline
from flyball.service.streaming import StreamReader
from flyball.service.workspace import Workspace
from tests import feeding
from tests.feeding import START

DEFINITIONS = """
from flyball.features import Source, View, col, count, last, max, mean, std, sum

clicks = Source("clicks", "{url}", happened="at", known="known")
spent = View(
    "spent", ("user",), clicks, columns=("amount", "city"),
    windows=(
        sum("amount", "5m"), mean("amount", "1h"), std("amount", "10m"), max("amount", "3m"), last("city", "10m"),
        count("5m"),
    ),
    types={"city": "BYTES"}, ttl_s=600,
)
pages = View(
    "pages", ("user", "page"), clicks, columns=("double",), windows=(count("10m"), last("double", "1h")),
    derived={"double": col("amount") * 2}, where=col("amount") >= 0, row_id=("id",),
)
"""

row = st.fixed_dictionaries(
    {
        "id": st.integers(0, 3),
        "user": st.sampled_from(["u0", "u1"]),
        "page": st.integers(0, 1),
        "minute": st.integers(0, 15),
        "late": st.sampled_from([0, 0, 0, 1, 5, 12]),
        "amount": st.one_of(st.none(), st.integers(-3, 50).map(float)),
        "city": st.sampled_from(["Rome", "Bern", None]),
    }
)


def event(drawn: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in drawn.items() if name not in ("minute", "late")}
    at = START + timedelta(minutes=drawn["minute"])
    return {**rest, "at": at.isoformat(), "known": (at + timedelta(minutes=drawn["late"])).isoformat()}


class Sent:
    """A stream whose broker is a list."""

    def positions(self, taken: Sequence[Message], before: Mapping[str, str]) -> dict[str, str]:
        return last_of(taken, before)


def parts(events: list[dict[str, Any]], cuts: list[int]) -> list[list[dict[str, Any]]]:
    ends = sorted({min(cut, len(events)) for cut in cuts} | {len(events)})
    return [events[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if begin < end]


def by_table(ws: Workspace, events: list[dict[str, Any]], cuts: list[int]) -> None:
    """A file that grows, as rows become known."""
    table = feeding.table(events)
    for end in sorted({0, 7, 15, 40}):
        table.filter(pl.col("known") <= START + timedelta(minutes=end)).write_parquet(
            ws.root / "clicks.parquet"
        )
        materialize(ws=ws)


def by_push(ws: Workspace, events: list[dict[str, Any]], cuts: list[int]) -> None:
    for part in parts(events, cuts):
        push("clicks", part, ws=ws)


def by_stream(ws: Workspace, events: list[dict[str, Any]], cuts: list[int]) -> None:
    place = 0
    for part in parts(events, cuts):
        reader = StreamReader(ws, sources(ws)["clicks"])  # a new one each time, as after a kill
        messages = [Message("0", str(place + i), json.dumps(one).encode()) for i, one in enumerate(part)]
        place += len(part)
        reader.take(Sent(), messages)  # type: ignore[arg-type]  # the one method that it asks


@given(
    drawn=st.lists(row, min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    asked=st.lists(
        st.tuples(st.sampled_from(["u0", "u1", "u9"]), st.integers(0, 1), st.integers(-1, 40)),
        min_size=1,
        max_size=8,
    ),
)
@settings(max_examples=15, deadline=None)
def test_batch_stream_and_online_agree(drawn: list, cuts: list[int], asked: list) -> None:
    events = [event(one) for one in drawn]
    questions = pl.DataFrame(
        [
            {"user": user, "page": page, "at": START + timedelta(minutes=minute)}
            for user, page, minute in asked
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        ways = {
            by_table: f"parquet:{folder}/by_table/clicks.parquet",
            by_push: "push:",
            by_stream: "kafka://no:1/clicks",
        }
        for way, url in ways.items():
            ws = feeding.project(Path(folder) / way.__name__, url, DEFINITIONS)
            way(ws, events, cuts)
            rows = offline(ws, "clicks").collect()
            online = feeding.online(ws, views(ws), questions)
            assert rounded(online) == rounded(feeding.offline(views(ws), questions, rows)), way.__name__
            found[way.__name__] = online
            feeding.close(ws)
    assert found["by_push"] == found["by_stream"]
    assert rounded(found["by_table"]) == rounded(found["by_push"])


def rounded(rows: list[list[Any]]) -> list[list[Any]]:
    """A standard deviation takes a root, and may differ in its last bits."""
    return [[round(one, 9) if isinstance(one, float) else one for one in row] for row in rows]
