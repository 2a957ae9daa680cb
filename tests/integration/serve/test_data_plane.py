"""Real workers on a real socket: protocols, bad input, reload, kills, and a candidate that goes wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from models_that_fail import AnswersNaN, Constant, Hangs, NoProbability, Raises, WrongShape

from conftest import FEATURES, Plane
from flyball.errors import Conflict, FlyballError, Internal, Invalid, NotFound, Unavailable
from flyball.serve.client import Client, Request
from flyball.serve.publish import acks
from flyball.stores.prediction_log import Label, Prediction, Shadow
from flyball.stores.predictions import compact

pytestmark = pytest.mark.integration
Raw = Callable[..., tuple[int, dict[str, Any]]]
WEIGHTS = [1.0, -0.1]
EXPECTED = 1 / (1 + math.exp(-(0.5 * 1.0 - 9.0 * 0.1)))


def records_of(plane: Plane, kind: type) -> list[Any]:
    return [record for record in plane.tail().read() if isinstance(record, kind)]


def test_answers_and_logs_before_it_answers(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS))
    client = plane.start()
    answer = client.predict("delays", features=FEATURES)
    assert answer["prediction"] == pytest.approx(EXPECTED, abs=1e-6)
    assert (answer["model"], answer["arm"], answer["probability"], answer["fallback"]) == (
        "delays@1",
        "champion",
        1.0,
        False,
    )
    (logged,) = records_of(plane, Prediction)
    assert (logged.id, logged.output, logged.features) == (answer["id"], answer["prediction"], [0.5, 9.0])
    assert logged.generation == plane.generation
    assert client.feedback([{"id": answer["id"], "value": 1, "known": "2013-04-01T10:00:00Z"}]) == 1
    (label,) = records_of(plane, Label)
    assert (label.id, label.value, label.known_us) == (answer["id"], 1.0, 1364810400000000)


def test_several_instances_are_answered_in_order(plane: Plane, raw: Raw) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS), plane.onnx("delays@2", WEIGHTS), rho=0.5)
    client = plane.start(workers=1)
    instances = [{"features": {"wind": wind / 10, "hour": 0.0}} for wind in range(20)]
    answers = client.post("/predict/delays", {"instances": instances})["predictions"]
    assert [answer["prediction"] for answer in answers] == pytest.approx(
        [1 / (1 + math.exp(-wind / 10)) for wind in range(20)], abs=1e-6
    )
    assert {answer["arm"] for answer in answers} == {"champion", "candidate"}
    status, body = raw(
        plane.port, "POST", "/predict/delays", b'{"instances": [{"features": {"wind": 1, "hour": "x"}}]}'
    )
    assert (status, body["facts"]["field"]) == (400, "instances[0].features.hour")


def test_speaks_the_open_inference_protocol(plane: Plane, raw: Raw) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS), plane.onnx("delays@2", [0.0, 0.0]), rho=0.0)
    plane.start(workers=1)
    assert raw(plane.port, "GET", "/v2")[1]["name"] == "flyball"
    assert raw(plane.port, "GET", "/v2/health/live") == (200, {"live": True})
    assert raw(plane.port, "GET", "/v2/health/ready")[1]["ready"] is True
    status, metadata = raw(plane.port, "GET", "/v2/models/delays")
    assert (status, metadata["versions"], metadata["inputs"][0]) == (
        200,
        ["1", "2"],
        {"name": "wind", "datatype": "FP32", "shape": [-1, 1]},
    )
    assert raw(plane.port, "GET", "/v2/models/delays/versions/2/ready") == (
        200,
        {"name": "delays", "ready": True},
    )
    assert raw(plane.port, "GET", "/v2/models/delays/versions/9")[0] == 404
    by_name = {
        "id": "mine",
        "inputs": [
            {"name": "hour", "shape": [2, 1], "datatype": "FP32", "data": [[9], [0]]},
            {"name": "wind", "shape": [2], "datatype": "FP32", "data": [0.5, 0.0]},
        ],
        "outputs": [{"name": "probability"}],
    }
    status, answer = raw(plane.port, "POST", "/v2/models/delays/infer", json.dumps(by_name).encode())
    assert (status, answer["id"], answer["model_version"]) == (200, "mine", "1")
    assert answer["outputs"][0]["shape"] == [2, 1]
    assert answer["outputs"][0]["data"] == pytest.approx([EXPECTED, 0.5], abs=1e-6)
    assert answer["parameters"]["ids"] == ["mine.0", "mine.1"]
    together = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [0.5, 9.0]}]}
    pinned = raw(plane.port, "POST", "/v2/models/delays/versions/2/infer", json.dumps(together).encode())[1]
    assert (pinned["model_version"], pinned["outputs"][0]["data"]) == ("2", [0.5])
    assert pinned["parameters"]["arm"] == "pinned"


BAD: list[tuple[str, str, bytes, int, str]] = [
    ("POST", "/predict/nothing", b'{"features": {}}', 404, "endpoint"),
    ("POST", "/predict/delays", b"", 400, "$"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1', 400, "$"),
    ("POST", "/predict/delays", b"[1]", 400, "$"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1, "hour": "nine"}}', 400, "features.hour"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1, "hour": null}}', 400, "features.hour"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1}}', 400, "features.hour"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1, "hour": 1, "rain": 2}}', 400, "features.rain"),
    ("POST", "/predict/delays", b'{"features": {"wind": NaN, "hour": 1}}', 400, "features.wind"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1e39, "hour": 1}}', 400, "features.wind"),
    ("POST", "/predict/delays", b'{"features": {"wind": [1], "hour": 1}}', 400, "features.wind"),
    ("POST", "/predict/delays", b'{"entity": {}}', 400, "entity"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1, "hour": 1}, "at": "2013-01-01"}', 400, "at"),
    ("POST", "/predict/delays", b'{"features": {"wind": 1, "hour": 1}, "id": ""}', 400, "id"),
    ("POST", "/predict/delays", b'{"instances": []}', 400, "instances"),
    ("POST", "/predict/delays", b"\xff\xfe{", 400, "$"),
    ("POST", "/predict/delays", b"[" * 100_000, 400, "$"),
    ("POST", "/feedback", b'{"id": "p_1"}', 400, "value"),
    (
        "POST",
        "/feedback",
        b'{"labels": [{"id": "p_1", "value": 1, "known": "soon"}]}',
        400,
        "labels[0].known",
    ),
    ("POST", "/v2/models/delays/infer", b'{"inputs": []}', 400, "inputs.wind"),
    (
        "POST",
        "/v2/models/delays/infer",
        b'{"inputs": [{"name": "wind", "shape": [1, 1], "datatype": "FP32", "data": [1]},'
        b'{"name": "hour", "shape": [1, 1], "datatype": "FP32", "data": [1]},'
        b'{"name": "rain", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}',
        400,
        "inputs.rain",
    ),
    (
        "POST",
        "/v2/models/delays/infer",
        b'{"inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}',
        400,
        "inputs.input.shape",
    ),
    (
        "POST",
        "/v2/models/delays/infer",
        b'{"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [NaN, 3]}]}',
        400,
        "inputs[0].data[0]",
    ),
]


def test_refuses_bad_input_naming_the_field_and_goes_on(plane: Plane, raw: Raw) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS))
    client = plane.start(workers=1)
    before = acks(plane.root)[0].pid
    for method, path, body, status, field in BAD:
        got, said = raw(plane.port, method, path, body)
        assert (got, said["facts"].get("field")) == (status, field), (body[:80], said)
        assert set(said) == {"error", "what", "hint", "facts"}
        assert said["hint"]
        assert "Traceback" not in json.dumps(said)
    assert raw(plane.port, "GET", "/predict/delays")[0] == 405
    assert raw(plane.port, "DELETE", "/v2/health/live")[0] == 405
    status, said = raw(plane.port, "GET", "/nowhere")
    assert (status, said["error"]) == (404, "NotFound")
    assert "/predict/{endpoint}" in said["hint"]
    assert client.predict("delays", features=FEATURES)["model"] == "delays@1"
    assert acks(plane.root)[0].pid == before
    assert len(records_of(plane, Prediction)) == 1
    with pytest.raises(NotFound, match="no endpoint 'delay'"):
        client.predict("delay", features=FEATURES)
    with pytest.raises(Invalid, match=r"tells the time itself") as caught:
        client.predict("delays", features=FEATURES, at=datetime(2013, 1, 1, tzinfo=UTC))
    assert caught.value.facts["setting"] == "serve.clock"


def test_a_body_of_50_megabytes_is_refused_with_and_without_its_length(plane: Plane, raw: Raw) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS))
    client = plane.start(workers=1)
    body = b'{"features": {"wind": "' + b"x" * (50 * 1024 * 1024) + b'"}}'
    status, said = raw(plane.port, "POST", "/predict/delays", body)
    assert (status, said["error"], said["facts"]["field"]) == (413, "Invalid", "body")
    chunked = (body[start : start + 2**20] for start in range(0, len(body), 2**20))
    assert raw(plane.port, "POST", "/predict/delays", chunked)[0] == 413
    assert client.predict("delays", features=FEATURES)["model"] == "delays@1"


def test_a_replay_brings_its_own_time(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS), clock="request")
    client = plane.start(workers=1)
    answer = client.predict("delays", features=FEATURES, at=datetime(2013, 4, 1, 12, tzinfo=UTC))
    (logged,) = records_of(plane, Prediction)
    assert logged.at_us == 1364817600000000
    assert plane.predictions().find(answer["id"])["at_us"] == logged.at_us


def test_a_killed_worker_loses_nothing_and_is_replaced_within_a_second(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS))
    client = plane.start(workers=2)
    answered: list[str] = []
    failures: list[FlyballError] = []

    def ask(client: Client) -> None:
        for _ in range(400):
            try:
                answered.append(client.predict("delays", features=FEATURES)["id"])
            except FlyballError as error:
                failures.append(error)

    threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    replaced_s = []
    for _ in range(2):
        time.sleep(0.15)
        victim = acks(plane.root)[0].pid
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        while len(acks(plane.root)) < 2 or victim in {ack.pid for ack in acks(plane.root)}:
            assert time.monotonic() < killed + 10
            time.sleep(0.01)
        replaced_s.append(time.monotonic() - killed)
    for thread in threads:
        thread.join()
    assert not failures
    logged = {record.id for record in records_of(plane, Prediction)}
    assert len(answered) == 1600
    assert set(answered) <= logged
    assert min(replaced_s) < 3.0  # about 0.5 s alone on two cores; others build beside us


def test_a_reload_under_load_fails_no_request_and_never_mixes_models(plane: Plane) -> None:
    one, two = plane.pickled("delays@1", Constant(0.25)), plane.pickled("delays@2", Constant(0.75))
    plane.publish(one)
    client = plane.start(workers=2)
    seen: list[tuple[str, float]] = []
    done = threading.Event()

    def ask() -> None:
        requests = (Request("delays", {}, FEATURES) for _ in iter(done.is_set, True))
        seen.extend(
            (answer["model"], answer["prediction"]) for answer in client.predict_many(requests, connections=4)
        )

    thread = threading.Thread(target=ask)
    thread.start()
    for model in (two, one, two, one, two):
        time.sleep(0.05)
        assert [ack.error for ack in plane.loaded(plane.publish(model))] == ["", ""]
    done.set()
    thread.join()
    assert set(seen) == {("delays@1", 0.25), ("delays@2", 0.75)}
    assert client.predict("delays", features=FEATURES)["model"] == "delays@2"


def test_a_model_that_does_not_load_leaves_the_old_plan_in_force(plane: Plane, raw: Raw) -> None:
    good = plane.onnx("delays@1", WEIGHTS)
    first = plane.publish(good)
    client = plane.start(workers=2)
    broken = plane._model("delays@2", b"no graph at all", "onnx")
    (one, other) = plane.loaded(plane.publish(broken))
    assert one.generation == other.generation == first
    assert "delays@2" in one.error
    assert client.predict("delays", features=FEATURES)["model"] == "delays@1"
    os.kill(one.pid, signal.SIGKILL)  # its successor starts into the broken plan: it takes the last good one
    until = time.monotonic() + 10
    while one.pid in {ack.pid for ack in acks(plane.root)} or len(acks(plane.root)) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    newcomer = next(ack for ack in acks(plane.root) if ack.pid != other.pid)
    assert (newcomer.generation, newcomer.tried) == (first, plane.generation)
    assert "delays@2" in newcomer.error
    assert {client.predict("delays", features=FEATURES)["model"] for _ in range(20)} == {"delays@1"}


def test_changed_model_bytes_are_never_loaded(plane: Plane, raw: Raw) -> None:
    model = plane.pickled("delays@1", Constant(0.5))
    plane.publish(model)
    changed = plane.root / "blobs" / model.artifact[3:5] / model.artifact[5:]
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    client = plane.start(workers=1)
    assert "the stored bytes of" in acks(plane.root)[0].error
    status, said = raw(plane.port, "GET", "/v2/health/ready")
    assert (status, said["ready"]) == (503, False)
    with pytest.raises(Unavailable, match="the stored bytes of"):
        client.predict("delays", features=FEATURES)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Raises(), "RuntimeError: broken on purpose"),
        (AnswersNaN(), "NaN"),
        (WrongShape(), "shape"),
        (NoProbability(), "no probability"),
        (Hangs(), "TimeoutError"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_the_champion_answers_for_a_candidate_that_goes_wrong(plane: Plane, model: Any, said: str) -> None:
    deadline_ms = 400
    plane.publish(
        plane.onnx("delays@1", WEIGHTS),
        plane.pickled("delays@2", model),
        rho=0.5,
        endpoint={"deadline_ms": deadline_ms},
    )
    client = plane.start(workers=1)
    answers = []
    for _ in range(40):
        started = time.monotonic()
        answers.append(client.predict("delays", features=FEATURES))
        assert time.monotonic() - started < deadline_ms / 1000 + 0.5
    assert {answer["model"] for answer in answers} == {"delays@1"}
    assert [answer["prediction"] for answer in answers] == [pytest.approx(EXPECTED, abs=1e-6)] * 40
    stood_in = [record for record in records_of(plane, Prediction) if record.arm == "candidate"]
    assert len(stood_in) >= 3
    for record in stood_in:
        assert record.fallback
        assert (record.assigned, record.model, record.rho) == ("delays@2", "delays@1", 0.5)
        assert said in record.error
    assert {answer["id"] for answer in answers if answer["fallback"]} == {record.id for record in stood_in}


def test_two_workers_cut_off_a_candidate_that_always_fails_within_ten_of_its_requests(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS), plane.pickled("delays@2", Raises()), rho=0.1)
    client = plane.start(workers=2)
    requests = [Request("delays", {}, FEATURES) for _ in range(800)]
    answers = list(client.predict_many(requests, connections=16))
    assert len(answers) == 800
    exposed = [record for record in records_of(plane, Prediction) if record.arm == "candidate"]
    assert 2 <= len(exposed) <= 10
    tripped = [ack.tripped for ack in acks(plane.root)]
    assert {"delays": "delays@2"} in tripped
    assert {answer["model"] for answer in answers} == {"delays@1"}


def test_the_arm_that_did_not_answer_is_scored_too(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS), plane.onnx("delays@2", [0.0, 0.0]), rho=0.3)
    client = plane.start(workers=1)
    answers = [client.predict("delays", features=FEATURES) for _ in range(60)]
    plane.stop()  # draining scores what waits
    shadows = {shadow.id: shadow for shadow in records_of(plane, Shadow)}
    assert set(shadows) == {answer["id"] for answer in answers}
    for answer in answers:
        other = "delays@2" if answer["model"] == "delays@1" else "delays@1"
        assert shadows[answer["id"]].model == other
    assert {shadow.output for shadow in shadows.values() if shadow.model == "delays@2"} == {0.5}


def test_a_retry_with_the_same_id_counts_once_and_draws_the_same_arm(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS), plane.onnx("delays@2", WEIGHTS), rho=0.5)
    client = plane.start(workers=2)
    twice = [
        [client.predict("delays", features=FEATURES, id=f"order-{n}") for n in range(20)] for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert len(records_of(plane, Prediction)) == 40
    table = plane.predictions().scan("delays")
    assert table["id"].to_list() == [f"order-{n}" for n in range(20)]
    plane.stop()
    assert compact(plane.log_dir, plane.root / "tables").records >= 40
    assert plane.predictions().scan("delays").height == 20
    assert plane.predictions().find("order-7")["endpoint"] == "delays"


def test_a_champion_that_fails_is_an_error_without_a_trace_and_is_logged(plane: Plane) -> None:
    plane.publish(plane.pickled("delays@1", Raises()))
    client = plane.start(workers=1)
    with pytest.raises(Internal, match="delays@1 could not answer") as caught:
        client.predict("delays", features=FEATURES)
    assert caught.value.facts["model"] == "delays@1"
    (logged,) = records_of(plane, Prediction)
    assert (logged.output, logged.error) == (None, "RuntimeError: broken on purpose")


def test_a_full_disk_answers_503_and_loses_nothing_acknowledged(plane: Plane) -> None:
    import resource

    plane.publish(plane.onnx("delays@1", WEIGHTS))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    client = plane.start(workers=1, preexec_fn=small_files)
    acknowledged: list[str] = []

    def until_full() -> None:
        for _ in range(1000):
            acknowledged.append(client.predict("delays", features=FEATURES)["id"])

    with pytest.raises(Unavailable, match="the prediction log can't be written") as caught:
        until_full()
    assert len(acknowledged) > 50
    assert "free some space" in caught.value.hint
    assert [record.id for record in records_of(plane, Prediction)] == acknowledged
    with pytest.raises(Unavailable):
        for _ in range(50):  # a label is smaller than a prediction: a few may still fit
            client.feedback([{"id": acknowledged[0], "value": 1}])
    assert client.get("/health")["status"] == "ok"


def test_a_port_in_use_is_said_plainly(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS))
    plane.start(workers=1)
    second = subprocess.run(
        plane.command(port=plane.port), capture_output=True, text=True, timeout=20, check=False
    )
    assert second.returncode == Conflict.exit_code
    assert f"port {plane.port} on 127.0.0.1 is in use" in second.stderr
    assert "Traceback" not in second.stderr


def test_sigterm_finishes_what_is_under_way(plane: Plane) -> None:
    plane.publish(plane.onnx("delays@1", WEIGHTS))
    client = plane.start(workers=2)
    answered = [answer["id"] for answer in client.predict_many([Request("delays", {}, FEATURES)] * 50)]
    assert plane.stop() == 0
    assert {record.id for record in records_of(plane, Prediction)} >= set(answered)
    assert acks(plane.root) == []
    assert compact(plane.log_dir, plane.root / "tables").left == 0
    with pytest.raises(Unavailable, match="does not answer"):
        plane.client(attempts=2).predict("delays", features=FEATURES)


def test_metrics_add_up_over_workers(plane: Plane) -> None:
    from http.client import HTTPConnection

    plane.publish(plane.onnx("delays@1", WEIGHTS), plane.pickled("delays@2", Raises()), rho=0.5)
    client = plane.start(workers=2)
    assert len(list(client.predict_many([Request("delays", {}, FEATURES)] * 100, connections=8))) == 100
    until = time.monotonic() + 5
    text = ""
    while time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", plane.port, timeout=5)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        values = {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line[0] != "#"
        }
        rows = [value for name, value in values.items() if name.startswith("flyball_predictions_total")]
        if sum(rows) == 100:
            break
        time.sleep(0.1)
    assert sum(rows) == 100, text
    labels = 'endpoint="delays",arm="candidate",model="delays@2"'
    assert values[f"flyball_fallbacks_total{{{labels}}}"] == values[f"flyball_errors_total{{{labels}}}"] >= 1
    assert values[f'flyball_latency_seconds_bucket{{{labels},le="+Inf"}}'] >= 1
