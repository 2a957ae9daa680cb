"""Practice 4: features declared once, joined point-in-time for training and read in microseconds for serving.

The comparison of both is ``flyball.features.skew``. Nothing is imported until it is named: a serving worker loads
``definitions`` and ``online`` and no dataframe.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.features.aggregates import count, last, max, mean, min, std, sum
    from flyball.features.definitions import RequestField, Service, View, Window
    from flyball.features.filling import materialize, push
    from flyball.features.offline import point_in_time
    from flyball.features.online import FeatureRow, OnlineReader

__all__ = [
    "FeatureRow",
    "OnlineReader",
    "RequestField",
    "Service",
    "View",
    "Window",
    "count",
    "last",
    "materialize",
    "max",
    "mean",
    "min",
    "point_in_time",
    "push",
    "std",
    "sum",
]

_WHERE = {
    **dict.fromkeys(("count", "last", "max", "mean", "min", "std", "sum"), "aggregates"),
    **dict.fromkeys(("RequestField", "Service", "View", "Window"), "definitions"),
    **dict.fromkeys(("materialize", "push"), "filling"),
    "point_in_time": "offline",
    **dict.fromkeys(("FeatureRow", "OnlineReader"), "online"),
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"flyball.features.{_WHERE[name]}"), name)
    from flyball import bound

    return bound("features", name)
