"""Where boxes lie: columns by distance, room between neighbours, links that always go forward."""

from __future__ import annotations

import time
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.service.lineage.layout import layered

names = st.sampled_from("abcdefgh")


def test_a_chain_is_a_row_and_a_long_link_passes_between() -> None:
    found = layered("abc", [("a", "b"), ("b", "c"), ("a", "c")])
    assert [found.places[name].column for name in "abc"] == [0, 1, 2]
    (middle,) = found.paths["a", "c"][1:-1]
    assert middle.column == 1
    assert abs(middle.y - found.places["b"].y) >= 0.5


def test_boxes_stand_by_their_users_or_by_their_sources() -> None:
    links = [("file", "data"), ("data", "run"), ("code", "run")]
    nodes = ["file", "data", "code", "run"]
    right = layered(nodes, links).places
    left = layered(nodes, links, from_left=True).places
    assert (right["code"].column, left["code"].column) == (1, 0)


def test_neighbours_in_order_make_no_crossing() -> None:
    found = layered("abcxyz", [("a", "z"), ("b", "y"), ("c", "x")]).places
    order = sorted("abc", key=lambda name: found[name].y)
    partner = {"a": "z", "b": "y", "c": "x"}
    assert sorted("xyz", key=lambda name: found[name].y) == [partner[name] for name in order]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(names, names), max_size=24), st.booleans())
def test_any_graph_has_a_place_for_each_box_and_room_around_it(
    links: list[tuple[str, str]], left: bool
) -> None:
    nodes = sorted({name for link in links for name in link} | {"a"})
    found = layered(nodes, links, from_left=left)
    assert set(found.places) == set(nodes)
    assert set(found.paths) == {(source, target) for source, target in links if source != target}
    for (source, target), path in found.paths.items():
        assert (path[0], path[-1]) == (found.places[source], found.places[target])
        steps = {abs(one.column - other.column) for one, other in pairwise(path)}
        assert steps == {1}
    columns: dict[int, list[float]] = {}
    for place in found.places.values():
        columns.setdefault(place.column, []).append(place.y)
    for heights in columns.values():
        heights.sort()
        assert all(below - above >= 0.999 for above, below in pairwise(heights))
        assert heights[0] >= 0
        assert heights[-1] <= found.height


def test_time_grows_with_the_boxes_and_not_with_their_square() -> None:
    def seconds(boxes: int) -> float:
        nodes = [str(number) for number in range(boxes)]
        links = [(str(number // 3), str(number)) for number in range(1, boxes)]
        start = time.process_time()
        layered(nodes, links)
        return time.process_time() - start

    seconds(100)
    assert seconds(3200) < 40 * max(seconds(400), 0.002)
