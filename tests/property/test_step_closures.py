"""A closure's digest follows every edge of a random graph of functions, and no other."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.pipelines.closure import closure_of

CALLS = st.integers(2, 7).flatmap(
    lambda size: st.tuples(
        st.lists(st.sets(st.integers(0, size - 1), max_size=3), min_size=size, max_size=size),
        st.integers(0, size - 1),
    )
)


def module(calls: list[set[int]], constants: list[int], layout: str) -> ModuleType:
    """Functions f0, f1, ...: each adds its constant and calls others."""
    lines = []
    for number, called in enumerate(calls):
        parts = [str(constants[number]), *(f"f{one}(n - 1)" for one in sorted(called))]
        joined = f"\n{layout} + ".join(parts)
        lines.append(
            f"def f{number}(n):\n    # {layout!r}\n    return (0 if n < 0 else (\n{layout}{joined}))\n"
        )
    made = ModuleType("made")
    exec(compile("\n".join(lines), "/project/made.py", "exec"), made.__dict__)
    return made


def reached(calls: list[set[int]], start: int = 0) -> set[int]:
    """Brute force: everything that can be called from one function."""
    found, todo = set(), [start]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += calls[one]
    return found


@settings(deadline=None)
@given(CALLS)
def test_a_change_counts_exactly_where_the_call_graph_reaches_it(case):
    calls, changed = case
    constants = list(range(len(calls)))
    before = closure_of(module(calls, constants, "    ").f0, Path("/project"))
    constants[changed] += 1000
    after = closure_of(module(calls, constants, "        ").f0, Path("/project"))
    assert (before.digest != after.digest) == (changed in reached(calls))
    assert set(before.covers) == {f"f{one}" for one in reached(calls)}


@settings(deadline=None)
@given(CALLS)
def test_layout_and_comments_never_count(case):
    calls, _ = case
    constants = list(range(len(calls)))
    one = closure_of(module(calls, constants, "    ").f0, Path("/project"))
    two = closure_of(module(calls, constants, "                ").f0, Path("/project"))
    assert one == two
