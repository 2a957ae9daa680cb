"""Artifacts: which bytes an owner has under which path; the bytes lie in blobs.

    ArtifactStore(ledger, blobs)
    .put(owner, path, content: bytes | Path | str, *, actor="") -> Artifact      # a str is the digest of a blob
    .put_many(owner, {path: bytes | Path | digest}, *, actor="") -> list[Artifact]   # one transaction
    .put_folder(owner, folder: Path, under="", *, actor="") -> list[Artifact]
    .ls(owner, prefix="") -> list[Artifact]            # everything below the folder (or the file) prefix, by path
    .entries(owner, folder="") -> list[Entry]          # one level, as a file manager shows it
    .find(owner, path) -> Artifact | None              # .get(owner, path) -> bytes, or NotFound that names the nearest
    .open(owner, path) -> Artifact, or NotFound
    .delete(owner, path, *, actor="") -> int           # a file, or a folder with all below it; how many
    .owners(digest) -> list[(owner, path)]

An owner is a run's id, a logged model's (``m-…``) or a model version's (``model:delays@3``). A path is relative, with
``/`` between its parts and without ``..``. Putting another content under a path replaces what it names, never the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flyball.core.clock import SystemClock, to_us
from flyball.core.hashing import is_digest
from flyball.errors import Invalid, NotFound, nearest
from flyball.stores.engine import by_code_point, starts_with
from flyball.stores.run_seal import changing
from flyball.stores.run_tables import ARTIFACTS, RUNS, rows_of, upsert

if TYPE_CHECKING:
    from flyball.stores.blobs import Blobs
    from flyball.stores.metadata import Ledger

_BYTES_OF_A_KEY = 2000  # owner and path: PostgreSQL's index entries end at 2,704 bytes
_LETTERS_OF_A_PATH = 500


class Artifact(msgspec.Struct, frozen=True):
    """One file of an owner."""

    owner: str
    path: str
    digest: str
    size_bytes: int
    at_us: int


class Entry(msgspec.Struct, frozen=True):
    """One line of a folder: a file, or a folder (which has no size)."""

    path: str
    is_folder: bool
    size_bytes: int | None = None


class ArtifactStore:
    """Files by owner and path.

    >>> store = ArtifactStore(ledger, blobs)                                   # doctest: +SKIP
    >>> store.put("run_1", "plots/roc.svg", b"<svg/>").size_bytes              # doctest: +SKIP
    6
    """

    def __init__(self, ledger: Ledger, blobs: Blobs) -> None:
        self._ledger = ledger
        self._blobs = blobs

    def put(self, owner: str, path: str, content: bytes | Path | str, *, actor: str = "") -> Artifact:
        """Keep bytes, a file, or a blob that is there (by its digest) under a path."""
        return self.put_many(owner, {path: content}, actor=actor)[0]

    def put_many(
        self, owner: str, contents: Mapping[str, bytes | Path | str], *, actor: str = ""
    ) -> list[Artifact]:
        """Keep several, all or none: the bytes first, then every path in one transaction."""
        paths = [check_path(owner, path) for path in contents]
        at_us = to_us(SystemClock().now())
        made: list[Artifact] = []
        for path, content in zip(paths, contents.values(), strict=True):
            digest = self._keep(content)
            size = len(content) if isinstance(content, bytes) else self._blobs.size_bytes(digest)
            made.append(Artifact(owner, path, digest, size, at_us))
        if made:
            with self._changing(owner, actor) as connection:
                upsert(connection, ARTIFACTS, [msgspec.structs.asdict(one) for one in made])
        return made

    def put_folder(self, owner: str, folder: Path, under: str = "", *, actor: str = "") -> list[Artifact]:
        """Keep every file below a folder; links are followed, a link that leads into itself is not."""
        if not folder.is_dir():
            raise NotFound(f"no folder {folder}", "check the path; it is relative to where you stand")
        contents: dict[str, bytes | Path | str] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                contents["/".join((*filter(None, [under]), path.relative_to(folder).as_posix()))] = path
        return self.put_many(owner, contents, actor=actor)

    def ls(self, owner: str, prefix: str = "") -> list[Artifact]:
        """The file of that path, or every file below that folder, by path."""
        where = [ARTIFACTS.c.owner == owner]
        if prefix := prefix.strip("/"):
            where.append(sa.or_(ARTIFACTS.c.path == prefix, starts_with(ARTIFACTS.c.path, prefix + "/")))
        query = sa.select(*ARTIFACTS.c).where(*where).order_by(by_code_point(ARTIFACTS.c.path))
        with self._ledger.reading() as connection:
            return [Artifact(*row) for row in rows_of(connection, query)]

    def entries(self, owner: str, folder: str = "") -> list[Entry]:
        """What lies directly in a folder, by path."""
        start = f"{folder.strip('/')}/" if folder.strip("/") else ""
        found: dict[str, Entry] = {}
        for one in self.ls(owner, folder):
            if not one.path.startswith(start):
                continue  # the file of that very name
            first, inner, _ = one.path[len(start) :].partition("/")
            if inner:
                found[start + first] = Entry(start + first, True)
            else:
                found[one.path] = Entry(one.path, False, one.size_bytes)
        return [found[path] for path in sorted(found)]

    def find(self, owner: str, path: str) -> Artifact | None:
        """The file of that path, or ``None``."""
        return next((one for one in self.ls(owner, path) if one.path == path.strip("/")), None)

    def open(self, owner: str, path: str) -> Artifact:
        """The file of that path; when there is none, :class:`NotFound` names those there are."""
        found = self.find(owner, path)
        if found is None:
            names = [one.path for one in self.ls(owner)]
            raise NotFound(f"{owner} has no artifact {path!r}", nearest(path, names), owner=owner, path=path)
        return found

    def get(self, owner: str, path: str) -> bytes:
        """Its bytes, checked against their digest."""
        return self._blobs.get(self.open(owner, path).digest)

    def delete(self, owner: str, path: str, *, actor: str = "") -> int:
        """Forget a file, or a folder with all below it; the bytes go when ``gc`` finds no other owner."""
        gone = [one.path for one in self.ls(owner, path)]
        if gone:
            with self._changing(owner, actor) as connection:
                connection.execute(
                    ARTIFACTS.delete().where(
                        ARTIFACTS.c.owner == owner, ARTIFACTS.c.path == sa.bindparam("gone")
                    ),
                    [{"gone": one} for one in gone],
                )
        return len(gone)

    def owners(self, digest: str) -> list[tuple[str, str]]:
        """Who has these bytes, and under which path."""
        query = sa.select(ARTIFACTS.c.owner, ARTIFACTS.c.path).where(ARTIFACTS.c.digest == digest)
        with self._ledger.reading() as connection:
            return sorted((owner, path) for owner, path in rows_of(connection, query))

    def _keep(self, content: bytes | Path | str) -> str:
        if isinstance(content, bytes):
            return self._blobs.put(content)
        if isinstance(content, Path):
            return self._blobs.put_file(content)
        if not is_digest(content):
            raise Invalid(
                f"{content!r:.80} is not a digest", "give bytes, a pathlib.Path, or a blob's digest"
            )
        return content

    def _changing(self, owner: str, actor: str) -> AbstractContextManager[Connection]:
        """A run that has ended is sealed again; another owner's rows are only written."""
        with self._ledger.reading() as connection:
            is_run = connection.execute(sa.select(RUNS.c.id).where(RUNS.c.id == owner)).first() is not None
        return changing(self._ledger, owner, actor) if is_run else self._ledger.writing(alone=owner)


def check_path(owner: str, path: str) -> str:
    """A path as it is kept: relative, ``/`` between its parts, nothing that leads out of the owner's folder."""
    parts = path.split("/")
    if path.startswith("/") or path.endswith("/") or any(part in ("", ".", "..") for part in parts):
        raise Invalid(f"{path!r} is not a path inside {owner}", "like model/MLmodel: no '..', no leading '/'")
    try:
        size = len(owner.encode()) + len(path.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"the path {path!r} is not UTF-8", "rename the file") from error
    if "\x00" in path or "\\" in path or len(path) > _LETTERS_OF_A_PATH or size > _BYTES_OF_A_KEY:
        raise Invalid(
            f"the path {path[:80]!r} can't be kept: NUL, backslash, or over {_LETTERS_OF_A_PATH} letters",
            "rename the file, or put fewer folders into one another",
        )
    return path


def total_bytes(artifacts: Sequence[Artifact]) -> int:
    """What they take together."""
    return sum(one.size_bytes for one in artifacts)
