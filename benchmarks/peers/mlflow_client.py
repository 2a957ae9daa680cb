"""Runs inside MLflow's venv: its unmodified client, timed against whichever server a line of JSON names.

``{"uri", "what", "count"}`` in, seconds out; and ``fill``, which writes the same 5,000 runs into MLflow's own database
before its server starts (through the server that would take minutes).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS, METRICS, POINTS = 5_000, 10, 100_000
EXPERIMENT, LONG = "filled", "long"


def fill(url: str) -> None:
    """5,000 runs of ten metrics, ten params and three tags; one run with a history of 100,000 points."""
    from mlflow.store.tracking.dbmodels import models as db
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(url, "mlflow-artifacts:/")
    experiment = int(store.create_experiment(EXPERIMENT))
    long = int(store.create_experiment(LONG))
    at = {"lifecycle_stage": "active", "source_type": "UNKNOWN", "user_id": "ann", "status": "FINISHED"}
    with store.ManagedSessionMaker() as session:
        runs, facts = [], {kind: [] for kind in (db.SqlMetric, db.SqlLatestMetric, db.SqlParam, db.SqlTag)}
        for n in range(RUNS + 1):
            run = f"{n:032x}"
            where = long if n == RUNS else experiment
            runs.append({"run_uuid": run, "name": f"run {n}", "experiment_id": where, "start_time": n, **at})
            runs[-1] |= {"end_time": n + 5, "artifact_uri": f"mlflow-artifacts:/{where}/{run}/artifacts"}
            if n == RUNS:
                break
            for k in range(METRICS):
                value = {
                    "run_uuid": run,
                    "key": f"metric{k}",
                    "value": value_of(n, k),
                    "timestamp": n,
                    "step": 0,
                }
                facts[db.SqlMetric].append({**value, "is_nan": False})
                facts[db.SqlLatestMetric].append({**value, "is_nan": False})
                facts[db.SqlParam].append({"run_uuid": run, "key": f"param{k}", "value": str(n % 7)})
            for key, content in (("mlflow.runName", f"run {n}"), ("mlflow.user", "ann"), ("team", "air")):
                facts[db.SqlTag].append({"run_uuid": run, "key": key, "value": content})
        session.bulk_insert_mappings(db.SqlRun, runs)
        last = {"run_uuid": f"{RUNS:032x}", "key": "loss", "is_nan": False}
        points = [{**last, "value": 1 / (n + 1), "timestamp": n, "step": n} for n in range(POINTS)]
        facts[db.SqlMetric] += points
        facts[db.SqlLatestMetric].append(points[-1])
        for kind, rows in facts.items():
            session.bulk_insert_mappings(kind, rows)


def value_of(run: int, metric: int) -> float:
    """Some number, the same on both sides."""
    return (run * (2 * metric + 3)) % 1009 / 1009


class Client:
    """What is timed, by name. Each call is one unit of work, ``count`` times."""

    def __init__(self, uri: str) -> None:
        import mlflow

        mlflow.set_tracking_uri(uri)
        self.mlflow = mlflow
        self.client = mlflow.MlflowClient(uri)
        self.experiment = mlflow.set_experiment("timed").experiment_id
        self.run = self.client.create_run(self.experiment).info.run_id
        self.filled = self.client.get_experiment_by_name(EXPERIMENT).experiment_id
        long = self.client.get_experiment_by_name(LONG).experiment_id
        self.long = self.client.search_runs([long])[0].info.run_id
        self.step = 0

    def log_metric(self) -> None:
        self.step += 1
        self.client.log_metric(self.run, "single", 0.5, step=self.step)

    def log_batch(self) -> None:
        from mlflow.entities import Metric

        self.step += 1000
        points = [Metric("batched", n / 7, self.step + n, self.step + n) for n in range(1000)]
        self.client.log_batch(self.run, metrics=points)

    def whole_run(self) -> None:
        mlflow = self.mlflow
        with mlflow.start_run(experiment_id=self.experiment), tempfile.TemporaryDirectory() as folder:
            mlflow.log_params({f"p{n}": n for n in range(10)})
            mlflow.log_metrics({f"m{n}": n / 7 for n in range(10)})
            (Path(folder) / "a.txt").write_text("artifact")
            mlflow.log_artifact(str(Path(folder) / "a.txt"))

    def search(self) -> None:
        where = "metrics.metric3 > 0.5 and params.param4 = '3'"
        found = self.client.search_runs(
            [self.filled], where, order_by=["metrics.metric5 DESC"], max_results=100
        )
        assert len(found) == 100

    def frame(self) -> None:
        assert len(self.mlflow.search_runs([self.filled])) == RUNS

    def history(self) -> None:
        assert len(self.client.get_metric_history(self.long, "loss")) == POINTS


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    clients: dict[str, Client] = {}
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if asked["what"] == "fill":
            fill(asked["uri"])
            taken = 0.0
        else:
            uri = asked["uri"]
            client = clients.get(uri) or Client(uri)
            clients[uri] = client
            client.mlflow.set_tracking_uri(uri)
            work = getattr(client, asked["what"])
            started = time.perf_counter()
            for _ in range(asked["count"]):
                work()
            taken = time.perf_counter() - started
        out.write(json.dumps(taken) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
