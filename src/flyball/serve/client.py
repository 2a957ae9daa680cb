"""Ask a data plane: predictions and feedback over plain sockets, retried idempotently.

Hand-written HTTP/1.1, since ``http.client`` parses headers with the e-mail package and costs three times as much CPU
per request. Each thread keeps one connection; :meth:`Client.predict_many` keeps several busy from one thread.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from flyball import errors
from flyball.core.clock import SystemClock, aware, to_us
from flyball.core.ids import encode
from flyball.errors import FlyballError, Internal, Invalid, Unavailable

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_PAUSE_S = 0.02  # before the second attempt; doubles
_TIMES_AS_LONG = 10  # the longest pause, in first pauses
_Answer = tuple[int, bytes]


class Request(msgspec.Struct, gc=False):
    """One row for :meth:`Client.predict_many`."""

    endpoint: str
    entities: Mapping[str, Any] = {}
    features: Mapping[str, Any] = {}
    at: datetime | None = None
    id: str = ""


class _BrokenError(Exception):
    """The connection ended before a whole answer came."""


class _Connection:
    """One kept-alive connection."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self.socket = socket.create_connection((host, port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = b""

    def send(self, head: bytes, body: bytes) -> None:
        self._got = b""
        self.socket.sendall(head + body)

    def receive(self) -> _Answer:
        """Wait for the whole answer."""
        while True:
            answer = self.more()
            if answer is not None:
                return answer

    def more(self) -> _Answer | None:
        """Take what has come; the answer once it is whole."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise _BrokenError("the connection was closed")
        got = self._got = self._got + chunk if self._got else chunk
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = got[:end].lower()
        place = head.find(b"\r\ncontent-length:")
        if place < 0:
            raise _BrokenError("the answer has no length")
        stop = head.find(b"\r\n", place + 2)
        length = int(head[place + 17 : stop if stop > 0 else end])
        if len(got) < end + 4 + length:
            return None
        return int(got[9:12]), got[end + 4 : end + 4 + length]

    def close(self) -> None:
        self.socket.close()

    def __del__(self) -> None:  # a thread that ends takes its connection along
        if hasattr(self, "socket"):
            self.socket.close()


class Client:
    """Talks to one data plane. Safe to share between threads.

    A connection that breaks (a worker was killed, a server restarts) is opened again and the request repeated with the
    same prediction id, which counts once; so a retry never makes a second prediction. What the server refuses is raised
    as the error that its body names.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8080", *, timeout_s: float = 10.0, attempts: int = 8
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise Invalid(f"{url!r} is no address of a data plane", "like http://127.0.0.1:8080")
        self.url = url.rstrip("/")
        self._host, self._port = parts.hostname, parts.port or 80
        self._timeout_s, self._attempts = timeout_s, attempts
        self._prefix = parts.path.rstrip("/")
        self._mine = threading.local()
        self._heads: dict[tuple[str, str], bytes] = {}

    def predict(
        self,
        endpoint: str,
        entities: Mapping[str, Any] | None = None,
        features: Mapping[str, Any] | None = None,
        *,
        at: datetime | None = None,
        id: str = "",
    ) -> dict[str, Any]:
        """One prediction: ``{"id", "prediction", "model", "arm", "probability", "fallback"}``."""
        head, body = self._asked(Request(endpoint, entities or {}, features or {}, at, id))
        answer: dict[str, Any] = self._ask(head, body)
        return answer

    def predict_many(self, requests: Iterable[Request], *, connections: int = 8) -> Iterator[dict[str, Any]]:
        """Predictions in the order asked, over several connections at once, from this one thread.

        Requests are taken lazily, at most ``connections`` ahead of what was answered.
        """
        yield from _Pipeline(self, connections).run(iter(requests))

    def features(
        self,
        service: str,
        entities: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        features: Mapping[str, Any] | Sequence[Mapping[str, Any]] = {},
        *,
        at: datetime | None = None,
    ) -> dict[str, Any]:
        """What a feature service gives: ``{"values", "statuses", "times"}``, each by feature; of a list of entities, lists.

        ``features`` are the request fields that on-demand features read: one for all entities, or a list.
        """
        body: dict[str, Any] = {"entities": entities, "features": features}
        if at is not None:
            body["at"] = aware(at).isoformat()
        answer: dict[str, Any] = self.post("/features/" + quote(service, safe=""), body)
        return answer

    def feedback(self, labels: Sequence[Mapping[str, Any]]) -> int:
        """Send labels ``{"id", "value", "known"?}`` (``known`` a datetime or ISO text); returns how many were taken.

        Durable when it returns; sending one twice counts once.
        """
        items = [
            {**label, "known": label["known"].isoformat()}
            if isinstance(label.get("known"), datetime)
            else label
            for label in labels
        ]
        answer = self._ask(self._head("POST", "/feedback"), _encode({"labels": items}))
        return int(answer["accepted"])

    def get(self, path: str) -> Any:
        """A JSON document, as ``/health`` or ``/v2/models/delays``."""
        return self._ask(self._head("GET", path), b"")

    def post(self, path: str, body: Any) -> Any:
        """POST any JSON: Open Inference Protocol calls, for example. Repeated after a broken connection."""
        return self._ask(self._head("POST", path), _encode(body))

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._mine, "connection", None)
        if connection is not None:
            connection.close()
            self._mine.connection = None

    def _asked(self, request: Request) -> tuple[bytes, bytes]:
        at = request.at
        now_us = to_us(SystemClock().now() if at is None else aware(at))
        body: dict[str, Any] = {
            "entities": request.entities,
            "features": request.features,
            "id": request.id or f"p_{encode(now_us // 1000)}",
        }
        if at is not None:
            body["at"] = at.isoformat()
        return self._head("POST", "/predict/" + quote(request.endpoint, safe="")), _encode(body)

    def _head(self, method: str, path: str) -> bytes:
        key = (method, path)
        if key not in self._heads:
            line = f"{method} {self._prefix}{path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            self._heads[key] = line.encode() + b"content-type: application/json\r\ncontent-length: "
        return self._heads[key]

    def _ask(self, head: bytes, body: bytes) -> Any:
        whole = b"%b%d\r\n\r\n" % (head, len(body))
        for attempt in range(self._attempts):
            try:
                connection: _Connection = getattr(self._mine, "connection", None) or self._connect()
                connection.send(whole, body)
                status, answer = connection.receive()
            except TimeoutError as error:  # the server is there and slow: asking again would make it slower
                self.close()
                raise self._gone(f"no answer within {self._timeout_s:g} s") from error
            except (OSError, _BrokenError) as error:
                self.close()
                self._pause(attempt, error)
                continue
            return understood(status, answer)
        raise self._gone("no attempt is left")  # attempts was 0

    def _connect(self) -> _Connection:
        self._mine.connection = self.connect()
        connection: _Connection = self._mine.connection
        return connection

    def connect(self) -> _Connection:
        """A fresh connection; OSError when nothing listens."""
        return _Connection(self._host, self._port, self._timeout_s)

    def _pause(self, attempt: int, error: Exception) -> None:
        if attempt + 1 >= self._attempts:
            raise self._gone(str(error)) from error
        if attempt:  # the first retry is immediate: a killed worker's neighbour listens on the same port
            time.sleep(_PAUSE_S * min(2**attempt, _TIMES_AS_LONG))

    def _gone(self, why: str) -> Unavailable:
        return Unavailable(
            f"{self.url} does not answer: {why}",
            "flyball up starts it; flyball status shows it",
            url=self.url,
        )


class _Pipeline:
    """Several connections, one request under way on each, driven from one thread."""

    def __init__(self, client: Client, connections: int) -> None:
        self._client = client
        self._count = connections
        self._selector = selectors.DefaultSelector()
        self._free: list[_Connection] = []
        self._answers: dict[int, dict[str, Any] | FlyballError] = {}

    def run(self, requests: Iterator[Request]) -> Iterator[dict[str, Any]]:
        """Answers in the order of the requests; an error is raised where its answer would have stood."""
        started = finished = 0
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._selector.get_map()) < self._count:
                    request = next(requests, None)
                    if request is None:
                        exhausted = True
                        break
                    self._start(started, *self._client._asked(request))
                    started += 1
                while finished in self._answers:
                    answer = self._answers.pop(finished)
                    finished += 1
                    if isinstance(answer, FlyballError):
                        raise answer
                    yield answer
                if exhausted and finished == started:
                    return
                self._collect()
        finally:
            for key in list(self._selector.get_map().values()):
                key.data[2].close()
            for connection in self._free:
                connection.close()
            self._selector.close()

    def _start(self, number: int, head: bytes, body: bytes) -> None:
        whole = b"%b%d\r\n\r\n" % (head, len(body))
        for attempt in range(self._client._attempts):
            try:
                connection = self._free.pop() if self._free else self._client.connect()
                connection.send(whole, body)
            except (OSError, _BrokenError) as error:
                self._client._pause(attempt, error)
                continue
            self._selector.register(
                connection.socket, selectors.EVENT_READ, (number, (head, body), connection)
            )
            return

    def _collect(self) -> None:
        ready = self._selector.select(self._client._timeout_s)
        if not ready:
            raise self._client._gone(f"no answer within {self._client._timeout_s:g} s")
        for key, _ in ready:
            number, asked, connection = key.data
            try:
                answer = connection.more()
            except (OSError, _BrokenError):
                self._selector.unregister(key.fileobj)
                connection.close()
                self._answers[number] = self._again(*asked)
                continue
            if answer is None:
                continue
            self._selector.unregister(key.fileobj)
            self._free.append(connection)
            try:
                self._answers[number] = understood(*answer)
            except FlyballError as error:
                self._answers[number] = error

    def _again(self, head: bytes, body: bytes) -> dict[str, Any] | FlyballError:
        """Repeat a request whose connection broke, on a connection of its own."""
        try:
            answer: dict[str, Any] = self._client._ask(head, body)
        except FlyballError as error:
            return error
        return answer


def understood(status: int, body: bytes) -> Any:
    """The decoded body of a success; otherwise the error that it names, raised."""
    try:
        said = _decode(body) if body else None
    except msgspec.DecodeError as error:
        raise Internal(
            f"the answer ({status}) is not JSON: {body[:80]!r}", "is this a Flyball data plane?"
        ) from error
    if status < 400:
        return said
    facts = said if isinstance(said, dict) else {}
    kind = getattr(errors, str(facts.get("error")), Internal)
    if not (isinstance(kind, type) and issubclass(kind, FlyballError)):
        kind = Internal
    raise kind(
        str(facts.get("what", f"the server answered {status}")),
        str(facts.get("hint", "")),
        **facts.get("facts", {}),
    )
