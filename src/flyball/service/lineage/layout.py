"""Where the boxes of a graph lie: columns by distance, few crossings, neighbours at one height. Sugiyama's method.

Time runs from left to right: what things were made from stands left of them. A link over several columns passes between
the boxes on the way. Cost grows with the boxes and links, not with their square.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

_SWEEPS = 8
_RELAXED = 12
_BEND = "\x01"  # begins the name of a point that a link passes


class Place(NamedTuple):
    """Where one box lies: its column from the left, and its middle from the top, in heights of a box."""

    column: int
    y: float


class Layout(NamedTuple):
    """Places of boxes, and of the points that each link passes through."""

    places: dict[str, Place]
    paths: dict[tuple[str, str], list[Place]]
    columns: int
    height: float


def layered(nodes: Sequence[str], links: Sequence[tuple[str, str]], *, from_left: bool = False) -> Layout:
    """Place boxes; a link goes from what is used to what is made. A link that would close a cycle is drawn backwards.

    Each box stands as near as it can to those that use it, or ``from_left``: to those that it was made from.

    >>> found = layered(["data", "run", "model"], [("data", "run"), ("run", "model")])
    >>> [found.places[name].column for name in ("data", "run", "model")]
    [0, 1, 2]
    """
    forward = _without_cycles(nodes, links)
    column = _columns(nodes, forward, from_left)
    chains = {link: _chain(link, column) for link in forward}
    rows: list[list[str]] = [[] for _ in range(max(column.values(), default=0) + 1)]
    for name in nodes:
        rows[column[name]].append(name)
    for chain in chains.values():
        for at, name in enumerate(chain[1:-1], column[chain[0]] + 1):
            rows[at].append(name)
    before, after = _neighbours(chains.values())
    _order(rows, before, after)
    y = _heights(rows, before, after)
    stands = {name: number for number, row in enumerate(rows) for name in row}
    places = {name: Place(column[name], y[name]) for name in nodes}
    paths: dict[tuple[str, str], list[Place]] = {}
    for (source, target), turned in _turned(links, forward).items():
        passed = [
            Place(stands[name], y[name]) for name in chains[(target, source) if turned else (source, target)]
        ]
        paths[source, target] = passed[::-1] if turned else passed
    return Layout(places, paths, len(rows), max(y.values(), default=0.0) + 1)


def _turned(
    links: Sequence[tuple[str, str]], forward: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], bool]:
    there = set(forward)
    return {link: link not in there for link in links if link in there or link[::-1] in there}


def _without_cycles(nodes: Sequence[str], links: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The links, those that lead back into the way that was come turned round; without recursion."""
    outgoing: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in links:
        if source != target and source in outgoing and target in outgoing:
            outgoing[source].append(target)
    state: dict[str, int] = {}  # 1: on the way, 2: done
    found: dict[tuple[str, str], None] = {}
    for start in nodes:
        stack = [(start, iter(outgoing[start]))] if start not in state else []
        state.setdefault(start, 1)
        while stack:
            name, targets = stack[-1]
            target = next(targets, "\0")
            if target == "\0":
                state[name] = 2
                stack.pop()
                continue
            back = state.get(target) == 1
            link = (target, name) if back else (name, target)
            if link[::-1] not in found:
                found[link] = None
            if target not in state:
                state[target] = 1
                stack.append((target, iter(outgoing[target])))
    return list(found)


def _columns(nodes: Sequence[str], links: Sequence[tuple[str, str]], from_left: bool) -> dict[str, int]:
    """The length of the longest way to the end on the right (or from the one on the left)."""
    before: dict[str, list[str]] = {name: [] for name in nodes}
    waiting = dict.fromkeys(nodes, 0)
    for source, target in links:
        near, far = (source, target) if from_left else (target, source)
        before[near].append(far)
        waiting[far] += 1
    ready = [name for name in nodes if not waiting[name]]
    steps = dict.fromkeys(nodes, 0)
    while ready:
        name = ready.pop()
        for far in before[name]:
            steps[far] = max(steps[far], steps[name] + 1)
            waiting[far] -= 1
            if not waiting[far]:
                ready.append(far)
    width = max(steps.values(), default=0)
    return steps if from_left else {name: width - many for name, many in steps.items()}


def _chain(link: tuple[str, str], column: dict[str, int]) -> list[str]:
    """A link's points: its ends, and one for each column that it passes."""
    source, target = link
    between = [
        f"{_BEND}{source}{_BEND}{target}{_BEND}{at}" for at in range(column[source] + 1, column[target])
    ]
    return [source, *between, target]


def _neighbours(chains: Iterable[list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for chain in chains:
        for left, right in pairwise(chain):
            after.setdefault(left, []).append(right)
            before.setdefault(right, []).append(left)
    return before, after


def _order(rows: list[list[str]], before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
    """Sort each column by the mean place of its neighbours, to and fro."""
    place = {name: number for row in rows for number, name in enumerate(row)}

    def sort(row: list[str], beside: dict[str, list[str]]) -> None:
        def mean(name: str) -> float:
            found = beside.get(name)
            return sum(place[one] for one in found) / len(found) if found else float(place[name])

        row.sort(key=mean)
        place.update({name: number for number, name in enumerate(row)})

    for sweep in range(_SWEEPS):
        if sweep % 2 == 0:
            for row in reversed(rows[:-1]):
                sort(row, after)
        else:
            for row in rows[1:]:
                sort(row, before)


def _heights(
    rows: list[list[str]], before: dict[str, list[str]], after: dict[str, list[str]]
) -> dict[str, float]:
    """Move boxes towards their neighbours as far as those above and below in their column let them."""
    tallest = max(map(len, rows), default=0)
    y = {name: number + (tallest - len(row)) / 2 for row in rows for number, name in enumerate(row)}
    for turn in range(_RELAXED):
        for row in rows if turn % 2 else reversed(rows):
            wanted = []
            for name in row:
                beside = [*before.get(name, ()), *after.get(name, ())]
                wanted.append(sum(y[one] for one in beside) / len(beside) if beside else y[name])
            y.update(zip(row, _apart(row, wanted), strict=True))
    least = min(y.values(), default=0.0)
    return {name: value - least for name, value in y.items()}


def _apart(row: list[str], wanted: list[float]) -> list[float]:
    """The nearest heights to those wanted, in this order and each at least a box apart (a thin one where none stands).

    Pooled adjacent violators: boxes that want the same place become a block around the mean of what they want.
    """
    offsets: list[float] = []
    at = 0.0
    for number, name in enumerate(row):
        if number:
            at += 1.0 if name[0] != _BEND and row[number - 1][0] != _BEND else 0.5
        offsets.append(at)
    blocks: list[tuple[float, int]] = []  # mean of wanted minus offset, how many
    for want, offset in zip(wanted, offsets, strict=True):
        mean, many = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean = (mean * many + other * count) / (many + count)
            many += count
        blocks.append((mean, many))
    starts = [mean for mean, many in blocks for _ in range(many)]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]
