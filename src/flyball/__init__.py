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
    from flyball import checks, features, models, track
    from flyball.pipelines import pipeline, step, when
    from flyball.serve.client import Client
    from flyball.service import Workspace, data
    from flyball.service.steps import gate

# name -> where it lives. A practice's own package holds its definitions; its verbs, bound to the current workspace,
# live in the service and are found through `bound`.
_WHERE = {
    "data": "flyball.service.data",
    "checks": "flyball.checks",
    "features": "flyball.features",
    "models": "flyball.models",
    "track": "flyball.track",
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


def bound(part: str, name: str) -> Any:
    """A verb of a practice, bound to the current workspace: what ``fb.models.register`` means.

    Practices ask here for names they don't have themselves, so that they need not know the service above them.
    """
    found = None if name.startswith("_") else getattr(import_module(f"flyball.service.{part}"), name, None)
    if found is None:
        raise AttributeError(f"flyball.{part} has no {name!r}")
    return found
