"""Serve: worker processes that answer, log and protect. ``Client`` asks them; ``serve`` starts them.

Hand-written hot path: no dataframe, database or validation library is imported by a worker.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    "Client": "flyball.serve.client",
    "serve": "flyball.serve.supervisor",
    "wait_until_loaded": "flyball.serve.publish",
}
__all__ = ["Client", "serve", "wait_until_loaded"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"flyball.serve has no {name!r}; it has {', '.join(_PLACES)}")
