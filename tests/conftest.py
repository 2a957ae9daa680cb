"""Fixtures of every suite: the metadata engines that a ledger runs on.

``ledger_url`` (and ``ledger``) run a test once per engine, on an empty database;
``FLYBALL_TEST_ENGINES=sqlite`` leaves the server out. ``pytest --ledger postgres`` runs any suite with every SQLite
ledger of the test's own process on the server instead; tests that look into the file or start processes can't pass so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger
    from tests.postgres import Postgres
    from tests.s3 import S3

ENGINES = os.environ.get("FLYBALL_TEST_ENGINES", "sqlite,postgres").split(",")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, started once; ``postgres.new()`` is the URL of an empty schema."""
    from tests.postgres import Postgres

    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A server that speaks S3, started once; ``s3.new()`` is the URL of an empty bucket."""
    from tests.s3 import S3

    with S3() as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ledger", choices=["sqlite", "postgres"], default="sqlite")


@pytest.fixture(autouse=True)
def _ledgers_on_the_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--ledger postgres``: each SQLite URL stands for a schema of its own."""
    if request.config.getoption("--ledger") != "postgres":
        return
    from flyball.stores import metadata

    server: Postgres = request.getfixturevalue("postgres")
    schemas: dict[str, str] = {}
    open_engine = metadata.open_engine

    def elsewhere(url: str) -> object:
        if not url.startswith("sqlite"):
            return open_engine(url)
        new = url == "sqlite://" or url not in schemas
        place = server.new() if new else schemas[url]
        schemas[url] = place
        return open_engine(place)

    monkeypatch.setattr(metadata, "open_engine", elsewhere)


@pytest.fixture(params=ENGINES)
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a ledger that does not exist yet; the test runs once per engine."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        return server.new()
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger on each engine, whose clock stands at 2013-04-01."""
    from flyball.core.clock import ManualClock
    from flyball.stores.metadata import Ledger

    opened = Ledger.open(ledger_url, ManualClock(datetime(2013, 4, 1, tzinfo=UTC)))
    yield opened
    opened.close()
