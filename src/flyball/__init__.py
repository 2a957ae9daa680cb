"""Flyball: one loop that versions, tests, builds, feeds, serves, watches and heals models in production.

Importing this package loads no engine; each part is imported when it is first named.

>>> import flyball as fb
>>> fb.__version__
'0.1.0'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flyball.pipelines import pipeline, step, when
    from flyball.serve.client import Client
    from flyball.service import Workspace, checks, data, features, models, track
    from flyball.service.steps import gate

# name -> where it lives. Parts are the practices bound to the current workspace.
_WHERE = {
    "data": "flyball.service.data",
    "checks": "flyball.service.checks",
    "features": "flyball.service.features",
    "models": "flyball.service.models",
    "track": "flyball.service.track",
    "gate": "flyball.service.steps:gate",
    "step": "flyball.pipelines:step",
    "pipeline": "flyball.pipelines:pipeline",
    "when": "flyball.pipelines:when",
    "Client": "flyball.serve.client:Client",
    "Workspace": "flyball.service:Workspace",
}

__all__ = [
    "Client",
    "Workspace",
    "__version__",
    "checks",
    "data",
    "features",
    "gate",
    "models",
    "pipeline",
    "step",
    "track",
    "when",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"flyball has no part {name!r}; it has {', '.join(_WHERE)}")
    module, _, attribute = _WHERE[name].partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found
