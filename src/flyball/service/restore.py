"""A workspace from its backup: checked to the last byte before anything is touched, then put in place at once.

The new ``.flyball/`` grows beside the old one and is exchanged for it in one step of the file system, so a process
killed at any instant leaves the old workspace or the new one. Stores elsewhere (a database server, a bucket) come
before that step: blobs are only added, and the ledger's tables change in one transaction.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec

from flyball.core.config import FILE
from flyball.errors import Conflict, Invalid, Unavailable
from flyball.service import bucket_tables
from flyball.service.backup import BackupHead, head_of
from flyball.service.verb import verb
from flyball.service.workspace import Workspace

_STAGED = ".flyball.restoring"
_PARTS = ("up", "serve", "console", "govern")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored, and where to."""

    into: str
    entries: int
    head: BackupHead
    notes: tuple[str, ...] = ()

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"restored {self.head.project} into {self.into}: event {self.head.event}, "
            f"{self.head.at:%Y-%m-%d %H:%M} UTC, {self.entries} entries, every byte checked"
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@verb("restore", anywhere=True)
def restore(file: str, *, into: str = "", force: bool = False, ws: Workspace | None = None) -> Restored:
    """Bring a workspace back from a backup: into this project, or into an empty folder (``--into``).

    A file that is torn, or has one changed byte, is refused before anything is touched. What is there and not in the
    backup is only replaced with ``--force``. Files that people write (settings, definitions) are put where they are
    missing, never over what is there.
    """
    path = Path(file).absolute()
    root = Path(into).absolute() if into else ws.root if ws else Path.cwd()
    head = head_of(path)
    if root.exists() and not root.is_dir():
        raise Invalid(f"{root} is no folder", "name one, or one that does not exist yet")
    fresh = not (root / FILE).is_file() and not (root / "pyproject.toml").is_file()
    if fresh and (root / ".flyball").exists() and not force:
        raise Conflict(f"{root / '.flyball'} exists without a {FILE}", "--force replaces it")
    root.mkdir(parents=True, exist_ok=True)
    staged = _Staged(root, path)
    with ExitStack() as held:
        held.callback(staged.remove)
        _hold(root / ".flyball", held)
        target = None if fresh else (ws if ws and not into else Workspace.open(root))
        if target is not None and not force:
            _refuse_to_lose(target, head)
        entries = staged.fill()
        notes = staged.project_files(fresh)
        target = target or Workspace.open(root)
        notes += staged.tables_in_a_bucket(target, head, force)
        notes += staged.put_elsewhere(target, force)
        if not head.with_blobs:
            notes.append(f"the backup holds no blobs: they are (or are not) in {head.blobs}")
        staged.swap(target)
    return Restored(into=str(root), entries=entries, head=head, notes=tuple(notes))


def _hold(state: Path, held: ExitStack) -> None:
    """Nothing of `flyball up` runs here, and nothing starts meanwhile."""
    from flyball.service.supervise import Held

    if state.is_dir():
        for name in _PARTS:
            held.callback(Held(state / "run", name).release)


def _refuse_to_lose(ws: Workspace, head: BackupHead) -> None:
    from flyball.stores import transfer
    from flyball.stores.runs import RunStore
    from flyball.track.liveness import is_alive

    if ws.config.stores.metadata.startswith("sqlite") and not ledger_file(ws).exists():
        return
    with ws.ledger.reading() as connection:
        event, chain = transfer.head(connection)
    going = [run.id for run in RunStore(ws.ledger).running() if is_alive(run.process)]
    ws.ledger.close()
    del ws.ledger  # opened anew when it has been replaced
    if going:
        raise Conflict(
            f"{going[0]} goes on here and would write into what is replaced", "wait for it, or --force"
        )
    if event and (event, chain.hex()) != (head.event, head.chain):
        raise Conflict(
            f"this workspace is at event {event}, and the backup at event {head.event}: what is not in it would be lost",
            "flyball backup FILE first, then flyball restore … --force; or --into another folder",
            event=event,
        )


def ledger_file(ws: Workspace) -> Path:
    """Where an SQLite ledger lies."""
    return Path(ws.settings.url(ws.config.stores.metadata).removeprefix("sqlite:///").partition("?")[0])


class _Staged:
    """The new ``.flyball/``, as it grows beside the old one."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.path = path
        self.folder = root / _STAGED
        self.remove()  # of one that was killed

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def fill(self) -> int:
        """Every entry to its place, checked; the last check is the end's. Returns how many there are."""
        from flyball.stores.archive import read

        count = 0

        def take(name: str, size: int, pieces: Iterator[bytes]) -> None:
            nonlocal count
            count += 1
            self._write(name, size, pieces)

        self._room()
        try:
            self.folder.mkdir()
            read(self.path, take)
        except OSError as error:
            if isinstance(error, Unavailable):
                raise
            raise Unavailable(
                f"{self.folder} can't be written: {error.strerror or error}",
                "free some space; nothing was changed",
            ) from error
        return count

    def _room(self) -> None:
        needed, free = self.path.stat().st_size, shutil.disk_usage(self.root).free
        if needed > free:
            raise Unavailable(
                f"{self.root} has {free / 2**20:.0f} MiB free, and the backup holds {needed / 2**20:.0f} MiB",
                "free some space, or --into a folder on another disk; nothing was changed",
            )

    def _write(self, name: str, size: int, pieces: Iterator[bytes]) -> None:
        if name == "flyball-backup.json":
            return
        if name.startswith("blobs/"):
            hexadecimal = name.removeprefix("blobs/")
            name = f"blobs/{hexadecimal[:2]}/{hexadecimal[2:]}"
        elif name.startswith("refs/"):
            name = f"blobs/{name}"
        place = self.folder / name.removeprefix("state/")
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as out:
            for piece in pieces:
                out.write(piece)

    def project_files(self, fresh: bool) -> list[str]:
        """Put settings and definitions where they are missing; says which differ. In a fresh folder all stores are local."""
        notes: list[str] = []
        source = self.folder / "project"
        for path in sorted(one for one in source.rglob("*") if one.is_file()) if source.is_dir() else ():
            inside = path.relative_to(source)
            target = self.root / inside
            content = path.read_bytes()
            if target.exists():
                if target.read_bytes() != content:
                    notes.append(f"{inside} differs from the backup's and was left as it is")
                continue
            if fresh and inside.as_posix() in (FILE, "pyproject.toml"):
                content, said = _made_local(content.decode(), inside.name)
                notes += said
            target.parent.mkdir(parents=True, exist_ok=True)
            made = target.with_name(f".{target.name}.restoring")
            made.write_bytes(content)
            made.replace(target)
        shutil.rmtree(source, ignore_errors=True)
        return notes

    def tables_in_a_bucket(self, ws: Workspace, head: BackupHead, force: bool) -> list[str]:
        """What was pushed goes back into the bucket, where the settings keep it in one."""
        if ws.tables.folder is not None:
            return []
        staged = self.folder / "tables"
        if not head.tables and not (staged / "sources").is_dir():
            return [
                f"this backup is of before tables in a bucket were saved: {ws.tables.shown} stays as it is"
            ]
        if not force:
            bucket_tables.refuse_to_lose(ws.tables, staged)
        return [f"{bucket_tables.put_back(ws.tables, staged)} tables put into {ws.tables.shown}"]

    def put_elsewhere(self, ws: Workspace, force: bool) -> list[str]:
        """What the settings keep outside of ``.flyball/``: blobs are added, tables exchanged, the ledger in one transaction."""
        from flyball.service.moving import copy_missing_blobs
        from flyball.stores.blobs import Blobs

        notes: list[str] = []
        state = ws.state.resolve()
        own = ws.blobs_url.startswith("file:") and self._inside(
            ws.blobs_url.removeprefix("file:"), state, "blobs"
        )
        if not own and (self.folder / "blobs").is_dir():
            moved = copy_missing_blobs(Blobs.open(f"file:{self.folder / 'blobs'}"), ws.blobs)
            notes.append(f"{moved.copied} blobs added to {ws.blobs_url.partition('?')[0]}")
            shutil.rmtree(self.folder / "blobs")
        if not self._inside(str(ws.tables_dir), state, "tables"):
            exchange(self.folder / "tables", ws.tables_dir)
        online = ws.online_url.removeprefix("lmdb:").partition("?")[0]
        if not ws.online_url.startswith("lmdb:") or not self._inside(online, state, "online"):
            shutil.rmtree(self.folder / "online", ignore_errors=True)
            notes.append("fill the online store again: flyball features materialize --rebuild")
        url = ws.settings.url(ws.config.stores.metadata)
        file = url.removeprefix("sqlite:///").partition("?")[0]
        if not url.startswith("sqlite:///") or not self._inside(file, state, "ledger.db"):
            self._load_ledger(ws, force)
            notes.append("the ledger's tables were replaced in one transaction")
        return notes

    def _inside(self, place: str, state: Path, name: str) -> bool:
        """Whether a store lies in ``.flyball/``; then its part moves to that place in the new one."""
        resolved = Path(place).resolve()
        if not resolved.is_relative_to(state):
            return False
        wanted, have = self.folder / resolved.relative_to(state), self.folder / name
        if wanted != have and have.exists():
            wanted.parent.mkdir(parents=True, exist_ok=True)
            have.rename(wanted)
        return True

    def _load_ledger(self, ws: Workspace, force: bool) -> None:
        from flyball.stores import transfer
        from flyball.stores.metadata import Ledger

        staged = Ledger.open(f"sqlite:///{self.folder / 'ledger.db'}")
        try:
            with staged.reading() as source, ws.ledger.writing() as target:
                there = transfer.head(target)
                if there[0] and there != transfer.head(source) and not force:
                    raise Conflict(f"the ledger is at event {there[0]} meanwhile", "--force replaces it")
                transfer.copy(source, target)
        finally:
            staged.close()
        for file in self.folder.glob("ledger.db*"):
            file.unlink()

    def swap(self, ws: Workspace) -> None:
        """The one step: from here on the workspace is the backup's."""
        os.sync()
        exchange(self.folder, ws.state)


def exchange(new: Path, place: Path) -> None:
    """Put a folder in another's place in one step; the other is then where the new one was (or nowhere)."""
    if not new.exists():
        new.mkdir()
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        new.rename(place)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(place), _RENAME_EXCHANGE)
    if done == 0:
        return
    # A file system without exchange: two steps. Killed between them, the old one lies beside, whole.
    aside = place.with_name(place.name + ".before-restore")
    if aside.exists():
        shutil.rmtree(aside)
    place.rename(aside)
    new.rename(place)
    aside.rename(new)


def _made_local(text: str, name: str) -> tuple[bytes, list[str]]:
    """Settings for a folder that is a copy: its stores are its own, not the servers that the original uses."""
    import tomllib

    from flyball.core.config import Stores
    from flyball.service.settings_file import with_values

    prefix = "" if name == FILE else "tool.flyball."
    content = tomllib.loads(text)
    for part in prefix.split(".")[:-1]:
        content = content.get(part, {})
    stores = content.get("stores", {})
    own = msgspec.to_builtins(Stores())
    changed = {key: own[key] for key, value in stores.items() if key in own and value != own[key]}
    if not changed:
        return text.encode(), []
    notes = [f"stores.{key} was {stores[key].partition('?')[0]}; this copy has its own" for key in changed]
    return with_values(text, f"{prefix}stores", changed).encode(), notes
