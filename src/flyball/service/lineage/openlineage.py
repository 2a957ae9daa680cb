"""A lineage graph as OpenLineage's events: what ran, from which data, into which models; and sending them."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from flyball import __version__
from flyball.core.hashing import is_digest
from flyball.core.lineage import Graph
from flyball.errors import Invalid, Refused, Unavailable
from flyball.service.lineage.nouns import source
from flyball.service.lineage.reading import Reading
from flyball.service.workspace import Workspace
from flyball.wire import openlineage as wire

_ENDS = {"done": "COMPLETE", "failed": "FAIL", "refused": "FAIL", "killed": "ABORT", "lost": "ABORT"}
_EACH_S = 5.0
_ALL_S = 60.0


def events(ws: Workspace, reading: Reading, graph: Graph) -> list[dict[str, Any]]:
    """START and the end of every run of a graph, what its endpoints serve, and the data that no run of it touches."""
    return list(_Events(ws, reading, graph).all())


class _Events:
    """Events of one graph; a dataset is described once, and named the same everywhere."""

    def __init__(self, ws: Workspace, reading: Reading, graph: Graph) -> None:
        self._reading = reading
        self._graph = graph
        self._namespace = f"flyball://{quote(ws.config.project.name)}"
        self._records = dict(reading.records)
        self._seen: set[str] = set()
        with ws.ledger.reading() as connection:
            self._more = Reading(connection)
            self._made = self._made_by(run for run, node in graph.nodes.items() if node.noun == "run")
            self._load(self._wanted())

    def all(self) -> Iterator[dict[str, Any]]:
        nouns = {key: node.noun for key, node in self._graph.nodes.items() if not node.missing}
        runs = sorted(key for key, noun in nouns.items() if noun == "run" and key in self._records)
        for run in runs:
            yield from self._run(run, self._records[run][1])
        for key, noun in nouns.items():
            if noun == "endpoint":
                yield self._endpoint(key, self._records[key][1])
        for key, noun in nouns.items():
            if noun in ("snapshot", "model") and key not in self._seen and key in self._records:
                created = str(self._records[key][1].get("created"))
                yield wire.dataset_event(created, self._dataset(key))

    def _made_by(self, runs: Iterable[str]) -> dict[str, list[str]]:
        """Models and data that these runs made, whether this graph shows them or not."""
        found: dict[str, list[str]] = {run: [] for run in runs}
        if not found:
            return found
        backward = self._reading.backward if "backward" in vars(self._reading) else self._more.backward
        for run, made in found.items():
            made += [
                step.made
                for step in backward.of(run)
                if step.made.startswith(("model:", "snapshot:")) and step.role in ("run", "made by")
            ]
        return found

    def _wanted(self) -> Iterator[str]:
        for key, node in self._graph.nodes.items():
            if node.noun == "endpoint" and key in self._records:
                yield from self._served(self._records[key][1])
        for run, made in self._made.items():
            yield from made
            yield from self._inputs(self._records.get(run, ("", {}))[1])
            yield from (
                str(self._records.get(run, ("", {}))[1].get(field))
                for field in ("code", "environment", "parent")
            )

    @staticmethod
    def _served(record: dict[str, Any]) -> list[str]:
        return [f"model:{arm['model']}" for arm in record.get("arms", ())]

    def _load(self, keys: Iterable[str]) -> None:
        list(self._more.nodes(key for key in keys if key and key not in self._records))
        self._records |= self._more.records

    @staticmethod
    def _inputs(record: dict[str, Any]) -> list[str]:
        inputs = record.get("inputs")
        return [key for value in (inputs or {}).values() if (key := source(value))]

    def _run(self, run: str, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        job = self._job(record)
        inputs = [self._dataset(key, "in") for key in dict.fromkeys(self._inputs(record))]
        common: dict[str, Any] = {"run": run, "job": job, "inputs": inputs}
        facets = self._run_facets(record)
        yield wire.run_event("START", str(record["started"]), run_facets=facets, **common)
        kind = _ENDS.get(str(record.get("status")))
        ended = record.get("ended")
        if kind is None or not isinstance(ended, str):
            return
        facets = {
            **facets,
            "flyball_outcome": wire.facet(
                "outcome", metrics=record.get("metrics"), status=record.get("status")
            ),
        }
        if record.get("error"):
            facets["errorMessage"] = wire.facet(
                "errorMessage", message=record["error"], programmingLanguage="PYTHON"
            )
        outputs = [self._dataset(key, "out") for key in self._made.get(run, ())]
        outputs += [
            self._artifact(str(record.get("pipeline")), name, digest)
            for name, digest in record.get("outputs", {}).items()
        ]
        yield wire.run_event(kind, ended, run_facets=facets, outputs=outputs, **common)

    def _run_facets(self, record: dict[str, Any]) -> dict[str, Any]:
        environment = self._records.get(str(record.get("environment")), ("", {}))[1]
        params = record.get("params") or {}
        found = {
            "nominalTime": wire.facet(
                "nominalTime", nominalStartTime=record["started"], nominalEndTime=record.get("ended")
            ),
            "processing_engine": wire.facet("processing_engine", version=__version__, name="Flyball"),
            "executionParameters": wire.facet(
                "executionParameters",
                parameters=[{"key": name, "value": str(value)} for name, value in params.items()],
            ),
            "flyball_run": wire.facet(
                "run",
                id=record["id"],
                because=record.get("because") or None,
                seeds=record.get("seeds") or None,
                code=record.get("code") or None,
                environment=record.get("environment") or None,
                python=environment.get("python"),
                packages=environment.get("packages"),
            ),
        }
        parent = record.get("parent")
        if parent:
            name = str(self._records.get(parent, ("", {}))[1].get("pipeline") or "run")
            found["parent"] = wire.facet(
                "parent",
                run={"runId": wire.run_uuid(parent)},
                job={"namespace": self._namespace, "name": name},
            )
        return found

    def _job(self, record: dict[str, Any]) -> dict[str, Any]:
        pipeline = str(record.get("pipeline") or "run")
        facets = {
            "jobType": wire.facet(
                "jobType", processingType="BATCH", integration="FLYBALL", jobType="PIPELINE"
            ),
            "documentation": wire.job_documentation(f"The pipeline {pipeline}, as Flyball ran it."),
            "ownership": wire.facet("ownership", owners=[{"name": str(record.get("actor"))}]),
        }
        code = self._records.get(str(record.get("code")), ("", {}))[1]
        if code:
            commit = code.get("commit")
            facets["sourceCodeLocation"] = wire.facet(
                "sourceCodeLocation",
                type="git" if commit else "flyball",
                url=f"urn:git:{commit}" if commit else f"urn:flyball:{code.get('digest')}",
                version=commit or code.get("digest"),
                branch=code.get("branch"),
                path=code.get("place") or None,
            )
        return {"namespace": self._namespace, "name": pipeline, "facets": facets}

    def _endpoint(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """An endpoint is a job that never ends; what it reads are the models it routes to now."""
        models = self._served(record)
        facets = {
            "jobType": wire.facet(
                "jobType", processingType="SERVICE", integration="FLYBALL", jobType="ENDPOINT"
            ),
            "documentation": wire.job_documentation(
                f"Serves {', '.join(m.removeprefix('model:') for m in models)}."
            ),
        }
        name = f"endpoints/{key.partition(':')[2]}"
        job = {"namespace": self._namespace, "name": name, "facets": facets}
        return wire.job_event(str(record.get("set_at")), job, [self._dataset(model) for model in models])

    def _dataset(self, key: str, seen_as: str = "") -> dict[str, Any]:
        """A snapshot, a model version or an artifact: named without its version, which is a facet."""
        self._seen.add(key)
        noun, record = self._records.get(key, ("", {}))
        if noun == "snapshot":
            return self._snapshot(record, seen_as)
        if noun == "model":
            return self._model(record)
        name = f"artifacts/{key}" if is_digest(key) else key.partition(":")[2].rpartition("@")[0] or key
        version = key if is_digest(key) else key.rpartition("@")[2]
        return wire.dataset(self._namespace, name, {"version": wire.facet("version", datasetVersion=version)})

    def _snapshot(self, record: dict[str, Any], seen_as: str) -> dict[str, Any]:
        rows, statistics = record.get("rows"), record.get("statistics") or {}
        files = record.get("file_count") or len(record.get("files", ()))
        size = record.get("size_bytes") or sum(one.get("size_bytes", 0) for one in record.get("files", ()))
        facets = {
            "version": wire.facet("version", datasetVersion=str(record.get("number"))),
            "dataSource": wire.facet(
                "dataSource", name=record.get("name"), uri=f"urn:flyball:{record.get('digest')}"
            ),
            "documentation": wire.facet(
                "documentation",
                description=f"Snapshot {record.get('name')}@{record.get('number')}, {files} files.",
            ),
        }
        if record.get("schema"):
            facets["schema"] = wire.schema(record["schema"])
        more: dict[str, dict[str, Any]] = {}
        if seen_as == "in":
            more["inputFacets"] = {"dataQualityMetrics": wire.quality(rows, size, files, statistics)}
        if seen_as == "out":
            statistic = wire.facet("outputStatistics", rowCount=rows, size=size, fileCount=files)
            more["outputFacets"] = {"outputStatistics": statistic}
        return wire.dataset(self._namespace, str(record.get("name")), facets, **more)

    def _model(self, record: dict[str, Any]) -> dict[str, Any]:
        signature = record.get("signature") or {}
        facets = {
            "version": wire.facet("version", datasetVersion=str(record.get("number"))),
            "schema": wire.schema(
                {one["name"]: one["datatype"] for one in signature.get("inputs", ())}, ordered=True
            ),
            "documentation": wire.facet(
                "documentation",
                description=record.get("note")
                or f"Model {record.get('name')}@{record.get('number')}, {record.get('format')}.",
            ),
            "flyball_model": wire.facet(
                "model", artifact=record.get("artifact"), metrics=record.get("metrics")
            ),
        }
        return wire.dataset(self._namespace, f"models/{record.get('name')}", facets)

    def _artifact(self, pipeline: str, name: str, digest: str) -> dict[str, Any]:
        facets = {"version": wire.facet("version", datasetVersion=digest)}
        return wire.dataset(self._namespace, f"artifacts/{pipeline}/{name}", facets)


def send(url: str, found: Sequence[dict[str, Any]]) -> int:
    """Post events, in order, to an OpenLineage endpoint; each has a few seconds. Returns how many it took.

    ``OPENLINEAGE_API_KEY`` is sent as a bearer token, as OpenLineage's own client does.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(
            f"{url!r} is not an HTTP address", "like http://127.0.0.1:5000/api/v1/lineage", field="emit"
        )
    address = url if parts.path.strip("/") else f"{url.rstrip('/')}/api/v1/lineage"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    until = time.monotonic() + _ALL_S
    for number, event in enumerate(found):
        left = until - time.monotonic()
        if left <= 0:
            raise Unavailable(
                f"{address} took {number} of {len(found)} events in {_ALL_S:.0f} s", "try again"
            )
        request = urllib.request.Request(address, msgspec.json.encode(event), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=min(_EACH_S, left)):  # http or https: checked
                pass
        except urllib.error.HTTPError as error:
            said = error.read(500).decode("utf-8", "replace").strip()
            kind = Unavailable if error.code >= 500 or error.code == 429 else Refused
            raise kind(
                f"{address} refused event {number + 1} of {len(found)} with {error.code}: {said or error.reason}",
                "is it an OpenLineage endpoint, and does it want OPENLINEAGE_API_KEY?",
                sent=number,
            ) from error
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"{address} does not answer: {getattr(error, 'reason', error)}",
                f"{number} of {len(found)} events were taken; sending them again is harmless",
                sent=number,
            ) from error
    return len(found)
