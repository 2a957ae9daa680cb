"""Params, metrics and tags of runs on a connection: written in batches, read together, sealed by digest.

A param is written once; of a tag the last value counts; of a metric the latest by step, then time, then order, as MLflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from blake3 import blake3
from sqlalchemy.engine import Connection

from flyball.errors import Invalid, Refused
from flyball.stores.points import FULL, TAIL, Series, joined, link, newest, pack, unpack
from flyball.stores.prepared import Prepared
from flyball.stores.run_tables import ARTIFACTS, FACTS, POINTS, ROWS_AT_ONCE, in_parts, rows_of, upsert

LETTERS_OF_A_NAME = 250
LETTERS_OF_A_VALUE = 1_048_576


_MANY = 1000  # names: looked up by sixteen, and beyond this all at once


class Latest(msgspec.Struct, frozen=True, gc=False):  # 50,000 in a search of 5,000 runs
    """Where a metric stands: its latest value, and how many points its history has."""

    value: float
    step: int
    at_us: int
    points: int


class Facts(msgspec.Struct, frozen=True):
    """What one run has: the latest of each."""

    params: dict[str, str] = {}
    metrics: dict[str, Latest] = {}
    tags: dict[str, str] = {}


def check_name(kind: str, name: str) -> str:
    """A name that every engine holds: 1 to 250 letters of any script, no NUL, no half of a surrogate pair."""
    if type(name) is not str:
        raise Invalid(f"the name of a {kind} is a text, not {name!r:.80}", "put it in quotes")
    if not 0 < len(name) <= LETTERS_OF_A_NAME:
        raise Invalid(
            f"the name of a {kind} is 1 to {LETTERS_OF_A_NAME} letters, not {len(name)}", "shorten it"
        )
    _check_text(f"the name of a {kind}", name)
    return name


def _check_text(what: str, content: str) -> None:
    if content.isascii():
        if "\x00" in content:
            raise Invalid(f"{what} holds a NUL letter", "databases can't keep it; log an artifact instead")
        return
    try:
        encoded = content.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"{what} is not Unicode text: {error.reason}", "decode it first") from error
    if b"\x00" in encoded:
        raise Invalid(f"{what} holds a NUL letter", "databases can't keep it; log an artifact instead")


def text_of(value: Any) -> str:
    """A value as it is kept and compared: words as they are, numbers as Python writes them, the rest as JSON."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    return msgspec.json.encode(value, enc_hook=str, order="deterministic").decode()


def number_of(content: str) -> float | None:
    """The number that a text is, if it is one.

    >>> number_of("200"), number_of("1e-3"), number_of("True"), number_of("nan"), number_of("1_0")
    (200.0, 0.001, None, None, None)
    """
    if len(content) > 40 or not content or content[0] not in "+-.0123456789" or "_" in content:
        return None
    try:
        number = float(content)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def add_texts(
    connection: Connection, run: str, kind: str, values: Mapping[str, Any], at_us: int, *, fresh: bool = False
) -> None:
    """Write params or tags; a param with another value than it has is :class:`Invalid`, and nothing is written.

    ``fresh`` says that the run has none yet.
    """
    texts = {check_name(kind, name): text_of(value) for name, value in values.items()}
    for name, content in texts.items():
        if len(content) > LETTERS_OF_A_VALUE:
            raise Invalid(
                f"the {kind} {name!r} has {len(content):,} letters; {LETTERS_OF_A_VALUE:,} are kept",
                "log it as an artifact: run.artifact(...)",
                name=name,
            )
        _check_text(f"the {kind} {name!r}", content)
    if kind == "param" and not fresh:
        texts = _unwritten(connection, run, texts)
    rows = [_text_row(run, kind, name, content, at_us) for name, content in texts.items()]
    upsert(connection, FACTS, rows)


def _unwritten(connection: Connection, run: str, texts: dict[str, str]) -> dict[str, str]:
    known = {row.name: row.text or "" for row in _known(connection, run, "param", list(texts))}
    for name, content in known.items():
        if texts.pop(name) != content:
            raise Invalid(
                f"{name} is {content:.200} in this run already",
                "a param is written once; log a metric for what changes",
                name=name,
                run=run,
            )
    return texts


def _text_row(run: str, kind: str, name: str, content: str, at_us: int) -> dict[str, Any]:
    return {
        "run": run,
        "kind": kind,
        "name": name,
        "text": content,
        "number": number_of(content) if kind == "param" else None,
        "step": None,
        "at_us": at_us,
        "points": 0,
        "block": 0,
        "tail": 0,
        "head": None,
    }


def add_points(connection: Connection, run: str, series: Mapping[str, Series], *, once: bool = False) -> None:
    """Append to the histories of metrics and bring their latest values up to date.

    With ``once``, a point that is there already (same step, time and value) is left out: a batch sent twice counts once.
    """
    given = {check_name("metric", name): one for name, one in series.items() if len(one)}
    known = {row.name: row for row in _known(connection, run, "metric", list(given))}
    if once:
        given = _unseen(connection, run, given)
    tails = {name: _tail(connection, run, known[name]) for name in given if name in known}
    facts: list[dict[str, Any]] = []
    blocks: list[dict[str, Any]] = []
    for name, one in given.items():
        fact, added = _grown(run, name, one, known.get(name), tails.get(name))
        facts.append(fact)
        blocks += added
    upsert(connection, POINTS, blocks)
    upsert(connection, FACTS, facts)


class _Standing(NamedTuple):
    """The row of a metric."""

    run: str
    kind: str
    name: str
    text: str | None
    number: float | None
    step: Any
    at_us: int
    points: int
    block: int
    tail: int
    head: Any


_SIXTEEN = tuple(f"name_{number}" for number in range(16))
_SOME = Prepared(
    sa.select(*FACTS.c).where(
        FACTS.c.run == sa.bindparam("id"),
        FACTS.c.kind == sa.bindparam("what"),
        FACTS.c.name.in_([sa.bindparam(one) for one in _SIXTEEN]),
    )
)


def _known(connection: Connection, run: str, kind: str, names: list[str]) -> list[_Standing]:
    """The rows of these params or metrics, of those there are."""
    if len(names) > _MANY:
        every = sa.select(*FACTS.c).where(FACTS.c.run == run, FACTS.c.kind == kind)
        wanted = set(names)
        return [_Standing(*row) for row in rows_of(connection, every) if row[2] in wanted]
    found: list[_Standing] = []
    for start in range(0, len(names), 16):
        some = names[start : start + 16]
        padded = dict(zip(_SIXTEEN, some + some[:1] * (16 - len(some)), strict=True))
        found += [_Standing(*row) for row in _SOME.rows(connection, {"id": run, "what": kind, **padded})]
    return found


_ONE_BLOCK = Prepared(
    sa.select(POINTS.c.block, POINTS.c.n, POINTS.c.content, POINTS.c.before).where(
        POINTS.c.run == sa.bindparam("id"),
        POINTS.c.name == sa.bindparam("metric"),
        POINTS.c.block == sa.bindparam("number"),
    )
)


def _tail(connection: Connection, run: str, known: _Standing) -> tuple[int, int, bytes, bytes] | None:
    """The last block of a metric when it is to be filled up: number, points, content, the chain before it."""
    if known.tail >= TAIL:
        return None
    rows = _ONE_BLOCK.rows(connection, {"id": run, "metric": known.name, "number": known.block})
    if not rows:
        raise Refused(
            f"the last block of {known.name} of run {run} is gone",
            "flyball restore BACKUP brings the last backup back",
        )
    block, n, content, before = rows[0]
    return block, n, bytes(content), bytes(before)


def _unseen(connection: Connection, run: str, given: Mapping[str, Series]) -> dict[str, Series]:
    since = min((int(one.times_us.min()) for one in given.values()), default=0)
    seen: dict[str, set[tuple[int, int, str]]] = {name: set() for name in given}
    for part in in_parts(given):
        query = sa.select(POINTS.c.name, POINTS.c.n, POINTS.c.content).where(
            POINTS.c.run == run, POINTS.c.name.in_(part), POINTS.c.last_us >= since
        )
        for name, n, content in rows_of(connection, query):
            seen[name] |= {(step, at, repr(value)) for step, at, value in unpack(bytes(content), n).rows()}
    left: dict[str, Series] = {}
    for name, one in given.items():
        places = []
        for place, (step, at, value) in enumerate(one.rows()):
            if (key := (step, at, repr(value))) not in seen[name]:
                seen[name].add(key)
                places.append(place)
        if places:
            left[name] = one[places]
    return left


def _grown(
    run: str, name: str, added: Series, known: _Standing | None, tail: tuple[int, int, bytes, bytes] | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A metric's row, and its blocks that are new or longer: the last block is filled up first."""
    block, before, series = 0, b"", added
    if tail is not None:
        block, n, content, before = tail
        series = joined((unpack(content, n), added))
    elif known is not None:
        block, before = known.block + 1, bytes(known.head)
    blocks: list[dict[str, Any]] = []
    for start in range(0, len(series), FULL):
        part = series[start : start + FULL]
        content = pack(part)
        chain = link(before, run, name, block, content)
        blocks.append(
            {
                "run": run,
                "name": name,
                "block": block,
                "n": len(part),
                **bounds(part),
                "content": content,
                "before": before,
                "chain": chain,
            }
        )
        block, before = block + 1, chain
    value, step, at_us = latest_of(added, known)
    fact = {
        "run": run,
        "kind": "metric",
        "name": name,
        # SQLite keeps a whole number in a column of doubles as an integer: -0.0 comes back as 0.0
        "text": None if math.isfinite(value) and repr(value) != "-0.0" else str(value),
        "number": None if math.isnan(value) else value,
        "step": step,
        "at_us": at_us,
        "points": (0 if known is None else known.points) + len(added),
        "block": block - 1,
        "tail": blocks[-1]["n"],
        "head": before,
    }
    return fact, blocks


def bounds(part: Series) -> dict[str, int]:
    """Between which steps and times the points of a block lie."""
    return {
        "least_step": int(part.steps.min()),
        "last_step": int(part.steps.max()),
        "first_us": int(part.times_us.min()),
        "last_us": int(part.times_us.max()),
    }


def latest_of(added: Series, known: Any) -> tuple[float, int, int]:
    """The latest value, step and time after these points; ``known`` is where the metric stood (or ``None``)."""
    place = newest(added) if len(added) > 1 else 0
    value, step, at = float(added.values[place]), int(added.steps[place]), int(added.times_us[place])
    if known is not None and (known.step, known.at_us) > (step, at):
        shown = known.value if isinstance(known, Latest) else value_of(known.number, known.text)
        return shown, known.step, known.at_us
    return value, step, at


def value_of(number: float | None, content: str | None) -> float:
    """A metric's value from its two columns."""
    return float(content) if content is not None else math.nan if number is None else number


_OF_RUN = Prepared(sa.select(*FACTS.c).where(FACTS.c.run == sa.bindparam("id")))
_OF_OWNER = Prepared(sa.select(*ARTIFACTS.c).where(ARTIFACTS.c.owner == sa.bindparam("id")))
_COLUMNS = (
    FACTS.c.run,
    FACTS.c.kind,
    FACTS.c.name,
    FACTS.c.text,
    FACTS.c.number,
    FACTS.c.step,
    FACTS.c.at_us,
    FACTS.c.points,
)


def facts_of(connection: Connection, runs: list[str]) -> dict[str, Facts]:
    """The facts of these runs; those without any are left out."""
    if len(runs) == 1:
        return _folded(_OF_RUN.rows(connection, {"id": runs[0]}))
    found: dict[str, Facts] = {}
    for part in in_parts(runs):
        found |= _folded(rows_of(connection, sa.select(*_COLUMNS).where(FACTS.c.run.in_(part))))
    return found


def _folded(rows: list[tuple[Any, ...]]) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    for run, kind, name, content, number, step, at_us, points, *_ in rows:
        facts = found.get(run)
        if facts is None:
            facts = found[run] = Facts({}, {}, {})
        if kind == "metric":
            facts.metrics[name] = Latest(value_of(number, content), step, at_us, points)
        elif kind == "param":
            facts.params[name] = content
        else:
            facts.tags[name] = content
    return found


def sealed(connection: Connection, run: str) -> tuple[Facts, str]:
    """Everything a run has, and the digest of it: params, tags, latest metrics, heads of histories, artifacts."""
    facts = _OF_RUN.rows(connection, {"id": run})
    digest = blake3()
    for rows in (facts, _OF_OWNER.rows(connection, {"id": run})):
        lines = sorted([_line(row) for row in rows])  # by bytes, not by a database's collation
        for start in range(0, len(lines), ROWS_AT_ONCE):
            digest.update(b"\n".join(lines[start : start + ROWS_AT_ONCE]) + b"\n")
        digest.update(b"\x00")
    return _folded(facts).get(run) or Facts(), "b3:" + digest.hexdigest()


def _line(row: Sequence[Any]) -> bytes:
    # Numbers by repr: JSON has no infinity, and repr says every bit of a float.
    return _encode([repr(one) if type(one) is float else one for one in row])


_encode = msgspec.json.Encoder().encode
