"""``FeatureStore`` over a project and over a Feast repository: the calls people use."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

import flyball.compat.feast as feast
from flyball.compat.feast import FeatureStore
from flyball.errors import Conflict, Invalid, NotFound
from flyball.features import OnDemand, Service, Source, View, col
from flyball.service.feast.words import PushMode
from flyball.service.workspace import APPLIED

NOW = datetime.now(UTC).replace(microsecond=0)
FEATURES = """
from flyball.features import Entity, OnDemand, RequestField, Service, Source, View, col
driver = Entity("driver", keys=("driver_id",), types={"driver_id": "INT64"}, tags={"team": "a"})
trips = Source("trips", "parquet:trips.parquet", happened="at")
stats = View("stats", driver, trips, columns=("rate", "city"), ttl_s=86400, types={"city": "BYTES"},
             owner="me", tags={"team": "a"})
fresh = View("fresh", driver, Source("pushed", "push:", happened="at"), columns=("rate",))
more = OnDemand("more", {"double": col("stats:rate") * col("factor")})
model = Service("model", ("stats:rate", "more:double"), request=(RequestField("factor"),), description="of tests")
"""


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def rows(*given: tuple[Any, ...]) -> pl.DataFrame:
    made = pl.DataFrame(given, schema=["driver_id", "at", "rate", "city"], orient="row")
    return made.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    (tmp_path / "flyball.toml").write_text('[project]\nname = "taxis"\ndefinitions = ["features.py"]\n')
    (tmp_path / "features.py").write_text(FEATURES)
    rows((1, ago(3), 1.0, "Bern"), (1, ago(1), 2.0, "Rom"), (2, ago(40), 9.0, "Oslo")).write_parquet(
        tmp_path / "trips.parquet"
    )
    return FeatureStore(tmp_path)


def test_what_is_defined_is_listed_in_feasts_words(store: FeatureStore) -> None:
    assert store.project == "taxis"
    assert [one.name for one in store.list_feature_views()] == ["stats", "fresh"]
    view = store.get_feature_view("stats")
    assert [(one.name, repr(one.dtype)) for one in view.features] == [("rate", "Float64"), ("city", "String")]
    assert (view.entities, view.join_keys, view.ttl, view.owner) == (
        ["driver"],
        ["driver_id"],
        timedelta(days=1),
        "me",
    )
    assert store.get_entity("driver").join_keys == ["driver_id"]
    assert store.get_data_source("trips").timestamp_field == "at"
    assert store.get_on_demand_feature_view("more").features[0].name == "double"
    assert store.get_feature_service("model").features == ["stats:rate", "more:double"]
    assert [one.name for one in store.list_feature_views(tags={"team": "a"})] == ["stats"]
    with pytest.raises(NotFound, match="no feature view 'stat'") as error:
        store.get_feature_view("stat")
    assert "did you mean 'stats'?" in error.value.hint


def test_plan_says_what_apply_does_and_changes_nothing(store: FeatureStore) -> None:
    assert {one.change for one in store.plan()} == {"new"}
    assert {one.change for one in store.plan()} == {"new"}
    assert {one.change for one in store.apply()} == {"new"}
    assert {one.change for one in store.apply()} == {"none"}


def test_training_rows_come_back_once_in_order_under_feasts_names(store: FeatureStore) -> None:
    asked = pl.DataFrame(
        {"driver_id": [1, 2, 1, 9], "event_timestamp": [NOW, NOW, ago(2), NOW], "factor": [2.0] * 4}
    )
    job = store.get_historical_features(asked, ["stats:rate", "stats:city", "more:double"])
    found = job.to_polars()
    assert found.columns == [*asked.columns, "rate", "city", "double"]
    assert found["rate"].to_list() == [2.0, None, 1.0, None]
    assert found["city"].to_list() == ["Rom", None, "Bern", None]
    assert found["double"].to_list() == [4.0, None, 2.0, None]
    assert job.metadata.features == ["stats:rate", "stats:city", "more:double"]
    assert job.metadata.keys == asked.columns
    full = store.get_historical_features(asked, store.get_feature_service("model"), full_feature_names=True)
    assert full.to_polars().columns[-2:] == ["stats__rate", "more__double"]


def test_a_range_of_time_needs_no_entity_rows(store: FeatureStore) -> None:
    found = store.get_historical_features(
        features=["stats:rate"], start_date=ago(2), end_date=NOW
    ).to_polars()
    assert found.select("driver_id", "rate").rows() == [(1, 2.0)]
    with pytest.raises(Invalid, match="both given"):
        store.get_historical_features(found, ["stats:rate"], start_date=ago(2))
    with pytest.raises(Invalid, match="neither"):
        store.get_historical_features(features=["stats:rate"])


def test_a_training_set_is_written_once(store: FeatureStore, tmp_path: Path) -> None:
    asked = pl.DataFrame({"driver_id": [1], "event_timestamp": [NOW]})
    job = store.get_historical_features(asked, ["stats:rate"])
    job.persist(SimpleNamespace(path=str(tmp_path / "set.parquet")))  # Feast's storage has a path
    assert pl.read_parquet(tmp_path / "set.parquet")["rate"].to_list() == [2.0]
    with pytest.raises(Conflict, match="is there already"):
        job.persist(tmp_path / "set.parquet")
    job.persist(tmp_path / "set.parquet", allow_overwrite=True)


def test_online_values_statuses_and_times_of_one_and_of_many_agree(store: FeatureStore) -> None:
    store.materialize(ago(100), NOW)
    keys = [{"driver_id": 1}, {"driver_id": 2}, {"driver_id": 3}]
    many = store.get_online_features(["stats:rate", "stats:city"], keys)
    assert many.to_dict() == {"driver_id": [1, 2, 3], "rate": [2.0, None, None], "city": ["Rom", None, None]}
    assert many.proto.metadata.feature_names.val == ["driver_id", "rate", "city"]
    assert many.proto.results[1].statuses == [1, 4, 3]
    assert many.to_dict(include_event_timestamps=True)["rate__ts"] == [int(ago(1).timestamp()), 0, 0]
    for at, key in enumerate(keys):
        one = store.get_online_features(["stats:rate", "stats:city"], [key])
        assert one.to_dict() == {name: [column[at]] for name, column in many.to_dict().items()}
        assert one.proto.results[1].statuses == many.proto.results[1].statuses[at : at + 1]
    later = asyncio.run(
        store.get_online_features_async("model", [{"driver_id": 1, "factor": 3.0}], full_feature_names=True)
    )
    assert later.to_dict() == {"driver_id": [1], "stats__rate": [2.0], "more__double": [6.0]}


def test_columns_are_taken_as_well_as_rows(store: FeatureStore) -> None:
    store.materialize_incremental(NOW, ["stats"])
    assert store.get_online_features(["stats:rate"], {"driver_id": [1, 3]}).to_dict()["rate"] == [2.0, None]


def test_two_features_of_one_name_need_their_full_names(store: FeatureStore) -> None:
    both = ["stats:rate", "fresh:rate"]
    with pytest.raises(Invalid, match="two of the features are called 'rate'") as error:
        store.get_online_features(both, [{"driver_id": 1}])
    assert "full_feature_names=True" in error.value.hint
    found = store.get_online_features(both, [{"driver_id": 1}], full_feature_names=True)
    assert list(found.to_dict()) == ["driver_id", "stats__rate", "fresh__rate"]


@pytest.mark.parametrize("to", [PushMode.ONLINE_AND_OFFLINE, PushMode.ONLINE, PushMode.OFFLINE])
def test_a_push_goes_where_it_is_told(store: FeatureStore, to: PushMode) -> None:
    store.push("pushed", {"driver_id": [5], "at": [ago(1).isoformat()], "rate": [7.0]}, to=to)
    asked = pl.DataFrame({"driver_id": [5], "event_timestamp": [NOW]})
    online = store.get_online_features(["fresh:rate"], [{"driver_id": 5}]).to_dict()["rate"]
    assert online == ([None] if to is PushMode.OFFLINE else [7.0])
    if to is not PushMode.ONLINE:
        assert store.get_historical_features(asked, ["fresh:rate"]).to_polars()["rate"].to_list() == [7.0]


def test_a_push_elsewhere_or_nowhere_is_refused(store: FeatureStore) -> None:
    with pytest.raises(Invalid, match="can't go to 'sideways'"):
        store.push("pushed", {}, to="sideways")
    with pytest.raises(NotFound, match="no view reads 'pushe'"):
        store.push("pushe", {"driver_id": [5], "at": [ago(1).isoformat()], "rate": [7.0]})


def test_rows_written_online_only_are_read_and_an_older_event_does_not_win(store: FeatureStore) -> None:
    columns = {"driver_id": [6], "rate": [1.0], "created": [None]}
    store.write_to_online_store(
        "fresh", {**columns, "event_timestamp": [ago(1).replace(tzinfo=None).isoformat()]}
    )
    store.write_to_online_store("fresh", pl.DataFrame({"driver_id": [6], "at": [ago(2)], "rate": [0.5]}))
    assert store.get_online_features(["fresh:rate"], [{"driver_id": 6}]).to_dict()["rate"] == [1.0]


def test_objects_that_are_applied_stay_in_a_file_that_can_be_kept(
    store: FeatureStore, tmp_path: Path
) -> None:
    late = View(
        "late", ("driver_id",), Source("trips2", "parquet:trips.parquet", happened="at"), columns=("rate",)
    )
    ratio = OnDemand("ratio", {"of_late": col("late:rate") / 2})
    store.apply([late, ratio, Service("both", ("late:rate", "ratio:of_late"))])
    assert (
        'View(\n    "late"' in (tmp_path / APPLIED).read_text()
        or 'View("late"' in (tmp_path / APPLIED).read_text()
    )
    again = FeatureStore(tmp_path)
    again.materialize(ago(100), NOW, ["late"])
    assert again.get_online_features("both", [{"driver_id": 1}]).to_dict() == {
        "driver_id": [1],
        "rate": [2.0],
        "of_late": [1.0],
    }
    again.delete_feature_service("both")
    again.delete_feature_view("ratio")
    again.delete_feature_view("late")
    assert [one.name for one in again.list_feature_views()] == ["stats", "fresh"]
    with pytest.raises(Invalid, match="defined by the project's own files"):
        again.delete_feature_view("stats")


def test_feasts_own_words_can_be_applied(store: FeatureStore) -> None:
    shop = feast.Entity(name="shop", join_keys=["shop_id"])
    sold = feast.FileSource(name="sold", path="sold.parquet", timestamp_field="at")
    field = feast.Field(name="paid", dtype=feast.Float64)
    view = feast.FeatureView(
        name="sales", entities=[shop], source=sold, ttl=timedelta(hours=1), schema=[field]
    )
    changes = store.apply([shop, view, feast.FeatureService(name="sales_model", features=[view])])
    assert {(one.name, one.change) for one in changes} >= {("sales", "new"), ("sales_model", "new")}
    assert store.get_feature_view("sales").ttl == timedelta(hours=1)
    store.apply(objects_to_delete=[view, feast.FeatureService(name="sales_model")])
    assert "sales" not in {one.name for one in store.list_feature_views()}


def test_what_the_projects_files_define_can_not_be_applied_otherwise(store: FeatureStore) -> None:
    with pytest.raises(Conflict, match="'fresh' is defined otherwise"):
        store.apply(View("fresh", ("driver_id",), "pushed", happened="at", columns=("other",)))
    with pytest.raises(Invalid, match="can't be applied"):
        store.apply([object()])


def test_a_feast_repository_is_a_store_and_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: taxis\nregistry: r.db\nprovider: local\n")
    code = (
        "from feast import Entity, FeatureView, Field, FileSource\nfrom feast.types import Float64\n"
        "driver = Entity(name='driver', join_keys=['driver_id'])\n"
        "trips = FileSource(name='trips', path='trips.parquet', timestamp_field='at')\n"
        "stats = FeatureView(name='stats', entities=[driver], source=trips, schema=[Field(name='rate', dtype=Float64)])\n"
    )
    (tmp_path / "definitions.py").write_text(code)
    rows((1, ago(1), 2.0, "Rom")).write_parquet(tmp_path / "trips.parquet")
    store = FeatureStore(str(tmp_path))
    store.materialize_incremental(NOW)
    assert store.get_online_features(["stats:rate"], [{"driver_id": 1}]).to_dict()["rate"] == [2.0]
    (tmp_path / "definitions.py").write_text(code.replace("name='stats'", "name='figures'"))
    assert [one.name for one in FeatureStore(tmp_path).list_feature_views()] == ["figures"]


def test_a_folder_that_is_neither_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="neither a Flyball project nor a Feast repository"):
        FeatureStore(tmp_path)
    with pytest.raises(Invalid, match="RepoConfig"):
        FeatureStore(config=object())


def test_teardown_empties_what_is_online_and_nothing_else(store: FeatureStore) -> None:
    store.materialize(ago(100), NOW)
    store.teardown()
    assert store.get_online_features(["stats:rate"], [{"driver_id": 1}]).to_dict()["rate"] == [None]
    store.materialize(ago(100), NOW)
    assert store.get_online_features(["stats:rate"], [{"driver_id": 1}]).to_dict()["rate"] == [2.0]
