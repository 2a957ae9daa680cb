"""Filters and orders over runs, as MLflow's own store answers them: the same runs, the same order, the same refusals.

Where we differ on purpose: two comparisons without ``and`` between them are a mistake here, which MLflow lets pass, and
doubled quotes inside quotes are one, which MLflow keeps as two.
"""

from __future__ import annotations

import json
import random
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from benchmarks.peers import python_of

from flyball.errors import Invalid
from flyball.stores.metadata import Ledger
from flyball.stores.runs import Point, RunStore
from flyball.track.query import run_query
from flyball.track.runs import open_run, update

pytestmark = pytest.mark.differential

START_MS = 1_772_323_200_000
PEER = """
import json, os, sys
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
out = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
runs, searches = json.load(sys.stdin)
client = MlflowClient("sqlite:///mlflow.db")
experiment = client.create_experiment("e")
names = {}
for run in runs:
    made = client.create_run(experiment, start_time=run["start_ms"], run_name=run["name"])
    names[made.info.run_id] = run["name"]
    client.log_batch(
        made.info.run_id,
        [Metric(k, float(v), 0, 0) for k, v in run["metrics"].items()],
        [Param(k, v) for k, v in run["params"].items()],
        [RunTag(k, v) for k, v in run["tags"].items()],
    )
    if run["status"] != "RUNNING":
        client.set_terminated(made.info.run_id, run["status"], end_time=run["start_ms"] + 1000)
answers = []
for where, order in searches:
    try:
        found = client.search_runs([experiment], where, order_by=order, max_results=100)
        answers.append([names[one.info.run_id] for one in found])
    except MlflowException as error:
        answers.append(error.error_code)
out.write(json.dumps(answers))
"""
OURS = {"RUNNING": "running", "FINISHED": "done", "FAILED": "failed", "KILLED": "killed"}


def make_runs(chance: random.Random) -> list[dict]:
    words = ["a", "A", "ab", "a%b", "0.5", "b c", ""]
    numbers = ["-1", "0", "0.5", "2", "1e3", "nan", "inf"]

    def some(values: list[str]) -> dict[str, str]:
        return {name: chance.choice(values) for name in ("x", "y z", "n/a") if chance.random() < 0.7}

    return [
        {
            "name": f"run {number}",
            "start_ms": START_MS + 1000 * number,
            "status": chance.choice(list(OURS)),
            "metrics": some(numbers),
            "params": some(words[:-1]),
            "tags": some(words),
        }
        for number in range(25)
    ]


def make_filter(chance: random.Random) -> str:
    name = chance.choice(["x", "`y z`", '"n/a"', "none"])
    kind = chance.choice(["metrics", "metric", "params", "parameter", "tags", "tag"])
    left = f"{kind}.{name}"
    op = chance.choice(["=", "!=", ">", ">=", "<", "<=", "LIKE", "ILIKE"])
    if chance.random() < 0.15 and not kind.startswith("metric"):
        return f"{left} IS {chance.choice(['', 'NOT '])}NULL"
    if kind.startswith("metric"):
        return f"{left} {op} {chance.choice(['0', '0.5', '-1', '1e3', '2.0'])}"
    return f"{left} {op} '{chance.choice(['a', 'A', 'a%', '%b', '_', 'b c', '0.5', ''])}'"


FIXED = [
    "",
    "status = 'FINISHED'",
    "attributes.status != 'RUNNING'",
    "attribute.status LIKE 'F%'",
    "run_name = 'run 3'",
    "run_name LIKE 'run 1%'",
    "attributes.`run name` = 'run 4'",
    "tags.mlflow.runName = 'run 5'",
    f"start_time > {START_MS + 5000}",
    f"attributes.start_time <= {START_MS + 5000} and metrics.x > 0",
    f"end_time >= {START_MS + 9000}",
    "created > 0",
    "params.x = 5",
    "metrics.x = 'a'",
    "metrics.x LIKE 'a'",
    "params.x > 'a'",
    "foo.x = 'a'",
    "statuss = 'x'",
    "metrics.x > 1 or metrics.x < 1",
    "metrics.x >",
    "(metrics.x > 1)",
    "status IN ('FINISHED')",
    "run_id IN ('none')",
    "run_id NOT IN ('none', 'other')",
    "start_time = 'today'",
    "metrics.x IS NULL",
    "tags.x is not null and params.x is null",
    "lifecycle_stage = 'active'",
]
ORDERS = [
    [],
    ["metrics.x"],
    ["metrics.x DESC"],
    ["metrics.`y z` ASC", "params.x DESC"],
    ["params.x"],
    ["tags.x desc"],
    ["start_time ASC"],
    ["attributes.start_time DESC"],
    ["status", "start_time ASC"],
    ["run_name"],
    ["metrics.x sideways"],
    ["foo.x"],
    ["metrics.x", "metrics.x DESC"],
]


def ours(store: RunStore, names: dict[str, str], where: str, order: list[str]) -> object:
    try:
        found = store.search(run_query(where, order, strict=True)).runs
    except Invalid:
        return "INVALID"
    return [names[one.head.id] for one in found]


def test_mlflow_finds_the_same_runs_in_the_same_order(tmp_path):
    chance = random.Random(7)
    runs = make_runs(chance)
    searches = [(where, []) for where in FIXED]
    searches += [("", order) for order in ORDERS]
    searches += [
        (" and ".join(make_filter(chance) for _ in range(chance.randint(1, 3))), chance.choice(ORDERS[:10]))
        for _ in range(150)
    ]
    done = subprocess.run(
        [python_of("mlflow"), "-c", PEER],
        input=json.dumps([runs, searches]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    theirs = [one if isinstance(one, list) else "INVALID" for one in json.loads(done.stdout)]

    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    store = RunStore(ledger)
    names: dict[str, str] = {}
    for run in runs:
        at = datetime.fromtimestamp(run["start_ms"] / 1000, UTC)
        made = open_run(
            ledger,
            "p",
            params=run["params"],
            tags=run["tags"],
            name=run["name"],
            code="",
            environment="",
            actor="a",
            at=at,
            remote=True,
        )
        store.write(made.id, metrics=[Point(name, float(value)) for name, value in run["metrics"].items()])
        if run["status"] != "RUNNING":
            update(ledger, made.id, status=OURS[run["status"]], ended=at + timedelta(seconds=1), actor="a")
        names[made.id] = run["name"]
    differ = [
        (where, order, mine, other)
        for (where, order), other in zip(searches, theirs, strict=True)
        if (mine := ours(store, names, where, order)) != other
    ]
    assert differ == []
    assert sum(one != "INVALID" and 0 < len(one) < 25 for one in theirs) > 30
    ledger.close()
