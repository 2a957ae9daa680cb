"""Windows said shortly: their names, and what is refused."""

import pytest

from flyball.errors import Invalid
from flyball.features import Window, aggregates
from flyball.features.definitions import FUNCTIONS


def test_every_function_has_a_word_of_its_own() -> None:
    for function in FUNCTIONS:
        arguments = ("fare", 0.9, "7d") if function == "percentile" else ("fare", "7d")
        made = getattr(aggregates, function)(*arguments, name="x", hop="1d")
        share = 0.9 if function == "percentile" else 0.0
        assert made == Window("x", "fare", function, 7 * 86400, 86400, share)  # type: ignore[arg-type]


def test_a_window_is_named_after_what_it_holds() -> None:
    names = {
        aggregates.percentile("fare", 0.999, "30d"): "fare_p99.9_30d",
        aggregates.median("fare", "2 w"): "fare_median_2w",
        aggregates.approx_distinct("shop", 60): "shop_approx_distinct_60s",
        aggregates.first("fare", "7d", hop=3600): "fare_first_7d_hop_3600s",
        aggregates.count("3h", hop="1h"): "count_3h_hop_1h",
    }
    assert {window.name for window in names} == set(names.values())
    assert [window.name for window in names] == list(names.values())


def test_what_can_not_be_a_window_is_refused_where_it_is_written() -> None:
    for wrong in (
        lambda: aggregates.mean("fare", "7 days"),
        lambda: aggregates.mean("fare", "7d", hop="2d"),
        lambda: aggregates.percentile("fare", 95, "7d"),
    ):
        with pytest.raises(Invalid):
            wrong()
