"""Every engine of the online seam passes the same suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball.stores.online import OnlineStore, open_online
from flyball.testing.online import OnlineStoreSuite


class TestLmdb(OnlineStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        store = open_online(f"lmdb:{tmp_path}/online")
        yield store
        store.close()
