"""The files of an LMDB store: opened once in a process, looked over before they are used, set aside when they are bad."""

from __future__ import annotations

import itertools
import os
import threading
import time
from pathlib import Path
from typing import Any

import lmdb

from flyball.errors import Invalid, Unavailable

_MAP_BYTES = 4 << 30  # address space, not disk; doubled when it is full
FORMAT = b"\x00format\x00"
FORMAT_NOW = b"2"  # of the chunks (online_chunks) and of these records
_LOOK_S = 1.0  # how often a reader looks whether its file was set aside
_NO_ROOM = ("No space", "File too large", "Disk quota")
_FULL = "free some space; nothing was lost, and the batch can be repeated"


class Environment:
    """LMDB forbids opening a file twice in one process, so stores of one path share this."""

    def __init__(self, path: Path, map_bytes: int) -> None:
        self.path = path
        self.map_bytes = map_bytes
        self.users = 0
        self.writable = False
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.env: Any = None
        self._file: tuple[int, int] | None = None
        self._look_at = 0.0

    def open(self, readonly: bool) -> None:
        """Open, or reopen for writing what was open for reading. A reader's missing file is left missing."""
        with self.lock:
            if self.env is not None and (readonly or self.writable):
                return
            if readonly and not (self.path / "data.mdb").exists():
                return
            if self.env is not None:
                self.env.close()
            try:
                if not readonly:
                    self.path.mkdir(parents=True, exist_ok=True)
                self.env = lmdb.open(
                    str(self.path), map_size=self.map_bytes, readonly=readonly, create=not readonly, lock=True,
                    sync=False, metasync=False, max_readers=1024, max_spare_txns=8, readahead=False,
                )  # fmt: skip
                self.writable = not readonly
                self.env.reader_check()  # slots of killed readers would keep old pages alive
                _whole(self.env, self.path)
                _of_this_format(self.env, self.path)
                self._file, self._look_at = _file(self.path), time.monotonic() + _LOOK_S
            except Unavailable:
                self.env = None  # closed already
                raise
            except (lmdb.Error, OSError) as error:
                self.env = None
                raise unavailable(self.path, error) from error

    def current(self, *, now: bool = False) -> Any:
        """The environment; another when its file was set aside meanwhile (looked at each second, or ``now``).

        Who reads the old one reads on: it is closed when its last reading is.
        """
        if now or time.monotonic() > self._look_at:
            with self.lock:
                self._look_at = time.monotonic() + _LOOK_S
                if self.env is not None and _file(self.path) != self._file:
                    writable, self.env, self.writable = self.writable, None, False
                    self.open(readonly=not writable)
        return self.env

    def resized(self) -> None:
        """Another process made the map larger: take its size."""
        with self.lock:
            self.env.set_mapsize(0)

    def grow(self) -> None:
        with self.lock:
            self.env.set_mapsize(self.env.info()["map_size"] * 2)


_open: dict[str, Environment] = {}
_opening = threading.Lock()


def shared_environment(path: Path, map_bytes: int, readonly: bool) -> Environment:
    """The one environment of a path in this process, opened, with one user more."""
    with _opening:
        shared = _open.get(str(path))
        if shared is None or shared.pid != os.getpid():  # an environment does not survive a fork
            shared = _open[str(path)] = Environment(path, map_bytes)
        shared.current(now=True)
        shared.open(readonly)
        shared.users += 1
    return shared


def let_go(shared: Environment) -> None:
    """One user less; the last one closes it."""
    with _opening:
        shared.users -= 1
        if shared.users == 0:
            if shared.env is not None:
                shared.env.close()
                shared.env = None
            if _open.get(str(shared.path)) is shared:
                del _open[str(shared.path)]


def place_of(url: str) -> tuple[Path, int]:
    place, _, query = url.removeprefix("lmdb:").removeprefix("//").partition("?")
    option, _, map_bytes = query.partition("=")
    if not place or (query and (option != "map_bytes" or not map_bytes.isdecimal())):
        raise Invalid(
            f"{url!r} is not the URL of an LMDB store", "like lmdb:.flyball/online?map_bytes=4294967296"
        )
    return Path(place).absolute(), int(map_bytes or _MAP_BYTES)


def _whole(env: Any, path: Path) -> None:
    """A map that reaches beyond its file kills the process that touches it (SIGBUS); so look before."""
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if (path / "data.mdb").stat().st_size < needed:
        env.close()
        raise lmdb.CorruptedError("the file is shorter than its pages")


def _of_this_format(env: Any, path: Path) -> None:
    """Refuse what an older or newer Flyball has written: its words would be misread."""
    with env.begin() as txn:
        found = txn.get(FORMAT)
        if found is None and txn.stat()["entries"] == 0:
            return
    if found != FORMAT_NOW:
        env.close()
        raise Unavailable(
            f"the online store {path} was written by another version of Flyball",
            f"fill it again: flyball features materialize --rebuild (what is there is set aside, in {path}.aside-…)",
        )


def _file(path: Path) -> tuple[int, int] | None:
    """Which file lies there."""
    try:
        found = (path / "data.mdb").stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def set_aside(url: str) -> Path | None:
    """Move a store's folder out of the way, for an empty one to take its place; returns where it lies now.

    Processes that have it open read on in the old file for a second, then in the new one.
    """
    path = place_of(url)[0]
    if not path.exists():
        return None
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for number in itertools.count():
        aside = path.with_name(f"{path.name}.aside-{stamp}" + (f"-{number}" if number else ""))
        if not aside.exists():
            path.rename(aside)
            with _opening:
                if (shared := _open.get(str(path))) is not None:
                    shared.current(now=True)
            return aside
    raise AssertionError("itertools.count ends never")


def unavailable(path: Path, error: Exception) -> Unavailable:
    if isinstance(error, lmdb.DiskError) or any(said in str(error) for said in _NO_ROOM):
        return Unavailable(f"the disk of the online store {path} is full", _FULL)
    if "Input/output error" in str(error):  # what LMDB makes of a write that the disk took only a part of
        return Unavailable(f"the disk of the online store {path} is full, or fails", _FULL)
    if isinstance(
        error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.VersionMismatchError | lmdb.PageNotFoundError
    ):
        return Unavailable(
            f"the online store {path} is corrupt: {error}",
            f"fill it again: flyball features materialize --rebuild (what is there is set aside, in {path}.aside-…)",
        )
    return Unavailable(
        f"the online store {path} does not answer: {error}", "check its rights, then try again"
    )
