"""The client against a socket that misbehaves: retried with the same id, or given up plainly."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from flyball.errors import Conflict, Internal, Invalid, Unavailable
from flyball.serve.client import Client, Request, understood

ANSWER = b'{"id": "p", "prediction": 0.5}'


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def take(connection: socket.socket) -> bytes:
    """One whole request."""
    got = b""
    while b"\r\n\r\n" not in got:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        got += chunk
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body


@contextmanager
def server(*behaviours: Callable[[socket.socket, bytes], bool]) -> Iterator[tuple[str, list[bytes]]]:
    """Each request meets the next behaviour; ``False`` closes the connection. The last one stays."""
    bodies: list[bytes] = []
    left = list(behaviours)
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client may be gone
            while body := take(connection):
                bodies.append(body)
                behave = left.pop(0) if len(left) > 1 else left[0]
                if not behave(connection, body):
                    break

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", bodies
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def answers(connection: socket.socket, body: bytes) -> bool:
    connection.sendall(http(ANSWER))
    return True


def dribbles(connection: socket.socket, body: bytes) -> bool:
    for byte in http(ANSWER):
        connection.sendall(bytes([byte]))
    return True


def dies(connection: socket.socket, body: bytes) -> bool:
    return False


def dies_halfway(connection: socket.socket, body: bytes) -> bool:
    connection.sendall(http(ANSWER)[:-5])
    return False


def refuses(connection: socket.socket, body: bytes) -> bool:
    said = {"error": "Conflict", "what": "no", "hint": "do", "facts": {"field": "x"}}
    connection.sendall(http(json.dumps(said).encode(), "409 Conflict"))
    return True


@pytest.mark.parametrize("first", [dies, dies_halfway])
@pytest.mark.parametrize("many", [False, True])
def test_a_broken_connection_is_repeated_with_the_same_id(first: Callable[..., bool], many: bool) -> None:
    with server(first, answers) as (url, bodies):
        client = Client(url)
        if many:
            (answer,) = client.predict_many([Request("delays")], connections=1)
        else:
            answer = client.predict("delays")
        client.close()
    assert answer == {"id": "p", "prediction": 0.5}
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    assert json.loads(bodies[0])["id"].startswith("p_")


def test_an_answer_may_come_byte_by_byte() -> None:
    with server(dribbles) as (url, _):
        client = Client(url)
        assert client.predict("delays")["prediction"] == 0.5
        assert [answer["id"] for answer in client.predict_many([Request("delays")] * 3, connections=1)] == [
            "p"
        ] * 3
        client.close()


def test_attempts_are_bounded() -> None:
    with server(dies) as (url, bodies), pytest.raises(Unavailable, match="does not answer"):
        Client(url, attempts=3).predict("delays")
    assert len(bodies) == 3


def test_nobody_there_is_unavailable_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable) as caught:
        Client(f"http://127.0.0.1:{port}", attempts=2).predict("delays")
    assert "flyball up" in caught.value.hint


def test_a_refusal_is_the_error_that_the_body_names() -> None:
    with server(refuses) as (url, bodies):
        client = Client(url)
        with pytest.raises(Conflict, match="no") as caught:
            client.predict("delays")
        with pytest.raises(Conflict):
            list(client.predict_many([Request("delays")]))
        client.close()
    assert (caught.value.hint, caught.value.facts) == ("do", {"field": "x"})
    assert len(bodies) == 2  # what is refused is not repeated


@pytest.mark.parametrize(
    "body",
    [b"<html>", b'{"error": "SystemExit"}', b'{"error": "nearest"}', b"[]"],
    ids=["html", "exit", "name", "list"],
)
def test_an_answer_of_someone_else_is_internal(body: bytes) -> None:
    with pytest.raises(Internal):
        understood(500, body)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid):
        Client("localhost:8080")


def test_requests_are_taken_only_as_they_are_needed() -> None:
    taken = []

    def requests() -> Iterator[Request]:
        for number in range(100):
            taken.append(number)
            yield Request("delays")

    with server(answers) as (url, _):
        stream = Client(url).predict_many(requests(), connections=1)
        for _ in range(3):
            next(stream)
        assert len(taken) <= 5
        stream.close()
