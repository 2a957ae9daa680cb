"""What a worker answers when features are asked for by themselves, in our JSON and in Feast's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from flyball.core.plan import Plan, ServedFeatures
from flyball.errors import FlyballError, Invalid, NotFound, Unavailable
from flyball.features import OnDemand, RequestField, Service, View, col, push
from flyball.serve.features import FeatureAnswers, feast_error
from flyball.serve.metrics import Metrics
from flyball.stores.online import open_online

NOW = datetime.now(UTC).replace(microsecond=0)
SHOP = View("shop", ("shop",), "sales", "at", columns=("price", "city"), types={"city": "BYTES"}, ttl_s=3600)
TILL = View("till", ("shop", "till"), "sales", "at", columns=("price",))
OLD = msgspec.structs.replace(TILL, name="till@1")
SURE = View("sure", ("shop",), "sales", "at", columns=("price",), defaults={"price": 9.0})
SHARE = OnDemand("share", {"of": col("amount") / col("shop:price")})
SERVICES = (
    Service("prices", ("till:price", "shop:price", "shop:city")),
    Service("shares", ("share:of", "amount", "shop:city"), (RequestField("amount"),)),
    Service("sure", ("sure:price",)),
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    store = open_online(f"lmdb:{tmp_path}/online")
    rows = pl.DataFrame(
        {
            "shop": ["a", "b", "c"],
            "till": [1, 1, 1],
            "at": [NOW - timedelta(minutes=minutes) for minutes in (1, 90, 2)],
            "price": [1.5, 2.5, None],
            "city": ["Ulm", "Köln", None],
        }
    )
    for view in (SHOP, TILL, SURE):
        push(view, rows, store)
    store.close()
    return Plan(generation=1, online=f"lmdb:{tmp_path}/online", features=served())


def served() -> ServedFeatures:
    return ServedFeatures(
        services={one.name: msgspec.to_builtins(one) for one in SERVICES},
        views={one.name: msgspec.to_builtins(one) for one in (SHOP, TILL, OLD, SURE)},
        on_demand={"share": msgspec.to_builtins(SHARE)},
    )


def ask(answers: FeatureAnswers, service: str, body: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(answers.answer(service, msgspec.json.encode(body)))
    return found


def ask_feast(answers: FeatureAnswers, body: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(answers.answer_feast(msgspec.json.encode(body)))
    return found


def shown(minutes: int) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def test_one_entity_is_answered_by_name_and_several_by_lists(plan: Plan) -> None:
    answers = FeatureAnswers(plan, Metrics())
    assert ask(answers, "prices", {"entities": {"shop": "a", "till": 1}}) == {
        "values": {"till:price": 1.5, "shop:price": 1.5, "shop:city": "Ulm"},
        "statuses": {"till:price": "PRESENT", "shop:price": "PRESENT", "shop:city": "PRESENT"},
        "times": {"till:price": shown(1), "shop:price": shown(1), "shop:city": shown(1)},
    }
    several = [{"shop": one, "till": 1} for one in "bcz"]
    found = ask(answers, "prices", {"entities": several})
    assert found["values"] == {
        "till:price": [2.5, None, None],
        "shop:price": [None] * 3,
        "shop:city": [None] * 3,
    }
    assert found["statuses"]["shop:price"] == ["OUTSIDE_TTL", "NULL", "NOT_FOUND"]
    assert found["times"]["till:price"] == [shown(90), None, None]


def test_on_demand_features_take_their_request_fields(plan: Plan) -> None:
    answers = FeatureAnswers(plan, Metrics())
    found = ask(answers, "shares", {"entities": [{"shop": "a"}, {"shop": "z"}], "features": {"amount": 3}})
    assert found["values"] == {"share:of": [2.0, None], "amount": [3.0, 3.0], "shop:city": ["Ulm", None]}


def test_as_of_a_time_in_the_past(plan: Plan) -> None:
    answers = FeatureAnswers(plan, Metrics())
    found = ask(answers, "prices", {"entities": {"shop": "b", "till": 1}, "at": shown(60)})
    assert found["values"]["shop:price"] == 2.5


@pytest.mark.parametrize(
    ("service", "body", "error", "field"),
    [
        ("prises", {"entities": {"shop": "a"}}, NotFound, "service"),
        ("prices", {"entities": {"shop": "a"}}, Invalid, "entities.till"),
        ("prices", {"entities": [{"shop": "a", "till": 1}, {"shop": "a"}]}, Invalid, "entities[1].till"),
        ("prices", {"entities": {"shop": "a", "till": 1.5}}, Invalid, "entities.till"),
        ("prices", {"entities": {"shop": "a", "till": 1, "x": 1}}, Invalid, "entities.x"),
        ("shares", {"entities": {"shop": "a"}}, Invalid, "features.amount"),
        ("shares", {"entities": {"shop": "a"}, "features": {"amount": "x"}}, Invalid, "features.amount"),
        ("shares", {"entities": [{"shop": "a"}], "features": [{"amount": 1}] * 2}, Invalid, "features"),
        ("prices", {"entities": {"shop": "a", "till": 1}, "at": "soon"}, Invalid, "at"),
        ("prices", {"entities": 7}, Invalid, "entities"),
        ("prices", {"entity": {}}, Invalid, "entity"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    plan: Plan, service: str, body: Any, error: type[FlyballError], field: str
) -> None:
    with pytest.raises(error) as raised:
        ask(FeatureAnswers(plan, Metrics()), service, body)
    assert raised.value.facts["field"] == field
    assert raised.value.hint


def test_feasts_answer_has_the_keys_first_and_its_own_names(plan: Plan) -> None:
    answers = FeatureAnswers(plan, Metrics())
    body = {
        "features": ["shop:price", "shop:city"],
        "entities": {"shop": ["a", "b", "c", "z"], "label": [1] * 4},
    }
    found = ask_feast(answers, body)
    assert found["metadata"] == {"feature_names": ["shop", "price", "city"]}
    keys, price, city = found["results"]
    assert keys == {
        "values": ["a", "b", "c", "z"],
        "statuses": ["PRESENT"] * 4,
        "event_timestamps": ["1970-01-01T00:00:00Z"] * 4,
    }
    assert price["values"] == [1.5, None, None, None]
    assert price["statuses"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND"]
    assert price["event_timestamps"][0] == shown(1)
    assert city["values"][0] == "Ulm"


def test_feasts_services_views_versions_and_full_names(plan: Plan) -> None:
    answers = FeatureAnswers(plan, Metrics())
    body: dict[str, Any] = {"feature_service": "shares", "entities": {"shop": ["a"], "amount": [3]}}
    found = ask_feast(answers, body | {"full_feature_names": True})
    assert found["metadata"]["feature_names"] == ["shop", "amount", "shop__city", "share__of"]
    assert [one["values"] for one in found["results"]] == [["a"], [3], ["Ulm"], [2.0]]
    body = {"features": ["till@v1:price"], "entities": {"shop": ["a"], "till": [1]}}
    assert ask_feast(answers, body)["results"][2]["values"] == [1.5]
    with pytest.raises(Invalid, match="full_feature_names") as error:
        ask_feast(answers, {"feature_service": "prices", "entities": {"shop": ["a"], "till": [1]}})
    assert msgspec.json.decode(msgspec.json.decode(feast_error(error.value)))["class"] == "FeastError"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"features": ["shop:prise"], "entities": {"shop": ["a"]}}, "shop:price"),
        ({"features": ["shap:price"], "entities": {"shop": ["a"]}}, "'shop'"),
        ({"feature_service": "prises", "entities": {"shop": ["a"]}}, "'prices'"),
        ({"features": ["shop:price"], "entities": {}}, "entities is empty"),
        ({"features": ["shop:price"], "entities": {"shap": ["a"]}}, "lacks entity 'shop'"),
        ({"entities": {"shop": ["a"]}}, "no features are named"),
    ],
)
def test_feasts_mistakes_are_named_too(plan: Plan, body: Any, named: str) -> None:
    with pytest.raises(FlyballError) as raised:
        ask_feast(FeatureAnswers(plan, Metrics()), body)
    assert named in str(raised.value)


def test_a_store_that_does_not_answer_gives_defaults_or_says_so_and_is_counted(plan: Plan) -> None:
    metrics = Metrics()
    broken = msgspec.structs.replace(plan, online="nowhere:there")
    answers = FeatureAnswers(broken, metrics)
    for _ in range(3):
        found = ask(answers, "sure", {"entities": {"shop": "a"}})
        assert (found["values"], found["statuses"]) == ({"sure:price": 9.0}, {"sure:price": "UNANSWERED"})
        with pytest.raises(Unavailable):
            ask(answers, "prices", {"entities": {"shop": "a", "till": 1}})
    assert metrics.counts == {"online_store_failures": 1, "online_store_absent": 6}


def test_what_can_be_asked_for_is_listed(plan: Plan) -> None:
    assert FeatureAnswers(plan, Metrics()).listed()["services"]["shares"] == {
        "entities": ["shop"],
        "request": {"amount": "FP64"},
        "features": {"share:of": "FP64", "amount": "FP64", "shop:city": "BYTES"},
    }
