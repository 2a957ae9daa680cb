"""The facts of a run that has ended once more, as one row: what lists and frames of many runs read.

Measured on 5,000 runs of ten params and ten metrics: their 100,000 rows of facts take 100 ms of CPU to fetch, whatever is
done with them; 5,000 summaries 20 ms to fetch and decode. Runs that were logged by one program have the same names in
the same order, so names are kept apart from values: equal bytes are one shape, and its columns are a transposition.

A summary is written where the seal is, in the same transaction, and taken away when a run goes on. A run without one
(it goes on, or it has thousands of facts) is read from its facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flyball.stores.prepared import Prepared
from flyball.stores.run_facts import Facts, Latest
from flyball.stores.run_tables import SUMMARIES, upsert

_FACTS = 2000  # a run with more has no summary
_BYTES = 100_000


class _Whole(msgspec.Struct, array_like=True):
    names: tuple[list[str], list[str], list[str]]  # of params, metrics, tags
    params: list[str]
    values: list[float]
    tags: list[str]
    steps: list[int]
    times_us: list[int]
    points: list[int]


class Shaped(msgspec.Struct, array_like=True):
    """A summary as frames need it: the names undecoded, and the values."""

    names: msgspec.Raw
    params: list[str]
    values: list[float]
    tags: list[str]
    steps: msgspec.Raw
    times_us: msgspec.Raw
    points: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_whole = msgspec.msgpack.Decoder(_Whole).decode
shaped = msgspec.msgpack.Decoder(Shaped).decode
names_of = msgspec.msgpack.Decoder(tuple[list[str], list[str], list[str]]).decode
_DROP = Prepared(SUMMARIES.delete().where(SUMMARIES.c.run == sa.bindparam("id")))


def put(connection: Connection, run: str, facts: Facts) -> None:
    """Write the summary of a run that has ended."""
    if len(facts.params) + len(facts.metrics) + len(facts.tags) > _FACTS:
        return drop(connection, run)
    content = pack(facts)
    if len(content) > _BYTES:
        return drop(connection, run)
    upsert(connection, SUMMARIES, [{"run": run, "content": content}])


def drop(connection: Connection, run: str) -> None:
    """A run goes on: its facts are what counts."""
    _DROP.run(connection, {"id": run})


def pack(facts: Facts) -> bytes:
    """Facts as the content of a row; names in order, so that equal ones are equal bytes.

    >>> facts = Facts({"b": "1", "a": "2"}, {"auc": Latest(0.5, 1, 7, 9)}, {})
    >>> unpack(pack(facts)) == facts
    True
    """
    params, tags = dict(sorted(facts.params.items())), dict(sorted(facts.tags.items()))
    metrics = dict(sorted(facts.metrics.items()))
    latest = list(metrics.values())
    return _encode(
        _Whole(
            (list(params), list(metrics), list(tags)),
            list(params.values()),
            [one.value for one in latest],
            list(tags.values()),
            [one.step for one in latest],
            [one.at_us for one in latest],
            [one.points for one in latest],
        )
    )


def unpack(content: bytes) -> Facts:
    """The inverse of :func:`pack`."""
    one = _whole(content)
    params, metrics, tags = one.names
    latest = map(Latest, one.values, one.steps, one.times_us, one.points)
    return Facts(
        dict(zip(params, one.params, strict=True)),
        dict(zip(metrics, latest, strict=True)),
        dict(zip(tags, one.tags, strict=True)),
    )


class Group(msgspec.Struct, frozen=True):
    """Runs with the same names: which rows they are, and a column for each name."""

    places: list[int]
    params: dict[str, Sequence[str]]
    metrics: dict[str, Sequence[float]]
    tags: dict[str, Sequence[str]]


def groups(contents: Sequence[bytes]) -> list[Group]:
    """Summaries as columns, by the shape they have."""
    found: dict[bytes, tuple[list[int], list[Any], list[Any], list[Any]]] = {}
    for place, content in enumerate(contents):
        one = shaped(content)
        rows = found.get(key := bytes(one.names))
        if rows is None:
            rows = found[key] = ([], [], [], [])
        rows[0].append(place)
        rows[1].append(one.params)
        rows[2].append(one.values)
        rows[3].append(one.tags)
    made: list[Group] = []
    for key, (places, *values) in found.items():
        columns: list[dict[str, Any]] = [
            dict(zip(names, zip(*rows, strict=True), strict=True))
            for names, rows in zip(names_of(key), values, strict=True)
        ]
        made.append(Group(places, columns[0], columns[1], columns[2]))
    return made
