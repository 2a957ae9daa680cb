"""The whole loop on simulated time: a shortened year (one flight in eight), through real worker processes.

One worker is killed with -9 on the way. Dates move with seed and sampling, so ranges are asserted, not days.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flyball.core.records import Alias, Decision, Route, Run
from flyball.service import Workspace

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]
pytest.importorskip("sklearn", reason="the demo trains models: pip install 'flyball[demo]'")

CODE = """
import sys
from datetime import timedelta
from pathlib import Path
import msgspec
from flyball.demo.play import play
from flyball.demo.story import FULL_YEAR
story = msgspec.structs.replace(FULL_YEAR, one_in=8, tick=timedelta(hours=12))
sys.exit(play(Path(sys.argv[1]), as_json=True, keep_up=False, story=story))
"""


class Year:
    """What is left of a year: its summary, its workspace, and which worker was killed."""

    def __init__(self, folder: Path, summary: dict[str, Any], killed: int, stderr: str) -> None:
        self.ws = Workspace.open(folder)
        self.summary = summary
        self.killed = killed
        self.stderr = stderr

    def decisions(self, action: str) -> list[Decision]:
        return [one for one in self.ws.ledger.ls("decision", Decision) if one.action == action]


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    folder = tmp_path_factory.mktemp("year") / "flights"
    child = subprocess.Popen(
        [sys.executable, "-c", CODE, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed = kill_a_worker(folder, child)
    stdout, stderr = child.communicate(timeout=800)
    assert child.returncode == 0, stderr[-3000:]
    return Year(folder, json.loads(stdout), killed, stderr)


def kill_a_worker(folder: Path, child: subprocess.Popen[str]) -> int:
    """Wait until the replay is under way, then kill -9 one of the two workers."""
    log = folder / ".flyball" / "log"
    until = time.monotonic() + 300
    while time.monotonic() < until and child.poll() is None:
        workers = list((folder / ".flyball" / "run" / "workers").glob("[0-9]*.json"))
        written = sum(file.stat().st_size for file in log.glob("*.wal")) if log.is_dir() else 0
        if len(workers) == 2 and written > 500_000:
            pid = int(workers[0].stem)
            os.kill(pid, signal.SIGKILL)
            return pid
        time.sleep(0.1)
    return 0


def test_no_client_request_fails_and_no_acknowledged_prediction_is_lost_though_a_worker_is_killed(
    year: Year,
) -> None:
    assert year.killed
    assert year.summary["failed_client_requests"] == 0
    rows = year.ws.predictions.scan("delays")
    assert rows.height == year.summary["predictions"] > 30_000
    assert year.killed in set(rows["pid"].unique().to_list())
    assert rows["pid"].n_unique() == 3


def test_a_quality_falls_and_a_challenger_is_trained_gated_canaried_and_promoted(year: Year) -> None:
    retrained = year.decisions("retrain")
    assert 1 <= len(retrained) <= 6
    assert {one.arguments["cause"] for one in retrained} <= {"concept_drift", "harmful_covariate_shift"}
    assert all("standard errors" in one.because for one in retrained)
    promoted = year.decisions("promote")
    assert promoted
    for decision in promoted:
        model = decision.arguments["model"]
        started = next(one for one in year.decisions("canary.start") if one.arguments["model"] == model)
        cause = next(one for one in retrained if model in one.outcome.get("registered", []))
        assert cause.at <= started.at < decision.at
        assert decision.evidence["log_e"]["loss_safe"] >= decision.evidence["threshold_log_e"]
        assert decision.evidence["log_e"]["errors_safe"] >= decision.evidence["threshold_log_e"]


def test_b_a_challenger_of_the_last_three_months_only_is_refused_in_november(year: Year) -> None:
    runs = {run.id: run for run in year.ws.ledger.ls("run", Run)}
    theirs = [
        one for one in year.summary["refusals"] if runs[one["version"].split()[-1]].params["days"] == 92
    ]
    assert len(theirs) == 1
    assert theirs[0]["at"].startswith("2013-11")
    assert "not better beyond doubt" in theirs[0]["because"] or "loses" in theirs[0]["because"]


def test_c_a_broken_release_is_rolled_back_within_ten_of_its_requests(year: Year) -> None:
    broken = [one for one in year.summary["rollbacks"] if "requests failed" in one["because"]]
    assert len(broken) == 1
    assert 2 <= broken[0]["requests_exposed"] <= 10
    exposed = year.ws.predictions.scan("delays").filter(assigned=broken[0]["version"])
    assert exposed.height == broken[0]["requests_exposed"]
    assert exposed["fallback"].all()
    assert exposed["output"].is_not_null().all()


def test_d_storm_days_are_incidents_and_do_not_train(year: Year) -> None:
    shocks = [one for one in year.summary["incidents"] if one["cause"] == "shock"]
    assert any("2013-06-13" in one["subject"] for one in shocks)
    assert all(one["closed"] for one in shocks)
    days = {one["opened"][:10] for one in shocks}
    for decision in year.decisions("retrain"):
        assert decision.at.date().isoformat() not in days or decision.evidence["shock_days_left_out"]


def test_e_a_feed_in_celsius_is_stopped_nobody_learns_from_it_and_backfilling_closes_the_incident(
    year: Year,
) -> None:
    broken = [one for one in year.summary["incidents"] if one["cause"] == "upstream_data_bug"]
    assert [one["subject"] for one in broken] == ["weather"]
    assert broken[0]["opened"].startswith("2013-07-08")
    assert broken[0]["closed"].startswith("2013-07-12")
    assert year.summary["retrainings_on_bad_data"] == 0
    rows = year.ws.predictions.scan("delays")
    names = [
        field.name
        for field in year.ws.plan.endpoints["delays"]
        .models[year.ws.plan.endpoints["delays"].route.champion]
        .signature.inputs
    ]
    temperature = rows.select("at_us", t=rows["features"].list.get(names.index("weather:temp")))
    served = temperature.filter(temperature["at_us"].is_between(1_373_270_400_000_000, 1_373_590_800_000_000))
    assert served["t"].min() > 60.0  # a July day in Fahrenheit; in Celsius it would be 20 to 35


def test_the_healed_model_is_better_than_the_frozen_one_beyond_doubt(year: Year) -> None:
    gain = year.summary["log_loss_gain"]
    assert 0.0 < gain["low"] < gain["mean"] < gain["high"]
    assert len(year.summary["months"]) == 9


def test_online_features_are_what_their_offline_recomputation_gives(year: Year) -> None:
    assert year.summary["skew"] == []


def test_there_is_exactly_one_champion_and_every_decision_is_done(year: Year) -> None:
    assert [one.state for one in year.ws.ledger.ls("decision", Decision) if one.state != "done"] == []
    champions = [one for one in year.ws.ledger.ls("alias", Alias) if one.alias == "champion"]
    assert [f"{one.model}@{one.number}" for one in champions] == [
        year.ws.ledger.get("route", "delays", Route).champion
    ]


def test_explaining_a_prediction_verifies_and_one_changed_byte_is_named(year: Year) -> None:
    from flyball.service.explain import explain

    identifier = year.summary["explain"]
    good = explain(identifier, verify=True, ws=year.ws)
    assert good.verified
    assert good.exit_code == 0
    kinds = {
        line.strip().removeprefix("ok ").split()[0] for line in good.as_text().splitlines() if line.strip()
    }
    assert {"prediction", "model", "gate", "run", "code", "environment", "data", "features", "route"} <= kinds
    files = sorted((year.ws.state / "blobs").glob("??/*"))
    used = good.as_text()
    named = [file for file in files if f"{file.parent.name}{file.name}" in used]
    assert len(named) >= 4
    for file in named:
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        bad = explain(identifier, verify=True, ws=year.ws)
        assert bad.exit_code == 1
        assert any(f"{file.parent.name}{file.name}" in one for one in bad.broken)
        file.write_bytes(data)


def test_the_page_with_pictures_fetches_nothing(year: Year) -> None:
    page = (year.ws.root / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
