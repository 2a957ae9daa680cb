"""Feast's Python face over a workspace: ``from flyball.features import FeatureStore`` in place of ``from feast import …``.

The calls have Feast 0.67's names, arguments and results; what they compute is Flyball's: every entity row comes back,
``known <= t`` always, the TTL holds online too, and event time wins whatever the order of arrival. The words of
definitions (``Entity``, ``FeatureView``, ``FileSource``, …) are here as well, for files that use them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.compat.feast.response import OnlineResponse
    from flyball.compat.feast.retrieval import RetrievalJob
    from flyball.compat.feast.store import FeatureStore

__all__ = ["FeatureStore", "OnlineResponse", "RetrievalJob"]
_PLACES = {"FeatureStore": "store", "OnlineResponse": "response", "RetrievalJob": "retrieval"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"flyball.compat.feast.{_PLACES[name]}"), name)
    if not name.startswith("_"):
        words = import_module("flyball.service.feast.words")
        if hasattr(words, name):
            return getattr(words, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
