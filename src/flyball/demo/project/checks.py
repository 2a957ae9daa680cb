"""What the feeds have promised. A batch that breaks its contract is set aside before anything can learn from it."""

from flyball.checks.expectations import (
    Contract,
    between,
    has_columns,
    in_set,
    no_future,
    not_null,
    row_count,
    step_at_most,
    unique,
)  # fmt: skip

landings = Contract(
    "landings",
    [
        has_columns(["carrier", "origin", "dest", "tailnum", "asked_at", "landed_at"]),
        not_null("flight_id"),
        not_null("arr_delay"),
        unique("flight_id"),
        in_set("origin", ["EWR", "JFK", "LGA"]),
        between("arr_delay", -180, 2880),
        between("distance", 10, 6000),
        no_future("landed_at"),
    ],
)
weather = Contract(
    "weather",
    [
        row_count(1),
        unique(["origin", "happened"]),
        in_set("origin", ["EWR", "JFK", "LGA"]),
        between("temp", -30, 120),
        between("humid", 0, 105, share=0.05),
        between("wind_speed", 0, 120, share=0.05),
        # No airport cools by 30 degrees in an hour; a feed that changes its unit does. One odd reading is no feed: in
        # the real year one reading is in Celsius (JFK, 9 May, 02:00 UTC), and it passes by its share.
        step_at_most(
            "temp", 20.0, at="happened", by="origin", per_hour=2.0, most=40.0, against="accepted", share=0.4
        ),
        step_at_most(
            "dewp", 30.0, at="happened", by="origin", per_hour=2.0, most=40.0, against="accepted", share=0.4
        ),
    ],
)
