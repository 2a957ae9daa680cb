"""Definitions are applied as versions; a plan says what a change touches; two versions stand side by side."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flyball.core.records import Field, ModelVersion, Signature
from flyball.errors import Internal, Invalid, NotFound
from flyball.service import features
from flyball.service.verb import table, verb
from flyball.service.workspace import Workspace
from tests import workspaces

DEFINED = """
from flyball.features import Entity, OnDemand, RequestField, Service, Source, View, col, mean

shop = Entity("shop", keys=("shop_id",), description="Where it was sold", owner="retail")
sales = Source("sales", "push:", happened="sold_at", tags={"tier": "gold"})
spend = View("spend", shop, sales, columns=("price",), windows=(mean("price", "HOURS"),), owner="ada")
rate = OnDemand("rate", {"share": col("amount") / col("spend:price")}, description="How large against usual")
till = Service("till", ("amount", "spend:price", "rate:share"), request=(RequestField("amount"),))
"""


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    ws = workspaces.new_workspace(tmp_path / "p")
    define(ws)
    yield ws
    ws.ledger.close()


def define(ws: Workspace, hours: str = "3h", more: str = "", without: str = "") -> Workspace:
    text = DEFINED.replace("HOURS", hours).replace(without or "\0", "") + more
    (ws.root / "defs.py").write_text(text)
    ws.__dict__.pop("definitions", None)
    return ws


def of(changes: list[features.Change]) -> dict[str, features.Change]:
    return {one.name: one for one in changes}


def test_definitions_are_applied_once_and_again_only_when_they_differ(ws: Workspace) -> None:
    first = of(features.apply(ws=ws))
    assert {name: (one.version, one.change) for name, one in first.items()} == {
        "spend": ("spend@1", "new"),
        "rate": ("rate@1", "new"),
        "till": ("till@1", "new"),
    }
    assert first["spend"].next == "flyball features materialize spend"
    before = len(list(ws.ledger.events()))
    assert {one.change for one in features.apply(ws=ws)} == {"none"}
    assert len(list(ws.ledger.events())) == before, "nothing changed, nothing is written"


def test_a_plan_says_what_differs_and_whom_it_touches_and_records_nothing(ws: Workspace) -> None:
    features.apply(ws=ws)
    model = ModelVersion(
        name="m", number=1, artifact="b3:" + "0" * 64, format="onnx", created=datetime(2024, 1, 1, tzinfo=UTC),
        feature_service="till@1", signature=Signature(inputs=(Field("amount", "FP64"),), outputs=()),
    )  # fmt: skip
    workspaces.write(ws, "model", "m@1", model)
    planned = of(features.apply(plan=True, ws=define(ws, hours="12h")))
    assert planned["spend"].differs == ("windows",)
    assert planned["spend"].affects == ("service:till@1", "model:m@1")
    assert planned["till"].version == "till@2"
    assert ws.ledger.keys("view") == ["spend@1"]
    features.apply(ws=ws)
    assert ws.ledger.keys("view") == ["spend@1", "spend@2"]


def test_a_plan_says_what_is_no_longer_defined_and_who_uses_it(ws: Workspace) -> None:
    features.apply(ws=ws)
    define(
        ws,
        without='till = Service("till", ("amount", "spend:price", "rate:share"), request=(RequestField("amount"),))',
    )
    for plan in (True, False):  # the plan is what then happens
        gone = of(features.apply(plan=plan, ws=ws))["till"]
        assert (gone.kind, gone.version, gone.change) == ("service", "till@1", "removed")
    assert "till" not in of(features.apply(ws=ws)), "said once"


def test_versions_of_services_and_on_demand_views_are_shown_too(ws: Workspace) -> None:
    features.apply(ws=ws)
    assert features.show("till@1", ws=ws)["definition"]["name"] == "till"
    for name in ("rate", "rate@1"):  # as one writes it, not as a tree of parts
        assert features.show(name, ws=ws)["expressions"] == {"share": 'col("amount") / col("spend:price")'}
    with pytest.raises(NotFound, match=r"no version 'till@7'") as caught:
        features.show("till@7", ws=ws)
    assert "till@1" in caught.value.hint


def test_what_shares_a_name_is_shown_together(ws: Workspace) -> None:
    define(
        ws,
        more='same = Service("spend", ("spend:price",))\nlast = View("sales", shop, sales, columns=("price",))\n',
    )
    assert list(features.show("spend", ws=ws)) == ["view", "service"]
    assert list(features.show("sales", ws=ws)) == ["source", "view"]
    assert features.show("sales", ws=ws)["source"]["url"] == "push:"


def test_an_on_demand_view_that_reads_what_is_not_there_is_not_applied(ws: Workspace) -> None:
    define(ws, more='lonely = OnDemand("lonely", {"x": col("spend:prise") + 1})')
    for plan in (True, False):
        with pytest.raises(NotFound, match="'lonely' names 'spend:prise'"):
            features.apply(plan=plan, ws=ws)
    assert ws.ledger.keys("view") == [], "all of it, or nothing"


def test_features_are_asked_for_by_names(ws: Workspace) -> None:
    assert features.service_of(ws, "spend:price").features == ("spend:price",)
    with pytest.raises(NotFound) as caught:
        features.service_of(ws, "spend")
    assert "spend:price" in caught.value.hint, "a view is no service, but near to what was meant"
    wrong: Any
    for wrong in (None, [], [1], [["spend:price"]]):
        with pytest.raises(Invalid):
            features.service_of(ws, wrong)


def test_no_two_functions_are_one_verb() -> None:
    table()
    with pytest.raises(Internal, match="features show"):
        verb("features show")(test_no_two_functions_are_one_verb)


def test_an_older_version_is_named_by_its_number_beside_the_new_one(ws: Workspace) -> None:
    features.apply(ws=ws)
    features.apply(ws=define(ws, hours="12h"))
    service = features.service_of(ws, ["spend@1:price_mean_3h", "spend:price_mean_12h"])
    vector = features.resolved(ws, service)
    assert [view.name for view in vector.views] == ["spend@1", "spend"]
    assert len({view.stored_as for view in vector.views}) == 1, "the same rows serve both"
    with pytest.raises(NotFound, match="spend@3"):
        features.service_of(ws, ["spend@3:price"])


def test_words_about_a_definition_are_kept_and_make_no_version(ws: Workspace) -> None:
    features.apply(ws=ws)
    renamed = (ws.root / "defs.py").read_text().replace("ada", "grace hopper")
    (ws.root / "defs.py").write_text(renamed)
    ws.__dict__.pop("definitions", None)
    assert {one.change for one in features.apply(ws=ws)} == {"none"}
    assert ws.ledger.get("view", "spend@1", dict[str, Any])["owner"] == "grace hopper"


def test_features_are_found_by_any_word_said_of_them(ws: Workspace) -> None:
    def names(words: str) -> list[str]:
        return [row["name"] for row in features.search(words, ws=ws)]

    assert names("PRICE ada") == ["spend:price", "spend:price_mean_3h"]
    assert names("tier=gold") == ["sales"]
    assert names("usual") == ["rate:share"]
    assert names("nothing such") == []


def test_showing_a_view_tells_its_versions_and_users(ws: Workspace) -> None:
    features.apply(ws=ws)
    shown = features.show("spend", ws=ws)
    assert shown["versions"] == ["spend@1"]
    assert shown["used_by"] == ["service:till@1"]
    assert features.show("shop", ws=ws)["owner"] == "retail"
    assert features.show("spend@1", ws=ws)["version"] == "spend@1"
    with pytest.raises(NotFound) as error:
        features.show("spent", ws=ws)
    assert "spend" in error.value.hint


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ('a = View("rate", ("k",), "s", happened="t", columns=("x",))', "'rate'"),
        ('b = View("spend@2", ("k",), "s", happened="t", columns=("x",))', "'spend@2'"),
        ('c = [View("spend", ("k",), "s", happened="t", columns=("x",))]', "'spend'"),
        ('d = OnDemand("loop", {"x": col("loop:x")})\ns = Service("r", ("loop:x",))', "loop -> loop"),
        ('e = OnDemand("f", {"x": col("amuont")})\ns = Service("r", ("f:x", "amount"), request=(RequestField("amount"),))',
         "'amuont'"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_by_name(ws: Workspace, more: str, named: str) -> None:
    with pytest.raises(Invalid) as error:
        features.apply(ws=define(ws, more=more))
    assert named in error.value.what
    assert ws.ledger.keys("service") == []


def test_a_record_of_a_view_is_what_it_was(ws: Workspace) -> None:
    features.apply(ws=ws)
    view = features.views(ws)["spend"]
    assert features.version_named(ws, "spend@1") == msgspec.structs.replace(view, name="spend@1")
    assert features.version_named(ws, "spend@1").digest == view.digest
