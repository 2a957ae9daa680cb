"""A project that the real DVC made comes over with its bytes and its lineage."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from benchmarks.peers import python_of

from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data
from flyball.versions.dvc import import_project

pytestmark = pytest.mark.differential

_PIPELINE = """
stages:
  split:
    cmd: mkdir -p parts && head -3 raw.csv > parts/a.csv && tail -2 raw.csv > parts/b.csv
    deps: [raw.csv]
    outs: [parts]
  count:
    cmd: wc -l parts/a.csv > count.txt
    deps: [parts/a.csv]
    outs: [count.txt]
"""


def dvc(folder: Path, *words: str) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(
        [str(python_of("dvc")), "-m", "dvc", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        env=environment,
    )


def test_files_folders_and_stages_of_a_real_project(tmp_path: Path) -> None:
    dvc(tmp_path, "init", "--no-scm", "-q")
    (tmp_path / "raw.csv").write_text("n\n1\n2\n3\n4\n")
    (tmp_path / "images").mkdir()
    for number in range(30):
        (tmp_path / f"images/{number}.bin").write_bytes(os.urandom(100))
    dvc(tmp_path, "add", "-q", "raw.csv", "images")
    (tmp_path / "dvc.yaml").write_text(_PIPELINE)
    dvc(tmp_path, "repro", "-q")
    expected = {
        path: (tmp_path / path).read_bytes()
        for path in ("raw.csv", "parts/a.csv", "parts/b.csv", "count.txt", "images/7.bin")
    }
    for path in expected:
        (tmp_path / path).unlink()  # the cache alone has them

    ledger, blobs = Ledger.open("sqlite://"), Blobs.open("memory:")
    done = import_project(ledger, blobs, tmp_path, actor="a", root=tmp_path)
    assert {one.path: (one.ref, one.parents, one.missing) for one in done.outs} == {
        "images": ("images@1", (), ""),
        "raw.csv": ("raw@1", (), ""),
        "parts": ("parts@1", ("raw@1",), ""),
        "count.txt": ("count@1", ("parts@1",), ""),
    }
    for ref, path, inside in (
        ("raw", "raw.csv", "raw.csv"),
        ("parts", "parts/a.csv", "a.csv"),
        ("parts", "parts/b.csv", "b.csv"),
        ("count", "count.txt", "count.txt"),
        ("images", "images/7.bin", "7.bin"),
    ):
        assert data.use(ledger, blobs, ref).read(inside) == expected[path]
    ledger.close()
