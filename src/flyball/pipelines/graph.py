"""A pipeline drawn: nodes in the order they run, edges, conditions; as JSON or as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flyball.pipelines.definition import Pipeline
from flyball.pipelines.trace import Output, describe, handles_in, trace


class GraphNode(msgspec.Struct, frozen=True):
    """One step's call."""

    name: str
    step: str
    cached: bool
    when: tuple[str, ...] = ()
    arguments: dict[str, str] = {}


class GraphEdge(msgspec.Struct, frozen=True):
    """``to`` uses ``of`` as its argument ``role`` (``"when"`` for a condition)."""

    of: str
    to: str
    role: str


class Graph(msgspec.Struct, frozen=True):
    """A pipeline with concrete parameters."""

    pipeline: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    def text(self) -> str:
        """One line a node: what it uses, and when it runs."""
        lines = [self.pipeline]
        for node in self.nodes:
            used = ", ".join(f"{name}={value}" for name, value in node.arguments.items())
            condition = f"   when {' and '.join(node.when)}" if node.when else ""
            lines.append(f"  {node.name}({used}){'' if node.cached else ' *'}{condition}")
        if not all(node.cached for node in self.nodes):
            lines.append("  (* runs every time)")
        return "\n".join(lines)


def graph(pipeline: Pipeline[..., Any], params: Mapping[str, Any] | None = None) -> Graph:
    """Draw a pipeline without running a step. Required parameters that are not given stay open."""
    drawn = trace(pipeline.function, pipeline.bind(params or {}, placeholders=True))
    nodes: list[GraphNode] = []
    edges: list[GraphEdge] = []
    for node in drawn.nodes.values():
        nodes.append(
            GraphNode(
                node.name,
                node.step.name,
                node.step.cache,
                tuple(_shown(condition) for condition in node.conditions),
                {name: _shown(value) for name, value in node.arguments.items()},
            )
        )
        uses = [*node.arguments.items(), *(("when", condition) for condition in node.conditions)]
        for role, value in uses:
            edges += [GraphEdge(handle._node, node.name, role) for handle in handles_in(value)]
    return Graph(pipeline.name, tuple(nodes), tuple(dict.fromkeys(edges)))


def _shown(value: Any) -> str:
    if isinstance(value, Output):
        return describe(value)
    text = repr(value)
    return text if len(text) <= 60 else f"<{type(value).__name__}>"
