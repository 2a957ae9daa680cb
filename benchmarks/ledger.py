"""A commit of the ledger beside a commit of the same bytes with bare sqlite3: same tables and indexes, same pragmas.

CPU, and time on the wall, which swings with what else the disk does: a checkpoint of the log waits for it.
"""

from __future__ import annotations

import sqlite3
import tempfile
from itertools import count
from pathlib import Path

from benchmarks.measure import Row, cpu_s, timed, wall_s
from flyball.core.clock import SystemClock
from flyball.core.records import Alias
from flyball.stores.metadata import Ledger

_COMMITS = 200  # in each measurement
_EVENT = "insert into events (id, at_us, kind, subject, actor, body, sets, chain) values (?,?,?,?,?,?,?,?)"
_RECORD = (
    "insert into records (noun, key, content, made_seq, set_seq) values (?,?,?,?,?) "
    "on conflict (noun, key) do update set content = excluded.content, set_seq = excluded.set_seq"
)


def measured(repeats: int) -> list[Row]:
    """One event and one record per transaction: a new record each time, and one record over and over."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
        _commit(ledger, "first")
        bare = _Bare(Path(folder))
        numbers = count()

        def fresh() -> None:
            for _ in range(_COMMITS):
                _commit(ledger, f"m{next(numbers):08}")

        def bare_fresh() -> None:
            for _ in range(_COMMITS):
                bare.commit(f"m{next(numbers):08}")

        def again() -> None:
            for _ in range(_COMMITS):
                _commit(ledger, "first")

        def bare_again() -> None:
            for _ in range(_COMMITS):
                bare.commit("first")

        rows = [
            timed(
                f"{what}, beside sqlite3",
                *sides,
                repeats=repeats,
                unit=unit,
                per_s=1e6 / _COMMITS,
                clock=clock,
            )
            for what, *sides in (
                ("event and new record", fresh, bare_fresh),
                ("event and changed record", again, bare_again),
            )
            for unit, clock in (("us CPU/commit", cpu_s), ("us/commit", wall_s))
        ]
        ledger.close()
        bare.close()
        return rows


def _commit(ledger: Ledger, model: str) -> None:
    with ledger.transaction() as tx:
        alias = Alias(
            model=model, alias="champion", number=1, set_at=SystemClock().now(), because="a benchmark"
        )
        tx.append(
            "alias.set", alias.key, actor="benchmark", sets=[("alias", alias.key, alias)], body={"number": 1}
        )


class _Bare:
    """sqlite3 on a database with our ledger's tables, writing the bytes of our first event with other names."""

    def __init__(self, folder: Path) -> None:
        with sqlite3.connect(folder / "ledger.db") as ours:
            tables = [sql for (sql,) in ours.execute("select sql from sqlite_master where sql is not null")]
            self._event = ours.execute(
                "select id, at_us, kind, actor, body, sets, chain from events"
            ).fetchone()
            (self._content,) = ours.execute("select content from records where noun = 'alias'").fetchone()
        ours.close()
        self._made = count()
        self._connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            self._connection.execute(f"pragma {pragma}")
        for sql in tables:
            self._connection.execute(sql)

    def commit(self, model: str) -> None:
        _, at_us, kind, actor, body, sets, chain = self._event
        id, key = f"evt_{next(self._made):026}", f"{model}@champion"
        run = self._connection.execute
        run("begin immediate")
        seq = run(_EVENT, (id, at_us, kind, key, actor, body, sets, chain)).lastrowid
        run(_RECORD, ("alias", key, self._content, seq, seq))
        run("commit")

    def close(self) -> None:
        self._connection.close()
