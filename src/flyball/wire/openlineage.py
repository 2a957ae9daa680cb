"""OpenLineage 2-0-2 as JSON: run, job and dataset events with the standard's facets. Nothing of ours is read here.

The ids that the standard wants are UUIDs: ours, which hold a time and chance as UUIDv7 does, become one that is always
the same.

>>> run_uuid("run_01jx2m5s8q3v4w5x6y7z8a9bcd")
'01974542-e517-71ec-a70b-d378ff4292b6'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from flyball import __version__

PRODUCER = f"https://github.com/flyball/flyball/tree/v{__version__}"
_SPEC = "https://openlineage.io/spec"
_CORE = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs"
# Each facet with the version of the standard that has it: consumers look them up by this address.
_FACETS = {
    "schema": "1-2-0/SchemaDatasetFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
    "documentation": "1-1-0/DocumentationDatasetFacet",
    "dataSource": "1-0-1/DatasourceDatasetFacet",
    "dataQualityMetrics": "1-0-3/DataQualityMetricsInputDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "nominalTime": "1-0-1/NominalTimeRunFacet",
    "parent": "1-2-0/ParentRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "executionParameters": "1-0-0/ExecutionParametersRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "sourceCodeLocation": "1-1-0/SourceCodeLocationJobFacet",
    "ownership": "1-0-1/OwnershipJobFacet",
}
_JOB_DOCUMENTATION = "1-1-0/DocumentationJobFacet"
_OURS = "https://github.com/flyball/flyball/blob/main/docs/decisions/013-lineage-as-a-graph.md#flyball_"
_ID = re.compile(r"[a-z]+_([0-9a-hjkmnp-tv-z]{26})")
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def run_uuid(identifier: str) -> str:
    """The UUID of one of our ids: version 7 of the same millisecond; of any other name, version 5."""
    found = _ID.fullmatch(identifier)
    if found is None:
        return str(uuid5(NAMESPACE_URL, f"flyball:{identifier}"))
    number = 0
    for letter in found[1]:
        number = number << 5 | _LETTERS.index(letter)
    milliseconds, chance = number >> 80 & (1 << 48) - 1, number & (1 << 80) - 1
    value = milliseconds << 80 | 7 << 76 | (chance >> 68) << 64 | 2 << 62 | (chance >> 6) & (1 << 62) - 1
    return str(UUID(int=value))


def facet(name: str, /, **fields: Any) -> dict[str, Any]:
    """One facet by the standard's name, with who says so and where it is described; fields of ``None`` are left out."""
    schema = _FACETS.get(name)
    address = (
        _OURS + name if schema is None else f"{_SPEC}/facets/{schema}.json#/$defs/{schema.partition('/')[2]}"
    )
    return _facet(address, fields)


def job_documentation(description: str) -> dict[str, Any]:
    """The documentation facet of a job, which is not that of a dataset."""
    name = _JOB_DOCUMENTATION
    address = f"{_SPEC}/facets/{name}.json#/$defs/{name.partition('/')[2]}"
    return _facet(address, {"description": description})


def _facet(address: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in fields.items() if value is not None}
    return {"_producer": PRODUCER, "_schemaURL": address, **kept}


def dataset(
    namespace: str, name: str, facets: Mapping[str, Any], **more: Mapping[str, Any]
) -> dict[str, Any]:
    """A dataset; ``inputFacets`` or ``outputFacets`` say how this run saw it."""
    return {
        "namespace": namespace,
        "name": name,
        "facets": dict(facets),
        **{k: dict(v) for k, v in more.items() if v},
    }


def run_event(
    kind: str,
    at: datetime | str,
    *,
    run: str,
    run_facets: Mapping[str, Any],
    job: Mapping[str, Any],
    inputs: Iterable[Mapping[str, Any]] = (),
    outputs: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One transition of a run: START, COMPLETE, FAIL, ABORT, RUNNING or OTHER."""
    return {
        "eventType": kind,
        **_head(at, "RunEvent"),
        "run": {"runId": run_uuid(run), "facets": dict(run_facets)},
        "job": dict(job),
        "inputs": list(inputs),
        "outputs": list(outputs),
    }


def job_event(
    at: datetime | str,
    job: Mapping[str, Any],
    inputs: Iterable[Mapping[str, Any]] = (),
    outputs: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What a job reads and writes, apart from any run of it."""
    return {**_head(at, "JobEvent"), "job": dict(job), "inputs": list(inputs), "outputs": list(outputs)}


def dataset_event(at: datetime | str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataset is, apart from any run."""
    return {**_head(at, "DatasetEvent"), "dataset": dict(found)}


def _head(at: datetime | str, kind: str) -> dict[str, Any]:
    text = at if isinstance(at, str) else at.isoformat().replace("+00:00", "Z")
    return {"eventTime": text, "producer": PRODUCER, "schemaURL": f"{_CORE}/{kind}"}


def schema(columns: Mapping[str, str], *, ordered: bool = False) -> dict[str, Any]:
    """The schema facet of columns; with their positions where the order given is theirs."""
    fields: list[dict[str, Any]] = [{"name": name, "type": kind} for name, kind in columns.items()]
    for position, field in enumerate(fields, 1):
        if ordered:
            field["ordinal_position"] = position
    return facet("schema", fields=fields)


def quality(
    rows: int | None, size: int | None, files: int | None, statistics: Mapping[str, Any]
) -> dict[str, Any]:
    """The data quality facet of per-column statistics (nulls, min, max, mean): numbers only, as the standard wants."""
    columns = {}
    for name, found in statistics.items():
        column: dict[str, Any] = {}
        if isinstance(nulls := found.get("nulls"), int):
            column["nullCount"] = nulls
        for field in ("min", "max"):
            if isinstance(value := found.get(field), int | float) and not isinstance(value, bool):
                column[field] = value
        mean = found.get("mean")
        if isinstance(mean, int | float) and rows is not None:
            column["count"] = rows - column.get("nullCount", 0)
            column["sum"] = mean * column["count"]
        columns[name] = column
    return facet("dataQualityMetrics", rowCount=rows, bytes=size, fileCount=files, columnMetrics=columns)
