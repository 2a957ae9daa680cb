"""One flipped byte anywhere: a real project, run, served and labelled; then its files and its ledger, byte by byte.

What is not found, here and in the world: bytes that hold nothing (SQLite's free space: the last test proves that every
other byte of the file is found), the size of leases, and what lies outside lineage because it can be rebuilt (online
values, caches, the plan, logs of processes) or was never sealed (rows of a feed before their snapshot).
"""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flyball.demo.setup import free_port
from flyball.errors import FlyballError
from flyball.service.explain import build, explain
from flyball.service.lineage.reading import Reading
from flyball.service.track import start
from flyball.service.workspace import Workspace
from flyball.stores.prediction_log import Label, LogWriter
from flyball.stores.predictions import compact
from tests.workspaces import close

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]
pytest.importorskip("sklearn", reason="the template trains a model: pip install 'flyball[sklearn]'")

FEATURES = ("--feature", "months=3", "--feature", "monthly_charge=90", "--feature", "support_calls=4")
VIEWS = """
from flyball.features import Service, View
seen = View(name="customer", entity=("customer",), source="customers", happened="at", known="at", columns=("months",))
both = Service(name="churn_features", features=("customer:months",))
"""


class Home:
    """A project's folder; every question opens it anew, as another process would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / ".flyball"
        self.ledger = self.state / "ledger.db"
        self.prediction = self.notebook = ""

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flyball", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def ask(self, thing: str) -> tuple[int, str]:
        """The exit code of ``flyball explain THING --verify``, and what it names."""
        ws = Workspace.open(self.folder)
        try:
            found = explain(thing, verify=True, ws=ws)
            return found.exit_code, "; ".join(found.broken)
        except FlyballError as error:
            return error.exit_code, error.what
        finally:
            close(ws)

    def behind(self, thing: str) -> Reading:
        ws = Workspace.open(self.folder)
        with ws.ledger.reading() as connection:
            reading = Reading(connection)
            build(ws, reading, thing)
        close(ws)
        return reading


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("bytes"))
    home.run("init")
    settings = home.folder / "flyball.toml"
    text = settings.read_text().replace("definitions = [", 'definitions = ["features.py", ')
    settings.write_text(f"{text}\n[serve]\nport = {free_port(0)}\n[console]\nport = {free_port(0)}\n")
    (home.folder / "features.py").write_text(VIEWS)
    home.run("data", "add", "customers", "customers.csv")
    home.run("run", "train")
    home.run("features", "apply")
    home.run("deploy", "churn@challenger", "--endpoint", "churn")
    _serve(home)
    ws = Workspace.open(home.folder)
    with start("notebook", {"depth": 3}, tags={"by": "ann"}, ws=ws) as run:
        for step in range(900):
            run.metric("loss", 1 / (step + 1), step)
        run.artifact(b"<svg/>" * 50, "plots/roc.svg")
    home.notebook = run.id
    for cursor in ws.log_dir.glob("cursors/*.json"):
        cursor.unlink()
    assert compact(ws.log_dir, ws.tables_dir).records >= 4
    writer = LogWriter(ws.log_dir)  # and one segment that is not compacted yet
    writer.append([Label(home.prediction, 0.0, 1, 2), Label("p_other", 1.0, 3, 4)])
    writer.close()
    close(ws)
    _checkpoint(home.ledger)
    assert home.ask(".") == home.ask(home.prediction) == home.ask(run.id) == (0, "")
    return home


def _serve(home: Home) -> None:
    with (home.folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flyball", "up"], cwd=home.folder, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 60
        while not home.prediction and time.monotonic() < until:
            try:
                home.prediction = home.run("predict", "churn", *FEATURES, "-q")
            except AssertionError:
                time.sleep(0.3)
        home.run("label", home.prediction, "1")
        for _ in range(2):
            home.run("predict", "churn", *FEATURES)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _checkpoint(ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    for suffix in ("-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)


@pytest.fixture
def home(original: Home, tmp_path: Path) -> Home:
    """A copy to damage."""
    shutil.copytree(original.folder, tmp_path / "home")
    copy = Home(tmp_path / "home")
    copy.prediction, copy.notebook = original.prediction, original.notebook
    return copy


def flips(path: Path, rng: random.Random, many: int) -> Iterator[int]:
    """Flip one bit at a time, at so many places (the first and the last byte among them); each is put back."""
    data = path.read_bytes()
    places = {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(many))}
    for place in sorted(places):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        yield place
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("folder", "pattern", "named"),
    [
        ("blobs", "??/*", lambda path: path.parent.name + path.name),
        ("log", "*.wal", lambda path: path.name),
        ("tables", "predictions/*/*/*.parquet", lambda path: path.name),
        ("tables", "predictions/*/*/*.b3", lambda path: path.stem),
        ("tables", "labels/*/*.parquet", lambda path: path.name),
        ("tables", "labels/*/*.b3", lambda path: path.stem),
    ],
)
def test_a_flipped_byte_in_any_file_is_found_and_its_object_named(
    home: Home, folder: str, pattern: str, named: Callable[[Path], str]
) -> None:
    rng = random.Random(f"{folder}{pattern}")
    files = [path for path in sorted((home.state / folder).glob(pattern)) if path.stat().st_size]
    assert files
    for path in files:
        for place in flips(path, rng, 3):
            code, said = home.ask(".")
            assert code == 1, (path, place)
            assert named(path) in said, (path, place, said)


def test_explaining_a_prediction_finds_a_flip_in_each_blob_behind_it(home: Home) -> None:
    rng = random.Random(1)
    reading = home.behind(home.prediction)
    mentioned = b"".join(repr(record).encode() for record in reading.records.values())
    mentioned += repr([*reading.edges]).encode()
    behind = [
        path
        for path in sorted((home.state / "blobs").glob("??/*"))
        if (path.parent.name + path.name).encode() in mentioned
    ]
    assert len(behind) >= 8
    for path in behind:
        for place in flips(path, rng, 1):
            code, said = home.ask(home.prediction)
            assert code == 1, (path, place)
            assert path.parent.name + path.name in said
    for path in (home.state / "log").glob("*.wal"):
        for _ in flips(path, rng, 4):
            assert home.ask(home.prediction)[0] == 1


def flipped(value: Any, rng: random.Random) -> Any:
    """The value with one bit changed, of the same type; None when it holds no bit."""
    if isinstance(value, int):
        return value ^ 1 << rng.randrange(8)
    if isinstance(value, float):
        changed = bytearray(struct.pack("<d", value))
        changed[rng.randrange(6)] ^= 1 << rng.randrange(8)
        return struct.unpack("<d", changed)[0]
    if not value:
        return None
    place = rng.randrange(len(value))
    if isinstance(value, str):
        return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
    changed = bytearray(value)
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


class Cells:
    """The cells of the ledger, one bit at a time; the file is put back after each."""

    def __init__(self, home: Home, seed: int) -> None:
        self.home = home
        self.rng = random.Random(seed)
        self._whole = home.ledger.read_bytes()

    def rows(self, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        connection = sqlite3.connect(self.home.ledger)
        columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
        rows = connection.execute(f"select * from {table}").fetchall()
        connection.close()
        self._put_back()
        return columns, rows

    def flips(self, table: str, row: tuple[Any, ...], columns: list[str]) -> Iterator[str]:
        """Each column of a row that can be changed, by name, while it is."""
        where = " and ".join(f'"{column}" is ?' for column in columns)
        for column, value in zip(columns, row, strict=True):
            new = None if value is None else flipped(value, self.rng)
            if new is None:
                continue
            connection = sqlite3.connect(self.home.ledger)
            statement = f'update or ignore {table} set "{column}" = ? where {where}'
            changed = connection.execute(statement, (new, *row)).rowcount
            connection.commit()
            connection.close()
            if changed:
                yield column
            self._put_back()

    def _put_back(self) -> None:
        self.home.ledger.write_bytes(self._whole)
        for suffix in ("-wal", "-shm"):
            self.home.ledger.with_name(self.home.ledger.name + suffix).unlink(missing_ok=True)


TABLES = (
    "events",
    "edges",
    "records",
    "runs",
    "run_facts",
    "run_points",
    "run_summaries",
    "artifacts",
    "alembic_version",
)


def test_a_changed_cell_in_any_column_of_any_table_is_found(home: Home) -> None:
    cells = Cells(home, 2)
    for table in TABLES:
        columns, rows = cells.rows(table)
        assert rows, table
        for row in cells.rng.sample(rows, min(len(rows), 3)):
            for column in cells.flips(table, row, columns):
                code, said = home.ask(".")
                assert code != 0, (table, column, row)
                assert said, (table, column)


def test_explaining_a_prediction_finds_a_changed_cell_in_all_that_is_behind_it(home: Home) -> None:
    cells = Cells(home, 3)
    reading = home.behind(home.prediction)
    records = {where for want in reading.wanted.values() for where in want.records}
    seqs = {row.seq for row in reading.edges} | {seq for want in reading.wanted.values() for seq in want.seqs}
    edges = {row[:3] for row in reading.edges}
    wanted: dict[str, Callable[[tuple[Any, ...]], bool]] = {
        "records": lambda row: row[:2] in records,
        "events": lambda row: row[0] in seqs,
        "edges": lambda row: row[:3] in edges,
    }
    for table, is_behind in wanted.items():
        columns, rows = cells.rows(table)
        chosen = [row for row in rows if is_behind(row)]
        assert len(chosen) >= 5
        for row in cells.rng.sample(chosen, min(len(chosen), 9)):
            for column in cells.flips(table, row, columns):
                code, _ = home.ask(home.prediction)
                assert code == 1, (table, column, row)


def test_explaining_a_run_finds_a_changed_cell_in_its_points_facts_and_artifacts(home: Home) -> None:
    cells = Cells(home, 5)
    for table in ("runs", "run_facts", "run_points", "artifacts"):
        columns, rows = cells.rows(table)
        mine = [row for row in rows if row[0] == home.notebook]
        assert mine, table
        for row in cells.rng.sample(mine, min(len(mine), 4)):
            for column in cells.flips(table, row, columns):
                code, said = home.ask(home.notebook)
                assert code == 1, (table, column, row)
                assert home.notebook in said


def test_every_byte_of_the_ledger_that_holds_something_is_found(home: Home) -> None:
    rng = random.Random(4)
    whole = home.ledger.read_bytes()
    content = dumped(home.ledger)
    found = 0
    for _ in range(250):
        place = rng.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        home.ledger.write_bytes(changed)
        code, _ = home.ask(".")
        found += code != 0
        assert code != 0 or dumped(home.ledger) == content, f"byte {place} was changed and nobody said so"
        for suffix in ("-wal", "-shm"):
            home.ledger.with_name(home.ledger.name + suffix).unlink(missing_ok=True)
    home.ledger.write_bytes(whole)
    assert found > 60


def dumped(ledger: Path) -> list[str]:
    """All that a reader can get out of the file."""
    connection = sqlite3.connect(f"file:{ledger}?mode=ro&immutable=1", uri=True)
    try:
        return [repr(sorted(map(repr, connection.execute(f"select * from {table}")))) for table in TABLES]
    finally:
        connection.close()
