"""The files of an MLmodel folder by path, wherever their bytes lie; and its manifest, which is one blob."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from flyball.core.hashing import digest_bytes, is_digest
from flyball.errors import Invalid, NotFound, Refused
from flyball.stores.blobs import Blobs

MOST_FILES = 10_000


class Manifest(msgspec.Struct, frozen=True):
    """What a folder holds: path to digest."""

    mlmodel: int
    files: dict[str, str]


class Folder:
    """Files by their paths, with ``/``; each is read when it is asked for.

    >>> Folder({"MLmodel": b"flavors: {}"}).read("MLmodel")
    b'flavors: {}'
    """

    def __init__(self, files: Mapping[str, bytes | str | Path], blobs: Blobs | None = None) -> None:
        if len(files) > MOST_FILES:
            raise Invalid(f"the folder holds {len(files)} files", f"at most {MOST_FILES} make one model")
        for path in files:
            check_path(path)
        self._files = dict(sorted(files.items()))
        self._blobs = blobs

    @classmethod
    def at(cls, root: Path) -> Folder:
        """The folder at a path of this machine. A link that leads out of it is refused."""
        if not root.is_dir():
            raise NotFound(f"no folder {root}", "name the folder that holds MLmodel")
        home = root.resolve()
        found: dict[str, Path] = {}
        for here, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in [*folders, *names]:
                file = Path(here, name)
                if file.is_symlink() and not file.resolve().is_relative_to(home):
                    raise Refused(f"{file} is a link that leads out of the folder", "copy what it points at")
            for name in names:
                found[Path(here, name).relative_to(root).as_posix()] = Path(here, name)
        return cls(found)

    @classmethod
    def of_manifest(cls, data: bytes, blobs: Blobs) -> Folder:
        """The folder that a manifest lists."""
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.DecodeError as error:
            raise Invalid(f"not the manifest of a folder: {error}", "import it anew") from error
        return cls(manifest.files, blobs)

    def keep(self, blobs: Blobs) -> dict[str, str]:
        """Store every file; returns path to digest."""
        kept: dict[str, str] = {}
        for path, content in self._files.items():
            if isinstance(content, str):
                if content not in blobs:
                    raise NotFound(
                        f"no blob {content} for {path}", "was it collected, or is this another store?"
                    )
                kept[path] = content
            else:
                kept[path] = blobs.put_file(content) if isinstance(content, Path) else blobs.put(content)
        return kept

    def read(self, path: str) -> bytes:
        """The bytes of one file, checked where their digest is known; :class:`Invalid` names the files there are."""
        if path not in self._files:
            raise Invalid(
                f"the folder has no file {path!r}", f"it has {', '.join(list(self._files)[:20])}", path=path
            )
        content = self._files[path]
        if isinstance(content, bytes):
            return content
        if isinstance(content, Path):
            return content.read_bytes()
        if self._blobs is None:
            raise Invalid(f"{path} is given by its digest", "pass the blob store that has it")
        return self._blobs.get(content)

    def under(self, prefix: str) -> dict[str, bytes]:
        """Every file below a folder of the folder, by its path from there."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        return {path[len(start) :]: self.read(path) for path in self._files if path.startswith(start)}

    def unpack(self) -> tempfile.TemporaryDirectory[str]:
        """The folder on disk, for libraries that read no bytes; it goes when what is returned goes."""
        place = tempfile.TemporaryDirectory(prefix="flyball-mlmodel-")
        for path in self._files:
            file = Path(place.name, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.read(path))
        return place

    @property
    def paths(self) -> list[str]:
        return list(self._files)

    def __contains__(self, path: object) -> bool:
        return path in self._files


def manifest_of(files: Mapping[str, str]) -> bytes:
    """The manifest's bytes: the same files, the same bytes."""
    return msgspec.json.encode(Manifest(1, dict(sorted(files.items()))), order="deterministic")


def check_path(path: Any) -> str:
    """A path that stays in its folder; :class:`Refused` for any other."""
    text = str(path)
    parts = PurePosixPath(text).parts
    wrong = (
        not text
        or text.startswith("/")
        or "\\" in text
        or "\0" in text
        or ":" in (parts[0] if parts else "")
        or ".." in parts
        or PurePosixPath(text).as_posix() != text
    )
    if wrong:
        raise Refused(
            f"the path {text!r} does not stay in the folder", "was the model tampered with?", path=text
        )
    return text


def verify(folder: Folder, listed: Mapping[str, Any]) -> None:
    """Hold files against the digests that the folder itself lists; :class:`Refused` names the one that differs."""
    for path, digest in listed.items():
        if is_digest(str(digest)) and digest_bytes(folder.read(check_path(path))) != digest:
            raise Refused(
                f"{path} is not what MLmodel says it is", "it has changed since it was written", path=path
            )
