"""Practice 4: features declared once, joined point-in-time for training and read in microseconds for serving.

The comparison of both is ``flyball.features.skew``. Nothing is imported until it is named: a serving worker loads
``definitions`` and ``online`` and no dataframe.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.features.aggregates import (
        approx_distinct,
        count,
        distinct,
        first,
        last,
        max,
        mean,
        median,
        min,
        percentile,
        std,
        sum,
    )
    from flyball.features.definitions import Entity, OnDemand, RequestField, Service, Source, View, Window
    from flyball.features.expressions import Expr, col
    from flyball.features.filling import materialize, push
    from flyball.features.offline import point_in_time
    from flyball.features.online import FeatureRow, OnlineReader

__all__ = [
    "Entity",
    "Expr",
    "FeatureRow",
    "OnDemand",
    "OnlineReader",
    "RequestField",
    "Service",
    "Source",
    "View",
    "Window",
    "approx_distinct",
    "col",
    "count",
    "distinct",
    "first",
    "last",
    "materialize",
    "max",
    "mean",
    "median",
    "min",
    "percentile",
    "point_in_time",
    "push",
    "std",
    "sum",
]

_PLACES = {
    "aggregates": (
        "approx_distinct",
        "count",
        "distinct",
        "first",
        "last",
        "max",
        "mean",
        "median",
        "min",
        "percentile",
        "std",
        "sum",
    ),
    "definitions": ("Entity", "OnDemand", "RequestField", "Service", "Source", "View", "Window"),
    "expressions": ("Expr", "col"),
    "filling": ("materialize", "push"),
    "offline": ("point_in_time",),
    "online": ("FeatureRow", "OnlineReader"),
}
_WHERE = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"flyball.features.{_WHERE[name]}"), name)
    from flyball import bound

    return bound("features", name)
