"""The graph of a thing, built from the ledger's edges and from what records say themselves; a level at a time.

Up: what it was made from. Down: what was made from it, and whom it serves. What is named but is not there is a node too,
marked as missing; a link that stands aside (the champion a model was compared with) is shown and not followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from flyball.core.hashing import is_digest
from flyball.core.lineage import Direction, Graph, Node, is_part
from flyball.service.lineage.around import Around
from flyball.service.lineage.backward import Backward, Step
from flyball.service.lineage.nouns import (
    BY_DIGEST,
    NOUNS,
    SHOWN_ONE_BY_ONE,
    Ref,
    decoded,
    facts_of,
    noun_of,
    refs_of,
    table_of,
)
from flyball.stores.ledger_check import Wanted
from flyball.stores.lineage import EdgeRow, LedgerReader, batches
from flyball.stores.run_tables import ARTIFACTS

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


class Reading:
    """Builds graphs over one snapshot of the ledger, and remembers what of the ledger stands behind each node."""

    def __init__(self, connection: Connection) -> None:
        self.ledger = LedgerReader(connection)
        self.wanted: dict[str, Wanted] = {}
        self.edges: dict[EdgeRow, None] = {}
        self.records: dict[str, tuple[str, dict[str, Any]]] = {}  # key -> noun, content
        self._given: dict[str, Node] = {}
        self._folded: set[str] = set()

    @cached_property
    def around(self) -> Around:
        """What is said about versions beside their records."""
        return Around(self.ledger)

    @cached_property
    def backward(self) -> Backward:
        """Who names whom, read when a walk first goes down."""
        return Backward(self.ledger)

    def give(self, node: Node, noun: str, record: dict[str, Any]) -> None:
        """A node that the ledger does not hold, and what it refers to."""
        self._given[node.key] = node
        self.records[node.key] = (noun, record)

    def graph(self, root: Node | str, direction: Direction, depth: int | None = None) -> Graph:
        """Everything behind ``root``, at most ``depth`` steps away."""
        graph = Graph(root if isinstance(root, str) else root.key, direction)
        if isinstance(root, Node):
            graph.add(root)
        frontier, opened, edged = [graph.root], set[str](), set[str]()
        level = 0
        while frontier:
            self._load(graph, frontier)
            opened.update(frontier)
            steps = self._steps(frontier, direction, edged, one_step=depth is not None)
            if level == depth:
                graph.cut = len({_end(step, direction) for step in steps} - graph.nodes.keys())
                break
            aside, further = [], []
            for step in steps:
                graph.link(step.made, step.of, step.role)
                end = _end(step, direction)
                if step.aside:
                    aside.append(end)
                elif end not in opened:
                    further.append(end)
            self._load(graph, aside)
            frontier = list(dict.fromkeys(further))
            level += 1
        return graph

    def _load(self, graph: Graph, keys: Iterable[str]) -> None:
        for node in self.nodes(key for key in keys if key not in graph.nodes):
            graph.add(node)

    def _steps(self, keys: list[str], direction: Direction, edged: set[str], *, one_step: bool) -> list[Step]:
        """Links from these: of their records, then of the ledger's edges (all that lie behind them, unless one step)."""
        steps: list[Step] = []
        if direction == "up":
            for key in keys:
                if key in self.records:
                    noun, record = self.records[key]
                    steps += [Step(key, *ref) for ref in self._refs(key, noun, record)]
            owned = self._owned(ARTIFACTS.c.digest, filter(is_digest, keys))
        else:
            for key in keys:
                steps += self.backward.of(key)
            owned = self._owned(ARTIFACTS.c.owner, keys)
        steps += [Step(digest, owner, f"artifact:{path}") for owner, path, digest in owned]
        fresh = [key for key in keys if key not in edged]
        rows = self.ledger.edges(fresh, direction) if one_step else self.ledger.closure(fresh, direction)
        edged.update(fresh)
        for row in rows:
            self.edges[row] = None
            part = is_part(row.role) and direction == "up"
            if part and row.made in self._folded:
                continue
            if not (row.role == "parent" and row.made.startswith("snapshot:")):
                steps.append(Step(row.made, row.of, row.role, part))
            if not (one_step or part):
                edged.add(row.of if direction == "up" else row.made)
        return steps

    def _refs(self, key: str, noun: str, record: dict[str, Any]) -> list[Ref]:
        refs = refs_of(noun, record)
        parts = [ref for ref in refs if ref.role.startswith(("file:", "source:"))]
        if len(parts) <= SHOWN_ONE_BY_ONE:
            return refs
        self._folded.add(key)
        return [ref for ref in refs if ref not in parts]

    def _owned(self, column: sa.Column[str], keys: Iterable[str]) -> Iterator[tuple[str, str, str]]:
        """Rows of artifacts: (owner, path, digest)."""
        for some in batches(keys):
            query = sa.select(ARTIFACTS.c.owner, ARTIFACTS.c.path, ARTIFACTS.c.digest)
            rows = self.ledger.connection.execute(query.where(column.in_(some)).order_by(ARTIFACTS.c.path))
            yield from rows

    def nodes(self, keys: Iterable[str]) -> Iterator[Node]:
        """The things of these names; one that is not there is a node that says so."""
        wanted: dict[str, list[tuple[str, str]]] = {}
        for key in dict.fromkeys(keys):
            if key in self._given:
                yield self._given[key]
                continue
            noun, name = noun_of(key)
            if noun == "artifact":
                wanted[key] = [(one, key) for one in BY_DIGEST]
            elif noun == "endpoint":
                wanted[key] = [("route", name), ("endpoint", name)]
            elif noun == "route":
                wanted[key] = []
            else:
                wanted[key] = [(noun, name)]
        found = self.ledger.records(one for some in wanted.values() for one in some)
        owned: dict[str, list[str]] = {}
        for owner, _, digest in self._owned(ARTIFACTS.c.owner, filter(_may_own, wanted)):
            owned.setdefault(owner, []).append(digest)
        for key, asked in wanted.items():
            there = [(where, found[where]) for where in asked if where in found]
            node = self._route(key) if noun_of(key)[0] == "route" else self._node(key, there)
            if key in owned:
                node.facts["artifacts"] = len(owned[key])
                node.digests = tuple(dict.fromkeys((*node.digests, *owned[key])))
            yield node

    def _node(self, key: str, there: list[tuple[tuple[str, str], bytes]]) -> Node:
        noun, name = noun_of(key)
        self.wanted[key] = Wanted(tuple(where for where, _ in there), _subjects(noun, name))
        if not there:
            return Node(key=key, noun=noun, name=name, missing=not _needs_no_record(noun, name))
        (kept, _), content = there[0]
        noun = noun if noun == "endpoint" else kept
        try:
            record = decoded(content)
        except ValueError as error:
            return Node(key=key, noun=noun, name=name, broken=[f"its record can't be read: {error}"])
        if not isinstance(record, dict):
            return Node(key=key, noun=noun, name=name, facts={"content": record})
        self.records[key] = (noun, record)
        kind = NOUNS.get(noun)
        node = Node(key=key, noun=noun, name=name, facts=facts_of(noun, record))
        node.digests = tuple(dict.fromkeys(filter(None, kind.digests(record)))) if kind else ()
        _count(node, record)
        if noun in ("experiment", "dataset"):
            node.name = str(record.get("name") or name)
        if noun == "commit":
            self._kept(node, record)
        if noun == "model":
            node.facts |= self.around.facts(name, record)
            if isinstance(export := node.facts.get("export"), dict):  # its files are nodes
                node.facts["export"] = {fact: said for fact, said in export.items() if fact != "files"}
        return node

    def _kept(self, node: Node, record: dict[str, Any]) -> None:
        """The packs that a commit's files lie in: its own, and those of the commits that it builds on."""
        asked: list[tuple[str, str]] = []
        packs: list[str] = []
        while True:
            if isinstance(pack := record.get("pack"), str):
                packs.append(pack)
            base = ("commit", str(record.get("base")))
            found = self.ledger.records([base]) if record.get("base") and base not in asked else {}
            if not found:
                break
            asked.append(base)
            record = table_of(found[base])
        node.digests = tuple(filter(is_digest, packs))
        want = self.wanted[node.key]
        self.wanted[node.key] = want._replace(records=(*want.records, *asked))

    def behind(self, keys: Iterable[str], ledger: LedgerReader) -> dict[str, Wanted]:
        """What of the ledger stands behind these nodes, for rechecking through another connection."""
        around = Around(ledger)
        found = {key: self.wanted[key] for key in keys if key in self.wanted}
        for key, want in found.items():
            noun, record = self.records.get(key, ("", {}))
            if noun == "model":
                records = (*want.records, *around.records(noun_of(key)[1], record))
                found[key] = want._replace(records=records, seqs=(*want.seqs, *around.seqs(record)))
        return found

    def _route(self, key: str) -> Node:
        """A route as it once was: only its event has it."""
        endpoint, _, generation = key.rpartition("#")
        node = Node(key=key, noun="route", name=f"{endpoint} generation {generation}", missing=True)
        for event in self.ledger.routes(endpoint):
            for change in event.sets:
                content = change.content
                if (
                    change.noun == "route"
                    and isinstance(content, dict)
                    and str(content.get("generation")) == generation
                ):
                    arms = ", ".join(f"{arm['model']} {arm['weight']:.0%}" for arm in content["arms"])
                    node.missing = False
                    node.facts = {
                        "at": event.at,
                        "arms": arms,
                        "by": event.actor,
                        "because": content.get("because"),
                    }
                    self.records[key] = ("route", content)
                    self.wanted[key] = Wanted(seqs=(event.seq,))
        return node


def _end(step: Step, direction: Direction) -> str:
    return step.of if direction == "up" else step.made


def _may_own(key: str) -> bool:
    return key.startswith(("run_", "m-", "model:"))


def _needs_no_record(noun: str, name: str) -> bool:
    """Bytes, names of what has versions, and what only others speak of."""
    if noun in ("model", "view", "service", "on_demand"):
        return "@" not in name
    if noun == "experiment":
        return name == "0"  # the default one is written down when it is first changed
    return noun in ("artifact", "source", "commit")


def _subjects(noun: str, name: str) -> tuple[str, ...]:
    """What the events about a thing are about: those of an endpoint are many, and each route knows its own."""
    return () if noun in ("endpoint", "artifact", "experiment") else (name,)


def _count(node: Node, record: dict[str, Any]) -> None:
    """Numbers instead of long lists."""
    for field in ("packages", "sources", "files"):
        value = record.get(field)
        if value and node.noun in ("snapshot", "environment", "code"):
            node.facts[field] = len(value)
    if node.noun == "snapshot" and "bytes" not in node.facts and isinstance(record.get("files"), list):
        node.facts["bytes"] = sum(
            one.get("size_bytes", 0) for one in record["files"] if isinstance(one, dict)
        )
