"""Stories of the registry, told to MLflow's own server and to another one, request by request."""

from __future__ import annotations

from typing import Any

from tests.integration.mlflow.peer.raw import Side, _send_to, answers_of_mlflow

API = "/api/2.0/mlflow"
_TIMES = ("creation_timestamp", "last_updated_timestamp")


def post(say: Any, path: str, **given: Any) -> Any:
    return say("POST", f"{API}/{path}", given)


def get(say: Any, path: str, **given: Any) -> Any:
    return say("GET", f"{API}/{path}", given)


def patch(say: Any, path: str, **given: Any) -> Any:
    return say("PATCH", f"{API}/{path}", given)


def drop(say: Any, path: str, **given: Any) -> Any:
    return say("DELETE", f"{API}/{path}", given)


def run_of(say: Any, name: str) -> tuple[str, str]:
    """A run, and where its artifacts lie."""
    found = post(say, "experiments/create", name=name)["experiment_id"]
    made = post(say, "runs/create", experiment_id=found, start_time=1000, user_id="ann", run_name=name)
    info = made["run"]["info"]
    return info["run_id"], info["artifact_uri"]


def version_of(say: Any, model: str, run: str, uri: str, **given: Any) -> Any:
    return post(say, "model-versions/create", name=model, source=f"{uri}/model", run_id=run, **given)


def models(say: Any) -> None:
    """Make, find, describe, tag, rename, delete; and what is refused."""
    name = "a model, with spaces"
    tags = [{"key": "team", "value": "air"}, {"key": "year", "value": "2013"}]
    post(say, "registered-models/create", name=name, tags=tags, description="for the story")
    post(say, "registered-models/create", name=name)
    for wrong in ("", " ", "a/b", "a:b", "..", 7, None):
        post(say, "registered-models/create", name=wrong)
    post(say, "registered-models/create")
    post(say, "registered-models/create", name="badly tagged", tags=[{"key": "a//b", "value": "1"}])
    post(say, "registered-models/create", name="long tag", tags=[{"key": "k" * 251, "value": "1"}])
    get(say, "registered-models/get", name=name)
    get(say, "registered-models/get", name="no such model")
    get(say, "registered-models/get")
    patch(say, "registered-models/update", name=name, description="described anew")
    patch(say, "registered-models/update", name="no such model", description="x")
    get(say, "registered-models/get", name=name)
    post(say, "registered-models/set-tag", name=name, key="team", value="ground")
    post(say, "registered-models/set-tag", name=name, key="long", value="v" * 100_001)
    post(say, "registered-models/set-tag", name=name, value="v")
    post(say, "registered-models/set-tag", name="no such model", key="a", value="v")
    drop(say, "registered-models/delete-tag", name=name, key="year")
    drop(say, "registered-models/delete-tag", name=name, key="year")
    drop(say, "registered-models/delete-tag", name=name)
    get(say, "registered-models/get", name=name)
    post(say, "registered-models/rename", name=name, new_name="renamed")
    get(say, "registered-models/get", name=name)
    get(say, "registered-models/get", name="renamed")
    post(say, "registered-models/rename", name="renamed", new_name="")
    post(say, "registered-models/rename", name="renamed", new_name="x/y")
    post(say, "registered-models/rename", name="no such model", new_name="other")
    drop(say, "registered-models/delete", name="renamed")
    drop(say, "registered-models/delete", name="renamed")
    get(say, "registered-models/get", name="renamed")


def versions(say: Any) -> None:
    """Numbers, descriptions, tags, deletion; and sources that are refused."""
    run, uri = run_of(say, "story of versions")
    name = "versions"
    version_of(say, name, run, uri)
    post(say, "registered-models/create", name=name)
    version_of(say, name, run, uri, description="the first", tags=[{"key": "a", "value": "1"}])
    version_of(say, name, run, uri, run_link="http://link")
    get(say, "model-versions/get", name=name, version="1")
    get(say, "model-versions/get", name=name, version="2")
    for wrong in ("3", "one", "", "0"):
        get(say, "model-versions/get", name=name, version=wrong)
    get(say, "model-versions/get", name="no such model", version="1")
    get(say, "model-versions/get", version="1")
    patch(say, "model-versions/update", name=name, version="1", description="described anew")
    patch(say, "model-versions/update", name=name, version="9", description="x")
    post(say, "model-versions/set-tag", name=name, version="1", key="b", value="2")
    post(say, "model-versions/set-tag", name=name, version="9", key="b", value="2")
    post(say, "model-versions/set-tag", name=name, version="x", key="b", value="2")
    post(say, "model-versions/set-tag", name=name, version="1", key="../b", value="2")
    drop(say, "model-versions/delete-tag", name=name, version="1", key="a")
    drop(say, "model-versions/delete-tag", name=name, version="1", key="a")
    get(say, "model-versions/get", name=name, version="1")
    drop(say, "model-versions/delete", name=name, version="2")
    drop(say, "model-versions/delete", name=name, version="2")
    get(say, "model-versions/get", name=name, version="2")
    version_of(say, name, run, uri)
    get(say, "registered-models/get", name=name)
    for source, given in (
        ("/etc/passwd", {}),
        (f"{uri}/../other", {"run_id": run}),
        (f"{uri}/%2e%2e/other", {"run_id": run}),
        (f"{uri}/model", {}),
        (f"{uri}/model", {"run_id": "0" * 32}),
        (f"runs:/{run}/model", {}),
        (f"runs:/{run}/model", {"run_id": run}),
        ("models:/m-123", {}),
        ("models:/versions/1", {}),
        ("models:/versions/9", {}),
        ("models:/nothing/1", {}),
        ("s3://bucket/model", {}),
        ("", {}),
    ):
        post(say, "model-versions/create", name=name, source=source, **given)
    post(say, "registered-models/rename", name=name, new_name="versions, renamed")
    get(say, "model-versions/get", name="versions, renamed", version="1")
    get(say, "model-versions/get", name=name, version="1")
    version_of(say, "versions, renamed", run, uri)


def aliases(say: Any) -> None:
    """Set, move, ask, delete; what can't be an alias; what deleting a version does to them."""
    run, uri = run_of(say, "story of aliases")
    name = "aliased"
    post(say, "registered-models/create", name=name)
    get(say, "registered-models/alias", name=name, alias="latest")
    for _ in range(3):
        version_of(say, name, run, uri)
    post(say, "registered-models/alias", name=name, alias="champion", version="1")
    post(say, "registered-models/alias", name=name, alias="Champion", version="2")
    get(say, "registered-models/alias", name=name, alias="champion")
    post(say, "registered-models/alias", name=name, alias="champion", version="3")
    get(say, "registered-models/alias", name=name, alias="champion")
    get(say, "registered-models/alias", name=name, alias="Champion")
    get(say, "registered-models/alias", name=name, alias="latest")
    get(say, "registered-models/alias", name=name, alias="nobody")
    get(say, "registered-models/alias", name="no such model", alias="champion")
    for wrong in ("latest", "LATEST", "v3", "V12", "a b", "a/b", "", "a" * 256):
        post(say, "registered-models/alias", name=name, alias=wrong, version="1")
    post(say, "registered-models/alias", name=name, alias="x", version="9")
    post(say, "registered-models/alias", name=name, alias="x", version="one")
    post(say, "registered-models/alias", name="no such model", alias="x", version="1")
    get(say, "registered-models/get", name=name)
    drop(say, "registered-models/alias", name=name, alias="nobody")
    drop(say, "registered-models/alias", name=name, alias="Champion")
    drop(say, "registered-models/alias", name="no such model", alias="x")
    drop(say, "model-versions/delete", name=name, version="3")
    get(say, "registered-models/alias", name=name, alias="champion")
    get(say, "registered-models/get", name=name)


def stages(say: Any) -> None:
    """Transitions, with and without archiving; the latest of each stage."""
    run, uri = run_of(say, "story of stages")
    name = "staged"
    post(say, "registered-models/create", name=name)
    for _ in range(4):
        version_of(say, name, run, uri)

    def move(version: str, stage: str, **given: Any) -> None:
        post(say, "model-versions/transition-stage", name=name, version=version, stage=stage, **given)

    move("1", "Production")
    move("2", "production", archive_existing_versions=True)
    move("3", "Staging")
    move("4", "staging")
    move("4", "nowhere")
    move("9", "Staging")
    move("1", "")
    get(say, "registered-models/get-latest-versions", name=name)
    post(say, "registered-models/get-latest-versions", name=name, stages=["Production"])
    post(say, "registered-models/get-latest-versions", name=name, stages=["production", "Staging"])
    post(say, "registered-models/get-latest-versions", name=name, stages=["nowhere"])
    post(say, "registered-models/get-latest-versions", name="no such model")
    get(say, "registered-models/get", name=name)
    move("2", "None")
    get(say, "registered-models/get-latest-versions", name=name)


def found(say: Any) -> None:
    """Filters, orders and pages, of models and of versions."""
    run, uri = run_of(say, "story of searches")
    other, elsewhere = run_of(say, "another story of searches")
    for number, name in enumerate(["Quay A", "quay b", "Quay C", "pier"]):
        tags = [{"key": "quay", "value": str(number)}] if number != 3 else []
        post(say, "registered-models/create", name=name, tags=tags)
        for _ in range(number + 1):
            version_of(say, name, run, uri, tags=tags)
    version_of(say, "pier", other, elsewhere)

    def models(**given: Any) -> Any:
        return get(say, "registered-models/search", **given)

    def versions(**given: Any) -> Any:
        return get(say, "model-versions/search", **{"order_by": ["name", "version_number"], **given})

    for wanted in (
        "name LIKE 'Quay%'",
        "name ILIKE 'quay%'",
        "name = 'pier'",
        "name != 'pier' AND name ILIKE 'quay%'",
        "attribute.name = 'pier'",
        "name IN ('pier', 'quay b')",
        "tags.quay = '1'",
        "tag.quay != '1'",
        "tags.`quay` LIKE '%'",
        "name ILIKE 'quay%' AND tags.`mlflow.prompt.is_prompt` != 'true'",
        "tags.`mlflow.prompt.is_prompt` = 'true'",
    ):
        models(filter=wanted)
        versions(filter=wanted)
    for wanted in (
        f"run_id = '{other}'",
        f"run_id IN ('{other}', 'x')",
        f"run_id != '{run}' and name ILIKE 'pie%'",
        "name = 'pier' and version_number > 2",
        "name = 'pier' and version_number = 1",
        "name ILIKE 'quay%' and version_number <= 1",
        f"source_path = '{uri}/model'",
        "source_path LIKE '%/model' and name = 'quay b'",
    ):
        versions(filter=wanted)
    scope = "name ILIKE '%a%' and name ILIKE 'quay%'"
    models(filter=scope, order_by=["name DESC"])
    models(filter=scope, order_by=["name ASC"])
    models(filter=scope, order_by=["last_updated_timestamp DESC"])
    versions(filter=scope, order_by=["version_number DESC"])
    versions(filter=scope, order_by=["name DESC", "version_number ASC"])
    versions(filter=scope, order_by=["creation_timestamp ASC"])
    first = models(filter=scope, max_results=2)
    models(filter=scope, max_results=2, page_token=first.get("next_page_token"))
    first = versions(filter=scope, max_results=2)
    second = versions(filter=scope, max_results=2, page_token=first.get("next_page_token"))
    versions(filter=scope, max_results=2, page_token=second.get("next_page_token"))


def badly_asked(say: Any) -> None:
    """Searches that are refused: the code is compared, the words are ours."""
    for path in ("registered-models/search", "model-versions/search"):
        for wanted in (
            "name = pier",
            "name > 'pier'",
            "size = '1'",
            "params.x = '1'",
            "name LIKE 'a' OR name LIKE 'b'",
            "name",
            "tags.a > '1'",
            "tags.a IN ('1')",
        ):
            get(say, path, filter=wanted)
        get(say, path, order_by=["colour"])
        get(say, path, order_by=["tags.quay"])
        get(say, path, order_by=["name", "name DESC"])
        get(say, path, page_token="no token")
        get(say, path, max_results=200_001)


def both(url: str, name: str) -> list[tuple[Any, Any]]:
    """Where the answers of MLflow (first) and of the server at ``url`` differ, times and ids apart."""
    theirs, ours = answers_of_mlflow(globals()[name]), Side(_send_to(url))
    globals()[name](ours)
    pairs = [(_plain(one), _plain(other)) for one, other in zip(theirs, ours.said, strict=True)]
    return [(one, other) for one, other in pairs if one != other]


def codes(url: str, name: str) -> list[tuple[Any, Any]]:
    """As :func:`both`, but only status and code are compared, and what MLflow calls its own defect is left out."""
    pairs = both(url, name)
    return [
        (one, other)
        for one, other in pairs
        if one["status"] != 500
        and (one["status"], one["answer"].get("error_code"))
        != (other["status"], other["answer"].get("error_code"))
    ]


def _plain(value: Any, key: str = "") -> Any:
    """Without times and what was asked. Lists that MLflow leaves unordered are sorted; and it forgets the aliases of
    versions that it lists or searches for, which we tell."""
    if isinstance(value, dict):
        told = {name: _plain(one, name) for name, one in value.items() if name not in (*_TIMES, "given")}
        if key in ("latest_versions", "model_versions"):
            told.pop("aliases", None)
        return told
    if isinstance(value, list):
        plain = [_plain(one, key) for one in value]
        if key in ("aliases", "latest_versions") and plain and isinstance(plain[0], dict):
            return sorted(plain, key=str)
        return sorted(plain) if key == "aliases" else plain
    return value
