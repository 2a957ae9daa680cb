"""The expressions that a filter is made of, and the words each noun is asked by."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Compare(msgspec.Struct, frozen=True):
    """One comparison."""

    kind: str
    name: str
    op: str  # upper case
    value: float | int | str | tuple[str, ...] | None = None


class All(msgspec.Struct, frozen=True):
    """Every one of them holds; an empty one always does."""

    of: tuple[Expression, ...] = ()


class Either(msgspec.Struct, frozen=True):
    """At least one of them holds."""

    of: tuple[Expression, ...]


class Not(msgspec.Struct, frozen=True):
    """It does not hold."""

    of: Expression


Expression: TypeAlias = Compare | All | Either | Not


class Names(msgspec.Struct, frozen=True):
    """The words that a noun is asked by."""

    noun: str
    kinds: dict[str, str]  # what stands before the dot -> kind
    attributes: dict[str, str]  # name -> "text", "number" (also milliseconds) or "time"
    aliases: dict[str, str] = {}
    lists: frozenset[str] = frozenset()  # attributes that strict lets be compared with a list
    listed: frozenset[str] = frozenset({"dataset"})  # kinds that strict lets be compared with a list
    nullable: frozenset[str] = frozenset()  # kinds that strict asks IS NULL of
    ours: frozenset[str] = frozenset()  # attributes that strict does not know


_METRIC = {"metric": "metric", "metrics": "metric"}
_PARAM = {"parameter": "param", "parameters": "param", "param": "param", "params": "param"}
_TAG = {"tag": "tag", "tags": "tag"}
_ATTRIBUTE = {"attribute": "attribute", "attributes": "attribute", "attr": "attribute", "run": "attribute"}
_DATASET = {"dataset": "dataset", "datasets": "dataset"}

RUN = Names(
    noun="run",
    kinds={**_METRIC, **_PARAM, **_TAG, **_ATTRIBUTE, **_DATASET},
    attributes={
        "run_id": "text",
        "run_name": "text",
        "user_id": "text",
        "status": "text",
        "artifact_uri": "text",
        "start_time": "number",
        "end_time": "number",
        "id": "text",
        "name": "text",
        "pipeline": "text",
        "experiment": "text",
        "actor": "text",
        "parent": "text",
        "started": "time",
        "ended": "time",
        "seconds": "number",
    },
    aliases={
        "created": "start_time",
        "Created": "start_time",
        "run name": "run_name",
        "Run name": "run_name",
        "Run Name": "run_name",
        "experiment_id": "experiment",
    },
    lists=frozenset({"run_id"}),
    nullable=frozenset({"param", "tag"}),
    ours=frozenset(
        {"id", "name", "pipeline", "experiment", "actor", "parent", "started", "ended", "seconds"}
    ),
)
_PLAIN = {"attribute": "attribute", "attributes": "attribute", "attr": "attribute"}
EXPERIMENT = Names(
    noun="experiment",
    kinds={**_PLAIN, **_TAG},
    attributes={
        "name": "text",
        "experiment_id": "text",
        "creation_time": "number",
        "last_update_time": "number",
    },
    lists=frozenset({"experiment_id"}),
    nullable=frozenset({"tag"}),
)
REGISTERED_MODEL = Names(
    noun="registered model",
    kinds={**_PLAIN, **_TAG},
    attributes={"name": "text", "creation_timestamp": "number", "last_updated_timestamp": "number"},
    aliases={"timestamp": "last_updated_timestamp"},
    lists=frozenset({"name"}),
)
MODEL_VERSION = Names(
    noun="model version",
    kinds={**_PLAIN, **_TAG},
    attributes={
        "name": "text",
        "version_number": "number",
        "run_id": "text",
        "source_path": "text",
        "creation_timestamp": "number",
        "last_updated_timestamp": "number",
    },
    lists=frozenset({"name", "run_id"}),
)
LOGGED_MODEL = Names(
    noun="logged model",
    kinds={**_METRIC, **_PARAM, **_TAG, **_PLAIN},
    attributes={
        "name": "text",
        "model_id": "text",
        "model_type": "text",
        "status": "text",
        "source_run_id": "text",
        "creation_timestamp": "number",
        "creation_time": "number",
        "last_updated_timestamp": "number",
        "last_updated_time": "number",
    },
    aliases={"creation_time": "creation_timestamp", "last_updated_time": "last_updated_timestamp"},
    lists=frozenset({"name", "model_id", "model_type", "status", "source_run_id"}),
    listed=frozenset({"param", "tag"}),
)
