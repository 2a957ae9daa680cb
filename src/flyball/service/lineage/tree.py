"""A lineage graph as a tree for people: what is shared is opened once, and long rows of the same kind are cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from flyball.core.lineage import Graph, Link, Node
from flyball.service.lineage.nouns import NOUNS

SIBLINGS = 20  # of one kind below one node, in a text
_ROLES = {"artifact": "model bytes", "native": "native model", "patch": "uncommitted patch"}


class Branch(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A node as a part of a tree: ``of`` is what it was made from, ``into`` what was made from it."""

    what: str
    name: str
    key: str
    role: str = ""  # how it came to be here
    facts: dict[str, Any] = {}
    verified: bool | None = None
    broken: list[str] = []
    missing: bool = False
    elsewhere: str = ""  # "above" or "below": where in this tree it is opened
    of: list[Branch] = []
    into: list[Branch] = []


def tree(graph: Graph) -> Branch:
    """The graph from its root."""
    path: list[Branch] = []
    root: Branch | None = None
    for seen in graph.walk():
        branch = _branch(seen.node, seen.link, seen.elsewhere)
        del path[seen.depth :]
        if path:
            (path[-1].of if graph.direction == "up" else path[-1].into).append(branch)
        else:
            root = branch
        path.append(branch)
    assert root is not None
    return root


def lines(branch: Branch, indent: str = "") -> Iterator[str]:
    """The tree, line by line."""
    state = (
        "CHANGED " if branch.broken else "MISSING " if branch.missing else "ok " if branch.verified else ""
    )
    role = f" ({branch.role})" if branch.role and branch.role.partition(":")[0] not in PLAIN_ROLES else ""
    see = f" (see {branch.elsewhere})" if branch.elsewhere else ""
    yield f"{indent}{state}{branch.what} {branch.name}{role}{see}"
    if not branch.elsewhere:
        for name, value in branch.facts.items():
            yield f"{indent}    {name}: {short(value)}"
    for problem in branch.broken:
        yield f"{indent}    ! {problem}"
    shown_of: Counter[str] = Counter()
    children = branch.of or branch.into
    for child in children:
        shown_of[child.what] += 1
        if shown_of[child.what] <= SIBLINGS or child.broken or child.missing:
            yield from lines(child, indent + "  ")
    for what, number in shown_of.items():
        if number > SIBLINGS:
            yield f"{indent}  … {what}: {number} in all; --as json has every one"


# Roles that say no more than the words before them.
PLAIN_ROLES = frozenset(
    {"file", "manifest", "source", "artifact", "native", "patch", "output", "run", "gate", "features", "values of",
     "answered by", "answered", "routed by", "made by", "experiment", "view", "version", "dataset", "logged model",
     "code", "commit", "environment", "configuration", "hardware"}
)  # fmt: skip


def short(value: Any) -> str:
    """A fact on one line.

    >>> short({"auc": 0.7654321, "rows": 3}), short(["a", "b"])
    ('auc=0.765432, rows=3', 'a, b')
    """
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return _cut(", ".join(f"{name}={short(one)}" for name, one in list(value.items())[:40]))
    if isinstance(value, list | tuple):
        return _cut(", ".join(short(one) for one in value[:40]))
    return _cut(" ".join(str(value).split())) if isinstance(value, str) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:397]}…"


def called(node: Node, role: str = "") -> tuple[str, str]:
    """What people call a node, and its name, where it is reached by ``role``.

    >>> called(Node(key="b3:1", noun="artifact", name="b3:1"), "file:raw/a.csv")
    ('file', 'raw/a.csv')
    """
    kind, _, rest = role.partition(":")
    if node.noun == "artifact" and kind in ("file", "source", "artifact", "output", "patch") and rest:
        return {"patch": _ROLES["patch"], "output": "artifact"}.get(kind, kind), rest
    if node.noun == "artifact" and kind in _ROLES:
        return _ROLES[kind], node.name
    if node.noun == "report" and isinstance(node.facts.get("kind"), str):
        return node.facts["kind"], node.name
    known = NOUNS.get(node.noun)
    return known.what if known else node.noun.replace("_", " "), node.name


def _branch(node: Node, link: Link | None, elsewhere: str) -> Branch:
    role = link.role if link else ""
    what, name = called(node, role)
    facts = node.facts
    if name != node.name:
        facts = {**facts, "digest": node.name}
    return Branch(
        what=what,
        name=name,
        key=node.key,
        role=role,
        facts=facts,
        verified=None if node.verified is None and not node.broken else not node.broken,
        broken=node.broken,
        missing=node.missing,
        elsewhere=elsewhere,
    )
