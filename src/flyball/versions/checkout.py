"""Write a snapshot's files into a folder: each whole or not at all, unchanged ones left alone, nobody's work overwritten."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from flyball.core.hashing import digest_file
from flyball.errors import Conflict, Invalid, Unavailable
from flyball.stores.blobs import Blobs
from flyball.versions.content import Content
from flyball.versions.manifest import Held
from flyball.versions.tracked import Tracked

_FICLONE = 0x40049409
_PART = ".flyball-part"
_MOST_WHOLE_BYTES = 4 << 20
_MOST_PARTS = 512  # of one writev; the kernel takes 1,024


class CheckedOut(msgspec.Struct, frozen=True):
    """What a checkout did."""

    ref: str
    folder: str
    files: int
    written: int
    unchanged: int
    linked: int
    bytes: int

    def as_text(self) -> str:
        """For people."""
        said = [f"{self.written} written"]
        if self.unchanged:
            said.append(f"{self.unchanged} there already")
        if self.linked:
            said.append(f"{self.linked} linked, read-only")
        return f"{self.ref} is in {self.folder}: {self.files} file{'' if self.files == 1 else 's'}, {', '.join(said)}"


def checkout(
    content: Content,
    blobs: Blobs,
    folder: Path,
    *,
    paths: Sequence[str] = (),
    link: bool = False,
    may_replace: Callable[[bytes], bool] | None = None,
) -> CheckedOut:
    """Write the files (or those at ``paths``) below ``folder``.

    A file that is there and differs is replaced when ``may_replace`` says so of its digest (always, without it):
    otherwise :class:`Conflict` names what would be lost, before anything is written.
    """
    folder = folder.absolute()
    wanted = [content.of(path) for path in paths] if paths else list(content.manifest.files)
    _safe(wanted)
    tracked = Tracked.open(blobs, folder)
    missing, lost = _missing(wanted, folder, tracked, may_replace)
    if lost:
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise Conflict(
            f"{', '.join(lost[:5])}{more} would be overwritten: no snapshot of {content.snapshot.name} holds them",
            f"flyball data add {content.snapshot.name} {folder / wanted[0].path if len(wanted) == 1 else folder} "
            "keeps them; --overwrite loses them",
            files=lost,
        )
    linked = 0
    try:
        with _staging(folder, missing) as place:
            made: set[str] = {str(place)}
            missing.sort(key=lambda one: one.runs or ())  # packs are read from front to back
            for held in missing:
                linked += _write(content, blobs, held, f"{place}/{held.path}", made, link)
    except OSError as error:
        full = error.errno in (28, 27, 122)
        hint = "free some space and check out again: what is whole stays" if full else "check its rights"
        raise Unavailable(f"{folder} can't be written: {error.strerror}", hint) from error
    _remember(missing, folder, tracked)
    return CheckedOut(
        content.snapshot.ref,
        str(folder),
        len(wanted),
        len(missing),
        len(wanted) - len(missing),
        linked,
        sum(one.size_bytes for one in missing),
    )


def _safe(wanted: Sequence[Held]) -> None:
    """A manifest may come from another's store: nothing is written outside the folder."""
    for held in wanted:
        parts = held.path.split("/")
        if held.path.startswith("/") or ".." in parts or "" in parts or "\0" in held.path:
            raise Invalid(
                f"the path {held.path!r} leads out of the folder", "this snapshot is not to be trusted"
            )


def _missing(
    wanted: Sequence[Held], folder: Path, tracked: Tracked, may_replace: Callable[[bytes], bool] | None
) -> tuple[list[Held], list[str]]:
    """Files to be written, and those that would be lost by it."""
    if not folder.exists():
        return list(wanted), []
    missing: list[Held] = []
    lost: list[str] = []
    for held in wanted:
        target = f"{folder}/{held.path}"
        try:
            status = os.lstat(target)
        except (FileNotFoundError, NotADirectoryError):
            missing.append(held)
            continue
        digest = tracked.digest(held.path, status)
        if digest is None and (status.st_size == held.size_bytes or may_replace is not None):
            digest = bytes.fromhex(digest_file(Path(target))[3:]) if os.path.isfile(target) else b""  # noqa: PTH113
        if digest == held.digest and not os.path.islink(target):  # noqa: PTH114
            tracked.remember(held.path, status, digest)
            continue
        missing.append(held)
        if may_replace is not None and not may_replace(digest or b""):
            lost.append(held.path)
    return missing, lost


@contextmanager
def _staging(folder: Path, missing: Sequence[Held]) -> Iterator[Path]:
    """A folder that is not there yet is made whole under another name, and appears at once."""
    if os.path.lexists(folder):
        yield folder
        return
    place = folder.with_name(f".{folder.name}{_PART}")
    shutil.rmtree(place, ignore_errors=True)  # of a checkout that was killed
    try:
        place.mkdir(parents=True)
        yield place
        try:
            place.rename(folder)
        except OSError:  # someone made the folder meanwhile
            for held in missing:
                Path(f"{folder}/{held.path}").parent.mkdir(parents=True, exist_ok=True)
                os.replace(f"{place}/{held.path}", f"{folder}/{held.path}")  # noqa: PTH105
            shutil.rmtree(place, ignore_errors=True)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _write(content: Content, blobs: Blobs, held: Held, target: str, made: set[str], link: bool) -> bool:
    """Write one file; whether it is a link to the store."""
    folder, _, name = target.rpartition("/")
    if folder not in made:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 (twenty thousand files: plain strings)
        made.add(folder)
    staged = f"{folder}/.{name}{_PART}"  # hidden: left by a kill, it is no data
    try:
        if held.runs is None and (stored := blobs.path(held.entry.digest)) is not None:
            linked = _of_blob(content, held, stored, staged, link)
        else:
            linked = False
            _of_chunks(content, held, staged)
        os.rename(staged, target)  # noqa: PTH104
    except BaseException:
        with suppress(OSError):
            os.unlink(staged)  # noqa: PTH108
        raise
    return linked


def _of_blob(content: Content, held: Held, stored: Path, staged: str, link: bool) -> bool:
    """A file whose bytes are a blob of their own: linked, cloned where the file system can, or copied; then checked."""
    with suppress(FileNotFoundError):
        os.unlink(staged)  # noqa: PTH108
    if link:
        with suppress(OSError):  # another file system, or one that has no links: copied below
            stored.chmod(0o444)  # the same inode: writing to the link would change the store
            os.link(stored, staged)
            _check(content, held, staged)
            return True
    if not stored.exists() or not reflink(stored, Path(staged)):
        _of_chunks(content, held, staged)
    else:
        _check(content, held, staged)
    return False


def _check(content: Content, held: Held, staged: str) -> None:
    if digest_file(Path(staged)) != held.entry.digest:
        content.read(held.path)  # says what has changed


def reflink(source: Path, target: Path) -> bool:
    """Clone a file so that both share their bytes until one is written (Btrfs, XFS); ``False`` where that can't be."""
    with source.open("rb") as here, target.open("wb") as there:
        try:
            fcntl.ioctl(there.fileno(), _FICLONE, here.fileno())
        except OSError:
            return False
    return True


def _of_chunks(content: Content, held: Held, staged: str) -> None:
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        if held.size_bytes <= _MOST_WHOLE_BYTES:
            _write_all(handle, content.read(held.path))
            return
        with ThreadPoolExecutor(1, thread_name_prefix="flyball-write") as writing:
            waiting = None
            batch: list[bytes] = []
            size_bytes = 0
            for piece in content.stream(held.path):
                batch.append(piece)
                size_bytes += len(piece)
                if size_bytes >= _MOST_WHOLE_BYTES:
                    size_bytes = 0
                    if waiting is not None:
                        waiting.result()
                    waiting = writing.submit(_write_many, handle, batch)
                    batch = []
            if waiting is not None:
                waiting.result()
            _write_many(handle, batch)
    finally:
        os.close(handle)


def _write_many(handle: int, pieces: list[bytes]) -> None:
    for start in range(0, len(pieces), _MOST_PARTS):
        part = pieces[start : start + _MOST_PARTS]
        written = os.writev(handle, part)
        if written < sum(map(len, part)):
            _write_all(handle, b"".join(part)[written:])


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _remember(written: Sequence[Held], folder: Path, tracked: Tracked) -> None:
    for held in written:
        with suppress(OSError):
            tracked.remember(held.path, os.stat(f"{folder}/{held.path}"), held.digest)  # noqa: PTH116
    tracked.save()
