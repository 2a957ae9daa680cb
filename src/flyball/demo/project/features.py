"""What a flight looks like one hour before it leaves: declared once, for training and for serving.

Every window counts flights that had *landed* by then, so no value comes from the future.
"""

from flyball.features import RequestField, Service, View, count, mean

LANDED = {"source": "landings", "happened": "landed_at", "known": "landed_at", "row_id": ("flight_id",)}

carrier = View("carrier", ("carrier",), **LANDED, windows=(
    mean("arr_delay", "3h"), mean("arr_delay", "24h"), mean("arr_delay", "7d"),
))  # fmt: skip
origin = View("origin", ("origin",), **LANDED, windows=(
    mean("arr_delay", "1h"), mean("dep_delay", "3h"), mean("arr_delay", "24h"), count("3h"),
))  # fmt: skip
destination = View("destination", ("dest",), **LANDED, windows=(mean("arr_delay", "3h"),))
route = View("route", ("origin", "dest"), **LANDED, windows=(mean("arr_delay", "7d"),))
desk = View("desk", ("origin", "carrier"), **LANDED, windows=(mean("arr_delay", "3h"),))
aircraft = View(
    "aircraft", ("tailnum",), **LANDED, columns=("arr_delay",), ttl_s=24 * 3600,
    windows=(count("2h"), count("4h"), count("8h")),  # how long ago it landed, in steps
)  # fmt: skip

weather = View("weather", ("origin",), "weather", happened="happened", known="known", ttl_s=7 * 24 * 3600, columns=(
    "temp", "dewp", "humid", "wind_speed", "precip", "visib", "pressure",
))  # fmt: skip
plane = View("plane", ("tailnum",), "planes", happened="since", known="since", columns=("year", "seats"))

VIEWS = [carrier, origin, destination, route, desk, aircraft, weather, plane]

delay = Service(
    "delay",
    request=(
        RequestField("minute_of_day", "INT64"),
        RequestField("weekday", "INT64"),
        RequestField("distance", "INT64"),
        RequestField("sched_minutes", "INT64"),
    ),
    features=(
        "minute_of_day", "weekday", "distance", "sched_minutes",
        *weather.features, *carrier.features, *origin.features, *destination.features, *route.features,
        *desk.features, *aircraft.features, *plane.features,
    ),
)  # fmt: skip
