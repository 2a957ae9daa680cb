"""MLflow's real client, unmodified, against a real console: what people do with it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import pytest

from tests.integration.mlflow.conftest import Console, Peer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_a_run_with_everything_is_read_back_by_every_call(console: Console, peer: Peer) -> None:
    made = peer("tracking", "fluent", console.url, name="client fluent")
    shown = console.cli("runs", "show", made["run"])
    assert "first" in json.dumps(shown)
    assert made["run"] in json.dumps(console.cli("runs", "ls"))


def test_a_run_goes_on_and_a_failing_block_is_marked(console: Console, peer: Peer) -> None:
    peer("tracking", "resumed", console.url, name="client resumed")


def test_experiments_are_made_tagged_renamed_deleted_restored_and_found(console: Console, peer: Peer) -> None:
    peer("tracking", "client_of_experiments", console.url, name="client experiments")


def test_runs_are_batched_ended_deleted_restored_and_found(console: Console, peer: Peer) -> None:
    peer("tracking", "client_of_runs", console.url, name="client runs")


def test_artifacts_go_up_and_down_whole(console: Console, peer: Peer) -> None:
    peer("tracking", "files", console.url, name="client files")


def test_a_large_file_goes_up_in_parts_and_comes_down_by_ranges(console: Console, peer: Peer) -> None:
    peer("tracking", "in_parts", console.url, name="client parts")
    assert not list((console.folder / ".flyball/run/uploads").glob("*"))


def test_datasets_are_logged_and_found(console: Console, peer: Peer) -> None:
    peer("tracking", "datasets", console.url, name="client datasets")


def test_several_clients_write_one_run_and_nothing_is_lost(console: Console, peer: Peer) -> None:
    run = _post(console, "runs/create", experiment_id="0", run_name="together", start_time=1)["run"]["info"][
        "run_id"
    ]
    peer("tracking", "together", console.url, run=run, clients=4)


def test_autologging_of_scikit_learn_works(console: Console, peer: Peer) -> None:
    made = peer("models", "automatic", console.url, name="client automatic")
    said = peer.log()
    assert "Encountered unexpected error" not in said, said[-3000:]
    assert made["model"].startswith("m-")


def test_logged_models_have_params_tags_metrics_and_an_end(console: Console, peer: Peer) -> None:
    peer("models", "logged", console.url, name="client logged")


def test_the_scenario_needs_nothing_but_the_tracking_uri(console: Console, peer: Peer) -> None:
    made = peer("models", "scenario", url=console.url, name="client scenario", model="delays")
    assert made["version"] == "1"
    # What the client says of its own accord, whatever the server is.
    known = ("`artifact_path` is deprecated", "installed pip version")
    warned = [line for line in made["said"].splitlines() if "WARNING" in line]
    assert all(any(one in line for one in known) for line in warned), warned


def test_a_run_of_our_own_is_seen_by_the_client(console: Console, peer: Peer) -> None:
    script = console.folder / "ours.py"
    script.write_text(
        "import flyball as fb\n"
        "with fb.track.start('training', params={'trees': 3}) as run:\n"
        "    for step in range(3):\n"
        "        fb.track.log_metric('auc', step / 4, step)\n"
        "    print(run.id)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=console.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = peer("tracking", "seen", console.url, run=done.stdout.split()[-1])
    assert found["status"] == "FINISHED"
    assert found["params"] == {"trees": "3"}
    assert found["metrics"] == {"auc": 0.5}
    assert found["history"] == [[0, 0.0], [1, 0.25], [2, 0.5]]


def _post(console: Console, path: str, **given: object) -> dict[str, dict[str, dict[str, str]]]:
    request = urllib.request.Request(
        f"{console.url}/api/2.0/mlflow/{path}",
        json.dumps(given).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, dict[str, dict[str, str]]] = json.load(answer)
    return found
