"""A lineage graph: things as nodes, "made from" as links; it knows no practice, no store and no drawing.

>>> graph = Graph("model:delays@3", "up")
>>> graph.add(Node(key="model:delays@3", noun="model", name="delays@3"))
>>> graph.add(Node(key="run_1", noun="run", name="run_1"))
>>> graph.link("model:delays@3", "run_1", "run")
>>> [(link.role, node.name) for link, node in graph.next("model:delays@3")]
[('run', 'run_1')]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

Direction = Literal["up", "down"]
PARTS = ("file", "manifest", "source", "artifact", "native", "patch")  # roles of links to bytes


def is_part(role: str) -> bool:
    """Whether a link of this role leads to bytes that a thing consists of, not to what it was made from."""
    return role.partition(":")[0] in PARTS


class Node(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One thing: what it is, its facts, the blobs that belong to it, and whether all of it is what it was."""

    key: str  # its name in the ledger's edges: run_…, b3:…, model:delays@3
    noun: str
    name: str
    facts: dict[str, Any] = {}
    digests: tuple[str, ...] = ()  # blobs that belong to it and are no nodes of their own
    missing: bool = False  # something names it, but it is not there
    verified: bool | None = None  # None: not asked for
    broken: list[str] = []

    @property
    def state(self) -> str:
        """``""``, ``"ok"``, ``"CHANGED"`` or ``"MISSING"``."""
        if self.broken:
            return "CHANGED"
        if self.missing:
            return "MISSING"
        return "ok" if self.verified else ""


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """``made`` was made from (or by, or says) ``of``."""

    made: str
    of: str
    role: str


class Seen(NamedTuple):
    """One line of a walk through a graph."""

    depth: int
    link: Link | None  # how we came; None at the root
    node: Node
    elsewhere: str  # where it is opened with all that lies behind it: "" (here), "above" or "below"


class Graph:
    """What a thing was made from (``up``), or what was made from it (``down``)."""

    def __init__(self, root: str, direction: Direction) -> None:
        self.root = root
        self.direction = direction
        self.nodes: dict[str, Node] = {}
        self.cut = 0  # things that lie beyond the depth that was asked for
        self._next: dict[str, dict[str, Link]] = {}

    def add(self, node: Node) -> None:
        """Add a node; the first of a key stays."""
        self.nodes.setdefault(node.key, node)

    def link(self, made: str, of: str, role: str) -> None:
        """Add a link; of several between the same two, the first says the role, unless a later one says it closer."""
        source, target = (made, of) if self.direction == "up" else (of, made)
        known = self._next.setdefault(source, {}).get(target)
        if known is None or role.startswith(f"{known.role}:"):
            self._next[source][target] = Link(made, of, role)

    @property
    def links(self) -> list[Link]:
        """All links between nodes that are there."""
        return [
            link
            for key, found in self._next.items()
            if key in self.nodes
            for other, link in found.items()
            if other in self.nodes
        ]

    def next(self, key: str) -> list[tuple[Link, Node]]:
        """What lies one step further from a node, in the order in which it was found."""
        found = self._next.get(key, {})
        return [(link, self.nodes[other]) for other, link in found.items() if other in self.nodes]

    def walk(self) -> Iterator[Seen]:
        """Depth first from the root; what is shared, or lies on a cycle, is opened once: nearest to the root."""
        nearest = self._nearest()
        opened: set[str] = set()
        stack = [(0, "", Seen(0, None, self.nodes[self.root], ""))]
        while stack:
            depth, parent, seen = stack.pop()
            key = seen.node.key
            if key in opened or nearest[key] != parent:
                yield seen._replace(elsewhere="above" if key in opened else "below")
                continue
            opened.add(key)
            yield seen
            further = [(depth + 1, key, Seen(depth + 1, link, node, "")) for link, node in self.next(key)]
            stack += reversed(further)

    def _nearest(self) -> dict[str, str]:
        """From which node each is reached first by the fewest steps."""
        found, frontier = {self.root: ""}, [self.root]
        while frontier:
            further: list[str] = []
            for key in frontier:
                for _, node in self.next(key):
                    if node.key not in found:
                        found[node.key] = key
                        further.append(node.key)
            frontier = further
        return found
