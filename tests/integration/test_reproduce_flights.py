"""The demo's project, on a part of the flights: its second run is judged against a champion, and again without network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest

from flyball.core.clock import SystemClock
from flyball.core.records import Report, Run
from flyball.demo import flights
from flyball.demo.setup import make_project
from flyball.service import data, models, pipelines
from flyball.service.workspace import Workspace

pytestmark = pytest.mark.integration
UNTIL = datetime(2013, 2, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the demo's pipeline on every sixth flight until the middle of February."""
    ws = make_project(tmp_path_factory.mktemp("flights") / "project", SystemClock())
    year = flights.load()
    landed = year.landings.filter(pl.col("landed_at") <= UNTIL).gather_every(6)
    data.add_frame("landings", landed, ws=ws)
    data.add_frame("weather", year.weather.filter(pl.col("known") <= UNTIL), ws=ws)
    data.add_frame("planes", year.planes, ws=ws)
    given = {"until": "2013-02-08T00:00:00", "trees": "5", "holdout_days": "7"}
    pipelines.run("train_delays", given, ws=ws)
    models.alias("delays@1", "champion", because="the first", ws=ws)
    pipelines.run("train_delays", {**given, "until": "2013-02-15T00:00:00", "trees": "10"}, ws=ws)
    models.unalias("delays@champion", because="what came after must not count", ws=ws)
    data.add_frame("landings", landed.head(100), ws=ws)
    ws.ledger.close()
    return ws.root


def without_network(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a network namespace with nothing in it, not even a loopback that is up."""
    alone = ("unshare", "--map-root-user", "--net")
    if shutil.which("unshare") is None or subprocess.run((*alone, "true"), check=False).returncode:
        pytest.skip("this machine gives no network namespace")
    command = (*alone, sys.executable, "-m", "flyball", *words)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_flights_are_reproduced_in_an_empty_folder_without_network(project, tmp_path):
    ws = Workspace.open(project)
    run = ws.ledger.ls("run", Run)[-1]
    gate = next(one for one in ws.ledger.ls("report", Report) if one.evidence.get("run") == run.id)
    ws.ledger.close()
    assert gate.evidence["champion"] == "delays@1"
    done = without_network("reproduce", run.id, "--into", str(tmp_path / "again"), "--json", cwd=project)
    assert done.returncode == 0, done.stderr + done.stdout
    found = msgspec.json.decode(done.stdout)
    assert found["equal"]
    assert {one["how"] for one in found["metrics"]} == {"equal"}
    assert any(one["what"] == "gate of delays: auc" for one in found["metrics"])
    assert {one["how"] for one in found["outputs"]} <= {
        "equal",
        "equal but for ids and times",
        "equal values",
    }
    assert sum(one["how"] == "equal" for one in found["outputs"]) >= 10
    again = Workspace.open(tmp_path / "again")
    judged = again.ledger.ls("report", Report)[-1]
    read = again.ledger.get("run", found["again"], Run)
    again.ledger.close()
    assert judged.evidence["champion"] == "delays@1"  # as it was then
    assert read.inputs["landings"] == "landings@1"
