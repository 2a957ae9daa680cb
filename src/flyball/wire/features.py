"""What a feature read is asked with over HTTP: our own JSON, and that of Feast's feature server."""

from __future__ import annotations

from typing import Any

import msgspec

from flyball.errors import Invalid
from flyball.wire.faults import decode
from flyball.wire.predict import Value

_MOST_ROWS = 100_000
Rows = dict[str, Value] | list[dict[str, Value]]


class FeaturesBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /features/{service}``: one entity's keys and request fields, or a list of each."""

    entities: Rows = {}
    features: Rows = {}
    at: str | None = None


class FeastBody(msgspec.Struct):
    """``POST /get-online-features`` of Feast's server: columns of keys and request fields."""

    entities: dict[str, list[Any]]
    feature_service: str | None = None
    features: list[str] = []
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


_features = msgspec.json.Decoder(FeaturesBody)
_feast = msgspec.json.Decoder(FeastBody)


def read_features(body: bytes) -> tuple[list[dict[str, Value]], list[dict[str, Value]], bool, str | None]:
    """Entity rows, request rows (of one length), whether one was asked for by itself, and the time."""
    asked = decode(_features, body, "the request")
    alone = isinstance(asked.entities, dict)
    entities = [asked.entities] if isinstance(asked.entities, dict) else asked.entities
    fields = [asked.features] * len(entities) if isinstance(asked.features, dict) else asked.features
    if len(fields) != len(entities):
        raise Invalid(
            f"there are {len(entities)} entities and features of {len(fields)}",
            "give one of features for all, or a list with one for each",
            field="features",
        )
    if len(entities) > _MOST_ROWS:
        raise Invalid(
            f"{len(entities)} entities are asked for", f"ask for at most {_MOST_ROWS}", field="entities"
        )
    return entities, fields, alone, asked.at


def read_feast(body: bytes) -> FeastBody:
    """A request of Feast's client."""
    asked = decode(_feast, body, "the request")
    if not asked.entities:
        raise Invalid("entities is empty", 'like {"entities": {"driver_id": [1001, 1002]}}', field="entities")
    if asked.feature_service is None and not asked.features:
        raise Invalid("no features are named", "give features, or a feature_service", field="features")
    return asked
