"""Blobs from one store to another: those that are missing there, each checked on its way."""

from __future__ import annotations

import msgspec
from blake3 import blake3

from flyball.errors import NotFound, Refused
from flyball.stores.blobs import Blobs


class Moved(msgspec.Struct, frozen=True):
    """What was copied, and what was there already."""

    copied: int
    bytes: int
    there: int


def copy_missing_blobs(source: Blobs, target: Blobs) -> Moved:
    """Copy what the target has not, or has with another size; documents by name (``refs/``) come along.

    A blob whose bytes have changed in the source is :class:`Refused`, named, and not copied.
    """
    have = {one.digest: one.size_bytes for one in target.stats()}
    copied = size = there = 0
    for one in source.stats():
        if have.get(one.digest) == one.size_bytes:
            there += 1
            continue
        with target.writer() as writer:
            for piece in source.stream(one.digest):
                writer.write(piece)
            if writer.digest != one.digest:
                raise Refused(
                    f"the stored bytes of {one.digest} have changed",
                    "flyball restore BACKUP brings them back; nothing was switched over",
                    digest=one.digest,
                )
            writer.keep()
        copied, size = copied + 1, size + one.size_bytes
    for name in source.ls_named(""):
        content = source.get_named(name)
        if content is not None and target.get_named(name) != content:
            target.put_named(name, content)
    return Moved(copied, size, there)


def differences(source: Blobs, target: Blobs, *, read_back: int) -> list[str]:
    """What the target lacks or has otherwise; ``read_back`` of its blobs are read and hashed (-1: all of them)."""
    have = {one.digest: one.size_bytes for one in target.stats()}
    found: list[str] = []
    for number, one in enumerate(source.stats()):
        if have.get(one.digest) != one.size_bytes:
            found.append(f"{one.digest} is missing or of another size in {target.url}")
        elif read_back < 0 or number < read_back:
            try:
                hashed = blake3()
                for piece in target.stream(one.digest):
                    hashed.update(piece)
            except NotFound as error:
                found.append(error.what)
                continue
            if "b3:" + hashed.hexdigest() != one.digest:
                found.append(f"{one.digest} has other bytes in {target.url}")
    return found
