"""Stories told to two servers, request by request; ``raw.both`` compares what they answer. Names are their own."""

from __future__ import annotations

import random
from typing import Any

QUOTES = ("'{}'", '"{}"')
API = "/api/2.0/mlflow"


def post(say: Any, path: str, **given: Any) -> Any:
    return say("POST", f"{API}/{path}", given)


def get(say: Any, path: str, **given: Any) -> Any:
    return say("GET", f"{API}/{path}", given)


def _experiment(say: Any, name: str, **given: Any) -> str:
    return post(say, "experiments/create", name=name, **given)["experiment_id"]


def _run(say: Any, experiment: str, name: str, start: int = 1000, **given: Any) -> str:
    asked = {"experiment_id": experiment, "run_name": name, "start_time": start, "user_id": "ann", **given}
    return post(say, "runs/create", **asked)["run"]["info"]["run_id"]


def experiments(say: Any) -> None:
    """Make, find, rename, tag, delete, restore; and what is refused."""
    tags = [{"key": "team", "value": "air"}, {"key": "year", "value": "2013"}]
    one = _experiment(say, "story of experiments", tags=tags)
    get(say, "experiments/get", experiment_id=one)
    get(say, "experiments/get-by-name", experiment_name="story of experiments")
    get(say, "experiments/get-by-name", experiment_name="no such story")
    get(say, "experiments/get", experiment_id="987654321")
    get(say, "experiments/get")
    post(say, "experiments/create")
    post(say, "experiments/create", name="")
    post(say, "experiments/create", name="x" * 501)
    post(say, "experiments/create", name=7)
    post(say, "experiments/create", name="tagged badly", tags=[{"key": "a//b", "value": "1"}])
    post(say, "experiments/update", experiment_id=one, new_name="story of experiments, renamed")
    get(say, "experiments/get", experiment_id=one)
    post(say, "experiments/update", experiment_id=one)
    post(say, "experiments/set-experiment-tag", experiment_id=one, key="team", value="ground")
    post(say, "experiments/set-experiment-tag", experiment_id=one, key="long", value="v" * 20_001)
    post(say, "experiments/set-experiment-tag", experiment_id=one, value="v")
    post(say, "experiments/delete-experiment-tag", experiment_id=one, key="year")
    post(say, "experiments/delete-experiment-tag", experiment_id=one, key="year")
    get(say, "experiments/get", experiment_id=one)
    run = _run(say, one, "goes with it")
    post(say, "experiments/delete", experiment_id=one)
    get(say, "experiments/get", experiment_id=one)
    get(say, "runs/get", run_id=run)
    post(say, "experiments/delete", experiment_id=one)
    post(say, "experiments/set-experiment-tag", experiment_id=one, key="team", value="ground")
    post(say, "runs/create", experiment_id=one, start_time=1, run_name="too late")
    post(say, "experiments/restore", experiment_id=one)
    post(say, "experiments/restore", experiment_id=one)
    get(say, "runs/get", run_id=run)
    located = _experiment(say, "story kept elsewhere", artifact_location="s3://bucket/there")
    get(say, "experiments/get", experiment_id=located)
    _run(say, located, "kept elsewhere")


def found_experiments(say: Any) -> None:
    """Filters, orders and pages of experiments."""
    for number, name in enumerate(["Quay A", "quay b", "Quay C", "pier"]):
        tags = [{"key": "quay", "value": str(number)}] if number != 3 else []
        _experiment(say, name, tags=tags)
    deleted = _experiment(say, "quay gone")
    post(say, "experiments/delete", experiment_id=deleted)

    def names(**given: Any) -> Any:
        return post(say, "experiments/search", **{"max_results": 100, "order_by": ["name"], **given})

    for wanted in (
        "name LIKE 'Quay%'",
        "name ILIKE 'quay%'",
        "attribute.name ILIKE '%a' AND name LIKE '%uay%'",
        "name = 'pier'",
        "name != 'pier' AND name ILIKE 'quay%'",
        "tags.quay = '1'",
        "tag.quay != '1'",
        "tags.`quay` LIKE '%'",
        "tags.quay IS NOT NULL",
        "tags.quay IS NULL AND name ILIKE '%quay%' ",
        "creation_time > 1 AND name ILIKE 'quay%'",
        "last_update_time < 1",
        "name = pier",
        "name > 'pier'",
        "creation_time > 'soon'",
        "size = '1'",
        "params.x = '1'",
        "name LIKE 'a' OR name LIKE 'b'",
        "name",
    ):
        names(filter=wanted)
    scope = "name ILIKE 'quay%'"
    names(filter=scope, order_by=["name DESC"])
    names(filter=scope, order_by=["experiment_id ASC"])
    names(filter=scope, order_by=["creation_time ASC", "name DESC"])
    names(filter=scope, order_by=["colour"])
    names(filter=scope, order_by=["tags.quay"])
    names(filter=scope, order_by=["name SIDEWAYS"])
    names(filter=scope, view_type="ALL")
    names(filter=scope, view_type="DELETED_ONLY")
    names(filter=scope, view_type=2)
    first = names(filter=scope, max_results=2)
    names(filter=scope, max_results=2, page_token=first.get("next_page_token"))
    names(max_results=0)
    names(max_results=50_001)
    names(page_token="a")
    get(say, "experiments/search", filter=scope, max_results=2, order_by=["name DESC"])


def runs(say: Any) -> None:
    """One run from its start to its deletion."""
    one = _experiment(say, "story of runs")
    tags = [{"key": "mlflow.source.name", "value": "train.py"}, {"key": "mlflow.user", "value": "ann"}]
    run = _run(say, one, "first", tags=tags)
    get(say, "runs/get", run_id=run)
    get(say, "runs/get", run_uuid=run)
    get(say, "runs/get", run_id="0" * 32)
    get(say, "runs/get")
    post(say, "runs/log-parameter", run_id=run, key="depth", value="3")
    post(say, "runs/log-parameter", run_id=run, key="depth", value="3")
    post(say, "runs/log-parameter", run_id=run, key="depth", value="4")
    post(say, "runs/log-parameter", run_id=run, key="empty", value="")
    post(say, "runs/log-parameter", run_id=run, key="number", value=3)
    post(say, "runs/log-parameter", run_id=run, key="a//b", value="3")
    post(say, "runs/log-parameter", run_id=run, key="../b", value="3")
    post(say, "runs/log-parameter", run_id=run, key="a&b", value="3")
    post(say, "runs/log-parameter", run_id=run, key="k" * 251, value="3")
    post(say, "runs/log-parameter", run_id=run, value="3")
    post(say, "runs/log-parameter", key="depth", value="3")
    post(say, "runs/log-metric", run_id=run, key="loss", value=0.5, timestamp=1000, step=0)
    post(say, "runs/log-metric", run_id=run, key="loss", value=0.25, timestamp=2000, step=1)
    post(say, "runs/log-metric", run_id=run, key="loss", value=0.75, timestamp=1500, step=0)
    post(say, "runs/log-metric", run_id=run, key="loss", value="NaN", timestamp=1500, step=2)
    post(say, "runs/log-metric", run_id=run, key="other", value="0.125", timestamp="1500", step="7")
    post(say, "runs/log-metric", run_id=run, key="val/at 5:x", value=1, timestamp=1500)
    post(say, "runs/log-metric", run_id=run, key="loss", value="high", timestamp=1500)
    post(say, "runs/log-metric", run_id=run, key="loss", timestamp=1500)
    post(say, "runs/log-metric", run_id=run, key="loss", value=1)
    post(say, "runs/log-metric", run_id=run, key="a//b", value=1, timestamp=1)
    post(say, "runs/log-metric", run_id="0" * 32, key="loss", value=1, timestamp=1)
    post(say, "runs/set-tag", run_id=run, key="colour", value="blue")
    post(say, "runs/set-tag", run_id=run, key="colour", value="green")
    post(say, "runs/set-tag", run_id=run, key="mlflow.runName", value="renamed by a tag")
    post(say, "runs/set-tag", run_id=run, key="a//b", value="green")
    post(say, "runs/delete-tag", run_id=run, key="colour")
    post(say, "runs/delete-tag", run_id=run, key="colour")
    get(say, "runs/get", run_id=run)
    post(say, "runs/update", run_id=run, status="FINISHED", end_time=5000, run_name="second")
    post(say, "runs/update", run_uuid=run, status="FAILED")
    get(say, "runs/get", run_id=run)
    post(say, "runs/delete", run_id=run)
    get(say, "runs/get", run_id=run)
    post(say, "runs/log-metric", run_id=run, key="loss", value=0.5, timestamp=1000, step=0)
    post(say, "runs/log-parameter", run_id=run, key="late", value="1")
    post(say, "runs/set-tag", run_id=run, key="late", value="1")
    post(say, "runs/update", run_id=run, status="FINISHED")
    post(say, "runs/log-batch", run_id=run, tags=[{"key": "late", "value": "1"}])
    post(say, "runs/restore", run_id=run)
    get(say, "runs/get", run_id=run)
    post(say, "runs/log-parameter", run_id=run, key="late", value="1")
    post(say, "runs/delete", run_id="0" * 32)
    post(say, "runs/restore", run_id="0" * 32)
    named = [{"key": "mlflow.runName", "value": "by tag"}]
    post(say, "runs/create", experiment_id=one, start_time=1, tags=named)
    post(say, "runs/create", experiment_id=one, start_time=1, tags=named, run_name="by argument")
    post(say, "runs/create", experiment_id="987654321", start_time=1)
    post(say, "runs/create", experiment_id=one, start_time="soon")


def batches(say: Any) -> None:
    """``log-batch``: all in one, its limits, its refusals."""
    one = _experiment(say, "story of batches")
    run = _run(say, one, "batched")
    metrics = [{"key": f"m{n % 3}", "value": n / 4, "timestamp": 1000 + n, "step": n} for n in range(60)]
    params = [{"key": f"p{n}", "value": str(n)} for n in range(20)]
    tags = [{"key": f"t{n}", "value": f"v{n}"} for n in range(20)]
    post(say, "runs/log-batch", run_id=run, metrics=metrics, params=params, tags=tags)
    get(say, "runs/get", run_id=run)
    post(
        say, "runs/log-batch", run_id=run, params=[{"key": "p1", "value": "1"}, {"key": "new", "value": "x"}]
    )
    post(say, "runs/log-batch", run_id=run, params=[{"key": "p1", "value": "2"}])
    post(say, "runs/log-batch", run_id=run, params=[{"key": "d", "value": "1"}, {"key": "d", "value": "1"}])
    post(say, "runs/log-batch", run_id=run, params=[{"value": "1"}])
    post(say, "runs/log-batch", run_id=run, metrics=[{"key": "x", "value": 1}])
    post(say, "runs/log-batch", run_id=run, metrics=[{"key": "x", "timestamp": 1}])
    post(say, "runs/log-batch", run_id=run, metrics=[{"key": "a//b", "value": 1, "timestamp": 1}])
    post(say, "runs/log-batch", run_id=run, tags=[{"key": "ok", "value": "1"}, {"key": "a//b", "value": "1"}])
    post(say, "runs/log-batch", run_id=run, params=[{"key": f"q{n}", "value": "1"} for n in range(101)])
    post(say, "runs/log-batch", run_id=run, tags=[{"key": f"q{n}", "value": "1"} for n in range(101)])
    many = [{"key": "m", "value": n, "timestamp": n, "step": n} for n in range(1001)]
    post(say, "runs/log-batch", run_id=run, metrics=many)
    post(say, "runs/log-batch", run_id=run, metrics=many[:950], params=params, tags=tags + tags)
    post(say, "runs/log-batch", metrics=metrics)
    post(say, "runs/log-batch", run_id="0" * 32, metrics=metrics)
    post(say, "runs/log-batch", run_id="not an id", metrics=metrics)
    post(say, "runs/log-batch", run_id=run, metrics="many")
    post(say, "runs/log-batch", run_id=run, tags=[{"key": "mlflow.runName", "value": "renamed"}])
    odd = [{"key": "odd", "value": v, "timestamp": 5, "step": s} for s, v in enumerate(["NaN", 1.5, "NaN"])]
    post(say, "runs/log-batch", run_id=run, metrics=odd)
    get(say, "runs/get", run_id=run)
    post(say, "runs/log-batch", run_id=run)


def histories(say: Any) -> None:
    """``get-history`` in pages, ``get-history-bulk-interval`` over several runs."""
    one = _experiment(say, "story of histories")
    made = [_run(say, one, f"h{n}") for n in range(2)]
    for offset, run in enumerate(made):
        points = [
            {"key": "loss", "value": 1 / (n + 1 + offset), "timestamp": 10 * n, "step": n} for n in range(50)
        ]
        post(say, "runs/log-batch", run_id=run, metrics=points)
    run = made[0]
    get(say, "metrics/get-history", run_id=run, metric_key="loss")
    first = get(say, "metrics/get-history", run_id=run, metric_key="loss", max_results=20)
    get(
        say,
        "metrics/get-history",
        run_id=run,
        metric_key="loss",
        max_results=20,
        page_token=first["next_page_token"],
    )
    get(say, "metrics/get-history", run_id=run, metric_key="nothing")
    get(say, "metrics/get-history", run_id=run)
    get(say, "metrics/get-history", run_id=run, metric_key="loss", max_results=0)
    get(say, "metrics/get-history", run_id=run, metric_key="loss", page_token="a")
    bulk = "metrics/get-history-bulk-interval"
    get(say, bulk, run_ids=made, metric_key="loss")
    get(say, bulk, run_ids=made, metric_key="loss", max_results=10)
    get(say, bulk, run_ids=made, metric_key="loss", start_step=10, end_step=20)
    get(say, bulk, run_ids=made, metric_key="loss", start_step=10, end_step=40, max_results=7)
    get(say, bulk, run_ids=made, metric_key="loss", max_results=1)
    get(say, bulk, run_ids=made, metric_key="loss", start_step=20, end_step=10)
    get(say, bulk, run_ids=made, metric_key="loss", start_step=20)
    get(say, bulk, run_ids=made, metric_key="loss", max_results=2501)
    get(say, bulk, metric_key="loss")
    get(say, bulk, run_ids=made)
    get(say, bulk, run_ids=[f"r{n}" for n in range(101)], metric_key="loss")
    get(say, "metrics/get-history", run_id="0" * 32, metric_key="loss")


def found_runs(say: Any) -> None:
    """The filter grammar, orders, views and pages of runs."""
    one = _experiment(say, "story of found runs")
    other = _experiment(say, "story of other found runs")
    for n in range(8):
        run = _run(
            say, other if n == 7 else one, f"run {n}", start=1000 + n, user_id="bob" if n % 2 else "ann"
        )
        batch: dict[str, Any] = {
            "params": [{"key": "depth", "value": str(n)}, {"key": "kind of", "value": "Tree"}]
        }
        batch["metrics"] = [{"key": "auc", "value": n / 8, "timestamp": 1, "step": 0}] if n != 2 else []
        if n == 3:
            batch["metrics"].append({"key": "auc", "value": "NaN", "timestamp": 2, "step": 1})
        if n < 6:
            batch["tags"] = [
                {"key": "stage", "value": "Late" if n % 2 else "early"},
                {"key": "a.b", "value": str(n)},
            ]
        post(say, "runs/log-batch", run_id=run, **batch)
        if n in (1, 5):
            post(say, "runs/update", run_id=run, status="FINISHED", end_time=9000 + n)
        if n == 6:
            post(say, "runs/delete", run_id=run)

    def search(**given: Any) -> Any:
        return post(say, "runs/search", **{"experiment_ids": [one], **given})

    search()
    search(experiment_ids=[one, other])
    search(experiment_ids=[])
    search(experiment_ids=["987654321"])
    for view in ("ACTIVE_ONLY", "DELETED_ONLY", "ALL"):
        search(run_view_type=view)
    for wanted in (
        "metrics.auc > 0.3",
        "metric.auc >= 0.125 and metrics.auc <= 0.5",
        "metrics.auc = 0.125",
        "metrics.auc != 0.125",
        'metrics."auc" < 0.2',
        "metrics.`auc` < 0.2",
        "metrics.auc > '0.3'",
        "metrics.auc LIKE '0.3'",
        "metrics.nothing > 0",
        "params.depth = '3'",
        "params.depth != '3'",
        "params.depth = 3",
        "params.depth > '3'",
        "param.depth LIKE '%'",
        "parameters.\"kind of\" = 'Tree'",
        "params.`kind of` ILIKE 'tree'",
        "params.`kind of` LIKE 'tree'",
        "params.missing IS NULL",
        "params.depth IS NOT NULL",
        "tags.stage = 'early'",
        "tags.stage != 'early'",
        "tag.stage ILIKE 'L%'",
        "tags.stage LIKE 'l%'",
        "tags.a.b = '1'",
        "tags.\"a.b\" = '1'",
        "tags.stage IS NULL",
        "tags.stage IS NOT NULL",
        'tags.stage = "early"',
        "attributes.status = 'FINISHED'",
        "attribute.status != 'FINISHED'",
        "attr.status LIKE 'FIN%'",
        "status = 'RUNNING'",
        "run.status ilike 'running'",
        "attributes.run_name = 'run 3'",
        "run_name LIKE 'run%'",
        "`run name` = 'run 3'",
        "attributes.start_time > 1001",
        "start_time <= 1001 and tags.stage = 'early'",
        "created >= 1003",
        "end_time > 9002",
        "start_time > 'x'",
        "user_id = 'bob'",
        "attributes.experiment_id = '1'",
        "attributes.artifact_uri LIKE '%artifacts'",
        "attributes.colour = 'x'",
        "colours.x = 'y'",
        "run_id IN ('a', 'b')",
        "run_id NOT IN ('a', 'b')",
        "run_id IN ()",
        "status IN ('RUNNING')",
        "metrics.auc > 0.3 OR metrics.auc < 0.1",
        "metrics.auc >",
        "metrics.auc",
        "> 0.3",
        "(metrics.auc > 0.3)",
        "metrics.auc > 0.3; drop table runs",
        "params.x = 'it''s'",
        "tags.stage = 'early' AND params.depth = '2'",
        "metrics.auc IS NULL",
        "attributes.status IS NULL",
        "dataset.name = 'nothing'",
        "datasets.colour = 'x'",
    ):
        search(filter=wanted, order_by=["params.depth ASC"])
    for order in (
        ["metrics.auc ASC"],
        ["metrics.auc DESC"],
        ["metrics.auc DESC", "params.depth ASC"],
        ["metric.`auc`"],
        ["params.depth DESC"],
        ["tags.stage", "params.depth"],
        ["start_time ASC", "run_name"],
        ["attributes.end_time DESC", "params.depth"],
        ["status", "params.depth DESC"],
        ["run_name desc"],
        ["attributes.colour"],
        ["metrics.auc SIDEWAYS"],
        ["metrics.auc asc desc"],
        [""],
    ):
        search(order_by=order)
    token = None
    for _ in range(4):
        given = {"max_results": 3, "order_by": ["params.depth"]}
        token = search(**given, **({"page_token": token} if token else {})).get("next_page_token")
        if token is None:
            break
    search(max_results=0)
    search(max_results=50_001)
    search(max_results="many")
    search(page_token="a")


def random_searches(say: Any, seed: int = 7, count: int = 120) -> None:
    """Runs with whatever facts, found by whatever filters and orders: what nobody thought of."""
    chance = random.Random(seed)
    one = _experiment(say, f"story of chance {seed}")
    words = ["a", "b", "ab", "A", "a%b", "a_b", "1", "2", "10", "1.0", "-3", "ä", "it's", ""]
    for n in range(14):
        run = _run(
            say,
            one,
            f"{chance.choice(['x', 'y', 'X'])}{n}",
            start=1000 + n,
            user_id=chance.choice(["ann", "bob"]),
        )
        batch: dict[str, Any] = {"metrics": [], "params": [], "tags": []}
        for key in ("m", "val/m"):
            if chance.random() < 0.8:
                value: Any = chance.choice([0, 0.5, -1, 2, 1e10, "NaN"])
                batch["metrics"].append({"key": key, "value": value, "timestamp": 1, "step": 0})
        for kind in ("params", "tags"):
            for key in ("p", "p q", "P"):
                if chance.random() < 0.7:
                    batch[kind].append({"key": key, "value": chance.choice(words)})
        post(say, "runs/log-batch", run_id=run, **batch)
        if chance.random() < 0.4:
            status = chance.choice(["FINISHED", "FAILED", "KILLED"])
            post(say, "runs/update", run_id=run, status=status, end_time=chance.choice([2000, 3000]))
        if chance.random() < 0.15:
            post(say, "runs/delete", run_id=run)

    def comparison() -> str:
        kind = chance.choice(["metric", "param", "tag", "status", "name", "time"])
        if kind == "metric":
            key = chance.choice(["m", "`val/m`", '"m"', "none"])
            return f"metrics.{key} {chance.choice(['=', '!=', '<', '<=', '>', '>='])} {chance.choice([0, 0.5, -1, 2, '1e10'])}"
        if kind in ("param", "tag"):
            key = chance.choice(["p", "`p q`", "P", "none"])
            op = chance.choice(["=", "!=", "LIKE", "ILIKE", "IS NULL", "IS NOT NULL"])
            if op.startswith("IS"):
                return f"{kind}s.{key} {op}"
            value = chance.choice(
                ["a", "A", "%", "a%", "%b", "_", "1", "2", "1.0", "%A%", "a_b", "ä", "", "10"]
            )
            return f"{kind}s.{key} {op} {chance.choice(QUOTES).format(value)}"
        if kind == "status":
            value = chance.choice(["FINISHED", "RUNNING", "FIN%", "%ED", "finished"])
            return f"attributes.status {chance.choice(['=', '!=', 'LIKE', 'ILIKE'])} '{value}'"
        if kind == "name":
            return f"run_name {chance.choice(['=', '!=', 'LIKE', 'ILIKE'])} '{chance.choice(['x%', 'X1', 'y_', '%1%'])}'"
        name = chance.choice(["start_time", "end_time", "attributes.created"])
        return f"{name} {chance.choice(['=', '!=', '<', '<=', '>', '>='])} {chance.choice([1003, 1007, 2000, 2500])}"

    for _ in range(count):
        where = " and ".join(comparison() for _ in range(chance.choice([0, 1, 1, 2, 3])))
        keys = [
            "metrics.m",
            "metrics.`val/m`",
            "params.p",
            "tags.`p q`",
            "start_time",
            "status",
            "end_time",
            "run_name",
        ]
        chosen = chance.sample(keys, chance.choice([0, 1, 2]))
        order = [f"{key} {chance.choice(['ASC', 'DESC', ''])}".strip() for key in chosen]
        asked = {"filter": where, "order_by": order, "max_results": chance.choice([3, 5, 100])}
        view = chance.choice(["ACTIVE_ONLY", "ACTIVE_ONLY", "ALL", "DELETED_ONLY"])
        found = post(say, "runs/search", experiment_ids=[one], run_view_type=view, **asked)
        if "next_page_token" in found:
            post(
                say,
                "runs/search",
                experiment_ids=[one],
                page_token=found["next_page_token"],
                run_view_type=view,
                **asked,
            )


def inputs(say: Any) -> None:
    """Datasets that went into runs, and what finds them."""
    one = _experiment(say, "story of inputs")
    run, bare = _run(say, one, "fed"), _run(say, one, "bare")
    data = {"name": "flights", "digest": "abc123", "source_type": "local", "source": '{"uri": "a.csv"}'}
    full = {**data, "schema": '{"mlflow_colspec": []}', "profile": '{"num_rows": 3}'}
    context = [{"key": "mlflow.data.context", "value": "training"}]
    post(say, "runs/log-inputs", run_id=run, datasets=[{"dataset": full, "tags": context}])
    post(say, "runs/log-inputs", run_id=run, datasets=[{"dataset": full, "tags": context}])
    get(say, "runs/get", run_id=run)
    second = {**data, "name": "weather", "digest": "def456"}
    post(say, "runs/log-inputs", run_id=run, datasets=[{"dataset": second}])
    get(say, "runs/get", run_id=run)
    post(say, "runs/log-inputs", run_id=run, datasets=[{"dataset": {**data, "digest": "d" * 37}}])
    post(say, "runs/log-inputs", run_id=run, datasets=[{"dataset": {**data, "name": "n" * 501}}])
    post(say, "runs/log-inputs", run_id="0" * 32, datasets=[{"dataset": data}])
    post(say, "runs/log-inputs", datasets=[{"dataset": data}])
    for wanted in (
        "dataset.name = 'flights'",
        "datasets.name LIKE 'fl%'",
        "dataset.digest = 'def456'",
        "dataset.context = 'training'",
        "dataset.name = 'weather' AND dataset.context = 'training'",
        "dataset.name IN ('flights', 'other')",
        "dataset.name != 'flights'",
        "dataset.name = 'x'",
        "dataset.name > 'x'",
    ):
        post(say, "runs/search", experiment_ids=[one], filter=wanted)
    say("POST", "/ajax-api/2.0/mlflow/experiments/search-datasets", {"experiment_ids": [one]})
    post(say, "runs/delete", run_id=bare)
    post(say, "runs/log-inputs", run_id=bare, datasets=[{"dataset": data}])


def logged_models(say: Any) -> None:
    """Logged models: made, finished, described, measured, found, deleted."""
    one = _experiment(say, "story of models")
    run = _run(say, one, "makes models")

    def make(name: str, **given: Any) -> str:
        asked = {"experiment_id": one, "name": name, "source_run_id": run, **given}
        return post(say, "logged-models", **asked)["model"]["info"]["model_id"]

    params = [{"key": "depth", "value": "3"}]
    model = make("tree", model_type="sklearn", params=params, tags=[{"key": "team", "value": "air"}])
    path = f"logged-models/{model}"
    get(say, path)
    say("PATCH", f"{API}/{path}", {"model_id": model, "status": 2})
    say("PATCH", f"{API}/{path}", {"model_id": model, "status": "LOGGED_MODEL_READY"})
    say(
        "PATCH",
        f"{API}/{path}/tags",
        {"tags": [{"key": "team", "value": "ground"}, {"key": "b", "value": "c"}]},
    )
    say("DELETE", f"{API}/{path}/tags/b", {})
    say("DELETE", f"{API}/{path}/tags/b", {})
    post(say, f"{path}/params", model_id=model, params=[{"key": "trees", "value": "9"}])
    measured = {
        "key": "auc",
        "timestamp": 5,
        "model_id": model,
        "dataset_name": "test",
        "dataset_digest": "d1",
    }
    post(say, "runs/log-metric", run_id=run, value=0.75, step=0, **measured)
    post(say, "runs/log-batch", run_id=run, metrics=[{**measured, "value": 0.5, "step": 1, "timestamp": 6}])
    get(say, path)
    get(say, "runs/get", run_id=run)
    post(say, "runs/outputs", run_id=run, models=[{"model_id": model, "step": 1}])
    post(say, "runs/log-inputs", run_id=run, models=[{"model_id": model}])
    get(say, "runs/get", run_id=run)
    get(say, f"{path}/artifacts/directories")
    other = make("forest", model_type="sklearn")
    make("linear")
    post(say, "runs/log-metric", run_id=run, key="auc", value=0.9, timestamp=7, step=0, model_id=other)

    def search(**given: Any) -> Any:
        return post(say, "logged-models/search", **{"experiment_ids": [one], **given})

    by_name = {"order_by": [{"field_name": "name", "ascending": True}]}
    search(**by_name)
    for wanted in (
        "name = 'tree'",
        "name != 'tree'",
        "name LIKE '%e%'",
        "name ILIKE 'TREE'",
        "attributes.name = 'tree'",
        "metrics.auc > 0.8",
        "metrics.auc > 0.6 AND name = 'tree'",
        "params.depth = '3'",
        "params.trees LIKE '9'",
        "tags.team = 'ground'",
        "tags.team IN ('ground', 'x')",
        "model_type = 'sklearn'",
        "name > 'a'",
        "colours.x = 'y'",
        "name = 'a' OR name = 'b'",
        "creation_timestamp > 5",
    ):
        search(filter=wanted, **by_name)
    search(order_by=[{"field_name": "metrics.auc", "ascending": False}, {"field_name": "name"}])
    search(order_by=[{"field_name": "metrics.auc"}, {"field_name": "name"}])
    search(order_by=[{"field_name": "params.depth"}])
    search(order_by=[{"field_name": "colour"}])
    search(datasets=[{"dataset_name": "test", "dataset_digest": "d1"}], **by_name)
    search(datasets=[{"dataset_name": "test", "dataset_digest": "other"}], **by_name)
    search(datasets=[{"dataset_digest": "d1"}], **by_name)
    search(filter="metrics.auc > 0.7", datasets=[{"dataset_name": "test", "dataset_digest": "d1"}], **by_name)
    post(say, "logged-models/search")
    post(say, "logged-models", experiment_id=one, name="a/b")
    post(say, "logged-models", experiment_id="987654321", name="a")
    post(say, "logged-models", name="a")
    say("DELETE", f"{API}/{path}", {})
    get(say, path)
    get(say, path, allow_deleted="true")
    search(**by_name)
    get(say, "logged-models/m-nothing")
    say("PATCH", f"{API}/logged-models/m-nothing", {"model_id": "m-nothing", "status": 2})
    say("DELETE", f"{API}/logged-models/m-nothing", {})
    post(say, "runs/log-model", run_id=run, model_json="{")
    whole = (
        '{"artifact_path": "m", "flavors": {}, "utc_time_created": "2013-01-01 00:00:00.000", "run_id": "r"}'
    )
    post(say, "runs/log-model", run_id=run, model_json=whole)
    get(say, "runs/get", run_id=run)
