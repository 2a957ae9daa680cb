"""MLflow's ``logged-models/search``: its filters and orders over records and what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flyball.compat.mlflow import limits
from flyball.compat.mlflow.logged_models import STATUSES, Point, points_of, shown
from flyball.compat.mlflow.wire import Asked, Call, invalid, page
from flyball.core.clock import to_us
from flyball.core.records import LoggedModel
from flyball.track import query

if TYPE_CHECKING:
    from flyball.service import Workspace


class _OrderBy(Asked):
    field_name: str = ""
    ascending: bool = True
    dataset_name: str = ""
    dataset_digest: str = ""


class _Dataset(Asked):
    dataset_name: str = ""
    dataset_digest: str = ""


class _Search(Asked):
    experiment_ids: list[str]
    filter: str = ""
    datasets: tuple[_Dataset, ...] = ()
    max_results: int = 50
    order_by: tuple[_OrderBy, ...] = ()
    page_token: str = ""


def _search(ws: Workspace, asked: _Search) -> dict[str, Any]:
    if not all(one.dataset_name for one in asked.datasets):
        raise invalid("`dataset_name` in the `datasets` clause must be specified.")
    for one in asked.experiment_ids:
        if not one.isdigit():
            raise invalid(f"Invalid experiment ID '{one}'. Experiment ID must be a valid integer.")
    most = limits.max_results(asked.max_results or 50)
    expression = query.parse(asked.filter, query.LOGGED_MODEL, strict=True)
    inside = set(asked.experiment_ids)
    models = [
        one
        for one in ws.ledger.ls("logged_model", LoggedModel)
        if one.deleted is None and one.experiment in inside
    ]
    points = points_of(ws, [one.id for one in models])
    if asked.datasets:
        points = {
            model: [
                one for one in found if any(one.on(d.dataset_name, d.dataset_digest) for d in asked.datasets)
            ]
            for model, found in points.items()
        }
        models = [one for one in models if points.get(one.id)]
    kept = [one for one in models if query.matches(expression, partial(_value, one, points.get(one.id, [])))]
    rows, token = page(_ordered(kept, points, asked.order_by), most, asked.page_token)
    whole = points_of(ws, [one.id for one in rows])
    return {
        "models": [shown(ws, one, whole[one.id]) for one in rows],
        **({"next_page_token": token} if token else {}),
    }


_ATTRIBUTES: dict[str, Callable[[LoggedModel], Any]] = {
    "name": lambda one: one.name,
    "model_id": lambda one: one.id,
    "experiment_id": lambda one: int(one.experiment) if one.experiment.isdigit() else 0,
    "model_type": lambda one: one.model_type,
    "status": lambda one: STATUSES[one.status],
    "source_run_id": lambda one: one.run or None,
    "creation_timestamp": lambda one: to_us(one.created) // 1000,
    "last_updated_timestamp": lambda one: to_us(one.updated) // 1000,
}
_ALIASES = {
    "creation_time": "creation_timestamp",
    "creation_timestamp_ms": "creation_timestamp",
    "last_updated_timestamp_ms": "last_updated_timestamp",
}


def _value(one: LoggedModel, points: Sequence[Point], kind: str, name: str) -> Any:
    """What a filter asks of a model: of a metric any of its points."""
    if kind == "metric":
        return [point.value for point in points if point.key == name] or None
    if kind in ("param", "tag"):
        return (one.params if kind == "param" else one.tags).get(name)
    return _ATTRIBUTES[name](one)


def _ordered(
    models: list[LoggedModel], points: dict[str, list[Point]], orders: Sequence[_OrderBy]
) -> list[LoggedModel]:
    """In the order asked for, those without a value last; then the newest first."""
    models.sort(key=lambda one: one.id)
    models.sort(key=lambda one: to_us(one.created) // 1000, reverse=True)
    for order in reversed(orders):
        value = _ordering(order, points)
        present = [one for one in models if value(one) is not None]
        absent = [one for one in models if value(one) is None]
        present.sort(key=value, reverse=not order.ascending)
        models = [*present, *absent]
    return models


def _ordering(order: _OrderBy, points: dict[str, list[Point]]) -> Callable[[LoggedModel], Any]:
    kind, dot, key = order.field_name.partition(".")
    if not dot:
        attribute = _ATTRIBUTES.get(_ALIASES.get(order.field_name, order.field_name))
        if attribute is None:
            raise invalid(f"Invalid order by field name: {order.field_name}")
        return attribute
    if kind != "metrics":
        raise invalid(f"Invalid order by field name: {order.field_name}. Only metrics are supported.")

    def latest(one: LoggedModel) -> float | None:
        found = [
            point
            for point in points.get(one.id, [])
            if point.key == key and point.on(order.dataset_name, order.dataset_digest)
        ]
        newest = max(found, key=lambda point: (point.at_us, point.step), default=None)
        return None if newest is None or math.isnan(newest.value) else newest.value

    return latest


CALLS = [
    Call("POST", "logged-models/search", _Search, _search),
]
