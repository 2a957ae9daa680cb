"""A prediction as the root of a graph, and how many answers a model gave."""

from __future__ import annotations

from typing import Any

import msgspec

from flyball.core.clock import from_us
from flyball.core.lineage import Graph, Node
from flyball.errors import FlyballError, NotFound
from flyball.service.lineage.reading import Reading
from flyball.service.lineage.tree import short
from flyball.service.workspace import Workspace

_SHOWN = (
    "endpoint", "model", "assigned", "arm", "rho", "output", "fallback", "error", "latency_us", "entities", "label",
)  # fmt: skip


def root_of(ws: Workspace, reading: Reading, identifier: str, *, verify: bool) -> Node:
    """The prediction, ready to be walked from. Files of the log that have changed are named, and not opened."""
    node = Node(key=f"prediction:{identifier}", noun="prediction", name=identifier)
    if verify and (changed := ws.predictions.changed(identifier)):
        node.broken = [f"the prediction log: {one}" for one in changed]
        return node
    try:
        row = ws.predictions.find(identifier)
    except NotFound:
        raise
    except FlyballError as error:
        node.broken = [error.what]
        return node
    node.facts = {
        "at": from_us(row["at_us"]),
        **{
            name: row[name]
            for name in _SHOWN
            if row[name] not in (None, "", [], {}) and row[name] is not False
        },
    }
    if verify:
        _check_seal(node, row)
    reading.give(node, "prediction", {
        "model": row["model"], "assigned": row["assigned"] if row["assigned"] != row["model"] else "", "features": identifier,
        "route": f"{row['endpoint']}#{row['generation']}",
    })  # fmt: skip
    _give_features(reading, identifier, row)
    return node


def _check_seal(node: Node, row: dict[str, Any]) -> None:
    from flyball.stores.predictions import seal_of

    try:
        holds = seal_of(row) == row["seal"]
    except (TypeError, ValueError, msgspec.MsgspecError):
        holds = False
    if holds:
        node.verified = True
    else:
        node.broken = [f"prediction {node.name} has changed"]


def _give_features(reading: Reading, identifier: str, row: dict[str, Any]) -> None:
    """The values the model was given, each with the time at which its newest part happened."""
    (model,) = reading.nodes([f"model:{row['model']}"])
    _, record = reading.records.get(model.key, ("model", {}))
    signature = record.get("signature")
    inputs = signature.get("inputs", []) if isinstance(signature, dict) else []
    names = [str(one.get("name")) for one in inputs] or [str(n) for n in range(len(row["features"]))]
    node = Node(key=f"features:{identifier}", noun="features", name=f"{len(row['features'])} values")
    times = row["times_us"] or [None] * len(names)
    for name, value, at in zip(names, row["features"], times, strict=False):
        node.facts[name] = value if at is None else f"{short(value)} of {from_us(at):%Y-%m-%d %H:%M}"
    service = record.get("feature_service")
    if service:
        node.name += f" of {service}"
    node.verified = None
    reading.give(node, "features", {"service": service})


def add_answers(ws: Workspace, graph: Graph) -> None:
    """Below each model that answered: how many predictions, where, and when the first and the last."""
    models = {node.name: node.key for node in graph.nodes.values() if node.noun == "model"}
    if not models:
        return
    for row in ws.predictions.answers().iter_rows(named=True):
        if row["model"] not in models:
            continue
        key = f"answers:{row['endpoint']}/{row['model']}"
        many = "prediction" if row["predictions"] == 1 else "predictions"
        graph.add(
            Node(
                key=key,
                noun="predictions",
                name=f"{row['predictions']:,} {many} at {row['endpoint']}",
                facts={
                    "count": row["predictions"],
                    "first": from_us(row["first_us"]),
                    "last": from_us(row["last_us"]),
                },
            )
        )
        graph.link(key, models[row["model"]], "answered")
