"""``flyball skew`` on the real flights: silent while all is well, and three planted faults are called by their names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest

import flyball.demo
from flyball.core.clock import ManualClock, to_us
from flyball.core.records import Field, Incident, ModelVersion, Report, Signature
from flyball.demo import flights
from flyball.features import OnlineReader, View
from flyball.features.filling import push
from flyball.features.skew import LEAK, STALE, TIME_ZONE
from flyball.heal import traffic
from flyball.service import serving
from flyball.service.features import apply, resolved, service_named, views
from flyball.service.feeds import Feed
from flyball.service.skew import Skew, skew
from flyball.service.watching import FeatureWatch, coverage, freshness
from flyball.service.workspace import Workspace
from flyball.stores.online import OnlineStore, open_online
from flyball.stores.prediction_log import LogWriter, Prediction
from tests import workspaces

pytestmark = pytest.mark.integration
SINCE, UNTIL = datetime(2013, 4, 10, tzinfo=UTC), datetime(2013, 4, 11, tzinfo=UTC)
NOW = UNTIL + timedelta(hours=12)  # by then the day's flights have landed


@pytest.fixture(scope="module")
def year() -> flights.Year:
    return flights.load()


@pytest.fixture
def ws(tmp_path: Path, year: flights.Year) -> Iterator[Workspace]:
    """The demo's own project in April, with an endpoint that reads its feature service."""
    root = tmp_path / "flights"
    shutil.copytree(Path(flyball.demo.__file__).parent / "project", root)
    ws = Workspace.open(root, clock=ManualClock(NOW))
    from_when = SINCE - timedelta(days=9)
    landed = year.landings.filter(pl.col("landed_at").is_between(from_when, NOW))
    weather = year.weather.filter(pl.col("known").is_between(from_when, NOW))
    for source, rows in (("planes", year.planes), ("landings", landed), ("weather", weather)):
        assert Feed(ws, source).ingest(rows, now=NOW).accepted
    apply(ws=ws)
    names = service_named(ws, "delay").features
    model = ModelVersion(
        name="delays", number=1, artifact=ws.blobs.put(b"not run here"), format="onnx", created=SINCE,
        feature_service="delay@1",
        signature=Signature(inputs=tuple(Field(name, "FP64") for name in names), outputs=()),
    )  # fmt: skip
    workspaces.write(ws, "model", model.ref, model)
    route = traffic.champion_only("delays", model.ref, at=SINCE, because="test")
    serving.set_route(ws, route, "route.deployed", model)
    yield ws
    workspaces.close(ws)


def served(ws: Workspace, year: flights.Year, store: OnlineStore, ahead: timedelta = timedelta(0)) -> None:
    """Predictions as a worker logs them, fed from a store; ``ahead`` is how wrong the clock of the reader is."""
    service = service_named(ws, "delay")
    vector = resolved(ws, service)
    reader = OnlineReader(service, list(vector.views), store)
    log = LogWriter(ws.log_dir)
    records = []
    for number, row in enumerate(year.asked(SINCE, UNTIL, 4).iter_rows(named=True)):
        request = flights.request_of(row)
        read = reader.read(request.entities, request.features, to_us(row["asked_at"] + ahead))
        records.append(
            Prediction(
                id=f"pred_{number}", at_us=to_us(row["asked_at"]), endpoint="delays", assigned="champion",
                arm="champion", rho=0.0, model="delays@1", output=0.2, features=read.values,
                times_us=read.times_us, entities=dict(request.entities), fallback=False, error="",
                latency_us=100, candidate_latency_us=0, generation=1, pid=1,
            )
        )  # fmt: skip
    log.append(records)
    log.close()


def other_store(ws: Workspace, changed: dict[str, pl.DataFrame], as_view: dict[str, View]) -> OnlineStore:
    """A store filled by a faulty process: with other rows, or by another definition, under the right names."""
    store = open_online(f"lmdb:{ws.root}/faulty")
    for name, view in views(ws).items():
        rows = changed.get(view.source)
        rows = Feed(ws, view.source).history() if rows is None else rows
        if name in as_view:  # the rows that the faulty definition stores, where the right one is read
            clocks = as_view[name]
            rows = rows.with_columns(pl.col(clocks.happened).alias(view.happened))
        push(view, rows, store, history_s=None)
    return store


def causes(found: Skew) -> dict[str, set[str]]:
    """The causes named, by view."""
    by_view: dict[str, set[str]] = {}
    for one in found.mismatches:
        by_view.setdefault(one.feature.partition(":")[0], set()).add(one.likely_cause)
    return by_view


def test_a_healthy_day_has_no_skew_and_its_watch_opens_nothing(ws: Workspace, year: flights.Year) -> None:
    served(ws, year, ws.online)
    found = skew("delays", since="36h", ws=ws)
    assert found.rows > 200
    assert found.mismatches == []
    assert found.exit_code == 0
    watch = FeatureWatch(ws)
    watch._looked = SINCE
    watch.look(NOW)
    watch.close()
    assert not ws.ledger.ls("incident", Incident)
    present = {row["feature"]: row["present"] for row in coverage("delays", "36h", ws=ws)}
    assert present["weather:temp"] == 1.0
    assert 0.2 < present["aircraft:arr_delay"] < 1.0, "not every aircraft landed within the ttl"
    assert {one.view for one in freshness(ws=ws).views if not one.fresh} == set()


def test_a_clock_in_local_time_is_called_a_time_zone(ws: Workspace, year: flights.Year) -> None:
    served(ws, year, ws.online, ahead=timedelta(hours=-4))  # New York's clock, taken for UTC
    found = skew("delays", ws=ws)
    assert found.exit_code == 1
    named = causes(found)
    assert named["weather"] == {TIME_ZONE}
    assert named["carrier"] == {TIME_ZONE}
    assert all("-4 h" in one.detail for one in found.mismatches if one.feature.startswith("carrier"))


def test_landings_that_come_late_are_called_late(ws: Workspace, year: flights.Year) -> None:
    late = Feed(ws, "landings").history().with_columns(pl.col("landed_at") + pl.duration(minutes=30))
    store = other_store(ws, {"landings": late}, {})
    served(ws, year, store)
    store.close()
    named = causes(skew("delays", ws=ws))
    assert "weather" not in named, "the weather came in time"
    assert named["carrier"] == {STALE}
    assert named["origin"] == {STALE}


def test_a_window_over_flights_still_in_the_air_is_called_a_leak(ws: Workspace, year: flights.Year) -> None:
    carrier = views(ws)["carrier"]
    leaking = msgspec.structs.replace(carrier, happened="asked_at", known="asked_at")
    store = other_store(ws, {"landings": departing(year)}, {"carrier": leaking})
    served(ws, year, store)
    store.close()
    found = skew("delays", ws=ws)
    named = causes(found)
    assert named == {"carrier": {LEAK}}
    first = next(one for one in found.mismatches if one.feature == "carrier:arr_delay_mean_3h")
    assert first.first_id.startswith("pred_")
    assert first.example_logged != first.example_recomputed


def departing(year: flights.Year) -> pl.DataFrame:
    """The landings of those days, flights among them that had not landed by then: the whole schedule."""
    return year.landings.filter(
        pl.col("landed_at").is_between(SINCE - timedelta(days=9), NOW + timedelta(days=1))
    )


def test_what_the_watch_finds_opens_an_incident_and_what_is_right_again_closes_it(
    ws: Workspace, year: flights.Year
) -> None:
    served(ws, year, ws.online, ahead=timedelta(hours=-4))
    (ws.root / "policy.toml").write_text("[features]\nskew_every_s = 129600\nskew_sample = 100\n")
    watch = FeatureWatch(ws)
    watch.look_beside()
    watch.close()
    (incident,) = [one for one in ws.ledger.ls("incident", Incident) if one.cause == "feature_skew"]
    assert incident.subject == "delays"
    assert TIME_ZONE in incident.because
    report = ws.ledger.get("report", incident.evidence["report"], Report)
    assert not report.passed
    assert report.evidence["mismatches"]
    for segment in ws.log_dir.glob("*.wal"):
        segment.unlink()
    served(ws, year, ws.online)
    FeatureWatch(ws).look(NOW)
    closed = ws.ledger.get("incident", incident.id, Incident)
    assert closed.closed == NOW


def test_a_feed_that_stops_is_stale(ws: Workspace) -> None:
    later = Workspace.open(ws.root, clock=ManualClock(NOW + timedelta(days=9)))
    shown = freshness(ws=later)
    assert shown.exit_code == 1
    assert {one.view for one in shown.views if not one.fresh} == {"weather", "aircraft"}
    assert "STALE" in shown.as_text()
    FeatureWatch(later).look(NOW + timedelta(days=9))
    assert {one.subject for one in later.ledger.ls("incident", Incident)} == {"weather", "aircraft"}
    workspaces.close(later)
