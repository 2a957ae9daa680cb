"""A workspace as one file, taken while everything runs; and back, all of it or nothing.

What goes in, in this order: the places of the log's readers, the ledger (one snapshot of it), the log, other files of
``.flyball/``, the tables (of a folder or a bucket), the online store, all blobs, the project's own settings and
definitions. Readers' places come before the ledger, so that after a restore they look at a record again rather than miss
one; blobs come after it, so that each one it mentions is in the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flyball import __version__
from flyball.core.config import FILE
from flyball.errors import Conflict, Invalid, NotFound
from flyball.service import bucket_tables
from flyball.service.verb import verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.stores.archive import Writer

FORMAT = 1
# Locks and logs of processes, what can be made again, and what is copied in its own way or lies there unused.
_NOT_TAKEN = {"run", "cache", "log", "blobs", "online", "tables"}


class BackupHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first entry of a backup: what it is of."""

    format: int
    flyball: str
    project: str
    at: datetime
    metadata: str  # where it came from, without passwords
    blobs: str
    event: int  # number of the ledger's last event
    chain: str  # and the chain there
    with_blobs: bool
    tables: str = ""  # where what was pushed came from; empty: written before tables in a bucket were saved


class BackedUp(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that is whole: what it holds."""

    file: str
    bytes: int
    entries: int
    blobs: int
    head: BackupHead
    missing: tuple[str, ...] = ()  # blobs that the ledger names and the store had not

    def as_text(self) -> str:
        """For people."""
        head = self.head
        said = (
            f"{self.file} is whole: {head.project} at event {head.event}, {head.at:%Y-%m-%d %H:%M} UTC; "
            f"{self.entries} entries ({self.blobs} blobs), {self.bytes / 2**20:.1f} MiB"
        )
        if self.missing:
            said += f"\n  {len(self.missing)} blobs that the ledger names were not in the store, as {self.missing[0]}"
        return said


@verb("backup", anywhere=True)
def backup(file: str, *, verify: bool = False, blobs: bool = True, ws: Workspace | None = None) -> BackedUp:
    """Write the whole workspace into one file while everything runs, and read it back; ``--verify`` only reads.

    A plain tar with a digest for every entry. ``--no-blobs`` leaves the blobs out, where their store has a safety of
    its own (a bucket with versions).
    """
    from flyball.stores.archive import FIRST, Writer

    path = Path(file)
    if verify:
        return _looked_through(path)
    ws = ws or Workspace.current()
    if path.is_dir():
        raise Invalid(f"{path} is a folder", f"name a file: flyball backup {path / 'workspace.tar'}")
    if path.resolve().is_relative_to(ws.state.resolve()):
        raise Invalid(
            f"{path} lies inside of what it is to save", "put it somewhere else, best on another disk"
        )
    if not path.absolute().parent.is_dir():
        raise NotFound(f"no folder {path.absolute().parent}", "make it first")
    with (
        ws.blobs.adding(),  # no collection on this machine meanwhile
        _scratch(path.absolute()) as scratch,
        Writer(path.absolute()) as writer,
    ):
        cursors = {one.name: one.read_bytes() for one in sorted(ws.log_dir.glob("cursors/*.json"))}
        head = _save_ledger(ws, scratch / "ledger.db", blobs)
        writer.add_bytes(FIRST, msgspec.json.encode(head))
        for name, content in cursors.items():
            writer.add_bytes(f"state/log/cursors/{name}", content)
        writer.add_file("ledger.db", scratch / "ledger.db")
        (scratch / "ledger.db").unlink()
        _add_state(ws, writer)
        if ws.tables.folder is None:
            bucket_tables.add(ws.tables, writer, scratch / "tables")
        _add_online(ws, writer, scratch / "online")
        count, missing = _add_blobs(ws, writer) if blobs else (0, ())
        _add_project(ws, writer)
        end = writer.finish()
    return BackedUp(
        file=str(path),
        bytes=path.stat().st_size,
        entries=end.entries,
        blobs=count,
        head=head,
        missing=missing,
    )


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside the backup, gone afterwards; what killed backups of that name left behind goes as well."""
    import psutil

    for left in path.parent.glob(f".{path.name}.*"):
        pid, _, kind = left.name.removeprefix(f".{path.name}.").partition(".")
        if kind in ("part", "scratch") and pid.isdecimal() and not psutil.pid_exists(int(pid)):  # type: ignore[no-untyped-call]  # psutil has no types
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    folder = path.with_name(f".{path.name}.{os.getpid()}.scratch")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def head_of(path: Path) -> BackupHead:
    """What a backup is of; one of a newer format is :class:`Conflict`."""
    from flyball.errors import Refused
    from flyball.stores.archive import first

    try:
        content = msgspec.json.decode(first(path))
        if (
            isinstance(content, dict)
            and isinstance(content.get("format"), int)
            and content["format"] > FORMAT
        ):
            raise Conflict(
                f"{path} was written by a newer Flyball ({content.get('flyball')})",
                "pip install --upgrade flyball",
            )
        return msgspec.convert(content, BackupHead)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Refused(f"{path} is no backup of Flyball: {error}", "flyball backup FILE makes one") from error


def _looked_through(path: Path) -> BackedUp:
    from flyball.stores.archive import read

    head = head_of(path)
    counted = {"entries": 0, "blobs": 0}

    def count(name: str, _size: int, _pieces: Iterator[bytes]) -> None:
        counted["entries"] += 1
        counted["blobs"] += name.startswith("blobs/")

    read(path, count)
    return BackedUp(
        file=str(path),
        bytes=path.stat().st_size,
        head=head,
        entries=counted["entries"],
        blobs=counted["blobs"],
    )


def _save_ledger(ws: Workspace, target: Path, with_blobs: bool) -> BackupHead:
    from flyball.core.clock import SystemClock
    from flyball.stores import transfer
    from flyball.stores.engine import shown

    with ws.ledger.reading() as connection:
        event, chain = transfer.head(connection)
        transfer.save_as_sqlite(connection, target)
    return BackupHead(
        format=FORMAT,
        flyball=__version__,
        project=ws.config.project.name,
        at=SystemClock().now(),
        metadata=shown(ws.config.stores.metadata),
        blobs=ws.config.stores.blobs.partition("?")[0],
        event=event,
        chain=chain.hex(),
        with_blobs=with_blobs,
        tables=ws.config.stores.tables.partition("?")[0],
    )


def _add_state(ws: Workspace, writer: Writer) -> None:
    """Everything of ``.flyball/`` that is no store of its own: the log first, then the tables it is compacted into."""
    for path in _files(ws.log_dir):
        if path.parent.name != "cursors":
            _add(writer, f"state/log/{path.relative_to(ws.log_dir).as_posix()}", path)
    apart = _store_places(ws)
    for path in _files(ws.state):
        inside = path.relative_to(ws.state)
        wanted = inside.parts[0] not in _NOT_TAKEN and not path.name.startswith("ledger.db")
        if wanted and not any(
            str(path.resolve()).startswith(place) for place in apart
        ):  # ledger.db-wal as well
            _add(writer, f"state/{inside.as_posix()}", path)
    done: set[Path] = set()
    gone = True
    while gone:  # listed again when some were merged meanwhile: what took their place was not there before
        found = [path for path in _files(ws.tables_dir) if path not in done]
        taken = [_add(writer, f"tables/{path.relative_to(ws.tables_dir).as_posix()}", path) for path in found]
        done.update(found)
        gone = not all(taken)


def _store_places(ws: Workspace) -> set[str]:
    """Where the stores on this machine lie, wherever the settings put them."""
    urls = (ws.settings.url(ws.config.stores.metadata), ws.online_url, ws.blobs_url)
    local = [url for url in urls if url.startswith(("sqlite:", "lmdb:", "file:"))]
    found = {"/" + url.partition(":")[2].partition("?")[0].lstrip("/") for url in local}
    return {str(Path(place).resolve()) for place in (*found, str(ws.tables_dir))}


def _add_online(ws: Workspace, writer: Writer, scratch: Path) -> None:
    from flyball.stores.online_lmdb import LmdbOnline

    if isinstance(ws.online, LmdbOnline) and ws.online.copy_to(scratch):
        writer.add_file("online/data.mdb", scratch / "data.mdb")


def _add_blobs(ws: Workspace, writer: Writer) -> tuple[int, tuple[str, ...]]:
    from flyball.service.reach import named_blobs

    count, missing = 0, named_blobs(ws)
    for name in ws.blobs.ls_named(""):
        writer.add_bytes(f"refs/{name}", ws.blobs.get_named(name) or b"")
    for one in ws.blobs.stats():
        try:
            pieces = _started(ws.blobs.stream(one.digest))
        except NotFound:
            continue  # collected from another machine: nothing the ledger names
        writer.add(f"blobs/{one.digest[3:]}", one.size_bytes, one.digest, pieces)
        missing.discard(one.digest)
        count += 1
    return count, tuple(sorted(missing))


def _started(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces; whether there are any is known at once."""
    head = next(pieces, b"")

    def all_of_them() -> Iterator[bytes]:
        yield head
        yield from pieces

    return all_of_them()


def _add_project(ws: Workspace, writer: Writer) -> None:
    names = [FILE, "pyproject.toml", ws.config.govern.policy, *ws.config.project.definitions]
    for name in dict.fromkeys(names):
        path = (ws.root / name).resolve()
        if path.is_file() and path.is_relative_to(ws.root.resolve()):
            _add(writer, f"project/{path.relative_to(ws.root.resolve()).as_posix()}", path)


def _add(writer: Writer, name: str, path: Path) -> bool:
    try:
        writer.add_file(name, path)
    except FileNotFoundError:
        return False  # compacted or merged since it was listed: what took its place is listed later
    return True


def _files(folder: Path) -> list[Path]:
    """Files below a folder, in order; not those that someone is staging, nor locks."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.name.startswith(".") and path.suffix != ".lock")
