"""Several files as one: a zip whose bytes depend on nothing but theirs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from flyball.errors import Invalid

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MOST_BYTES = 16 << 30


def pack(files: Mapping[str, bytes]) -> bytes:
    """One zip of these files.

    >>> pack({"a": b"1", "b": b"2"}) == pack({"b": b"2", "a": b"1"})
    True
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in sorted(files.items()):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 6)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of a zip; ``BadZipFile`` when it is torn."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
            raise Invalid("the archive would unpack to more than 16 GiB", "is it what it says it is?")
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}
