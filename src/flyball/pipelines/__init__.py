"""Practice 3: pipelines of plain functions, traced into a graph, each step's result kept by what it was made from.

``@step`` leaves a function callable in a test as it is; inside ``@pipeline`` a call draws a node instead. Defining them
loads no engine; running them does.
"""

from typing import TYPE_CHECKING, Any

from flyball.pipelines.context import RunContext, StepProgress, current
from flyball.pipelines.definition import Pipeline, Step, pipeline, step
from flyball.pipelines.discovery import Definitions, load_definitions
from flyball.pipelines.graph import Graph, graph
from flyball.pipelines.trace import tracing, when

if TYPE_CHECKING:
    from flyball.pipelines.runner import execute, resume

__all__ = [
    "Definitions",
    "Graph",
    "Pipeline",
    "RunContext",
    "Step",
    "StepProgress",
    "current",
    "execute",
    "graph",
    "load_definitions",
    "pipeline",
    "resume",
    "step",
    "tracing",
    "when",
]


def __getattr__(name: str) -> Any:
    if name in {"execute", "resume"}:
        from flyball.pipelines import runner

        return getattr(runner, name)
    raise AttributeError(f"flyball.pipelines has no {name!r}")
