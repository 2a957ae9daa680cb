"""A lineage graph as a picture: SVG that needs no browser to be made and no script, font or address to be seen.

What things were made from stands left of them. Every box says its noun and its state in words, so that colour only
helps; light and dark by what the reader's screen prefers. Rows of like leaves are folded into one box that counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from flyball.core.hashing import is_digest
from flyball.core.lineage import Graph, Link, Node
from flyball.service.lineage.layout import Layout, Place, layered
from flyball.service.lineage.tree import PLAIN_ROLES, called, short

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 216, 60, 96, 18
_MARGIN, _HEAD, _FOOT = 24, 52, 34
_LIKE, _LIKE_OF_MANY = (
    4,
    1,
)  # leaves of one kind beside one box, in a small graph and a large one; more are folded
_LARGE = 80
_MOST = 240  # boxes
_STYLE = """
.fb{color-scheme:light dark;font:12px/1.3 system-ui,-apple-system,'Segoe UI',sans-serif;
--paper:#fff;--card:#f6f8fa;--ink:#1f2328;--soft:#59636e;--line:#818b98;--bad:#b3261e;--good:#1a7f37;
--data:#0969da;--code:#8250df;--run:#9a6700;--model:#1a7f37;--serve:#bc4c00;--judge:#57606a}
@media (prefers-color-scheme:dark){.fb{--paper:#0d1117;--card:#161b22;--ink:#e6edf3;--soft:#9198a1;--line:#6e7681;
--bad:#ff8a80;--good:#3fb950;--data:#58a6ff;--code:#bc8cff;--run:#d29922;--model:#3fb950;--serve:#f0883e;--judge:#9198a1}}
.fb .paper{fill:var(--paper)}.fb text{fill:var(--ink)}.fb .soft{fill:var(--soft);font-size:11px}
.fb .noun{font-size:10px;letter-spacing:.06em;font-weight:600;fill:var(--soft)}
.fb .name{font-weight:600}.fb .head{font-size:15px;font-weight:600}
.fb .card{fill:var(--card);stroke:var(--line);stroke-width:1}
.fb .root .card{stroke:var(--ink);stroke-width:2.5}
.fb .changed .card{stroke:var(--bad);stroke-width:2.5;stroke-dasharray:6 3}.fb .changed .state{fill:var(--bad);font-weight:700}
.fb .missing .card{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:2 3}.fb .missing .state{fill:var(--bad);font-weight:700}
.fb .state{font-size:10px;fill:var(--good);text-anchor:end}
.fb .many .card{stroke-dasharray:4 2}
.fb .role{fill:var(--soft);font-size:11px;paint-order:stroke;stroke:var(--paper);stroke-width:3px}
.fb .link{fill:none;stroke:var(--line);stroke-width:1.3}.fb .aside{stroke-dasharray:3 3}
.fb .tip{fill:var(--line)}.fb a:focus-visible .card{stroke:var(--data);stroke-width:3}
"""
_KINDS = {
    "data": ("snapshot", "source", "file", "artifact", "tag"),
    "code": ("code", "environment", "configuration", "hardware", "package", "commit", "source file"),
    "run": ("run", "experiment"),
    "model": ("model", "registered model", "logged_model", "alias"),
    "serve": ("endpoint", "route", "prediction", "predictions", "features", "view", "service", "on_demand"),
}
_COLOUR = {noun: kind for kind, nouns in _KINDS.items() for noun in nouns}


class Box(NamedTuple):
    """What is drawn of one node, or of many alike."""

    node: Node
    what: str
    name: str
    line: str
    many: int = 1


def svg(graph: Graph, link: Callable[[Node], str] | None = None) -> str:
    """The picture. ``link`` gives the address of a node's own page; a picture with links is a group of them."""
    boxes, links, left_out = _folded(graph)
    pairs = [(one.of, one.made) for one in links]
    found = layered(list(boxes), pairs, from_left=graph.direction == "down")
    width = 2 * _MARGIN + found.columns * _WIDTH + (found.columns - 1) * _GAP_X
    width = max(width, 460)
    height = _HEAD + found.height * (_HEIGHT + _GAP_Y) - _GAP_Y + _FOOT + _MARGIN
    root = boxes[graph.root]
    title = f"Lineage of {root.what} {root.name}"
    asked = "what it was made from" if graph.direction == "up" else "what was made from it"
    said = f"{asked}: {_counted(graph)}. What things were made from stands left of them."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fb" role="{"group" if link else "img"}" '
        f'aria-labelledby="fb-title fb-desc" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">',
        f'<title id="fb-title">{escape(title)}</title>',
        f'<desc id="fb-desc">{escape(f"{title}, {said} {_problems(graph)}".strip())}</desc>',
        f"<style>{_STYLE.strip()}</style>",
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
        f'<text class="head" x="{_MARGIN}" y="26">{escape(_clip(title, int(width / 8.4)))}</text>',
        f'<text class="soft" x="{_MARGIN}" y="43">{escape(_clip(said, int(width / 5.8)))}</text>',
    ]
    parts += _links(found, links)
    parts += [_box(box, found.places[key], key == graph.root, link) for key, box in boxes.items()]
    foot = _problems(graph) or ("every digest holds" if root.node.verified else "")
    if left_out:
        foot = f"{foot}{'; ' if foot else ''}{left_out:,} more are not drawn: --as json has every one"
    if foot:
        parts.append(
            f'<text class="soft" x="{_MARGIN}" y="{height - 18:.0f}">{escape(_clip(foot, int(width / 5.8)))}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def dot(graph: Graph) -> str:
    """The same for Graphviz."""
    lines = ["digraph lineage {", "  rankdir=LR; node [shape=box, fontname=sans];"]
    for node in graph.nodes.values():
        what, name = called(node)
        label = "\\n".join(filter(None, (what.upper(), name, node.state))).replace('"', "'")
        lines.append(f'  "{_quoted(node.key)}" [label="{label}"];')
    lines += [
        f'  "{_quoted(one.of)}" -> "{_quoted(one.made)}" [label="{_quoted(one.role)}"];'
        for one in graph.links
    ]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _folded(graph: Graph) -> tuple[dict[str, Box], list[Link], int]:
    """Boxes and links to draw: like leaves as one, and no more than can be read; how many are left out."""
    boxes: dict[str, Box] = {graph.root: _boxed(graph.nodes[graph.root], "")}
    links: dict[tuple[str, str], Link] = {}
    shown, frontier = 1, [graph.root]
    like = _LIKE if len(graph.nodes) <= _LARGE else _LIKE_OF_MANY
    seen = {graph.root}
    while frontier:
        further: list[str] = []
        for key in frontier:
            alike: dict[str, list[tuple[Link, Node]]] = {}
            for link, node in graph.next(key):
                if node.key in seen:
                    if node.key in boxes:
                        links[link.made, link.of] = link
                    continue
                leaf = not graph.next(node.key) and node.state not in ("CHANGED", "MISSING")
                alike.setdefault(called(node, link.role)[0] if leaf else node.key, []).append((link, node))
            for what, found in alike.items():
                whole = found if len(found) <= like + 1 else found[:like]
                for link, node in whole:
                    if len(boxes) >= _MOST:
                        break
                    boxes[node.key] = _boxed(node, link.role)
                    links[link.made, link.of] = link
                    seen.add(node.key)
                    shown += 1
                    further.append(node.key)
                rest = found[len(whole) :]
                if rest and len(boxes) < _MOST:
                    _fold(what, rest, key, boxes, links, graph)
                    seen.update(node.key for _, node in rest)
                    shown += len(rest)
        frontier = further
    return boxes, list(links.values()), max(0, len(graph.nodes) - shown) + graph.cut


def _fold(
    what: str,
    rest: list[tuple[Link, Node]],
    key: str,
    boxes: dict[str, Box],
    links: dict[tuple[str, str], Link],
    graph: Graph,
) -> None:
    folded = f"{key}\0{what}"
    first = rest[0][1]
    node = Node(key=folded, noun=first.noun, name=f"{len(rest):,} more", verified=first.verified)
    size = sum(int(one.facts.get("bytes", 0)) for _, one in rest)
    boxes[folded] = Box(node, what, f"{len(rest):,} more", _bytes(size) if size else "", len(rest))
    up = graph.direction == "up"
    link = (
        Link(key, folded, rest[0][0].role.partition(":")[0])
        if up
        else Link(folded, key, rest[0][0].role.partition(":")[0])
    )
    links[link.made, link.of] = link


def _boxed(node: Node, role: str) -> Box:
    what, name = called(node, role)
    return Box(node, what, name, _told(node))


def _told(node: Node) -> str:
    """The one line that says most about a thing."""
    facts = node.facts
    if node.noun == "snapshot":
        told = [
            f"{facts['rows']:,} rows" if isinstance(facts.get("rows"), int) else "",
            _files(facts.get("files")),
            _bytes(facts.get("bytes")),
        ]
    elif node.noun == "run":
        told = [
            str(facts.get("pipeline", "")),
            str(facts.get("status", "")),
            str(facts.get("started", ""))[:10],
        ]
    elif node.noun == "model":
        told = [str(facts.get("aliases", "")), str(facts.get("format", ""))]
    elif node.noun == "report":
        said = str(facts.get("summary", ""))
        told = [
            said
            if said.startswith(("passed", "refused"))
            else f"{'passed' if facts.get('passed') else 'refused'}: {said}"
        ]
    elif node.noun == "environment":
        told = [f"Python {facts.get('python', '')}", f"{facts.get('packages', 0)} packages"]
    elif node.noun == "code":
        told = [str(facts.get("commit") or "")[:10], str(facts.get("branch") or "")]
        told = told if any(told) else [f"{facts.get('sources', 0)} files, no commit"]
    elif node.noun == "prediction":
        told = [f"answered {short(facts.get('output'))}", str(facts.get("at", ""))[:16]]
    elif node.noun == "predictions":
        told = [f"until {str(facts.get('last', ''))[:16]}"]
    elif node.noun == "route":
        told = [str(facts.get("arms", ""))]
    elif node.noun == "artifact":
        told = [_bytes(facts.get("bytes")), node.name[:14] if is_digest(node.name) else ""]
    else:
        told = [f"{name} {short(value)}" for name, value in list(facts.items())[:2]]
    return " · ".join(filter(None, told))


def _files(many: Any) -> str:
    return f"{many:,} file{'' if many == 1 else 's'}" if isinstance(many, int) else ""


def _bytes(many: Any) -> str:
    if not isinstance(many, int):
        return ""
    size = float(many)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _box(box: Box, place: Place, is_root: bool, link: Callable[[Node], str] | None) -> str:
    x, y = _corner(place)
    node = box.node
    state = node.state
    classes = " ".join(
        filter(
            None,
            (
                "box",
                "root" if is_root else "",
                state.lower() if state in ("CHANGED", "MISSING") else "",
                "many" if box.many > 1 else "",
            ),
        )
    )
    told = [
        f"{box.what} {node.name}",
        *(f"{name}: {short(value)}" for name, value in node.facts.items()),
        *node.broken,
    ]
    colour = _COLOUR.get(node.noun, "judge")
    drawn = (
        f'<g class="{classes}" transform="translate({x:.1f} {y:.1f})"><title>{escape(chr(10).join(told))}</title>'
        f'<rect class="card" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
        f'<rect x="0" y="8" width="4" height="{_HEIGHT - 16}" rx="2" style="fill:var(--{colour})"/>'
        f'<text class="noun" x="14" y="18">{escape(box.what.upper())}</text>'
        + (
            f'<text class="state" x="{_WIDTH - 10}" y="18">{"✓ ok" if state == "ok" else state}</text>'
            if state
            else ""
        )
        + f'<text class="name" x="14" y="35">{escape(_shortened(box.name, 22))}</text>'
        f'<text class="soft" x="14" y="51">{escape(_clip(box.line, 33))}</text></g>'
    )
    address = link(node) if link and box.many == 1 else ""
    return f'<a href="{escape(address, quote=True)}">{drawn}</a>' if address else drawn


def _links(found: Layout, links: list[Link]) -> list[str]:
    drawn: list[str] = []
    labels: dict[str, dict[str, None]] = {}
    for one in links:
        points = found.paths.get((one.of, one.made))
        if points is None:
            continue
        drawn.append(_curve(points, one))
        if one.role.partition(":")[0] not in PLAIN_ROLES and len(links) <= _LARGE:
            labels.setdefault(one.of, {})[_label(one.role)] = None
    for key, said in labels.items():
        x, y = _corner(found.places[key])
        for number, label in enumerate(said):
            height = y + _HEIGHT / 2 - 6 + 13 * number
            drawn.append(
                f'<text class="role" x="{x + _WIDTH + 6:.1f}" y="{height:.1f}">{escape(label)}</text>'
            )
    return drawn


def _label(role: str) -> str:
    """A role where there is little place: what an input was called, how something serves."""
    kind, _, rest = role.partition(":")
    return _clip(rest.strip() if kind in ("input", "training", "from") else kind, 14)


def _curve(points: list[Place], link: Link) -> str:
    """From the right edge of one box to the left edge of another, through the gaps of the columns between."""
    x, y = _corner(points[0])
    x, y = x + _WIDTH, y + _HEIGHT / 2
    path = [f"M{x:.1f} {y:.1f}"]
    for point in points[1:]:
        to_x, to_y = _corner(point)
        to_y += _HEIGHT / 2
        is_end = point is points[-1]
        reach = to_x - (7 if is_end else 0)
        middle = (x + reach) / 2
        path.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {reach:.1f} {to_y:.1f}")
        x, y = reach, to_y
        if not is_end:
            x += _WIDTH
            path.append(f"H{x:.1f}")
    tip = f'<path class="tip" d="M{x:.1f} {y - 4:.1f}l8 4l-8 4z"/>'
    aside = " aside" if link.role in ("compared with", "parent") else ""
    return f'<path class="link{aside}" d="{"".join(path)}"><title>{escape(link.role)}</title></path>{tip}'


def _corner(place: Place) -> tuple[float, float]:
    return _MARGIN + place.column * (_WIDTH + _GAP_X), _HEAD + place.y * (_HEIGHT + _GAP_Y)


def _counted(graph: Graph) -> str:
    found: dict[str, int] = {}
    for node in graph.nodes.values():
        if node.key != graph.root:
            found[called(node)[0]] = found.get(called(node)[0], 0) + 1
    return ", ".join(f"{many:,} {what}" for what, many in sorted(found.items())) or "nothing"


def _problems(graph: Graph) -> str:
    broken = [node for node in graph.nodes.values() if node.state in ("CHANGED", "MISSING")]
    return (
        "not what it was: " + ", ".join(f"{node.noun} {_shortened(node.name, 30)}" for node in broken[:5])
        if broken
        else ""
    )


def _shortened(text: str, letters: int) -> str:
    """Ids and digests by their two ends; other names by their beginning."""
    if len(text) <= letters:
        return text
    if is_digest(text):
        return f"{text[:15]}…"
    if " " in text:
        return _clip(text, letters)
    return f"{text[: letters - 8]}…{text[-7:]}"


def _clip(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
