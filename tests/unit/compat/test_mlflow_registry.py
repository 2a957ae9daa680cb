"""MLflow's registry calls, handler by handler: the words of refusals, pointers, approvals, copies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyball.compat.mlflow import registry as calls
from flyball.compat.mlflow.wire import MlflowError, decode
from flyball.core.records import Run
from flyball.errors import Refused
from flyball.models import approvals, refs, registry
from flyball.service import Workspace
from flyball.stores.artifacts import ArtifactStore
from tests.unit.models.registering import draft

MLMODEL = b"""flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.pkl
  sklearn:
    pickled_model: model.pkl
    serialization_format: cloudpickle
signature:
  inputs: '[{"type": "double", "name": "a"}]'
  outputs: '[{"type": "double", "name": "p"}]'
"""


class Server:
    """The calls over one workspace, without HTTP."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self._calls = {(one.method, one.path): one for one in calls.routes(ws)}

    def __call__(self, method: str, path: str, **given: Any) -> Any:
        call = self._calls[method, path]
        return call.answer(self.ws, decode(call.asked, json.dumps(given).encode()))

    def refusal(self, method: str, path: str, **given: Any) -> tuple[str, str]:
        with pytest.raises(MlflowError) as caught:
            self(method, path, **given)
        return caught.value.code, caught.value.what


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "flyball.toml").write_text("")
    ws = Workspace.open(tmp_path)
    now = ws.clock.now()
    run = Run(
        id="run_1", pipeline="", started=now, status="done", params={}, code="", environment="", actor="a"
    )
    with ws.ledger.transaction() as tx:
        tx.append("run.started", "run_1", actor="a", sets=[("run", "run_1", run)])
    store = ArtifactStore(ws.ledger, ws.blobs)
    store.put_many("run_1", {"model/MLmodel": MLMODEL, "model/model.pkl": b"a pickle", "torn/MLmodel": b"{"})
    yield Server(ws)
    ws.ledger.close()


def created(server: Server, name: str = "delays", folder: str = "model") -> Any:
    if refs.find_model(server.ws.ledger, name) is None:
        server("POST", "registered-models/create", name=name)
    source = f"mlflow-artifacts:/0/run_1/artifacts/{folder}"
    answer = server("POST", "model-versions/create", name=name, source=source, run_id="run_1")
    return answer["model_version"]


def test_an_mlmodel_folder_becomes_a_version_of_its_own_bytes(server: Server) -> None:
    made = created(server)
    assert (made["version"], made["status"], made["run_id"]) == ("1", "READY", "run_1")
    version = refs.resolve(server.ws.ledger, "delays@1")
    assert version.format == "mlmodel"
    assert set(version.export["files"]) == {"MLmodel", "model.pkl"}
    assert [one.name for one in version.signature.inputs] == ["a"]
    uri = server("GET", "model-versions/get-download-uri", name="delays", version="1")["artifact_uri"]
    assert uri == "mlflow-artifacts:/models/delays/1/artifacts"


@pytest.mark.parametrize("folder", ["nothing", "torn"])
def test_a_folder_that_holds_no_whole_mlmodel_is_a_pointer_with_its_reason(
    server: Server, folder: str
) -> None:
    made = created(server, folder=folder)
    version = refs.resolve(server.ws.ledger, "delays@1")
    assert version.format == "elsewhere"
    assert "MLmodel" in version.export["reason"]
    uri = server("GET", "model-versions/get-download-uri", name="delays", version="1")["artifact_uri"]
    assert uri == made["source"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "/etc/passwd"}, "To use a local path"),
        ({"source": "file:///etc/passwd", "run_id": "run_1"}, "To use a local path"),
        ({"source": "C:\\models", "run_id": "run_1"}, "To use a local path"),
        (
            {"source": "mlflow-artifacts:/0/run_1/artifacts/../../x", "run_id": "run_1"},
            "relative path references",
        ),
        ({"source": "mlflow-artifacts:/0/run_1/artifacts/%252e%252e/x", "run_id": "run_1"}, "relative path"),
        ({"source": "s3://bucket/a%00b"}, "relative path"),
        ({"source": "mlflow-artifacts:/0/run_1/artifacts/model"}, "must identify the resource"),
        ({"source": "mlflow-artifacts:/0/run_1/artifacts/model", "run_id": "run_2"}, "must identify"),
        ({"source": "mlflow-artifacts:/0/run_2/artifacts/model", "run_id": "run_2"}, "must identify"),
        ({"source": "runs:/run_1/model"}, "must identify the resource"),
        ({"source": "models:/m-1"}, "must identify the resource"),
        ({"source": "models:/m-1", "model_id": "m-1"}, "must identify the resource"),
        ({"source": "models:/"}, "must identify the resource"),
    ],
)
def test_a_source_that_is_not_the_callers_is_refused(
    server: Server, given: dict[str, str], said: str
) -> None:
    server("POST", "registered-models/create", name="delays")
    code, what = server.refusal("POST", "model-versions/create", name="delays", **given)
    assert code == "INVALID_PARAMETER_VALUE"
    assert said in what
    assert refs.versions(server.ws.ledger, "delays") == []


def test_the_proxys_own_address_is_a_source_as_well(server: Server) -> None:
    server("POST", "registered-models/create", name="delays")
    source = "http://127.0.0.1:7070/api/2.0/mlflow-artifacts/artifacts/0/run_1/artifacts/model"
    server("POST", "model-versions/create", name="delays", source=source, run_id="run_1")
    assert refs.resolve(server.ws.ledger, "delays@1").format == "mlmodel"


def test_a_copy_has_the_same_bytes_and_a_lineage_edge_to_what_it_was_made_of(server: Server) -> None:
    created(server)
    server("POST", "registered-models/create", name="prod")
    server("POST", "registered-models/alias", name="delays", alias="best", version="1")
    for source in ("models:/delays/1", "models:/delays@best"):
        made = server("POST", "model-versions/create", name="prod", source=source)["model_version"]
        assert (made["source"], made["run_id"]) == ("models:/delays/1", "run_1")
    one, other = (refs.resolve(server.ws.ledger, ref) for ref in ("delays@1", "prod@2"))
    assert one.artifact == other.artifact
    edges = server.ws.ledger.made_from("model:prod@2")
    assert ("model:delays@1", "copy") in [(edge.of, edge.role) for edge in edges]
    code, _ = server.refusal(
        "POST", "model-versions/create", name="prod", source="models:/delays/1", run_id="run_9"
    )
    assert code == "INVALID_PARAMETER_VALUE"


def test_prompts_are_not_offered_and_say_so(server: Server) -> None:
    server("POST", "registered-models/create", name="words")
    code, said = server.refusal(
        "POST",
        "model-versions/create",
        name="words",
        source="dummy-source",
        tags=[{"key": "mlflow.prompt.is_prompt", "value": "true"}],
    )
    assert code == "NOT_IMPLEMENTED"
    assert "prompts" in said


def test_an_alias_that_would_hide_a_number_is_refused(server: Server) -> None:
    created(server)
    for alias in ("7", "v7", "latest"):
        code, said = server.refusal(
            "POST", "registered-models/alias", name="delays", alias=alias, version="1"
        )
        assert code == "INVALID_PARAMETER_VALUE"
        assert "reserved" in said


def test_approvals_hold_for_aliases_and_stages_that_the_client_moves(server: Server) -> None:
    created(server)
    approvals.require(server.ws.ledger, "delays", ["risk"], actor="a")
    for act in (
        lambda: server("POST", "registered-models/alias", name="delays", alias="champion", version="1"),
        lambda: server(
            "POST", "model-versions/transition-stage", name="delays", version="1", stage="Production"
        ),
    ):
        with pytest.raises(Refused, match="not approved by risk"):  # PERMISSION_DENIED on the wire
            act()
    server("POST", "model-versions/transition-stage", name="delays", version="1", stage="Staging")


def test_a_renamed_models_old_name_is_unknown_to_the_client_and_not_given_again(server: Server) -> None:
    created(server)
    server("POST", "registered-models/rename", name="delays", new_name="late")
    assert server.refusal("GET", "registered-models/get", name="delays")[0] == "RESOURCE_DOES_NOT_EXIST"
    assert server("GET", "model-versions/get", name="late", version="1")["model_version"]["name"] == "late"
    code, said = server.refusal("POST", "registered-models/create", name="delays")
    assert code == "RESOURCE_ALREADY_EXISTS"
    assert "the model that is now called 'late'" in said
    assert created(server, "late")["version"] == "2"


def test_a_model_that_was_deleted_and_made_again_counts_on(server: Server) -> None:
    created(server)
    server("DELETE", "registered-models/delete", name="delays")
    server("POST", "registered-models/create", name="delays")
    assert server("GET", "registered-models/get", name="delays")["registered_model"]["latest_versions"] == []
    assert created(server)["version"] == "2"


def test_versions_of_our_own_are_told_with_a_source_to_load_them_from(server: Server) -> None:
    made = registry.add(server.ws.ledger, draft("own", run="run_1"), actor="a")
    told = server("GET", "model-versions/get", name="own", version="1")["model_version"]
    assert told["source"] == f"mlflow-artifacts:/models/own/{made.number}/artifacts"
    (found,) = server("GET", "model-versions/search", filter="run_id = 'run_1'")["model_versions"]
    assert found["name"] == "own"


def test_pages_come_one_after_the_other_until_there_is_no_token(server: Server) -> None:
    for name in "abcde":
        server("POST", "registered-models/create", name=name)
    seen, token = [], ""
    while True:
        page = server("GET", "registered-models/search", max_results=2, page_token=token)
        seen += [one["name"] for one in page["registered_models"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert seen == list("abcde")
