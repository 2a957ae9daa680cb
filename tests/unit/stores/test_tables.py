"""Tables in a folder: whole or not at all, one writer at a time, the second of two new ones refused."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flyball.errors import Conflict, NotFound, Unavailable
from flyball.stores.tables import Table, Tables

ROWS = pl.DataFrame({"n": range(1000), "text": ["é"] * 1000})


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables.open(f"file:{tmp_path}/tables").at("sources/x")


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("new", [False, True])
def test_what_was_written_is_read(tables: Tables, durable: bool, new: bool) -> None:
    assert tables.files() == []
    tables.write("1.parquet", ROWS, metadata={"made by": "a test"}, durable=durable, new=new)
    (one,) = tables.files()
    assert one == Table(tables, "1.parquet")
    assert_frame_equal(one.read(), ROWS)
    assert_frame_equal(one.scan().filter(pl.col("n") > 997).collect(), ROWS[998:])
    assert one.metadata()["made by"] == "a test"
    assert one.schema() == dict(ROWS.schema)
    assert one.size_bytes == (Path(str(tables.folder)) / "1.parquet").stat().st_size
    assert Tables.open(tables.url).at("sources").folders() == ["x"]
    one.delete()
    one.delete()
    assert not tables.has("1.parquet")
    with pytest.raises(NotFound, match="no table"):
        one.stat()


def test_a_new_file_in_place_of_another_is_refused_and_the_other_stays(tables: Tables) -> None:
    tables.write("1.parquet", ROWS, new=True)
    tables.put("note", b"ours", new=True)
    with pytest.raises(Conflict, match=r"1\.parquet is there already"):
        tables.write("1.parquet", ROWS[:1], new=True)
    with pytest.raises(Conflict, match="note is there already"):
        tables.put("note", b"theirs", new=True)
    assert tables.files()[0].read().height == 1000
    assert tables.get("note") == b"ours"
    tables.put("note", b"theirs")
    assert tables.get("note") == b"theirs"
    assert sorted(one.name for one in Path(str(tables.folder)).iterdir()) == ["1.parquet", "note"]


def test_a_full_disk_is_said_and_leaves_nothing(tables: Tables, tmp_path: Path) -> None:
    script = (
        "import resource, signal\nimport polars as pl\nfrom flyball.errors import Unavailable\n"
        "from flyball.stores.tables import Tables\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"tables = Tables.open({tables.url!r}).at('sources/x')\n"
        "rows = pl.DataFrame({'n': pl.Series(range(200_000)).hash()})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    tables.write('1.parquet', rows)\nexcept Unavailable as error:\n    print(error.what)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "1.parquet can't be written" in done.stdout
    assert list(Path(str(tables.folder)).iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_writers_of_one_place_take_turns(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.stores.tables._WAIT_S", 0.05)
    with tables.held():
        with pytest.raises(Unavailable, match="another process has been writing 'x'"), tables.held():
            pass
        with Tables.open(tables.url).at("sources/y").held():
            pass
    with tables.held():
        pass
