"""Definitions say what is wrong with them, and keep their digest while they mean the same."""

import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from flyball.errors import Invalid, NotFound
from flyball.features import RequestField, Service, View, Window, count, mean, std


def view(**changes: object) -> View:
    fields: dict[str, object] = {
        "name": "carrier", "entity": ("carrier",), "source": "landed", "happened": "at", "known": "at",
        "windows": (mean("arr_delay", "3h"), count("3h")),
    }  # fmt: skip
    return View(**{**fields, **changes})  # type: ignore[arg-type] # wrong types are what some tests pass


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: Window("w", "delay", "average", 60), "average"),  # type: ignore[arg-type] # the point
        (lambda: Window("w", "delay", "mean", 0), "window_s 0"),
        (lambda: Window("w", "delay", "mean", -60), "window_s -60"),
        (lambda: Window("w", "delay", "mean", True), "window_s True"),
        (lambda: Window("w", None, "mean", 60), "needs a column"),
        (lambda: Window("a:b", "delay", "mean", 60), "'a:b'"),
        (lambda: mean("delay", "3 fortnights"), "3 fortnights"),
        (lambda: view(name="a:b"), "'a:b'"),
        (lambda: view(name=""), "''"),
        (lambda: view(entity="carrier"), "entity is a text"),
        (lambda: view(entity=()), "entity ()"),
        (lambda: view(entity=("a", "a")), "entity ('a', 'a')"),
        (lambda: view(windows=()), "no feature"),
        (lambda: view(ttl_s=-1), "ttl_s -1"),
        (lambda: view(ttl_s=1.5), "ttl_s 1.5"),
        (lambda: view(ttl_s="1d"), "ttl_s '1d'"),
        (lambda: view(fresh_s=-1), "fresh_s -1"),
        (lambda: view(windows=count("3h")), "windows is Window, not a tuple"),
        (lambda: view(windows=("mean",)), "windows holds 'mean'"),
        (lambda: view(entity=None), "entity is None"),
        (lambda: view(source=None), "source None"),
        (lambda: view(types=["delay"]), "types ['delay']"),
        (lambda: view(columns=("count_3h",)), "two features named 'count_3h'"),
        (lambda: RequestField("dep_hour", "FLOAT"), "FLOAT"),  # type: ignore[arg-type] # the point
        (lambda: Service("s", ()), "no feature"),
        (lambda: Service("s", ("dep_hour",)), "dep_hour"),
        (lambda: Service("s", ("a:b", "a:b")), "'a:b' twice"),
        (lambda: Service("s", (1,)), "features holds 1"),  # type: ignore[arg-type] # the point
        (lambda: Service("s", ("a",), request=("a",)), "request holds 'a'"),  # type: ignore[arg-type] # the point
        (lambda: Service("s", "a:b"), "features is a text"),  # type: ignore[arg-type] # the point
    ],
)
def test_a_wrong_definition_is_refused_with_what_is_wrong(wrong: Callable[[], object], named: str) -> None:
    with pytest.raises(Invalid) as error:
        wrong()
    assert named in error.value.what
    assert error.value.hint


def test_features_are_named_view_colon_feature_in_order() -> None:
    assert view(columns=("gate",)).features == (
        "carrier:gate",
        "carrier:arr_delay_mean_3h",
        "carrier:count_3h",
    )
    assert view(columns=("gate",)).stored_columns == ("gate", "arr_delay")


def test_an_unknown_feature_or_view_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="carrier:arr_delay_mean_3h"):
        Service("s", ("carrier:arr_delay_mean_3d",)).uses([view()])
    with pytest.raises(NotFound, match="did you mean 'carrier'"):
        Service("s", ("carier:count_3h",)).uses([view()])


def test_a_service_knows_its_views_and_the_keys_a_request_must_bring() -> None:
    route = view(name="route", entity=("origin", "carrier"))
    service = Service("s", ("dep_hour", "route:count_3h", "carrier:count_3h"), (RequestField("dep_hour"),))
    assert [used.name for used in service.uses([view(), route])] == ["route", "carrier"]
    assert service.entities([view(), route]) == ("origin", "carrier")


def test_two_views_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match="two views are named 'carrier'"):
        Service("s", ("carrier:count_3h",)).uses([view(), view(ttl_s=60)])


def test_a_definition_survives_json_and_keeps_its_digest() -> None:
    one = view(windows=[mean("arr_delay", "3h"), std("arr_delay", "7d")], ttl_s=60)
    again = msgspec.json.decode(msgspec.json.encode(one), type=View)
    assert again == one
    assert again.digest == one.digest
    assert view(ttl_s=61).digest != one.digest


def test_what_is_stored_changes_its_name_only_with_the_rows() -> None:
    assert view(ttl_s=60).stored_as == view().stored_as
    assert view(windows=(mean("arr_delay", "30d"),)).stored_as == view().stored_as
    assert view(windows=(mean("dep_delay", "3h"),)).stored_as != view().stored_as
    assert view(happened="landed").stored_as != view().stored_as


def test_a_serving_worker_loads_no_dataframe_and_no_database() -> None:
    loads = "import flyball.features.online, flyball.features.definitions, flyball.stores.online_lmdb, sys; "
    loads += (
        "print(*[m for m in ('polars', 'sqlalchemy', 'pandas', 'pydantic', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
