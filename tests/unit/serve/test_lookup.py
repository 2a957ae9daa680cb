"""Feature values of a request: from the store as of its time, from the request, or null while the store is absent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.core.plan import Endpoint
from flyball.core.records import Arm, Field, Route, Signature
from flyball.errors import Invalid
from flyball.features import OnDemand, RequestField, Service, View, Window, col, lit
from flyball.features.filling import push
from flyball.serve.lookup import FromRequest, FromStore, lookup_for
from flyball.serve.metrics import Metrics
from flyball.stores.online import open_online

AT = datetime(2013, 4, 1, 12, tzinfo=UTC)
VIEW = View(
    "carrier",
    ("carrier",),
    "landed",
    happened="landed",
    known="landed",
    windows=(Window("late_3h", "delay", "mean", 3 * 3600),),
)
SERVICE = Service("delays", ("hour", "carrier:late_3h"), (RequestField("hour", "FP64"),))
SIGNATURE = Signature(
    (Field("hour", "FP32"), Field("carrier:late_3h", "FP32")), (Field("probability", "FP32"),)
)


def endpoint(service: Service | None = SERVICE) -> Endpoint:
    arm = Arm(model="delays@1", weight=1.0, role="champion")
    return Endpoint(
        name="delays",
        route=Route(endpoint="delays", generation=1, arms=(arm,), set_at=AT),
        models={},
        service=None if service is None else msgspec.to_builtins(service),
        views={"carrier": msgspec.to_builtins(VIEW)},
    )


def from_store(folder: Path, metrics: Metrics | None = None) -> FromStore:
    found = lookup_for(endpoint(), SIGNATURE, f"lmdb:{folder}/online", metrics or Metrics())
    assert isinstance(found, FromStore)
    return found


def fill(folder: Path) -> None:
    store = open_online(f"lmdb:{folder}/online")
    landed = [AT - timedelta(hours=hours) for hours in (4, 2, 1)]
    push(VIEW, pl.DataFrame({"carrier": ["UA"] * 3, "landed": landed, "delay": [90.0, 10.0, 20.0]}), store)
    store.close()


def test_values_come_from_the_store_as_of_the_requests_time(tmp_path: Path) -> None:
    fill(tmp_path)
    lookup = from_store(tmp_path)
    values, times = lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT))
    assert (values, times) == ([12.0, 15.0], [None, to_us(AT - timedelta(hours=1))])
    earlier = to_us(AT - timedelta(minutes=90))
    assert lookup.read({"carrier": "UA"}, {"hour": 12}, earlier)[0] == [12.0, 50.0]


@pytest.mark.parametrize("carrier", ["nobody", None])
def test_an_entity_nobody_knows_has_nulls(tmp_path: Path, carrier: Any) -> None:
    fill(tmp_path)
    assert from_store(tmp_path).read({"carrier": carrier}, {"hour": 12}, to_us(AT))[0] == [12.0, None]


@pytest.mark.parametrize(
    ("entities", "request_fields", "field"),
    [
        ({}, {"hour": 1}, "entities.carrier"),
        ({"carier": "UA"}, {"hour": 1}, "entities.carier"),
        ({"carrier": "UA", "origin": "EWR"}, {"hour": 1}, "entities.origin"),
        ({"carrier": "UA"}, {}, "features.hour"),
        ({"carrier": "UA"}, {"hour": None}, "features.hour"),
        ({"carrier": "UA"}, {"hour": "nine"}, "features.hour"),
        ({"carrier": "UA"}, {"hours": 9}, "features.hours"),
        ({"carrier": "UA"}, {"hour": 9, "carrier:late_3h": 1.0}, "features.carrier:late_3h"),
    ],
)
@pytest.mark.parametrize("filled", [True, False])
def test_a_wrong_request_names_its_field(
    tmp_path: Path, entities: Any, request_fields: Any, field: str, filled: bool
) -> None:
    if filled:
        fill(tmp_path)
    with pytest.raises(Invalid) as caught:
        from_store(tmp_path).read(entities, request_fields, to_us(AT))
    assert caught.value.facts["field"] == field
    assert caught.value.hint


def test_a_store_that_appears_later_is_seen(tmp_path: Path) -> None:
    lookup = from_store(tmp_path)
    assert lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT)) == ([12.0, None], [None, None])
    fill(tmp_path)
    assert lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT))[0] == [12.0, 15.0]


def test_a_store_that_can_not_be_opened_is_null_and_counted() -> None:
    metrics = Metrics()
    lookup = lookup_for(endpoint(), SIGNATURE, "", metrics)
    for count in (1, 2):
        assert lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT)) == ([12.0, None], [None, None])
        assert metrics.counts["online_store_absent"] == count


def test_a_store_that_breaks_is_null_counted_and_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    metrics = Metrics()
    lookup = from_store(tmp_path, metrics)
    assert lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT))[0] == [12.0, 15.0]
    assert lookup._reader is not None

    def breaks() -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(lookup._reader.store, "begin", breaks)
    assert lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT))[0] == [12.0, None]
    assert metrics.counts == {"online_store_absent": 1, "online_store_failures": 1}
    assert lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT))[0] == [12.0, None], "it rests"
    lookup._patience._until = 0.0
    assert lookup.read({"carrier": "UA"}, {"hour": 12}, to_us(AT))[0] == [12.0, 15.0]


def test_a_service_that_does_not_fit_its_model_is_refused(tmp_path: Path) -> None:
    narrow = Signature(SIGNATURE.inputs[:1], SIGNATURE.outputs)
    with pytest.raises(Invalid, match="has 2 features"):
        lookup_for(endpoint(), narrow, f"lmdb:{tmp_path}/online", Metrics())


STRICT = Signature((Field("wind", "FP32"), Field("hour", "FP32", nullable=False)), SIGNATURE.outputs)


def test_without_a_service_the_request_brings_everything() -> None:
    lookup = lookup_for(endpoint(None), STRICT, "", Metrics())
    assert isinstance(lookup, FromRequest)
    assert lookup.read({}, {"hour": 9.5, "wind": 0.5}, 0) == ([0.5, 9.5], [None, None])
    assert lookup.read({}, {"hour": 9, "wind": None}, 0) == ([None, 9.0], [None, None])
    assert lookup.read({}, {"hour": True, "wind": 1}, 0)[0] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"wind": 1.0}, "features.hour"),
        ({"wind": 1.0, "hour": None}, "features.hour"),
        ({"wind": 1.0, "hours": 1.0}, "features.hours"),
        ({"wind": 1.0, "hour": 1.0, "rain": 1.0}, "features.rain"),
        ({"wind": 1e39, "hour": 1.0}, "features.wind"),
        ({"wind": "x", "hour": 1.0}, "features.wind"),
    ],
)
def test_without_a_service_a_wrong_request_names_its_field(request_fields: Any, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        FromRequest(STRICT).read({}, request_fields, 0)
    assert caught.value.facts["field"] == field


TYPED = View(
    "shop", ("carrier",), "landed", "landed", columns=("seats", "full", "city", "delay"), defaults={"delay": 7.0},
    types={"seats": "INT64", "full": "BOOL", "city": "BYTES"},
)  # fmt: skip
SHARE = OnDemand("share", {"of": col("hour") / col("shop:delay"), "home": col("shop:city") == lit("Ulm")})
WIDE = Service(
    "wide", ("shop:seats", "shop:full", "share:of", "share:home", "shop:delay"), (RequestField("hour"),)
)


def typed(folder: Path, service: Service, metrics: Metrics, url: str = "") -> FromStore:
    made = msgspec.structs.replace(
        endpoint(service),
        views={"shop": msgspec.to_builtins(TYPED)},
        on_demand={"share": msgspec.to_builtins(SHARE)},
    )
    signature = Signature(tuple(Field(name, "FP32") for name in service.features), SIGNATURE.outputs)
    found = lookup_for(made, signature, url or f"lmdb:{folder}/online", metrics)
    assert isinstance(found, FromStore)
    return found


def test_typed_and_computed_features_reach_the_model_as_numbers(tmp_path: Path) -> None:
    store = open_online(f"lmdb:{tmp_path}/online")
    row = {"carrier": ["UA"], "landed": [AT], "seats": [150], "full": [True], "city": ["Ulm"], "delay": [4.0]}
    push(TYPED, pl.DataFrame(row), store)
    store.close()
    values, times = typed(tmp_path, WIDE, Metrics()).read({"carrier": "UA"}, {"hour": 2}, to_us(AT))
    assert values == [150.0, 1.0, 0.5, 1.0, 4.0]
    assert {type(value) for value in values} == {float}
    assert times == [to_us(AT), to_us(AT), None, None, to_us(AT)]


def test_declared_defaults_stand_in_and_are_computed_with(tmp_path: Path) -> None:
    metrics = Metrics()
    lookup = typed(tmp_path, WIDE, metrics, url="lmdb:")
    for _ in range(2):
        assert lookup.read({"carrier": "UA"}, {"hour": 14}, to_us(AT))[0] == [None, None, 2.0, None, 7.0]
    assert metrics.counts == {"online_store_absent": 2, "online_store_failures": 1}


def test_a_service_of_texts_fits_no_model(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="texts: shop:city"):
        typed(tmp_path, Service("texts", ("shop:city",)), Metrics())
