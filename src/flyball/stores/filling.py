"""A local blob store that fetches what it has not from another, checked byte by byte: how a rebuilt project reads data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore

from flyball.core.hashing import digest_bytes
from flyball.errors import Invalid, NotFound, Refused
from flyball.stores.blobs import Blobs


class FillingBlobs(Blobs):
    """Blobs of a folder; a digest that is asked for and absent is copied from ``origin`` first. That is only read."""

    def __init__(
        self,
        store: Any,
        url: str,
        *,
        folder: Path | None = None,
        state: Path | None = None,
        origin: Blobs | None = None,
    ) -> None:
        super().__init__(store, url, folder=folder, state=state)
        self.origin = origin

    @classmethod
    def between(cls, url: str, origin: str, *, state: Path | None = None) -> FillingBlobs:
        """Open the folder at ``url``, filled from the store at ``origin``."""
        folder = Path(url.removeprefix("file:"))
        if not url.startswith("file:"):
            raise Invalid(f"{url} is no folder", "only a local store is filled from another")
        store = LocalStore(folder, mkdir=True)
        return cls(store, url, folder=folder.absolute(), state=state, origin=Blobs.open(origin))

    def path(self, digest: str) -> Path | None:
        """Where a blob lies, fetched when it was absent."""
        path = super().path(digest)
        if path is not None and not path.exists():
            self._fetch(digest)
        return path

    def read_unchecked(self, digest: str) -> bytes:
        self.path(digest)
        return super().read_unchecked(digest)

    def _fetch(self, digest: str) -> None:
        if self.origin is None:
            return
        try:
            # Not through `put`: that would ask `path` again. Written beside its place and renamed by the store.
            data = self.origin.read_unchecked(digest)
        except NotFound:
            return  # the caller says so
        if digest_bytes(data) != digest:
            raise Refused(
                f"the bytes of {digest} in {self.origin.url} have changed",
                "flyball data verify names what they belong to; nothing of it was copied",
                digest=digest,
            )
        obstore.put(self._store, f"{digest[3:5]}/{digest[5:]}", data)
