"""The steps that meet the ledger, in the project that ``flyball init`` makes."""

from __future__ import annotations

import pytest

from flyball.core.records import ModelVersion, Run
from flyball.service import data, pipelines
from flyball.service.project import init
from flyball.service.workspace import Workspace


@pytest.fixture
def ws(tmp_path):
    init(str(tmp_path))
    ws = Workspace.open(tmp_path).use()
    yield ws
    ws.ledger.close()


def test_a_pipelines_model_names_its_data_and_its_run_is_found_by_what_the_gate_measured(ws):
    data.add("customers", str(ws.root / "customers.csv"), ws=ws)
    ran = pipelines.run("train", ws=ws)
    version = ws.ledger.get("model", "churn@1", ModelVersion)
    assert version.training == {"customers": "customers@1"}
    run = ws.ledger.get("run", ran.id, Run)
    assert run.metrics["auc"] == version.metrics["auc"] > 0.7
