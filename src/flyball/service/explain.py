"""``flyball explain``: what a thing was made from, or what was made from it; with --verify every digest rechecked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.lineage import Direction, Graph
from flyball.errors import FlyballError, Invalid, Unavailable, nearest
from flyball.service.lineage.tree import Branch, called, lines, tree
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.service.lineage.reading import Reading

_SIZED = 2000  # nodes of a graph at most whose sizes are asked for: a look at a file each
FORMS = ("tree", "json", "svg", "dot", "openlineage")


class Explanation(msgspec.Struct, kw_only=True):
    """The tree, and what of it is not what it was."""

    id: str
    direction: str
    tree: Branch
    verified: bool | None
    broken: list[str]
    objects: int
    cut: int = 0  # things beyond the depth asked for
    reach: dict[str, int] = {}  # how many of each kind lie behind it

    @property
    def exit_code(self) -> int:
        return 1 if self.broken else 0

    def as_text(self) -> str:
        """The tree for people."""
        text = list(lines(self.tree))
        if self.direction == "down":
            text.append(_reach(self.reach))
        if self.cut:
            text.append(f"… and {self.cut} more, deeper; --depth says how far to look")
        if self.verified is not None:
            text.append(f"\n{_verdict(self.objects, self.broken)}")
        return "\n".join(text)


class Document:
    """The lineage in another form; ``text`` is the whole document, or says where it was written or sent.

    Scripts get the content itself (``result``), or the text where it is no JSON.
    """

    def __init__(self, text: str, broken: list[str], content: Any = None) -> None:
        self.text = text
        self.broken = broken
        self.content = content

    @property
    def exit_code(self) -> int:
        return 1 if self.broken else 0

    @property
    def result(self) -> Any:
        return self.text if self.content is None else self.content

    def as_text(self) -> str:
        return self.text


@verb("explain", reads=True, local=("out", "emit"))
def explain(
    thing: str,
    verify: bool = False,
    down: bool = False,
    depth: int | None = None,
    as_: str = "tree",
    out: str = "",
    emit: str = "",
    *,
    ws: Workspace = CURRENT,
) -> Explanation | Document:
    """Explain a prediction, model, run, snapshot, feature view, report or digest: what it was made from, and by whom.

    --down shows what was made from it, and whom it serves: who breaks if it changes. A package (numpy==2.0.0) or a
    commit is explained downwards. --verify recomputes every digest on the way; exit 1 names each object that is not
    what it was; `flyball explain . --verify` rechecks all there is. --as json, svg, dot or openlineage; --emit sends
    the run events to an OpenLineage endpoint.
    """
    from flyball.service.lineage.words import WHOLE

    if as_ not in FORMS:
        raise Invalid(f"no form {as_!r}", nearest(as_, list(FORMS)), field="as")
    if depth is not None and depth < 0:
        raise Invalid(f"depth is {depth}", "0 shows the thing alone, 1 one step further", field="depth")
    if thing in WHOLE:
        return _whole(ws, thing, verify)
    with ws.ledger.reading() as connection:
        from flyball.service.lineage.reading import Reading

        reading = Reading(connection)
        graph = build(ws, reading, thing, down=down, depth=depth, verify=verify)
    objects, broken = 0, []
    if verify:
        from flyball.service.lineage.verifying import verify as recheck

        verdict = recheck(ws, reading, graph)
        objects, broken = verdict.objects, verdict.broken
    if as_ == "tree" and not out and not emit:
        return Explanation(
            id=thing,
            direction=graph.direction,
            tree=tree(graph),
            verified=not broken if verify else None,
            broken=broken,
            objects=objects,
            cut=graph.cut,
            reach=reach_of(graph),
        )
    return _document(ws, reading, graph, as_, out, emit, _verdict(objects, broken) if verify else "", broken)


def build(
    ws: Workspace,
    reading: Reading,
    thing: str,
    *,
    down: bool = False,
    depth: int | None = None,
    verify: bool = False,
) -> Graph:
    """The graph of a thing named by a person."""
    from flyball.errors import NotFound
    from flyball.service.lineage import predictions
    from flyball.service.lineage.backward import package_node
    from flyball.service.lineage.words import key_of_words, not_found

    direction: Direction = "down" if down else "up"
    key = key_of_words(ws, reading.ledger, thing, direction)
    root: Any = key
    if key.startswith("prediction:"):
        try:
            root = predictions.root_of(ws, reading, key.partition(":")[2], verify=verify)
        except NotFound:
            raise not_found(ws, reading.ledger, thing) from None
    elif key.startswith(("package:", "commit:")):
        direction = "down"
        root = package_node(reading, key) if key.startswith("package:") else key
    graph = reading.graph(root, direction, depth)
    if direction == "down":
        predictions.add_answers(ws, graph)
    _add_sizes(ws, graph)
    return graph


def _add_sizes(ws: Workspace, graph: Graph) -> None:
    """How large each artifact is, where asking costs no trip over a network."""
    if ws.blobs.folder is None or len(graph.nodes) > _SIZED:
        return
    for node in graph.nodes.values():
        if node.noun == "artifact":
            try:
                node.facts["bytes"] = ws.blobs.size_bytes(node.key)
            except FlyballError:  # a file of a snapshot lies in packs; --verify knows what is gone
                continue


def _whole(ws: Workspace, thing: str, verify: bool) -> Explanation:
    """All that a workspace holds, by noun."""
    from flyball.service.lineage.verifying import verify_all
    from flyball.stores.lineage import LedgerReader

    with ws.ledger.reading() as connection:
        facts: dict[str, Any] = {
            f"{noun} records": many for noun, many in LedgerReader(connection).count().items()
        }
    found = verify_all(ws) if verify else None
    root = Branch(
        what="workspace",
        name=str(ws.root),
        key=thing,
        facts=facts,
        verified=None if found is None else not found.broken,
        broken=found.broken if found else [],
    )
    return Explanation(
        id=thing,
        direction="up",
        tree=root,
        verified=None if found is None else not found.broken,
        broken=found.broken if found else [],
        objects=found.objects if found else 0,
    )


def _document(
    ws: Workspace,
    reading: Reading,
    graph: Graph,
    form: str,
    out: str,
    emit: str,
    said: str,
    broken: list[str],
) -> Document:
    """The graph in the form asked for, written to a file or sent when that was asked for."""
    if emit:
        from flyball.service.lineage.openlineage import events, send

        sent = send(emit, events(ws, reading, graph))
        return Document(f"sent {sent} events to {emit}", broken, {"sent": sent, "to": emit})
    content, text = _FORMS[form](ws, reading, graph)
    if not out:
        return Document(text, broken, content)
    path = Path(out)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"{path} can't be written: {error.strerror}", "does its folder exist?") from error
    told = f"wrote {path}" + (f"\n{said}" if said else "")
    return Document(told, broken, {"out": str(path), "broken": broken})


def _as_tree(_ws: Workspace, _reading: Reading, graph: Graph) -> tuple[Any, str]:
    return None, "\n".join(lines(tree(graph)))


def _as_json(_ws: Workspace, _reading: Reading, graph: Graph) -> tuple[Any, str]:
    content = {
        "root": graph.root,
        "direction": graph.direction,
        "cut": graph.cut,
        "nodes": list(graph.nodes.values()),
        "links": graph.links,
    }
    plain = msgspec.to_builtins(content, enc_hook=str)
    return plain, msgspec.json.format(msgspec.json.encode(plain)).decode()


def _as_svg(_ws: Workspace, _reading: Reading, graph: Graph) -> tuple[Any, str]:
    from flyball.service.lineage.drawing import svg

    return None, svg(graph)


def _as_dot(_ws: Workspace, _reading: Reading, graph: Graph) -> tuple[Any, str]:
    from flyball.service.lineage.drawing import dot

    return None, dot(graph)


def _as_openlineage(ws: Workspace, reading: Reading, graph: Graph) -> tuple[Any, str]:
    from flyball.service.lineage.openlineage import events

    found = events(ws, reading, graph)
    return found, "\n".join(msgspec.json.encode(one).decode() for one in found)


_FORMS: dict[str, Callable[[Workspace, Reading, Graph], tuple[Any, str]]] = {
    "tree": _as_tree,
    "json": _as_json,
    "svg": _as_svg,
    "dot": _as_dot,
    "openlineage": _as_openlineage,
}


def reach_of(graph: Graph) -> dict[str, int]:
    """How many of each kind lie behind the root; of predictions, how many there were."""
    found: dict[str, int] = {}
    for node in graph.nodes.values():
        if node.key != graph.root:
            what, _ = called(node)
            found[what] = found.get(what, 0) + int(node.facts.get("count", 1))
    return dict(sorted(found.items()))


def _reach(reach: dict[str, int]) -> str:
    if not reach:
        return "  nothing was made from it"
    return "\nreaches " + ", ".join(f"{many:,} {what}" for what, many in reach.items())


def _verdict(objects: int, broken: list[str]) -> str:
    verdict = "NOT what it was: " + "; ".join(broken) if broken else "every digest holds"
    return f"verified {objects} objects: {verdict}"
