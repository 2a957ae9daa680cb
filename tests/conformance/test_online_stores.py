"""Every engine of the online seam passes the same suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball.stores.online import OnlineStore, open_online
from flyball.testing.online import OnlineStoreSuite
from tests.redis_servers import RedisServer


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


class TestLmdb(OnlineStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        store = open_online(f"lmdb:{tmp_path}/online")
        yield store
        store.close()


class TestRedis(OnlineStoreSuite):
    @pytest.fixture
    def store(self, redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[OnlineStore]:
        store = open_online(f"{redis_server.url}?timeout_ms=5000&prefix={request.node.name}")
        yield store
        store.close()
