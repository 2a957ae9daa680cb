"""A Feast repository becomes a features.py; nothing that it says is dropped in silence, and Feast is not needed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from flyball.errors import Conflict, Invalid, NotFound, Unavailable
from flyball.features.definitions import Entity, Source, View
from flyball.features.on_demand import compile_vector, compute_frame
from flyball.features.services import OnDemand, Service
from flyball.service.feast import import_feast
from flyball.service.feast.carried import Translated
from flyball.service.feast.reading import read
from flyball.service.feast.translating import translate
from flyball.service.feast.writing import code_for

T = datetime(2024, 1, 1, tzinfo=UTC)
YAML = "project: shop\nregistry: data/registry.db\nprovider: local\nonline_store: {type: sqlite, path: online.db}\n"
HEAD = """
from datetime import timedelta
import pandas as pd
from feast import *
from feast import Aggregation
from feast.types import Array, Bool, Float64, Int64, Json, String, UnixTimestamp
from feast.on_demand_feature_view import on_demand_feature_view
driver = Entity(name="driver", join_keys=["driver_id"])
X = [Field(name="x", dtype=Float64)]
rides = FileSource(name="rides", path="rides.parquet", timestamp_field="at")
trips = FeatureView(name="trips", entities=[driver], source=rides, ttl=timedelta(hours=36), schema=[
    Field(name="rate", dtype=Float64), Field(name="count", dtype=Int64), Field(name="city", dtype=String)])
"""


def repository(folder: Path, code: str = "", yaml: str = YAML) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(yaml)
    (folder / "definitions.py").write_text(HEAD + code)
    return folder


def carried(folder: Path, code: str = "", yaml: str = YAML, **named: Any) -> Translated:
    return translate(read(repository(folder, code, yaml)), **named)


def says(found: Translated, about: str) -> str:
    return "; ".join(note.says for note in found.notes if note.about == about)


def defined(code: str) -> dict[str, Any]:
    """What a written file defines, by kind and name."""
    space: dict[str, Any] = {"__name__": "features_of_a_test"}
    exec(compile(code, "features.py", "exec"), space)
    kinds = (Entity, Source, View, OnDemand, Service)
    return {f"{type(one).__name__} {one.name}": one for one in space.values() if isinstance(one, kinds)}


def test_entities_sources_views_and_services_carry_over(tmp_path: Path) -> None:
    found = carried(
        tmp_path, 'model = FeatureService(name="model", features=[trips[["rate", "city"]]], owner="me@x")'
    )
    assert found.entities == {"driver": Entity("driver", ("driver_id",))}
    assert found.sources["rides"] == Source("rides", f"parquet:{tmp_path}/rides.parquet", happened="at")
    trips = found.views["trips"]
    assert (trips.entity, trips.columns, trips.ttl_s) == (
        ("driver_id",),
        ("rate", "count", "city"),
        36 * 3600,
    )
    assert trips.types == {"count": "INT64", "city": "BYTES"}
    assert found.services["model"] == Service("model", ("trips:rate", "trips:city"), owner="me@x")
    assert found.notes == []


def test_what_is_written_defines_the_same_again(tmp_path: Path) -> None:
    found = carried(
        tmp_path,
        """
asked = RequestSource(name="asked", schema=[Field(name="now", dtype=Float64)])
@on_demand_feature_view(sources=[trips, asked], schema=[Field(name="more", dtype=Float64)])
def relative(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["more"] = inputs["now"] / inputs["rate"] - 1
    return df
shop = Entity(name="shop", value_type=ValueType.STRING, description="a 'shop'", tags={"team": "x"})
both = FeatureView(name="both", entities=[driver, shop], schema=[Field(name="paid", dtype=Float64)],
    source=PushSource(name="pushed", batch_source=FileSource(path="p.csv", timestamp_field="t", field_mapping={"p": "paid"})))
model = FeatureService(name="model", features=[trips, relative, both])
""",
    )
    again = defined(code_for(found, tmp_path))
    for table in (found.entities, found.views, found.on_demand, found.services):
        for one in table.values():
            assert again[f"{type(one).__name__} {one.name}"] == one
    assert again["Source pushed"].url == "csv:p.csv"  # relative to where the file lies
    assert again["View both"].derived == found.views["both"].derived != {}


def test_created_becomes_known_and_says_so(tmp_path: Path) -> None:
    code = 'late = FileSource(name="late", path="late.parquet", timestamp_field="at", created_timestamp_column="made")\n'
    found = carried(tmp_path, code)
    assert found.sources["late"].known == "made"
    assert "rows are invisible before it" in says(found, "late")
    assert translate(read(tmp_path), created="ignore").sources["late"].known == "at"


def test_one_created_time_for_a_whole_file_is_when_the_table_was_written(tmp_path: Path) -> None:
    times = [T + timedelta(hours=hour) for hour in range(5)]
    rows = pl.DataFrame({"at": times, "made": [T + timedelta(days=9)] * 5})
    rows.write_parquet(tmp_path / "late.parquet")
    code = 'late = FileSource(name="late", path="late.parquet", timestamp_field="at", created_timestamp_column="made")\n'
    found = carried(tmp_path, code)
    assert found.sources["late"].known == "at"
    assert "when the table was written" in says(found, "late")
    assert translate(read(tmp_path), created="known").sources["late"].known == "made"


def test_aggregations_become_exact_windows(tmp_path: Path) -> None:
    found = carried(
        tmp_path,
        """
stream = StreamFeatureView(name="stream", entities=[driver], source=rides, ttl=timedelta(days=1), schema=[], aggregations=[
    Aggregation(column="fare", function="sum", time_window=timedelta(days=7), slide_interval=timedelta(hours=5)),
    Aggregation(column="fare", function="avg", time_window=timedelta(hours=1), name="mean_1h"),
    Aggregation(column="fare", function="sum"),
    Aggregation(column="fare", function="entropy", time_window=timedelta(hours=1)),
])
""",
    )
    windows = found.views["stream"].windows
    assert [(one.name, one.function, one.window_s, one.hop_s) for one in windows] == [
        ("sum_fare_604800s", "sum", 604800, 0),
        ("mean_1h", "mean", 3600, 0),
    ]
    assert "slide_interval of 18000 s is not needed" in says(found, "stream:sum_fare_604800s")
    assert "no window of whole seconds" in says(found, "stream:sum_fare")
    assert "no function 'entropy'" in says(found, "stream:entropy_fare_3600s")


LOOKS_UP = """
RATES = {"CH": 0.9}
def rate_of(country):
    return RATES.get(country, 1.0)  # of the day
asked = RequestSource(name="asked", schema=[Field(name="now", dtype=Float64), Field(name="country", dtype=String)])
@on_demand_feature_view(sources=[trips, asked], schema=[Field(name="euros", dtype=Float64), Field(name="home", dtype=Bool)])
def priced(inputs):
    df = pd.DataFrame()
    df["euros"] = inputs["now"] * inputs["rate"] * inputs["country"].map(rate_of)
    df["home"] = inputs["country"] == "CH"
    return df
@on_demand_feature_view(sources=[trips], schema=[Field(name="twice", dtype=Float64)], mode="python")
def listed(inputs):
    found = []
    for rate in inputs["rate"]:
        found.append(None if rate is None else 2 * rate)
    return {"twice": found}
@on_demand_feature_view(sources=[trips], schema=[Field(name="size", dtype=String)], mode="python", singleton=True)
def sized(inputs):
    if inputs["rate"] is None:
        return {"size": None}
    return {"size": "large" if inputs["rate"] > 1 else "small"}
model = FeatureService(name="model", features=[priced, listed, sized])
"""


def test_functions_that_are_no_arithmetic_stay_functions_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    found = carried(tmp_path, LOOKS_UP)
    assert set(found.functions) == {"priced", "listed", "sized"}
    assert "stays a Python function" in says(found, "priced")
    (tmp_path / "written_features.py").write_text(code_for(found, tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("written_features")
    monkeypatch.delitem(sys.modules, "written_features")
    again = {one.name: one for one in vars(module).values() if isinstance(one, OnDemand | View | Service)}
    from flyball.features.services import resolve

    known = [one for one in again.values() if not isinstance(one, Service)]
    vector = resolve(again["model"], known)
    compute = compile_vector(vector)
    rows = [(10.0, "CH", 2.0), (10.0, "DE", 0.5), (10.0, None, None)]
    answers = [
        dict(zip(compute.features, compute([given[name] for name in vector.inputs]), strict=True))
        for now, country, rate in rows
        for given in [{"now": now, "country": country, "trips:rate": rate}]
    ]
    assert [one["priced:euros"] for one in answers] == [18.0, 5.0, None]
    assert [one["priced:home"] for one in answers] == [True, False, False]
    assert [one["listed:twice"] for one in answers] == [4.0, 1.0, None]
    assert [one["sized:size"] for one in answers] == ["large", "small", None]
    frame = pl.DataFrame(rows, schema=["now", "country", "trips:rate"], orient="row")
    batch = compute_frame(vector, frame)
    for name in compute.features:
        assert batch[name].to_list() == [one[name] for one in answers]


@pytest.mark.parametrize(
    ("code", "about", "why"),
    [
        ('v = FeatureView(name="v", entities=[driver], source=rides, schema=[Field(name="t", dtype=UnixTimestamp)])',
         "v:t", "dt.epoch()"),
        ('v = FeatureView(name="v", entities=[driver], source=rides, schema=[Field(name="l", dtype=Array(Int64))])',
         "v:l", "is a Array(Int64)"),
        ('v = FeatureView(name="v", entities=[], source=rides, schema=X)', "v", "has no entity"),
        ('s = BigQuerySource(name="s", table="p.d.t", timestamp_field="t")', "s", "p.d.t"),
        ('p = Permission(name="p", types=[FeatureView])\n', "p", "is a Permission"),
        ('other = trips.with_name("o").with_join_key_map({"driver_id": "other"})\n'
         'f = FeatureService(name="f", features=[other])', "o", "driver_id by other"),
        ('v = FeatureView(name="v", entities=[driver], source=FileSource(path="x.parquet"), schema=X)',
         "v", "timestamp_field"),
        ('v = BatchFeatureView(name="v", entities=[driver], source=rides, schema=X, udf=lambda rows: rows)',
         "v", "transformation"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_named_with_the_reason(
    tmp_path: Path, code: str, about: str, why: str
) -> None:
    found = carried(tmp_path, "from feast.permissions.permission import Permission\n" + code)
    assert why in says(found, about)
    assert why.split(maxsplit=1)[0] in code_for(found, tmp_path)  # and it is in the file too


def test_a_redis_store_is_said_without_its_password(tmp_path: Path) -> None:
    yaml = YAML.replace(
        "{type: sqlite, path: online.db}", '{type: redis, connection_string: "cache:6379,password=secret"}'
    )
    found = carried(tmp_path, "", yaml)
    assert says(found, "online_store") == 'is Redis: [stores] online = "redis://cache:6379/0" in flyball.toml'


def test_feastignore_and_packages_that_are_not_installed_are_heeded(tmp_path: Path) -> None:
    repository(
        tmp_path, "import a_package_nobody_has as p\nfrom another_one import Thing\nX = p.y(Thing[int])\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError\n")
    (tmp_path / ".feastignore").write_text("broken.py  # not yet\n")
    found = translate(read(tmp_path))
    assert set(found.views) == {"trips"}
    assert {note.about for note in found.notes} == {"a_package_nobody_has", "another_one"}


def test_a_repository_that_fails_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"definitions\.py:\d+: ZeroDivisionError"):
        read(repository(tmp_path, "1 / 0\n"))
    with pytest.raises(NotFound, match=r"no feature_store\.yaml"):
        read(tmp_path / "elsewhere")


def test_the_verb_writes_once_and_says_what_came_of_it(tmp_path: Path) -> None:
    repository(tmp_path)
    out = tmp_path / "features.py"
    made = import_feast(str(tmp_path), str(out))
    assert made.as_text().startswith("shop: 1 entities, 1 sources, 1 views, 0 on-demand, 0 services, in ")
    assert "View trips" in defined(out.read_text())
    with pytest.raises(Conflict, match="is there already"):
        import_feast(str(tmp_path), str(out))
    import_feast(str(tmp_path), str(out), overwrite=True)
    with pytest.raises(Unavailable, match="can't be written"):
        import_feast(str(tmp_path), str(out / "below" / "features.py"))
    assert msgspec.json.decode(msgspec.json.encode(made))["views"] == ["trips"]
