"""Training joins: shapes, clocks and mistakes. The values themselves are proved in tests/property."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

from flyball.errors import Invalid, NotFound
from flyball.features import OnDemand, RequestField, Service, View, col, count, last, mean, point_in_time

T = datetime(2013, 4, 1, 12, tzinfo=UTC)
VIEW = View(
    "c", ("carrier",), "landed", "at", "known", ("delay",), (mean("delay", "3h"), count("3h")), ttl_s=3600
)


def landed(**changes: object) -> pl.DataFrame:
    columns: dict[str, object] = {"carrier": ["UA", "UA"], "at": [T, T], "known": [T, T], "delay": [10, 30]}
    return pl.DataFrame({**columns, **changes})


def asked(**changes: object) -> pl.DataFrame:
    return pl.DataFrame({"carrier": ["UA"], "t": [T], **changes})


def values(frame: pl.DataFrame, entities: pl.DataFrame | None = None) -> dict[str, object]:
    return point_in_time(asked() if entities is None else entities, "t", [VIEW], {"landed": frame}).row(
        0, named=True
    )


def test_every_row_comes_back_once_and_in_order_also_when_it_is_there_twice() -> None:
    entities = pl.DataFrame(
        {"carrier": ["ZZ", "UA", "UA", None, "UA"], "t": [T, T, T, T, None], "late": [1, 0, 1, 0, 1]}
    )
    found = point_in_time(entities, "t", [VIEW], {"landed": landed()})
    assert found.select(*entities.columns).equals(entities)
    assert found["c:count_3h"].to_list() == [0.0, 2.0, 2.0, 0.0, 0.0]
    assert found["c:delay_mean_3h"].to_list() == [None, 20.0, 20.0, None, None]
    assert found["c:delay"].to_list() == [None, 30.0, 30.0, None, None]


def test_nothing_asked_and_nothing_known_are_answered() -> None:
    assert point_in_time(asked().clear(), "t", [VIEW], {"landed": landed()}).shape == (0, 5)
    assert values(landed().clear())["c:count_3h"] == 0.0
    assert values(landed().clear())["c:delay"] is None


def test_a_row_not_known_yet_is_not_used() -> None:
    soon = T + timedelta(microseconds=1)
    assert values(landed(known=[T, soon]))["c:delay_mean_3h"] == 10.0
    assert values(landed(known=[T, soon]))["c:delay"] == 10.0


def test_a_row_known_before_it_happens_counts_from_when_it_happens() -> None:
    soon = T + timedelta(hours=1)
    assert values(landed(at=[T, soon]))["c:delay"] == 10.0
    assert values(landed(at=[T, soon]), asked(t=[soon]))["c:delay"] == 30.0


def test_a_window_leaves_out_its_beginning_and_a_ttl_includes_its_end() -> None:
    edge = T - timedelta(hours=3)
    assert values(landed(at=[edge, edge + timedelta(microseconds=1)]))["c:count_3h"] == 1.0
    old = T - timedelta(hours=1)
    assert values(landed(at=[old, old]))["c:delay"] == 30.0
    assert values(landed(at=[old, old]), asked(t=[T + timedelta(microseconds=1)]))["c:delay"] is None


def test_the_correction_known_last_wins_the_tie() -> None:
    first, then = T - timedelta(minutes=2), T - timedelta(minutes=1)
    assert values(landed(known=[then, first]))["c:delay"] == 10.0


def test_a_row_twice_counts_once_and_a_row_id_tells_two_apart() -> None:
    twice = landed(delay=[10, 10], flight=[1, 2])
    assert values(twice)["c:count_3h"] == 1.0
    told = View("c", ("carrier",), "landed", "at", "known", (), (count("3h"),), row_id=("flight",))
    assert point_in_time(asked(), "t", [told], {"landed": twice})["c:count_3h"].item() == 2.0


@pytest.mark.parametrize(
    "ids", [[-1, None], [0, None], [False, None], [datetime(1970, 1, 1, tzinfo=UTC), None], ["", None]]
)
def test_a_row_without_a_row_id_is_none_of_those_that_have_one(ids: list[Any]) -> None:
    told = View("c", ("carrier",), "landed", "at", "known", (), (count("3h"),), row_id=("flight",))
    twice = {"landed": landed(delay=[10, 10], flight=ids)}
    assert point_in_time(asked(), "t", [told], twice)["c:count_3h"].item() == 2.0


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", None])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_any_zone_and_unit_are_the_same_instant(
    zone: str | None, unit: Literal["ms", "us", "ns"]
) -> None:
    at = pl.col("at").dt.convert_time_zone(zone) if zone else pl.col("at").dt.replace_time_zone(None)
    frame = landed().with_columns(at.dt.cast_time_unit(unit))
    assert values(frame)["c:delay_mean_3h"] == 20.0


def test_a_date_is_its_midnight() -> None:
    frame = landed(at=[date(2013, 4, 1)] * 2)
    assert values(frame, asked(t=[T.replace(hour=2)]))["c:count_3h"] == 0.0  # known only at noon
    assert values(frame, asked(t=[T]))["c:count_3h"] == 0.0  # happened 12 hours ago
    frame = frame.with_columns(known=pl.col("at"))
    assert values(frame, asked(t=[T.replace(hour=2)]))["c:count_3h"] == 2.0


def test_categories_and_small_integers_are_keys_like_any_other() -> None:
    frame = landed().with_columns(pl.col("carrier").cast(pl.Categorical))
    assert values(frame)["c:count_3h"] == 2.0
    numbered = landed(carrier=pl.Series([1, 1], dtype=pl.Int16))
    assert values(numbered, asked(carrier=[1]))["c:count_3h"] == 2.0


def test_a_service_gives_its_features_in_its_order_and_needs_its_request_fields() -> None:
    service = Service("s", ("c:count_3h", "dep_hour", "c:delay_mean_3h"), (RequestField("dep_hour"),))
    with pytest.raises(Invalid, match="dep_hour"):
        point_in_time(asked(), "t", [VIEW], {"landed": landed()}, service=service)
    found = point_in_time(asked(dep_hour=[9]), "t", [VIEW], {"landed": landed()}, service=service)
    assert found.select(service.features).row(0) == (2.0, 9, 20.0)
    assert "c:delay" not in found.columns


def test_the_last_value_that_is_not_null_is_the_last() -> None:
    view = View("c", ("carrier",), "landed", "at", "known", (), (last("delay", "3h"),))
    frame = landed(at=[T - timedelta(hours=1), T], delay=[10, None])
    assert point_in_time(asked(), "t", [view], {"landed": frame})["c:delay_last_3h"].item() == 10.0


def test_a_spread_is_right_beside_an_outlier_that_has_left_the_window() -> None:
    hours = [T - timedelta(hours=h) for h in (9, 2, 1)]
    view = View("c", ("carrier",), "landed", "at", "at", (), (mean("delay", "3h"), count("3h")))
    frame = pl.DataFrame({"carrier": ["UA"] * 3, "at": hours, "delay": [1e18, 0.1, 0.3]})
    assert point_in_time(asked(), "t", [view], {"landed": frame})["c:delay_mean_3h"].item() == pytest.approx(
        0.2
    )


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (landed().drop("known"), "no column 'known'"),
        (landed().drop("delay"), "no column 'delay'"),
        (landed(delay=["x", "y"]), "'delay' is String"),
        (landed(at=["2013", "2014"]), "'at' is String"),
        (landed(carrier=[1.5, 2.5]), "key 'carrier' is Float64"),
        (landed(carrier=[1, 2]), "key 'carrier' of view 'c' is Int64 in the source, String"),
    ],
)
def test_a_wrong_source_is_named_with_its_column(frame: pl.DataFrame, named: str) -> None:
    with pytest.raises(Invalid) as error:
        values(frame)
    assert named in error.value.what


def test_a_missing_source_key_or_time_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'landed_2013'"):
        point_in_time(asked(), "t", [VIEW], {"landed_2013": landed()})
    with pytest.raises(Invalid, match="no column 'at'"):
        point_in_time(asked(), "at", [VIEW], {"landed": landed()})
    with pytest.raises(Invalid, match="no key column 'carrier'"):
        point_in_time(asked().drop("carrier"), "t", [VIEW], {"landed": landed()})


def test_a_service_with_on_demand_features_comes_in_its_order() -> None:
    rate = OnDemand("rate", {"double": col("c:delay") * 2, "late": col("dep_hour") + col("c:count_3h")})
    wanted = ("rate:late", "c:count_3h", "dep_hour", "rate:double")
    service = Service("s", wanted, request=(RequestField("dep_hour"),))
    found = point_in_time(asked(dep_hour=[9]), "t", [VIEW, rate], {"landed": landed()}, service=service)
    assert found.columns == [*asked(dep_hour=[9]).columns, "rate:late", "c:count_3h", "rate:double"]
    plain = point_in_time(asked(), "t", [VIEW], {"landed": landed()})
    assert found["rate:double"].item() == plain["c:delay"].item() * 2
    assert found["rate:late"].item() == 9 + plain["c:count_3h"].item()


def test_a_source_that_breaks_off_is_named(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.parquet" for number in (1, 2)]
    for file in files:
        landed().write_parquet(file)
    source = pl.scan_parquet(files, glob=False)
    files[1].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(Invalid, match="source 'landed' of view 'c' can't be read to its end"):
        point_in_time(asked(), "t", [VIEW], {"landed": source})


def test_numbers_of_128_bits_are_numbers_and_no_keys_beyond_63() -> None:
    wide = landed(delay=pl.Series([10, 30], dtype=pl.Int128))
    assert values(wide) == values(landed())
    view = View("c", ("key",), "landed", "at", "known", ("delay",))
    for key in (2**100, -(2**63) - 1):
        keys = landed().with_columns(key=pl.Series([key, 7], dtype=pl.Int128))
        with pytest.raises(Invalid, match="'key' has numbers beyond 63 bits"):
            point_in_time(asked(key=7), "t", [view], {"landed": keys})


def test_times_beyond_microseconds_are_named() -> None:
    far = landed(at=pl.Series([2**62, 0]).cast(pl.Datetime("ms", "UTC")))
    with pytest.raises(Invalid, match="'at' has times that microseconds can't count"):
        values(far)
