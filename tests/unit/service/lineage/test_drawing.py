"""The picture: well-formed, readable without colour, script or network, in light and in dark, and never too large."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from flyball.core.lineage import Graph, Node
from flyball.service.lineage.drawing import dot, svg

SVG = "{http://www.w3.org/2000/svg}"


def story(files: int = 3) -> Graph:
    graph = Graph("model:delays@3", "up")
    graph.add(
        Node(
            key="model:delays@3",
            noun="model",
            name="delays@3",
            facts={"aliases": "champion", "format": "onnx"},
        )
    )
    graph.add(
        Node(
            key="run_1",
            noun="run",
            name="run_1",
            facts={"pipeline": "train <b>", "status": "done"},
            verified=True,
        )
    )
    graph.add(
        Node(
            key="snapshot:flights@1",
            noun="snapshot",
            name="flights@1",
            facts={"rows": 336776, "files": files},
        )
    )
    graph.link("model:delays@3", "run_1", "run")
    graph.link("run_1", "snapshot:flights@1", "input:flights")
    for number in range(files):
        key = f"b3:{number:064x}"
        graph.add(Node(key=key, noun="artifact", name=key, facts={"bytes": 2048}))
        graph.link("snapshot:flights@1", key, f"file:raw/{number}.parquet")
    return graph


def texts(picture: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]


def test_the_picture_says_in_words_what_it_shows() -> None:
    picture = svg(story())
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "img"
    labelled = (root.get("aria-labelledby") or "").split()
    assert [one.get("id") for one in root if one.tag in (f"{SVG}title", f"{SVG}desc")] == labelled
    said = texts(picture)
    for word in (
        "MODEL",
        "delays@3",
        "champion · onnx",
        "RUN",
        "✓ ok",
        "DATA",
        "336,776 rows · 3 files",
        "FILE",
        "raw/0.parquet",
        "flights",
    ):
        assert word in said, said
    assert "color-scheme:light dark" in picture
    assert "prefers-color-scheme:dark" in picture


def test_nothing_is_fetched_and_nothing_runs() -> None:
    picture = svg(story())
    assert set(re.findall(r"https?://[^\"' ]+", picture)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in picture
    assert "<image" not in picture
    assert "train &lt;b&gt;" in picture


def test_what_changed_or_is_missing_says_so_beside_its_border() -> None:
    graph = story()
    graph.nodes["run_1"].broken = ["event evt_1 has changed since it was written"]
    graph.nodes["snapshot:flights@1"].missing = True
    picture = svg(graph)
    said = texts(picture)
    assert {"CHANGED", "MISSING"} <= set(said)
    assert "not what it was: run run_1, snapshot flights@1" in said
    assert "event evt_1 has changed" in picture


def test_like_leaves_are_one_box_that_counts_them() -> None:
    said = texts(svg(story(files=900)))
    assert "899 more" in said
    assert any(one.endswith("KiB") or one.endswith("MiB") for one in said)
    assert "5 more" not in texts(svg(story(files=5)))


def test_a_graph_of_thousands_is_cut_and_says_by_how_much() -> None:
    graph = Graph("snapshot:f@1", "down")
    graph.add(Node(key="snapshot:f@1", noun="snapshot", name="f@1"))
    for number in range(3000):
        graph.add(Node(key=f"run_{number}", noun="run", name=f"run_{number}"))
        graph.link(f"run_{number}", "snapshot:f@1", "input:f")
        graph.add(Node(key=f"model:m@{number}", noun="model", name=f"m@{number}"))
        graph.link(f"model:m@{number}", f"run_{number}", "run")
    picture = svg(graph)
    boxes = picture.count('class="card"')
    assert boxes <= 260
    assert any("more are not drawn: --as json has every one" in one for one in texts(picture))
    ElementTree.fromstring(picture)


def test_links_make_it_a_group_of_links() -> None:
    picture = svg(story(), link=lambda node: f"/things/{node.noun}?a=1&b={node.name}")
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "group"
    assert {one.get("href") for one in root.iter(f"{SVG}a")} >= {"/things/run?a=1&b=run_1"}


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_things_were_made_from_stands_left_of_them(direction: str) -> None:
    graph = Graph("a", direction)  # type: ignore[arg-type]
    for name in "ab":
        graph.add(Node(key=name, noun="run", name=f"the {name}"))
    made, of = ("a", "b") if direction == "up" else ("b", "a")
    graph.link(made, of, "input:x")
    places = {
        "".join(box.itertext()).split("the ")[-1][:1]: float(
            re.findall(r"translate\(([\d.]+)", box.get("transform", ""))[0]
        )
        for box in ElementTree.fromstring(svg(graph)).iter(f"{SVG}g")
    }
    assert places[of] < places[made]


def test_dot_is_for_graphviz() -> None:
    text = dot(story())
    assert text.startswith("digraph lineage {")
    assert '"run_1" -> "model:delays@3" [label="run"];' in text
