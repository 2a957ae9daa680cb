"""Data beside DVC, the real one, in the same run; and beside what the same bytes cost at least: a copy and one BLAKE3.

Each side starts from an empty store and takes the same files from the same disk, in turns. DVC is driven as its own
command does it, in a process that has imported everything; ours is the verb. The last rows are both command lines whole.
The rows on bytes are what a store grew by, in percent of the file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3

from benchmarks.measure import Row, compare, in_turns
from benchmarks.peers import python_of
from flyball.service import data
from flyball.service.workspace import Workspace

GIB = int(float(os.environ.get("FLYBALL_BENCH_GIB", "1")) * (1 << 30))
FILES = int(os.environ.get("FLYBALL_BENCH_FILES", "20000"))

_DVC = """
import json, os, sys, time
from dvc.repo import Repo
os.chdir(sys.argv[1])
repo = Repo(sys.argv[1])
for line in sys.stdin:
    words = json.loads(line)
    began = time.perf_counter()
    if words[0] == "add":
        repo.add(words[1])
    elif words[0] == "status":
        print(repo.status(words[1:]), file=sys.stderr)
    elif words[0] == "checkout":
        repo.checkout(words[1:], force=True)
    repo.close()
    repo = Repo(sys.argv[1])
    sys.stdout.write(json.dumps(time.perf_counter() - began) + "\\n")
    sys.stdout.flush()
"""


def measured(repeats: int) -> list[Row]:
    """Random bytes, which nobody can compress: one file of a GiB changed in two ways, and twenty thousand of 4 KiB."""
    repeats = min(repeats, 3)  # GiB after GiB: the disk is the patient one
    with tempfile.TemporaryDirectory(
        prefix="flyball-bench-", dir=os.environ.get("FLYBALL_BENCH_DIR")
    ) as folder:
        root = Path(folder)
        _warm(root)
        return [*_large(root, repeats), *_small(root, repeats), *_command_lines(root, repeats)]


def _warm(root: Path) -> None:
    """Both have imported what they need before anything is measured."""
    for side in ("ours", "dvc"):
        with _side(root, side) as one:
            (one.folder / "warm.bin").write_bytes(os.urandom(10 << 20))
            one.add("warm.bin")
            (one.folder / "warm.bin").unlink()
            one.checkout("warm.bin")


def _large(root: Path, repeats: int) -> list[Row]:
    source = root / "random.bin"
    _random_file(source, GIB)
    changes: list[tuple[str, Callable[[Path], None]]] = [
        ("nothing changed", lambda path: None),
        ("1 % changed in place", _change),
        ("100 bytes inserted", _insert),
    ]
    turns = [_large_turn(root, source, changes, ours_first=turn % 2 == 0) for turn in range(repeats)]
    gib = GIB / (1 << 30)
    rows = []
    for what in ("added", *(f"added again, {what}" for what, _ in changes[1:])):
        rows.append(
            compare(
                f"1 GiB {what}, beside DVC", "s", [(one["ours"][what], one["dvc"][what]) for one in turns]
            )
        )
        grown = [
            (one["ours"][what + " bytes"] / GIB * 100, one["dvc"][what + " bytes"] / GIB * 100)
            for one in turns
        ]
        rows.append(compare(f"1 GiB {what}: stored, beside DVC", "%", grown))
    rows.insert(
        1,
        compare(
            "1 GiB added, beside cp and BLAKE3", "s", [(one["ours"]["added"], one["limit"]) for one in turns]
        ),
    )
    rows.append(
        compare(
            "1 GiB checked out, beside DVC",
            "s",
            [(one["ours"]["checkout"], one["dvc"]["checkout"]) for one in turns],
        )
    )
    source.unlink()
    assert gib > 0
    return rows


def _large_turn(
    root: Path, source: Path, changes: list[tuple[str, Callable[[Path], None]]], *, ours_first: bool
) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for side in ("ours", "dvc") if ours_first else ("dvc", "ours"):
        with _side(root, side) as one:
            answer[side] = found = {}
            for number, (what, change) in enumerate(changes):
                path = one.folder / "data.bin"
                path.unlink(missing_ok=True)
                shutil.copyfile(source, path)
                change(path)
                _settled()
                name = "added" if number == 0 else f"added again, {what}"
                before = one.stored()
                found[name] = one.add("data.bin")
                found[name + " bytes"] = one.stored() - before
            path.unlink()
            found["checkout"] = one.checkout("data.bin")
    began = time.perf_counter()
    subprocess.run(["cp", source, root / "copy.bin"], check=True)
    with source.open("rb", buffering=0) as file:
        whole, buffer = blake3(), memoryview(bytearray(4 << 20))
        while read := file.readinto(buffer):
            whole.update(buffer[:read])
    answer["limit"] = time.perf_counter() - began
    (root / "copy.bin").unlink()
    return answer


def _small(root: Path, repeats: int) -> list[Row]:
    source = root / "small"
    for number in range(FILES):
        folder = source / f"{number % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.bin").write_bytes(os.urandom(4096))

    def turn(side: str) -> dict[str, float]:
        with _side(root, side) as one:
            shutil.copytree(source, one.folder / "small")
            _settled()
            found = {"add": one.add("small")}
            _settled()
            found["status, nothing changed"] = min(one.status("small") for _ in range(3))
            shutil.rmtree(one.folder / "small")
            found["checkout"] = one.checkout("small")
            return found

    pairs = in_turns(lambda: turn("ours"), lambda: turn("dvc"), repeats)
    return [
        compare(
            f"{FILES:,} files of 4 KiB: {what}, beside DVC",
            "s",
            [(ours[what], dvc[what]) for ours, dvc in pairs],
        )
        for what in ("add", "status, nothing changed", "checkout")
    ]


def _command_lines(root: Path, repeats: int) -> list[Row]:
    """Both whole commands, start and imports included: status of the small files."""
    rows: dict[str, list[float]] = {}
    for side in ("ours", "dvc"):
        times = rows[side] = []
        with _side(root, side) as one:
            shutil.copytree(root / "small", one.folder / "small")
            _settled()
            one.add("small")
            _settled()
            for _ in range(repeats + 1):
                began = time.perf_counter()
                subprocess.run(
                    one.command("status", "small"), cwd=one.folder, check=True, capture_output=True
                )
                times.append(time.perf_counter() - began)
    pairs = list(zip(rows["ours"][1:], rows["dvc"][1:], strict=True))
    return [compare(f"{FILES:,} files of 4 KiB: the command line's status, beside DVC's", "s", pairs)]


class _Ours:
    """A project of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "flyball.toml").write_text("")
        self._ws = Workspace.open(folder)

    def close(self) -> None:
        self._ws.ledger.close()

    def add(self, path: str) -> float:
        return _seconds(lambda: data.add(path.partition(".")[0], str(self.folder / path), ws=self._ws))

    def status(self, path: str) -> float:
        return _seconds(lambda: data.status(path.partition(".")[0], ws=self._ws))

    def checkout(self, path: str) -> float:
        return _seconds(lambda: data.checkout(path.partition(".")[0], ws=self._ws))

    def stored(self) -> int:
        return sum(one.size_bytes for one in self._ws.blobs.stats())

    def command(self, verb: str, path: str) -> list[str]:
        return [str(Path(sys.executable).with_name("flyball")), "data", verb, path]


class _Dvc:
    """A project of DVC's, with its process beside us."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        python = python_of("dvc")
        self._dvc = [str(python), "-m", "dvc"]
        quiet = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        subprocess.run([*self._dvc, "init", "--no-scm", "-q"], cwd=folder, check=True, env=quiet)
        self._process = subprocess.Popen(
            [str(python), "-c", _DVC, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=quiet,
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, *words: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))

    def add(self, path: str) -> float:
        return self._ask("add", path)

    def status(self, path: str) -> float:
        return self._ask("status", f"{path}.dvc")

    def checkout(self, path: str) -> float:
        return self._ask("checkout", f"{path}.dvc")

    def stored(self) -> int:
        return sum(one.stat().st_size for one in (self.folder / ".dvc/cache").rglob("*") if one.is_file())

    def command(self, verb: str, path: str) -> list[str]:
        return [*self._dvc, verb, f"{path}.dvc"]


@contextmanager
def _side(root: Path, side: str) -> Iterator[_Ours | _Dvc]:
    folder = root / side
    folder.mkdir()
    one = _Ours(folder) if side == "ours" else _Dvc(folder)
    try:
        yield one
    finally:
        one.close()
        shutil.rmtree(folder)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _settled() -> None:
    """Files are no younger than a tick, and what was written before is on its way: neither side pays for the other."""
    os.sync()
    time.sleep(0.05)


def _random_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))


def _change(path: Path) -> None:
    """One stretch of a hundredth of the file is written over."""
    with path.open("r+b") as file:
        file.seek(GIB // 3)
        file.write(os.urandom(GIB // 100))


def _insert(path: Path) -> None:
    """A hundred bytes come in at a third of the file, and move all that follows."""
    staged = path.with_suffix(".staged")
    with path.open("rb") as before, staged.open("wb") as after:
        after.write(before.read(GIB // 3))
        after.write(os.urandom(100))
        shutil.copyfileobj(before, after, 8 << 20)
    staged.replace(path)
