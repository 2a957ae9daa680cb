"""``FeatureStore``: Feast's calls over a workspace. Names, arguments and results are those of Feast 0.67.

Where a call computes, Flyball's rules hold; they are in docs/feast.md, each with what Feast does instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.compat.feast import registry
from flyball.compat.feast.frames import EVENT_TIME, as_polars, columns_of, rows_of_view
from flyball.compat.feast.listing import Listing
from flyball.compat.feast.opening import workspace_of
from flyball.compat.feast.response import OnlineResponse
from flyball.compat.feast.retrieval import RetrievalJob
from flyball.core.clock import to_us
from flyball.errors import Invalid, NotFound, Unavailable, nearest
from flyball.service import features as defined
from flyball.service import filling, online_features
from flyball.service.feast.words import PushMode

if TYPE_CHECKING:
    from flyball.features.definitions import Source, View
    from flyball.features.online import OnlineReader
    from flyball.features.services import Service
    from flyball.service import Workspace
    from flyball.service.features import Change

_TO = {"ONLINE": "online", "OFFLINE": "offline", "ONLINE_AND_OFFLINE": "online_and_offline"}
_FED = (
    "",
    "push",
    "kafka",
    "nats",
    "amqp",
    "amqps",
    "redis",
    "rediss",
)  # schemes of sources that rows come from by themselves
Features = Sequence[str] | Any  # names, or a FeatureService


class FeatureStore(Listing):
    """The features of a Flyball project (of the folder you stand in, by default) or of a Feast repository.

    A repository is carried over to a project below ``.flyball/feast`` and read anew when its files change.
    """

    def __init__(
        self, repo_path: str | Path | None = None, config: Any = None, fs_yaml_file: str | Path | None = None
    ) -> None:
        if config is not None:
            raise Invalid("a RepoConfig is not taken here", "FeatureStore(repo_path=…), of a folder")
        place = Path(fs_yaml_file).parent if fs_yaml_file is not None else repo_path
        self._take(workspace_of(place), place)

    @classmethod
    def over(cls, ws: Workspace) -> FeatureStore:
        """The store of a workspace that is open already."""
        store = cls.__new__(cls)
        store._take(ws, None)
        return store

    def _take(self, ws: Workspace, place: str | Path | None) -> None:
        self.ws = ws
        self.repo_path = Path(place) if place is not None else ws.root
        self._defined: Any = None
        self._asked_before: dict[tuple[str | tuple[str, ...], bool], Online] = {}

    @property
    def project(self) -> str:
        """Its name."""
        return self.ws.config.project.name

    def __repr__(self) -> str:
        return f"FeatureStore(project={self.project!r}, repo_path={str(self.repo_path)!r})"

    def refresh_registry(self) -> None:
        """Read the definitions again."""
        self.ws.__dict__.pop("definitions", None)

    def apply(
        self,
        objects: Any = (),
        objects_to_delete: Sequence[Any] | None = None,
        partial: bool = True,
        skip_feature_view_validation: bool = False,
    ) -> list[Change]:
        """Record what is defined; of objects, those that the project's own files do not define are kept in
        ``features_applied.py``. Returns what changed."""
        given = list(objects) if isinstance(objects, Iterable) else [objects]
        if given:
            registry.give(self.ws, given)
        for one in objects_to_delete or ():
            table = _TABLE_OF.get(type(one).__name__)
            if table is None:
                raise Invalid(f"{one!r} can't be deleted", "views, services, entities and sources can")
            registry.take_back(self.ws, table, str(one.name))
        self.refresh_registry()
        return defined.apply(ws=self.ws)

    def plan(
        self, desired_repo_contents: Any = None, skip_feature_view_validation: bool = False
    ) -> list[Change]:
        """What :meth:`apply` would change, and whom it touches."""
        if desired_repo_contents is not None:
            raise Invalid("a plan is of the project's own definitions", "plan() without arguments")
        return defined.apply(plan=True, ws=self.ws)

    def get_historical_features(
        self,
        entity_df: Any = None,
        features: Features = (),
        full_feature_names: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        filter_by_created_timestamp: bool = True,
    ) -> RetrievalJob:
        """Join features to entity rows as of their time; rows of a later known time never count, whatever is asked.

        ``entity_df`` is a frame (pandas, Polars, Arrow), a path or a query; its time is ``event_timestamp``, or its only
        column of times. Without one, the entities that had rows between ``start_date`` and ``end_date``.
        """
        from flyball.service import training

        if entity_df is not None and (start_date is not None or end_date is not None):
            raise Invalid("entity_df and a range of time are both given", "leave one of them out")
        if entity_df is None and start_date is None:
            raise Invalid("neither entity_df nor start_date is given", "which entities, and when?")
        asked, _ = self._asked(features, full_feature_names)
        columns = columns_of(entity_df)
        made = training.get_historical_features(
            entity_df,
            asked,
            at=EVENT_TIME if EVENT_TIME in columns or entity_df is None else None,
            start=None if entity_df is not None else _aware(start_date),
            end=None if entity_df is not None or end_date is None else _aware(end_date),
            full_feature_names=full_feature_names,
            ws=self.ws,
        )
        return RetrievalJob(made, columns, full_feature_names=full_feature_names)

    def get_online_features(
        self,
        features: Features,
        entity_rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]],
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """The values as of now: what is missing, null and too old are told apart by their status."""
        asked = self._online(features, full_feature_names)
        now = self.ws.clock.now()
        wanted, ws = asked.features, self.ws
        late = lambda: online_features.get_online_features(entity_rows, wanted, at=now, ws=ws)  # noqa: E731
        if asked.one is not None and type(entity_rows) is list and len(entity_rows) == 1:
            try:
                found = asked.one.read(entity_rows[0], entity_rows[0], to_us(now)).values
            except Unavailable:
                return OnlineResponse(
                    late, asked.names
                )  # which knows when to ask again, and the declared defaults
            keys = {name: [entity_rows[0][name]] for name in asked.one.entities}
            return OnlineResponse(
                late, asked.names, keys | {name: [found[slot]] for name, slot in asked.slots.items()}
            )
        response = OnlineResponse(late, asked.names)
        response.read()
        return response

    async def get_online_features_async(
        self,
        features: Features,
        entity_rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]],
        full_feature_names: bool = False,
    ) -> OnlineResponse:
        """:meth:`get_online_features` in a thread of its own."""
        return await asyncio.to_thread(self.get_online_features, features, entity_rows, full_feature_names)

    def materialize(
        self,
        start_date: datetime,
        end_date: datetime,
        feature_views: Sequence[str] | None = None,
        disable_event_timestamp: bool = False,
        full_feature_names: bool = False,
        version: str | None = None,
    ) -> None:
        """Bring online what became known from ``start_date`` to ``end_date``, both in; everything, without timestamps."""
        since, until = _aware(start_date), _aware(end_date)
        if since > until:
            raise Invalid(f"the start {since} is after the end {until}", "turn them round")
        begin = "" if disable_event_timestamp else (since - timedelta(microseconds=1)).isoformat()
        self._fill(feature_views, begin, "" if disable_event_timestamp else until.isoformat())

    def materialize_incremental(
        self,
        end_date: datetime,
        feature_views: Sequence[str] | None = None,
        full_feature_names: bool = False,
        version: str | None = None,
    ) -> None:
        """Bring online what became known since the last time, up to ``end_date``."""
        self._fill(feature_views, "", _aware(end_date).isoformat())

    def push(
        self,
        push_source_name: str,
        df: Any,
        allow_registry_cache: bool = True,
        to: PushMode | str = PushMode.ONLINE_AND_OFFLINE,
        transform_on_write: bool = True,
    ) -> None:
        """Take rows of a source as they arrive. By default they go both ways, so that training sees what serving saw."""
        name = to.name if isinstance(to, PushMode) else str(getattr(to, "name", to)).upper()
        if name not in _TO:
            raise Invalid(f"a push can't go to {to!r}", f"one of {', '.join(_TO.values())}")
        filling.push(push_source_name, as_polars(df), to=_TO[name], ws=self.ws)  # type: ignore[arg-type]  # a frame is taken

    async def push_async(self, push_source_name: str, df: Any, **named: Any) -> None:
        """:meth:`push` in a thread of its own."""
        await asyncio.to_thread(self.push, push_source_name, df, **named)

    def write_to_online_store(
        self,
        feature_view_name: str,
        df: Any = None,
        inputs: Any = None,
        allow_registry_cache: bool = True,
        transform_on_write: bool = True,
    ) -> None:
        """Add rows of one view online, and only there: training never sees them. :meth:`push` is what you want mostly."""
        from flyball.features.filling import push

        view = self._view(feature_view_name)
        push(view, rows_of_view(view, df if df is not None else inputs), self.ws.online)

    def teardown(self) -> None:
        """Empty the online store of this project's views. The ledger and the offline rows stay."""
        for view in defined.live_views(self.ws):
            self.ws.online.clear(view.stored_as)

    def delete_feature_view(self, name: str) -> None:
        """Forget a view that was applied as an object, and its rows online; applied versions stay in the ledger."""
        views = defined.views(self.ws)
        registry.take_back(self.ws, "views" if name in views else "on_demand", name)
        if name in views:
            self.ws.online.clear(views[name].stored_as)
        self.refresh_registry()

    def delete_feature_service(self, name: str) -> None:
        """Forget a service that was applied as an object."""
        registry.take_back(self.ws, "services", name)
        self.refresh_registry()

    def _view(self, name: str) -> View:
        views = defined.views(self.ws)
        if name not in views:
            raise NotFound(f"no feature view {name!r}", nearest(name, list(views)), view=name)
        return views[name]

    def _fill(self, names: Sequence[str] | None, since: str, until: str) -> None:
        """Views of tables by their range; those that rows are pushed to follow their feed, whatever the range."""
        sources = defined.sources(self.ws)
        views = [self._view(name) for name in names] if names else list(defined.views(self.ws).values())
        fed = [view.name for view in views if _is_fed(sources.get(view.source))]
        rest = [view.name for view in views if view.name not in fed]
        if rest:
            filling.materialize(",".join(rest), since, until, ws=self.ws)
        if fed:
            filling.materialize(",".join(fed), ws=self.ws)

    def _asked(self, features: Features, full: bool) -> tuple[str | tuple[str, ...], dict[str, str]]:
        """What our verbs take (a service's name, or features), and what each feature is called in the answer."""
        if isinstance(features, str) or not isinstance(features, Iterable):
            name = features if isinstance(features, str) else str(getattr(features, "name", features))
            service: Service = defined.service_named(self.ws, name)
            return name, _called(service.features, full)
        names = tuple(map(str, features))
        defined.resolved(self.ws, defined.service_of(self.ws, names))  # an unknown one names the nearest
        return names, _called(names, full)

    def _online(self, features: Features, full: bool) -> Online:
        """What is asked, resolved once; again after the definitions changed."""
        if self._defined is not self.ws.definitions:
            self._defined = self.ws.definitions
            self._asked_before.clear()
        known = features if isinstance(features, str) else getattr(features, "name", None) or tuple(features)
        found = self._asked_before.get((known, full))
        if found is None:
            asked, names = self._asked(features, full)
            found = self._asked_before[known, full] = Online.of(self.ws, asked, names)
        return found


class Online(msgspec.Struct, frozen=True):
    """Features that are asked for again and again: their names in the answer, and a reader for one entity by itself."""

    features: str | list[str]
    names: dict[str, str]
    slots: dict[str, int]  # name in the answer -> place in the reader's vector
    one: OnlineReader | None  # where the store is near: LMDB

    @staticmethod
    def of(ws: Workspace, asked: str | tuple[str, ...], names: dict[str, str]) -> Online:
        from flyball.features.online import OnlineReader

        service = defined.service_of(ws, asked)
        near = ws.online.near
        one = OnlineReader(service, defined.known(ws, service.features), ws.online) if near else None
        slots = {name: service.features.index(feature) for feature, name in names.items()}
        return Online(asked if isinstance(asked, str) else list(asked), names, slots, one)


_TABLE_OF = {
    "View": "views", "FeatureView": "views", "BatchFeatureView": "views", "StreamFeatureView": "views",
    "OnDemand": "on_demand", "OnDemandFeatureView": "on_demand", "Service": "services", "FeatureService": "services",
    "Entity": "entities", "Source": "sources", "FileSource": "sources", "PushSource": "sources",
}  # fmt: skip


def _is_fed(source: Source | None) -> bool:
    return source is not None and source.url.partition(":")[0] in _FED


def _called(features: Iterable[str], full: bool) -> dict[str, str]:
    """``view:feature`` -> its name in an answer: the feature's own, or ``view__feature``; request fields are no features."""
    names: dict[str, str] = {}
    for feature in features:
        view, colon, short = feature.partition(":")
        if not colon:
            continue
        name = f"{view}__{short}" if full else short
        if name in names.values():
            raise Invalid(
                f"two of the features are called {name!r}",
                "full_feature_names=True calls them view__feature",
                feature=feature,
            )
        names[feature] = name
    return names


def _aware(time: datetime | None) -> datetime:
    """A time without a zone is read as UTC, as Feast does."""
    assert time is not None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
