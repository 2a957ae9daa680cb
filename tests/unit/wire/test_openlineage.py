"""OpenLineage's events as the standard describes them: required fields, enumerations, URIs, UUIDs."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from flyball.core.ids import new_id
from flyball.wire import openlineage as wire

AT = datetime(2013, 4, 1, 12, 30, tzinfo=UTC)


def test_our_ids_become_version_seven_of_the_same_millisecond_and_stay_apart() -> None:
    one, other = new_id("run", AT), new_id("run", AT)
    found = UUID(wire.run_uuid(one))
    assert (found.version, found.variant) == (7, "specified in RFC 4122")
    assert found.int >> 80 == int(AT.timestamp() * 1000)
    assert wire.run_uuid(one) == str(found)
    assert wire.run_uuid(other) != str(found)


def test_ids_sort_as_ours_do() -> None:
    ids = [new_id("run", AT.replace(year=year)) for year in (2012, 2013, 2014)]
    assert sorted(map(wire.run_uuid, ids)) == list(map(wire.run_uuid, ids))


def test_any_other_name_becomes_version_five() -> None:
    assert UUID(wire.run_uuid("nightly")).version == 5
    assert wire.run_uuid("nightly") == wire.run_uuid("nightly") != wire.run_uuid("hourly")


@pytest.mark.parametrize(
    ("facet", "address"),
    [
        (wire.schema({"a": "Int64"}), "facets/1-2-0/SchemaDatasetFacet.json#/$defs/SchemaDatasetFacet"),
        (wire.facet("parent"), "facets/1-2-0/ParentRunFacet.json#/$defs/ParentRunFacet"),
        (wire.job_documentation("x"), "facets/1-1-0/DocumentationJobFacet.json#/$defs/DocumentationJobFacet"),
    ],
)
def test_a_facet_says_who_says_so_and_where_it_is_described(facet: dict[str, str], address: str) -> None:
    assert facet["_producer"] == wire.PRODUCER
    assert facet["_schemaURL"] == f"https://openlineage.io/spec/{address}"


def test_quality_holds_numbers_only() -> None:
    statistics = {
        "delay": {"nulls": 2, "min": -3, "max": 99.5, "mean": 1.5},
        "at": {"nulls": 0, "min": "2013-01-01", "max": "2013-12-31"},
        "late": {"nulls": 0, "min": False, "max": True},
    }
    found = wire.quality(10, 400, 1, statistics)
    assert found["columnMetrics"] == {
        "delay": {"nullCount": 2, "min": -3, "max": 99.5, "count": 8, "sum": 12.0},
        "at": {"nullCount": 0},
        "late": {"nullCount": 0},
    }
    assert (found["rowCount"], found["bytes"], found["fileCount"]) == (10, 400, 1)


def test_an_event_has_what_the_standard_requires() -> None:
    job = {"namespace": "flyball://p", "name": "train", "facets": {}}
    event = wire.run_event("START", AT, run="run_1", run_facets={}, job=job)
    assert event["eventTime"] == "2013-04-01T12:30:00Z"
    assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    assert set(event) == {
        "eventType",
        "eventTime",
        "producer",
        "schemaURL",
        "run",
        "job",
        "inputs",
        "outputs",
    }
    assert wire.job_event(AT, job)["schemaURL"].endswith("/JobEvent")
    assert wire.dataset_event("2013-04-01T00:00:00Z", {})["schemaURL"].endswith("/DatasetEvent")
