"""Searching the registry as MLflow's client does: its filter, its orders, what breaks ties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flyball.compat.mlflow.wire import invalid
from flyball.core.clock import to_us
from flyball.core.records import ModelVersion, RegisteredModel
from flyball.models import refs
from flyball.track.query import MODEL_VERSION, REGISTERED_MODEL, matches, parse, parse_order
from flyball.track.words import All, Compare, Expression

if TYPE_CHECKING:
    from flyball.service import Workspace

PROMPT = "mlflow.prompt.is_prompt"
_FEW = 10
Found = tuple[RegisteredModel, ModelVersion]


def models(ws: Workspace, where: str, order_by: Sequence[str]) -> list[RegisteredModel]:
    """The models that a filter means, in order; by name where nothing else is said."""
    wanted = _expression(where, REGISTERED_MODEL, {"name"})
    orders = _orders(order_by, REGISTERED_MODEL, ("name", "timestamp", "last_updated_timestamp"))
    if wanted is None:
        return []
    found = [one for one in _models_of(ws, wanted) if matches(wanted, _values_of_model(one))]
    return _sorted(found, orders, _MODEL_KEYS, (("name", False),))


def versions(ws: Workspace, where: str, order_by: Sequence[str]) -> list[Found]:
    """The versions that a filter means, with their models; the last changed first where nothing else is said."""
    wanted = _expression(where, MODEL_VERSION, {"name", "version_number", "run_id", "source_path"})
    orders = _orders(
        order_by or ["last_updated_timestamp DESC"],
        MODEL_VERSION,
        ("name", "version_number", "creation_timestamp", "last_updated_timestamp"),
    )
    if wanted is None:
        return []
    found = [
        (model, one)
        for model, one in _versions_of(ws, wanted)
        if matches(wanted, _values_of_version(model, one))
    ]
    return _sorted(found, orders, _VERSION_KEYS, (("name", False), ("version_number", True)))


def _expression(text: str, names: Any, attributes: set[str]) -> Expression | None:
    """The filter; ``None`` when it asks for prompts, which there are none of.

    The client puts "and is no prompt" behind every filter, which is true of everything here.
    """
    wanted = parse(text, names, strict=True)
    kept: list[Expression] = []
    for one in wanted.of if isinstance(wanted, All) else (wanted,):
        if isinstance(one, Compare) and one.kind == "attribute" and one.name not in attributes:
            raise invalid(f"Invalid attribute key '{one.name}' specified. Valid keys are '{attributes}'")
        if isinstance(one, Compare) and (one.kind, one.name) == ("tag", PROMPT):
            if (one.op, str(one.value).lower()) in (("=", "true"), ("!=", "false")):
                return None
        else:
            kept.append(one)
    return All(tuple(kept))


def _models_of(ws: Workspace, wanted: Expression) -> list[RegisteredModel]:
    """The models that a filter can mean: one, when it names one (which it mostly does)."""
    for one in wanted.of if isinstance(wanted, All) else (wanted,):
        if isinstance(one, Compare) and (one.kind, one.name, one.op) == ("attribute", "name", "="):
            found = refs.find_model(ws.ledger, str(one.value))
            return [found] if found is not None and not found.deleted else []
    return refs.models(ws.ledger)


def _versions_of(ws: Workspace, wanted: Expression) -> list[Found]:
    """The versions that a filter can mean; of many models, all versions are read at once."""
    models = {model.family: model for model in _models_of(ws, wanted)}
    if len(models) <= _FEW:
        return [(model, one) for model in models.values() for one in refs.versions(ws.ledger, model)]
    return [
        (models[one.kin], one)
        for one in ws.ledger.ls("model", ModelVersion)
        if one.kin in models and not one.deleted
    ]


def _values_of_model(one: RegisteredModel) -> Callable[[str, str], Any]:
    return lambda kind, name: one.tags.get(name) if kind == "tag" else one.name


def _values_of_version(model: RegisteredModel, one: ModelVersion) -> Callable[[str, str], Any]:
    attributes = {
        "name": model.name,
        "version_number": one.number,
        "run_id": one.run or "",
        "source_path": one.source,
    }
    return lambda kind, name: one.tags.get(name) if kind == "tag" else attributes[name]


_MODEL_KEYS: dict[str, Callable[[Any], Any]] = {
    "name": lambda one: one.name,
    "last_updated_timestamp": lambda one: to_us(one.updated) // 1000,
}
_VERSION_KEYS: dict[str, Callable[[Any], Any]] = {
    "name": lambda one: one[0].name,
    "version_number": lambda one: one[1].number,
    "creation_timestamp": lambda one: to_us(one[1].created) // 1000,
    "last_updated_timestamp": lambda one: to_us(one[1].updated or one[1].created) // 1000,
}


def _orders(given: Sequence[str], names: Any, keys: Sequence[str]) -> list[tuple[str, bool]]:
    orders = []
    for text in given:
        one = parse_order(text, names, strict=True)
        if one.kind != "attribute" or one.name not in keys:
            raise invalid(f"Invalid order by key '{one.name}' specified. Valid keys are {set(keys)}")
        orders.append((one.name, one.descending))
    if len({name for name, _ in orders}) < len(orders):
        raise invalid(f"`order_by` contains duplicate fields: {list(given)}")
    return orders


def _sorted(
    found: list[Any],
    orders: list[tuple[str, bool]],
    keys: dict[str, Callable[[Any], Any]],
    ties: Sequence[tuple[str, bool]],
) -> list[Any]:
    """By each order in turn, then by what breaks ties; Python's sort is stable, so the last key is sorted by first."""
    named_already = {name for name, _ in orders}
    for name, descending in reversed([*orders, *(one for one in ties if one[0] not in named_already)]):
        found = sorted(found, key=keys[name], reverse=descending)
    return found
