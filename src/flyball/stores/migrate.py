"""Run the Alembic migrations that lie beside this file. Two processes that open a new ledger at once both succeed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine

from flyball.stores.engine import connection_to_write


def upgrade(engine: Engine) -> None:
    """Bring the schema to the newest version; each migration is one transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with _alone(engine), connection_to_write(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """SQLite has no advisory lock, so a lock file beside it; on PostgreSQL the writers' lock is one."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        yield
        return
    with Path(engine.url.database + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
