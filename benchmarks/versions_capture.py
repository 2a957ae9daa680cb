"""What a run is made from, captured: code, environment, configuration, hardware, seeds; beside git status and pip freeze.

In a fresh process that has loaded NumPy and Polars, on a repository with a few uncommitted changes. ``git status`` and
``pip freeze`` are what people run by hand; they keep nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, compare, in_turns

_SIZES = (200, 20_000)
_PROGRAM = """
import json, sys, time
from pathlib import Path
import numpy, polars
from flyball.core.config import load
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import capture
root = Path(sys.argv[1])
ledger = Ledger.open(f"sqlite:///{root}/.flyball/ledger.db")
blobs = Blobs.open(f"file:{root}/.flyball/blobs", state=root / ".flyball")
ledger.keys("run")
settings = load(root)
capture_s = []
for _ in range(3):
    began = time.perf_counter()
    capture(root, blobs, ledger, settings=settings, params={"seed": 1}, script=True)
    capture_s.append(time.perf_counter() - began)
    time.sleep(0.3)
print(json.dumps(capture_s))
"""


def measured(repeats: int) -> list[Row]:
    """The first capture of a process, and the next ones, on a small and on a large repository."""
    rows: list[Row] = []
    for files in _SIZES:
        with tempfile.TemporaryDirectory() as name:
            root = _repository(Path(name), files)
            _captured(root)
            pairs = in_turns(lambda root=root: _captured(root), lambda root=root: _by_hand(root), repeats)
            first = [(mine[0], other) for mine, other in pairs]
            again = [(min(mine[1:]), other) for mine, other in pairs]
            what = f"{files:,} files in git, beside git status + pip freeze"
            rows.append(compare(f"first capture of a process, {what}", "ms", first))
            rows.append(compare(f"the next one within a second, {what}", "ms", again))
    return rows


def _captured(root: Path) -> list[float]:
    done = subprocess.run(
        (sys.executable, "-c", _PROGRAM, str(root)), check=True, capture_output=True, text=True
    )
    return [1000 * seconds for seconds in json.loads(done.stdout)]


def _by_hand(root: Path) -> float:
    began = time.perf_counter()
    subprocess.run(("git", "-C", str(root), "status", "--porcelain"), check=True, capture_output=True)
    subprocess.run((sys.executable, "-m", "pip", "freeze"), check=True, capture_output=True)
    return 1000 * (time.perf_counter() - began)


def _repository(root: Path, files: int) -> Path:
    (root / "flyball.toml").write_text("")
    (root / ".gitignore").write_text(".flyball/\n")
    (root / ".flyball").mkdir()
    for number in range(files):
        file = root / f"part{number % 100}" / f"module{number}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"VALUE = {number}\n" * 40)
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "all")):
        subprocess.run(("git", "-C", str(root), *words), check=True, capture_output=True)
    for number in range(10):
        (root / f"part{number}" / f"module{number}.py").write_text(f"VALUE = -{number}\n" * 40)
        (root / f"new{number}.py").write_text("NEW = 1\n" * 40)
    return root
