"""Flyball: one loop that versions, tests, builds, feeds, serves, watches and heals models in production.

Importing this package loads no engine; each part is imported when it is first named.

>>> import flyball as fb
>>> fb.__version__
'0.1.0'
"""

from importlib import import_module
from types import ModuleType
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


# Where the verbs of a practice live when it has more than one module of them.
_VERBS = {
    "features": (
        "flyball.service.features",
        "flyball.service.training",
        "flyball.service.online_features",
        "flyball.service.filling",
        "flyball.service.sources",
        "flyball.service.watching",
        "flyball.service.verifying",
        "flyball.service.feast",
        "flyball.compat.feast.store",
    )
}


def bound(part: str, name: str) -> Any:
    """A verb of a practice, bound to the current workspace: what ``fb.models.register`` means.

    Practices ask here for names they don't have themselves, so that they need not know the service above them.
    """
    for module in _VERBS.get(part, (f"flyball.service.{part}",)):
        found = None if name.startswith("_") else getattr(import_module(module), name, None)
        if found is not None and not isinstance(found, ModuleType):  # what a verb's module imports is no verb
            return found
    raise AttributeError(f"flyball.{part} has no {name!r}")
