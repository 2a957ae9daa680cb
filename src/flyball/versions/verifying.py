"""Read every byte of a snapshot again; name what has changed, and bring it back from another store."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from blake3 import blake3

from flyball.core.hashing import digest_bytes, digest_of
from flyball.core.records import FileEntry, Snapshot
from flyball.errors import FlyballError, NotFound, Refused
from flyball.stores.blobs import Blobs
from flyball.stores.packs import PackReader, PackRef
from flyball.versions.content import Content
from flyball.versions.manifest import Held, triples


class Problem(msgspec.Struct, frozen=True):
    """One object that is not what it was: the blob whose bytes are wrong, and what that breaks."""

    what: str
    blob: str

    def __str__(self) -> str:
        return self.what


def manifest_digest(files: tuple[FileEntry, ...]) -> str:
    """The digest of a snapshot: of its files' paths and digests, in order of path."""
    return digest_of(
        [(one.path, one.digest, one.size_bytes) for one in sorted(files, key=lambda one: one.path)]
    )


def problems_of(blobs: Blobs, snapshot: Snapshot) -> list[Problem]:
    """Read every byte of a snapshot again: its manifest, its packs, each chunk, each file."""
    if snapshot.manifest and (said := _blob_problem(blobs, snapshot.manifest)):
        return [Problem(f"manifest of {snapshot.ref}: {said}", snapshot.manifest)]
    content = Content(snapshot, blobs)
    found: list[Problem] = []
    if manifest_digest(content.files) != snapshot.digest:
        found.append(Problem(f"manifest of {snapshot.ref}: its files are not those of {snapshot.digest}", ""))
    if (
        snapshot.files
        and snapshot.manifest
        and manifest_digest(tuple(one.entry for one in content.manifest.files)) != snapshot.digest
    ):
        found.append(
            Problem(f"manifest of {snapshot.ref}: {snapshot.manifest} lists other files", snapshot.manifest)
        )
    broken: dict[str, str] = {}
    for pack in content.manifest.packs:
        if said := _blob_problem(blobs, pack.digest):
            broken[pack.digest] = said
    intact = Content(snapshot, blobs, reader=PackReader(blobs))
    for held in content.manifest.files:
        found += _of_file(blobs, intact, held, broken)
    named = {one.blob for one in found}
    found += [
        Problem(f"pack {digest}: {said} (none of the chunks of {snapshot.ref})", digest)
        for digest, said in broken.items()
        if digest not in named
    ]
    return found


def _of_file(blobs: Blobs, content: Content, held: Held, broken: dict[str, str]) -> Iterator[Problem]:
    if held.runs is None:
        digest = held.entry.digest
        if said := _blob_problem(blobs, digest):
            yield Problem(f"{held.path}: {said}", digest)
        return
    touched = [content.manifest.packs[pack] for pack, _, _ in triples(held.runs)]
    if any(pack.digest in broken for pack in touched):
        yield from _broken_chunks(content, held, broken)
        return
    if len(held.runs) == 3 and held.runs[2] == 1:
        return  # one chunk of a pack that is what it was: the chunk's digest is the file's
    whole = blake3()
    try:
        for piece in content.stream(held.path):
            whole.update(piece)
    except FlyballError as error:
        yield Problem(f"{held.path} ({held.entry.digest}): {error.what}", str(error.facts.get("digest", "")))


def _broken_chunks(content: Content, held: Held, broken: dict[str, str]) -> Iterator[Problem]:
    """Which chunks of a file have changed, each by its place in the file."""
    reader = PackReader(content._blobs)
    said: set[str] = set()
    for number, first, count in triples(held.runs or ()):
        pack: PackRef = content.manifest.packs[number]
        if pack.digest not in broken:
            continue
        for chunk in range(first, first + count):
            try:
                reader.chunk(pack, chunk)
            except FlyballError as error:
                line = f"{held.path} ({held.entry.digest}): {error.what}"
                if line not in said:
                    said.add(line)
                    yield Problem(line, pack.digest)
                if isinstance(error, NotFound) or "rows" in error.what:
                    break  # the whole pack; said once


def _blob_problem(blobs: Blobs, digest: str) -> str:
    whole = blake3()
    try:
        for piece in blobs.stream(digest):
            whole.update(piece)
    except NotFound:
        return f"blob {digest} is gone"
    found = "b3:" + whole.hexdigest()
    return "" if found == digest else f"blob {digest} has changed, it is {found} now"


def repair(blobs: Blobs, other: Blobs, problems: list[Problem]) -> list[str]:
    """Take what is broken from another store, checked; returns the digests that were mended.

    What the other store does not have, or has broken as well, is left as it is: a later verification names it again.
    """
    mended: list[str] = []
    for digest in dict.fromkeys(one.blob for one in problems if one.blob):
        try:
            data = other.get(digest)
        except (NotFound, Refused):
            continue
        assert digest_bytes(data) == digest
        blobs.replace(digest, data)
        mended.append(digest)
    return mended
