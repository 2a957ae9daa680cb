"""The same requests to MLflow's own server (its Flask application on SQLite, in this process) and to another one.

Answers are compared modulo ids and times: each id is named by the order in which it was first seen.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import requests

_IDS = {"run_id": "run", "run_uuid": "run", "experiment_id": "experiment", "model_id": "model"}
_TIMES = ("creation_time", "last_update_time", "creation_timestamp_ms", "last_updated_timestamp_ms")
_LEFT_OUT = {
    "workspace",
    "effective_trace_archival_retention",
    "sqlstate",
    "error_class",
}


@cache
def _mlflow() -> Any:
    folder = tempfile.mkdtemp()
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{folder}/mlflow.db"
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
    os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = f"{folder}/artifacts"
    os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
    from mlflow.server import app

    return app.test_client()


class Side:
    """One of the two servers: sends requests, remembers what came back, knows ids by their order."""

    def __init__(self, send: Callable[..., tuple[int, str]]) -> None:
        self._send = send
        self._named: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self.said: list[dict[str, Any]] = []

    def __call__(self, method: str, path: str, given: Any = None, *, raw: str | None = None) -> Any:
        status, text = self._send(method, path, given, raw)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"text": text[:200]}
        self._learn(answer)
        asked = self._renamed(f"{method} {path}", "")
        self.said.append({"asked": asked, "status": status, "answer": self._plain(answer), "given": given})
        return answer

    def _learn(self, value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                if key in _IDS and isinstance(one, str) and one and one not in self._named:
                    kind = _IDS[key]
                    self._counts[kind] = self._counts.get(kind, 0) + 1
                    self._named[one] = f"{kind}-{self._counts[kind]}"
                self._learn(one)
        elif isinstance(value, list):
            for one in value:
                self._learn(one)

    def _plain(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            kept = {name: self._plain(one, name) for name, one in value.items() if name not in _LEFT_OUT}
            return {name: one for name, one in kept.items() if one not in ([], {}, "", None)}
        if isinstance(value, list):
            plain = [self._plain(one) for one in value]
            if plain and all(isinstance(one, dict) and ("key" in one or "digest" in one) for one in plain):
                plain.sort(
                    key=lambda one: (
                        one.get("key", one.get("digest")),
                        one.get("step", 0),
                        str(one.get("value")),
                    )
                )
            return plain
        if key in _TIMES:
            return "a time" if value else value
        if isinstance(value, str):
            return self._renamed(value, key)
        return value

    def _renamed(self, text: str, key: str) -> str:
        if key in _IDS:
            return self._named.get(text, text)
        for real, label in sorted(self._named.items(), key=lambda pair: -len(pair[0])):
            if len(real) > 8:
                text = text.replace(real, label)
            else:  # a short number is an id only where one stands
                text = re.sub(rf"(experiment |id[=: ]+|:/){real}\b", rf"\g<1>{label}", text)
        return text


def _send_here(method: str, path: str, given: Any, raw: str | None) -> tuple[int, str]:
    client = _mlflow()
    options: dict[str, Any] = {"method": method}
    if raw is not None:
        options |= {"data": raw, "content_type": "application/json"}
    elif method == "GET":
        options["query_string"] = given or {}
    else:
        options["json"] = given or {}
    answer = client.open(path, **options)
    return answer.status_code, answer.get_data(as_text=True)


def _send_to(url: str) -> Callable[..., tuple[int, str]]:
    session = requests.Session()

    def send(method: str, path: str, given: Any, raw: str | None) -> tuple[int, str]:
        if raw is not None:
            answer = session.request(
                method, url + path, data=raw, headers={"content-type": "application/json"}
            )
        elif method == "GET":
            answer = session.get(url + path, params=given or {})
        else:
            answer = session.request(method, url + path, json=given or {})
        return answer.status_code, answer.text

    return send


@cache
def answers_of_mlflow(story: Callable[[Side], None]) -> list[dict[str, Any]]:
    """What MLflow's own server says to a story; it is told there once, whatever it is compared with."""
    theirs = Side(_send_here)
    story(theirs)
    return theirs.said


def both(url: str, name: str) -> list[tuple[Any, Any]]:
    """Where the answers of MLflow (first) and of the server at ``url`` to the story ``name`` differ."""
    from tests.integration.mlflow.peer import stories

    theirs, ours = answers_of_mlflow(getattr(stories, name)), Side(_send_to(url))
    getattr(stories, name)(ours)
    pairs = zip(theirs, ours.said, strict=True)
    return [(one, other) for one, other in pairs if _told(one) != _told(other)]


def _told(said: dict[str, Any]) -> tuple[Any, ...]:
    """What counts. Of a search that is refused the code, not the words: ours name the letter where a filter is wrong."""
    answer = said["answer"]
    if "/search" in said["asked"] and "error_code" in answer:
        answer = answer["error_code"]
    return said["asked"], said["status"], answer
