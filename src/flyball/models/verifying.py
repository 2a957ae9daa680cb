"""The bytes of a version, read again and held against their digests."""

from __future__ import annotations

from collections.abc import Iterator

from flyball.core.records import ModelVersion
from flyball.errors import FlyballError
from flyball.stores.blobs import Blobs


def bytes_of(blobs: Blobs, version: ModelVersion) -> Iterator[tuple[str, str]]:
    """Each blob of a version, files of its folder included, and what is wrong with it ("" for nothing)."""
    named = {"bytes": version.artifact}
    if version.native is not None and version.native != version.artifact:
        named["native model"] = version.native
    if version.format == "mlmodel":
        named |= {str(path): str(digest) for path, digest in version.export.get("files", {}).items()}
    for what, digest in named.items():
        try:
            blobs.get(digest)
        except FlyballError as error:
            yield what, f"{what}: {error.what}"
        else:
            yield f"{what} {digest[:15]}", ""
