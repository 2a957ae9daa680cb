"""Features by themselves from real workers: both JSON shapes, a plan that changes, counts, and a store that is gone."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from tests.redis_servers import RedisServer

from conftest import Plane
from flyball.core.plan import ServedFeatures
from flyball.features import RequestField, Service, View, push
from flyball.serve.publish import acks
from flyball.stores.online import open_online

pytestmark = pytest.mark.integration
Raw = Callable[..., tuple[int, dict[str, Any]]]
NOW = datetime.now(UTC).replace(microsecond=0)
SHOP = View("shop", ("shop",), "sales", "at", columns=("price", "hour"), ttl_s=3600)
SURE = View("sure", ("shop",), "sales", "at", columns=("price",), defaults={"price": 9.0})
PRICES = Service("prices", SHOP.features)
VECTOR = Service("vector", ("sure:price", "hour"), (RequestField("hour"),))


def served(*services: Service) -> ServedFeatures:
    return ServedFeatures(
        services={one.name: msgspec.to_builtins(one) for one in services},
        views={one.name: msgspec.to_builtins(one) for one in (SHOP, SURE)},
    )


def endpoint() -> dict[str, Any]:
    return {"service": msgspec.to_builtins(VECTOR), "views": {"sure": msgspec.to_builtins(SURE)}}


def fill(plane: Plane) -> str:
    url = f"lmdb:{plane.root}/online"
    store = open_online(url)
    rows = pl.DataFrame({"shop": ["a"], "at": [NOW - timedelta(minutes=1)], "price": [1.5], "hour": [9.0]})
    for view in (SHOP, SURE):
        push(view, rows, store)
    store.close()
    return url


def post(raw: Raw, plane: Plane, path: str, body: Any) -> tuple[int, Any]:
    return raw(plane.port, "POST", path, json.dumps(body).encode())


def test_both_shapes_and_a_service_that_is_applied_while_it_runs(plane: Plane, raw: Raw) -> None:
    url = fill(plane)
    model = plane.onnx("delays@1", [1.0, -0.1])
    plane.publish(model, online=url, features=served(PRICES))
    client = plane.start(workers=2)
    found = client.features("prices", {"shop": "a"}, at=NOW)
    assert found["values"] == {"shop:price": 1.5, "shop:hour": 9.0}
    assert list(client.get("/features")["services"]) == ["prices"]
    status, found = post(raw, plane, "/features/prices", {"entities": [{"shop": "a"}, {"shop": "z"}]})
    assert (status, found["values"]["shop:price"]) == (200, [1.5, None])
    assert found["statuses"]["shop:hour"] == ["PRESENT", "NOT_FOUND"]
    asked = {"features": ["shop:price"], "entities": {"shop": ["a"]}}
    status, found = post(raw, plane, "/get-online-features", asked)
    assert (status, found["metadata"]["feature_names"], found["results"][1]["values"]) == (
        200,
        ["shop", "price"],
        [1.5],
    )
    assert post(raw, plane, "/features/sure", {"entities": {"shop": "a"}})[0] == 404
    plane.loaded(plane.publish(model, online=url, features=served(PRICES, Service("sure", SURE.features))))
    assert post(raw, plane, "/features/sure", {"entities": {"shop": "a"}})[1]["values"] == {"sure:price": 1.5}


def test_mistakes_are_answered_and_not_allowed_methods_too(plane: Plane, raw: Raw) -> None:
    plane.publish(plane.onnx("delays@1", [1.0, -0.1]), online=fill(plane), features=served(PRICES))
    plane.start(workers=1)
    status, found = post(raw, plane, "/features/prices", {"entities": {"shap": "a"}})
    assert (status, found["error"], found["facts"]["field"]) == (400, "Invalid", "entities.shap")
    assert raw(plane.port, "GET", "/features/prices")[0] == 405
    assert raw(plane.port, "GET", "/get-online-features")[0] == 405
    assert raw(plane.port, "POST", "/features/prices", b"{")[0] == 400
    status, text = post(
        raw, plane, "/get-online-features", {"features": ["shap:price"], "entities": {"shop": ["a"]}}
    )
    assert (status, json.loads(text)["class"]) == (404, "FeatureViewNotFoundException")


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_dead_or_hanging_redis_holds_no_prediction(plane: Plane, raw: Raw, how: str) -> None:
    """Bounded, then the declared default; later ones don't wait at all; others are answered meanwhile."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if how == "hangs":
            silent.listen(64)  # takes connections, and never answers
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        plane.publish(
            plane.onnx("delays@1", [1.0, -0.1]),
            endpoint=endpoint(),
            online=url,
            features=served(VECTOR, PRICES),
        )
        plane.start(workers=1)
        took: list[float] = []
        statuses: list[int] = []

        def ask() -> None:
            began = time.monotonic()
            status, _ = post(
                raw, plane, "/predict/delays", {"entities": {"shop": "a"}, "features": {"hour": 9}}
            )
            took.append(time.monotonic() - began)
            statuses.append(status)

        first = [threading.Thread(target=ask) for _ in range(8)]
        for one in first:
            one.start()
        assert raw(plane.port, "GET", "/v2/health/live")[0] == 200
        for one in first:
            one.join()
        assert statuses == [200] * 8
        assert max(took) < 2.0
        began = time.monotonic()
        for _ in range(20):
            ask()
        assert time.monotonic() - began < 2.0, "they don't each wait"
        (logged, *_) = plane.predictions().scan("delays")["features"].to_list()
        assert logged == [9.0, 9.0]
        status, found = post(
            raw, plane, "/features/vector", {"entities": {"shop": "a"}, "features": {"hour": 3}}
        )
        assert (status, found["statuses"]["sure:price"]) == (200, "UNANSWERED")
        assert post(raw, plane, "/features/prices", {"entities": {"shop": "a"}})[0] == 503
        assert len(acks(plane.root)) == 1


def test_predictions_from_a_redis_that_is_killed_and_comes_back(
    plane: Plane, raw: Raw, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path / "redis", durable=True).start()
    try:
        url = f"{server.url}?timeout_ms=2000"
        store = open_online(url)
        rows = pl.DataFrame(
            {"shop": ["a"], "at": [NOW - timedelta(minutes=1)], "price": [1.5], "hour": [9.0]}
        )
        for view in (SHOP, SURE):
            push(view, rows, store)
        store.close()
        plane.publish(
            plane.onnx("delays@1", [1.0, -0.1]),
            endpoint=endpoint(),
            online=url,
            features=served(VECTOR, PRICES),
        )
        plane.start(workers=1)
        asked = {"entities": {"shop": "a"}, "features": {"hour": 9}}

        def price() -> float:
            assert post(raw, plane, "/predict/delays", asked)[0] == 200
            value: float = plane.predictions().scan("delays")["features"].to_list()[-1][0]
            return value

        assert price() == 1.5
        assert post(raw, plane, "/features/vector", asked)[1]["statuses"]["sure:price"] == "PRESENT"
        server.send(signal.SIGKILL)
        assert price() == 9.0, "the declared default"
        server.start()
        until = time.monotonic() + 20
        while price() != 1.5:
            assert time.monotonic() < until, "it is asked again, some time after it came back"
    finally:
        server.stop()
