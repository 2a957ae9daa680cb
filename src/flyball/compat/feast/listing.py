"""What a workspace defines, listed in Feast's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flyball.compat.feast import registry
from flyball.errors import NotFound, nearest
from flyball.service import features as defined

if TYPE_CHECKING:
    from flyball.features.services import OnDemand
    from flyball.service import Workspace


class Listing:
    """The calls that list and get; ``tags`` keep those that have them all. An unknown name is :class:`NotFound`."""

    ws: Workspace

    def list_entities(self, allow_cache: bool = False, tags: dict[str, str] | None = None) -> list[Any]:
        return _tagged([registry.entity_words(one) for one in defined.entities(self.ws).values()], tags)

    def list_feature_views(self, allow_cache: bool = False, tags: dict[str, str] | None = None) -> list[Any]:
        entities, sources = defined.entities(self.ws), defined.sources(self.ws)
        return _tagged(
            [registry.view_words(one, entities, sources) for one in defined.views(self.ws).values()], tags
        )

    list_batch_feature_views = list_feature_views

    def list_on_demand_feature_views(
        self, allow_cache: bool = False, tags: dict[str, str] | None = None
    ) -> list[Any]:
        found = [registry.on_demand_words(one) for one in _on_demand(defined.known(self.ws)).values()]
        return _tagged(found, tags)

    def list_feature_services(
        self, allow_cache: bool = False, tags: dict[str, str] | None = None
    ) -> list[Any]:
        return _tagged([registry.service_words(one) for one in defined.services(self.ws).values()], tags)

    def list_data_sources(self, allow_cache: bool = False, tags: dict[str, str] | None = None) -> list[Any]:
        return _tagged([registry.source_words(one) for one in defined.sources(self.ws).values()], tags)

    def get_entity(self, name: str, allow_registry_cache: bool = False) -> Any:
        return _one(self.list_entities(), "entity", name)

    def get_feature_view(self, name: str, allow_registry_cache: bool = False) -> Any:
        return _one(self.list_feature_views(), "feature view", name)

    def get_on_demand_feature_view(self, name: str, allow_registry_cache: bool = False) -> Any:
        return _one(self.list_on_demand_feature_views(), "on-demand feature view", name)

    def get_feature_service(self, name: str, allow_cache: bool = False) -> Any:
        return _one(self.list_feature_services(), "feature service", name)

    def get_data_source(self, name: str) -> Any:
        return _one(self.list_data_sources(), "data source", name)


def _on_demand(known: Mapping[str, Any]) -> dict[str, OnDemand]:
    from flyball.features.services import OnDemand

    return {name: one for name, one in known.items() if isinstance(one, OnDemand)}


def _tagged(found: list[Any], tags: dict[str, str] | None) -> list[Any]:
    wanted = (tags or {}).items()
    return [one for one in found if all(one.tags.get(key) == value for key, value in wanted)]


def _one(found: list[Any], noun: str, name: str) -> Any:
    for one in found:
        if one.name == name:
            return one
    raise NotFound(f"no {noun} {name!r}", nearest(name, [one.name for one in found]), name=name)
