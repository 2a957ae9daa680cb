"""The graph of things and what they were made from, apart from any store."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flyball.core.lineage import Direction, Graph, Node


def graph_of(links: list[tuple[str, str]], root: str = "a", direction: Direction = "up") -> Graph:
    graph = Graph(root, direction)
    for name in dict.fromkeys([root, *(name for link in links for name in link)]):
        graph.add(Node(key=name, noun="run", name=name))
    for made, of in links:
        graph.link(made, of, "input")
    return graph


def test_what_is_shared_is_opened_where_it_is_nearest_to_the_root() -> None:
    graph = graph_of([("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("d", "a")])
    assert [(seen.depth, seen.node.name, seen.elsewhere) for seen in graph.walk()] == [
        (0, "a", ""),
        (1, "b", ""),
        (2, "c", "below"),
        (1, "c", ""),
        (2, "d", ""),
        (3, "a", "above"),
    ]


def test_going_down_turns_the_links_round() -> None:
    graph = graph_of([("model", "run"), ("run", "data")], "data", "down")
    assert [seen.node.name for seen in graph.walk()] == ["data", "run", "model"]


def test_a_closer_word_for_the_same_link_wins_and_another_does_not() -> None:
    graph = graph_of([])
    graph.add(Node(key="b", noun="artifact", name="b"))
    for role in ("file", "file:raw/a.csv", "input:x"):
        graph.link("a", "b", role)
    assert [link.role for link in graph.links] == ["file:raw/a.csv"]


def test_the_state_says_the_worst() -> None:
    node = Node(key="a", noun="run", name="a", missing=True, verified=False)
    assert node.state == "MISSING"
    node.broken = ["blob b3:… has changed"]
    assert node.state == "CHANGED"
    assert Node(key="a", noun="run", name="a", verified=True).state == "ok"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=30))
def test_a_walk_opens_everything_within_reach_once_whatever_the_cycles(links: list[tuple[str, str]]) -> None:
    graph = graph_of(links)
    opened = [seen.node.name for seen in graph.walk() if not seen.elsewhere]
    reached, waiting = {"a"}, ["a"]
    while waiting:
        here = waiting.pop()
        for made, of in links:
            if made == here and of not in reached:
                reached.add(of)
                waiting.append(of)
    assert sorted(opened) == sorted(reached)
