"""What a DVC project tracks, as snapshots: ``.dvc`` files, ``dvc.lock``, and the caches of DVC 3 and before.

Bytes come from the cache, or from the workspace where the cache has lost them, and must have the MD5 that DVC wrote down
(before DVC 3 that is the MD5 of a text file with Unix line ends). Stages become parents: what a stage's output was made of.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from flyball.errors import FlyballError, Invalid, NotFound
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data, sources

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?\Z")
_TEXT_SAMPLE = 512  # DVC looks at so many bytes to tell text from binary


class Out(msgspec.Struct):
    """One output that DVC tracks: where it lies, its MD5 (``….dir`` for a folder), and what it was made of."""

    path: str  # relative to the DVC project
    md5: str
    said_in: str  # the .dvc file, or dvc.lock:stage
    legacy: bool  # MD5 as DVC wrote it before version 3
    deps: tuple[str, ...] = ()
    command: str = ""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one output."""

    path: str
    ref: str = ""
    files: int = 0
    bytes: int = 0
    parents: tuple[str, ...] = ()
    missing: str = ""  # why it could not be imported


class DvcImport(msgspec.Struct, frozen=True):
    """What was imported of a DVC project; ``exit_code`` 1 when something is missing."""

    project: str
    outs: tuple[Imported, ...]

    @property
    def exit_code(self) -> int:
        return 1 if any(one.missing for one in self.outs) else 0

    def as_text(self) -> str:
        """For people."""
        lines = []
        for one in self.outs:
            if one.missing:
                lines.append(f"{one.path}: not imported, {one.missing}")
            else:
                made = f", made of {', '.join(one.parents)}" if one.parents else ""
                lines.append(f"{one.ref}  {one.path}: {one.files} files, {one.bytes:,} bytes{made}")
        return "\n".join(lines)


def import_project(
    ledger: Ledger, blobs: Blobs, folder: Path, *, actor: str, root: Path | None = None
) -> DvcImport:
    """Make a snapshot of every output that DVC tracks in ``folder``; what is there already stays as it is."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise NotFound(f"no folder {folder}", "name the folder of a DVC project")
    outs = {out.path: out for out in find_outs(folder)}
    if not outs:
        raise NotFound(f"no .dvc file and no dvc.lock in {folder}", "name the folder where dvc.yaml lies")
    store = _Store(folder)
    names = _names(list(outs))
    done: dict[str, Imported] = {}

    def take(path: str, above: tuple[str, ...] = ()) -> None:
        if path in done or path in above:
            return
        out = outs[path]
        parents: list[str] = []
        for dep in out.deps:
            for other in outs:
                if dep == other or dep.startswith(other + "/") or other.startswith(dep + "/"):
                    take(other, (*above, path))
                    if other in done and done[other].ref:
                        parents.append(done[other].ref)
        try:
            found = store.find(out)
            origin = {"dvc": out.said_in, "md5": out.md5}
            if out.command:
                origin["command"] = out.command
            origin["path"] = _path_of(folder / path, root)
            kept = data.add_found(
                ledger, blobs, names[path], found, actor=actor, parents=dict.fromkeys(parents), origin=origin
            )
        except FlyballError as error:
            done[path] = Imported(path=path, missing=f"{error.what} ({error.hint})")
            return
        done[path] = Imported(
            path=path,
            ref=kept.ref,
            files=kept.file_count,
            bytes=kept.size_bytes,
            parents=tuple(dict.fromkeys(parents)),
        )

    for path in outs:
        take(path)
    return DvcImport(str(folder), tuple(done.values()))


def find_outs(folder: Path) -> Iterator[Out]:
    """Every output in ``.dvc`` files and ``dvc.lock`` files below a folder, each once."""
    for here, inner, files in os.walk(folder):
        inner[:] = sorted(one for one in inner if not one.startswith("."))
        base = Path(here)
        for name in sorted(files):
            if name.endswith(".dvc") and name != ".dvc":
                yield from _dvc_file(base / name, folder)
            elif name == "dvc.lock":
                yield from _lock_file(base / name, folder)


def _dvc_file(file: Path, folder: Path) -> Iterator[Out]:
    content = _yaml(file)
    base = file.parent / str(content.get("wdir") or ".")
    deps = tuple(_inside(base, one, folder) for one in _listed(content, "deps", file) if "path" in one)
    for one in _listed(content, "outs", file):
        yield _out(one, base, folder, str(file.relative_to(folder)), deps, str(content.get("cmd") or ""))


def _lock_file(file: Path, folder: Path) -> Iterator[Out]:
    content = _yaml(file)
    stages = (
        content.get("stages", {}) if "schema" in content else content
    )  # 1.0 had no schema, and stages on top
    if not isinstance(stages, dict):
        raise Invalid(f"{file} has no stages", "is it a dvc.lock?")
    for name, stage in stages.items():
        if not isinstance(stage, dict):
            raise Invalid(f"the stage {name} in {file} is no stage", "is it a dvc.lock?")
        deps = tuple(_inside(file.parent, one, folder) for one in _listed(stage, "deps", file))
        command = stage.get("cmd") or ""
        said = " && ".join(map(str, command)) if isinstance(command, list) else str(command)
        for one in _listed(stage, "outs", file):
            yield _out(one, file.parent, folder, f"{file.relative_to(folder)}:{name}", deps, said)


def _out(
    one: dict[str, Any], base: Path, folder: Path, said_in: str, deps: tuple[str, ...], command: str
) -> Out:
    md5 = str(one.get("md5") or one.get("checksum") or "")
    return Out(_inside(base, one, folder), md5, said_in, one.get("hash") != "md5", deps, command)


def _inside(base: Path, one: dict[str, Any], folder: Path) -> str:
    path = str(one.get("path", ""))
    if "://" in path:
        return path
    return Path(os.path.relpath(base / path, folder)).as_posix()


def _listed(content: dict[str, Any], name: str, file: Path) -> list[dict[str, Any]]:
    found = content.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Invalid(f"{name} in {file} is no list", "is it a file of DVC?")
    return found


def _load(text: str) -> Any:
    loader: Any = getattr(
        yaml, "CSafeLoader", yaml.SafeLoader
    )  # libyaml's, where it is there: 10 times as fast
    load: Any = yaml.load
    return load(text, Loader=loader)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = _load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} is not YAML: {error}", "is it a file of DVC?") from error
    if not isinstance(content, dict):
        raise Invalid(f"{file} is no file of DVC", "it should begin with outs:")
    return content


class _Store:
    """Where the bytes of an MD5 lie: the cache, a remote that is a folder, or the workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.caches = [one for one in _caches(folder) if one.is_dir()]

    def find(self, out: Out) -> sources.Found:
        """The files of an output, each checked against its MD5."""
        if not _MD5.match(out.md5):
            raise NotFound(
                f"{out.said_in} has no MD5 of {out.path}", "run dvc commit, or flyball data add it yourself"
            )
        if not out.md5.endswith(".dir"):
            return sources.Found(self.folder, [self._file(out, out.md5, "", Path(out.path).name)])
        listing = self._listing(out)
        files = [self._file(out, md5, inside, inside) for inside, md5 in listing]
        return sources.Found(self.folder / out.path, sorted(files, key=lambda one: one.inside))

    def _listing(self, out: Out) -> list[tuple[str, str]]:
        place = self._cached(out.md5)
        if place is None:
            raise self._missing(out, out.md5)
        content = place.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir" != out.md5:
            raise Invalid(f"{place} has changed: it does not give {out.md5}", "dvc fetch brings it back")
        try:
            rows = msgspec.json.decode(content)
            return [(str(one["relpath"]), str(one["md5"])) for one in rows]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise Invalid(f"{place} is no list of files", "dvc fetch brings it back") from error

    def _file(self, out: Out, md5: str, below: str, inside: str) -> sources.Source:
        wrong = None
        for place in (self._cached(md5), self.folder / out.path / below if below else self.folder / out.path):
            if place is None or not place.is_file():
                continue
            if md5 in _md5s(place, legacy=out.legacy):
                return sources.Source(inside, str(place), place.stat())
            wrong = place
        if wrong is not None:
            raise Invalid(
                f"{wrong} does not have the MD5 {md5} that {out.said_in} says", "dvc fetch brings it back"
            )
        raise self._missing(out, md5)

    def _cached(self, md5: str) -> Path | None:
        for cache in self.caches:
            for place in (cache / "files" / "md5" / md5[:2] / md5[2:], cache / md5[:2] / md5[2:]):
                if place.is_file():
                    return place
        return None

    def _missing(self, out: Out, md5: str) -> NotFound:
        looked = ", ".join(map(str, self.caches)) or "no cache"
        return NotFound(
            f"{md5} of {out.path} is in no cache", f"dvc fetch first; looked in {looked}", md5=md5
        )


def _caches(folder: Path) -> Iterator[Path]:
    for above in (folder, *folder.parents):
        place = above / ".dvc"
        if not place.is_dir():
            continue
        yield place / "cache"
        for name in ("config", "config.local"):
            parser = configparser.ConfigParser(interpolation=None)
            try:
                parser.read(place / name)
            except configparser.Error as error:
                raise Invalid(f"{place / name} can't be read: {error}", "mend DVC's configuration") from error
            for section in parser.sections():
                url = parser[section].get("dir" if section == "cache" else "url", "")
                if url and "://" not in url:
                    yield place / url
        return


def _md5s(place: Path, *, legacy: bool) -> set[str]:
    """The MD5 of a file, and before DVC 3 that of its text with Unix line ends."""
    plain, unix = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
    text = False
    with place.open("rb") as file:
        first = True
        held = b""
        while piece := file.read(1 << 20):
            if first:
                text, first = legacy and _is_text(piece[:_TEXT_SAMPLE]), False
            plain.update(piece)
            if text:
                piece, held = held + piece, b""
                if piece.endswith(b"\r"):
                    piece, held = piece[:-1], b"\r"
                unix.update(piece.replace(b"\r\n", b"\n"))
        unix.update(held)
    return {plain.hexdigest(), *([unix.hexdigest()] if text else [])}


def _is_text(sample: bytes) -> bool:
    """DVC's own rule: no zero byte, and at most 30 % that a text rarely holds."""
    if not sample:
        return True
    if b"\0" in sample:
        return False
    usual = bytes(range(32, 127)) + b"\n\r\t\f\b"
    return len(sample.translate(None, usual)) / len(sample) <= 0.30


def _names(paths: list[str]) -> dict[str, str]:
    """A snapshot's name for each path: its last part where that is the only one of its kind, else all of it."""
    short = {path: _clean(Path(path).stem if Path(path).suffix else Path(path).name) for path in paths}
    counts = {name: list(short.values()).count(name) for name in short.values()}
    return {
        path: name if counts[name] == 1 else _clean(path.replace("/", ".")) for path, name in short.items()
    }


def _clean(name: str) -> str:
    return re.sub(r"[@:/\\\s]+", "-", name).strip("-.") or "data"


def _path_of(path: Path, root: Path | None) -> str:
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else str(path)
