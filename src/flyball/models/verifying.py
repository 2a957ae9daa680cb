"""The bytes of a version, read again and held against their digests."""

from __future__ import annotations

from collections.abc import Iterator

from flyball.core.records import ModelVersion
from flyball.errors import FlyballError
from flyball.stores.blobs import Blobs


def bytes_of(blobs: Blobs, version: ModelVersion) -> Iterator[tuple[str, str]]:
    """Each blob of a version, and what is wrong with it ("" for nothing)."""
    for what, digest in (("bytes", version.artifact), ("native model", version.native)):
        if digest is None or (what == "native model" and digest == version.artifact):
            continue
        try:
            blobs.get(digest)
        except FlyballError as error:
            yield what, f"{what}: {error.what}"
        else:
            yield f"{what} {digest[:15]}", ""
