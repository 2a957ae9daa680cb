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
    from flyball.features.definitions import Entity, Source, View, Window
    from flyball.features.expressions import Expr, coalesce, col, concat, greatest, least, lit, sql, when
    from flyball.features.filling import materialize, push
    from flyball.features.offline import point_in_time
    from flyball.features.on_demand import on_demand
    from flyball.features.online import FeatureRow, OnlineReader
    from flyball.features.services import OnDemand, RequestField, Service
    from flyball.service.online_features import get_online_features, get_online_features_async
    from flyball.service.training import get_historical_features

__all__ = [
    "Entity",
    "Expr",
    "FeatureRow",
    "FeatureStore",
    "OnDemand",
    "OnlineReader",
    "RequestField",
    "Service",
    "Source",
    "View",
    "Window",
    "approx_distinct",
    "coalesce",
    "col",
    "concat",
    "count",
    "distinct",
    "first",
    "get_historical_features",
    "get_online_features",
    "get_online_features_async",
    "greatest",
    "last",
    "least",
    "lit",
    "materialize",
    "max",
    "mean",
    "median",
    "min",
    "on_demand",
    "percentile",
    "point_in_time",
    "push",
    "sql",
    "std",
    "sum",
    "when",
]

_PLACES = {
    "aggregates": (
        "approx_distinct", "count", "distinct", "first", "last", "max", "mean", "median", "min", "percentile", "std",
        "sum",
    ),
    "definitions": ("Entity", "Source", "View", "Window"),
    "expressions": ("Expr", "coalesce", "col", "concat", "greatest", "least", "lit", "sql", "when"),
    "filling": ("materialize", "push"),
    "offline": ("point_in_time",),
    "on_demand": ("on_demand",),
    "online": ("FeatureRow", "OnlineReader"),
    "services": ("OnDemand", "RequestField", "Service"),
}  # fmt: skip
_WHERE = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"flyball.features.{_WHERE[name]}"), name)
    from flyball import bound

    return bound("features", name)
