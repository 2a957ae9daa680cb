"""Feast's feature server over a workspace: its clients work with ``path: http://127.0.0.1:7070`` and nothing else changes.

``POST /get-online-features``, ``/push``, ``/materialize``, ``/materialize-incremental`` and ``/write-to-online-store``,
with the bodies and answers of Feast 0.67. Errors have the shape that its client turns into its own exceptions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flyball.core.clock import parse_time
from flyball.errors import FlyballError, Internal, Invalid, NotFound

if TYPE_CHECKING:
    from flyball.compat.feast.store import FeatureStore
    from flyball.service import Workspace

MOST_BYTES = 64 * 1024 * 1024  # of a body
log = logging.getLogger(__name__)


class OnlineFeatures(msgspec.Struct):
    """What ``/get-online-features`` is asked."""

    entities: dict[str, list[Any]]
    feature_service: str | None = None
    features: list[str] = []
    full_feature_names: bool = False


class Push(msgspec.Struct):
    """What ``/push`` is given: rows as columns."""

    push_source_name: str
    df: dict[str, list[Any]]
    to: str = "online_and_offline"


class Write(msgspec.Struct):
    """What ``/write-to-online-store`` is given."""

    feature_view_name: str
    df: dict[str, list[Any]]


class Materialize(msgspec.Struct):
    """What ``/materialize`` and ``/materialize-incremental`` are given; times as ISO 8601, UTC where they name no zone."""

    start_ts: str | None = None
    end_ts: str | None = None
    feature_views: list[str] | None = None
    disable_event_timestamp: bool = False


Work = Callable[["FeatureStore", Any], Any]


def routes(ws: Workspace) -> list[Route]:
    """The routes; nothing of Feast's face is imported before one is asked for."""
    made: list[FeatureStore] = []

    def store() -> FeatureStore:
        from flyball.compat.feast.store import FeatureStore

        if not made:
            made.append(FeatureStore.over(ws))
        return made[0]

    return [
        Route(path, _handler(store, kind, work), methods=["POST"])
        for path, kind, work in (
            ("/get-online-features", OnlineFeatures, _online),
            ("/push", Push, _push),
            ("/write-to-online-store", Write, _write),
            ("/materialize", Materialize, _materialize),
            ("/materialize-incremental", Materialize, _materialize_incremental),
        )
    ]


def _handler(store: Callable[[], FeatureStore], kind: type[Any], work: Work) -> Any:
    async def handle(request: Request) -> Response:
        try:
            body = await request.body()
            if len(body) > MOST_BYTES:
                return failed(
                    Invalid(f"a body of {len(body)} bytes", f"at most {MOST_BYTES}; push a file by itself")
                )
            asked = msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            return failed(
                Invalid(f"the body is not what {request.url.path} takes: {error}", "see docs/feast.md")
            )
        later = request.query_params.get("async", "").lower() in ("1", "true", "yes")
        if later and kind is Materialize:
            accepted = {"status": "accepted", "feature_views": asked.feature_views or []}
            return _json(accepted, 202, BackgroundTask(_quietly, store, work, asked))
        try:
            return _json(await run_in_threadpool(lambda: work(store(), asked)))
        except FlyballError as error:
            return failed(error)

    return handle


def _online(store: FeatureStore, asked: OnlineFeatures) -> Any:
    features = asked.feature_service or asked.features
    if not features:
        raise Invalid("no features are named", "give features, or a feature_service")
    return store.get_online_features(features, asked.entities, asked.full_feature_names).to_json()


def _push(store: FeatureStore, asked: Push) -> None:
    store.push(asked.push_source_name, asked.df, to=asked.to)


def _write(store: FeatureStore, asked: Write) -> None:
    store.write_to_online_store(asked.feature_view_name, asked.df)


def _materialize(store: FeatureStore, asked: Materialize) -> None:
    if asked.disable_event_timestamp:
        return store.materialize(
            _LONG_AGO, store.ws.clock.now(), asked.feature_views, disable_event_timestamp=True
        )
    if not asked.start_ts or not asked.end_ts:
        raise Invalid("start_ts and end_ts are needed", "or disable_event_timestamp")
    return store.materialize(_time(asked.start_ts), _time(asked.end_ts), asked.feature_views)


def _materialize_incremental(store: FeatureStore, asked: Materialize) -> None:
    if not asked.end_ts:
        raise Invalid("end_ts is needed", "like 2024-01-01T00:00:00Z")
    store.materialize_incremental(_time(asked.end_ts), asked.feature_views)


_LONG_AGO = parse_time("1970-01-01T00:00:00Z")


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is no time", "like 2024-01-01T00:00:00Z") from error


def _quietly(store: Callable[[], FeatureStore], work: Work, asked: Any) -> None:
    """After the answer is out: what goes wrong can only be logged, and the next run goes on where this one ended."""
    try:
        work(store(), asked)
    except FlyballError as error:
        log.warning("a materialization that was accepted failed: %s", error.what)


def failed(error: FlyballError) -> Response:
    """An error as Feast's client reads it: a JSON text that holds the class to raise and what to say."""
    kind = "FeatureViewNotFoundException" if isinstance(error, NotFound) else "FeastError"
    detail = {"module": "feast.errors", "class": kind, "message": str(error)}
    if isinstance(error, Internal):
        log.error("%s", error)
    return _json(json.dumps(detail), error.http_status)


def _json(body: Any, status: int = 200, background: BackgroundTask | None = None) -> Response:
    content = msgspec.json.encode(body, enc_hook=str)
    return Response(content, status, media_type="application/json", background=background)
