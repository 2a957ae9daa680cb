"""Write the code of a run into a fresh folder: the commit, its patch, and every source that lay beside it.

The folder looks like the original did from the project's point of view: sources that were imported from near it
(``../shared``) lie as near; those from far away lie in ``.flyball/outside``, and ``.flyball/moved.json`` says what they
were called, so that the same code captured here has the same digest.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import msgspec

from flyball.core.records import Checkout, Code, FileEntry
from flyball.errors import FlyballError, NotFound, Refused, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import commits, git, imported

OUTSIDE = ".flyball/outside"
PACKAGES = ".flyball/packages"
# The user's hooks are not run; a file that git-lfs would fetch stays its pointer rather than failing without network.
_QUIET = (
    "-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", "filter.lfs.smudge=cat",
    "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false", "-c", "gc.auto=0",
)  # fmt: skip


class Restored(msgspec.Struct, frozen=True):
    """Where the project lies now, the folders that Python must import from besides, and what to know about it."""

    root: Path
    imports: tuple[Path, ...]
    packages: dict[str, Path]  # editable package -> its folder
    notes: tuple[str, ...]


def root_in(code: Code, into: Path) -> Path:
    """The project's folder below ``into``: deeper where it imported from above itself."""
    return _top_in(code, into) / code.place


def _top_in(code: Code, into: Path) -> Path:
    near = [PurePosixPath(one.path) for one in code.outside if not one.path.startswith("/")]
    near += [PurePosixPath(one.path) for one in code.nested]
    ups = max((path.parts.count("..") for path in near), default=0)
    levels = max(0, ups - len(PurePosixPath(code.place).parts))
    return into.joinpath(*["project"] * levels)


def restore(code: Code, into: Path, origin: Path, blobs: Blobs, ledger: Ledger) -> Restored:
    """Write the code below ``into``, an empty folder. ``origin`` is the project it may be fetched from."""
    top = _top_in(code, into)
    root = top / code.place
    root.mkdir(parents=True, exist_ok=True)
    notes = [f"can't be exact: left out when it was captured: {one}" for one in code.left_out]
    if code.commit is not None:
        _checkout(code.commit, code.patch, top, origin, blobs, ledger)
    for one in code.nested:
        if one.commit is not None:
            _checkout(one.commit, one.patch, root / one.path, origin / one.path, blobs, ledger)
    _write(code.sources, root, root, blobs)
    near = [one for one in code.outside if not one.path.startswith("/")]
    far = [msgspec.structs.replace(one, path=one.path.lstrip("/")) for one in code.outside if one not in near]
    moved = {OUTSIDE: "/"}
    _write(near, root, into, blobs)
    _write(far, root / OUTSIDE, root, blobs)
    packages: dict[str, Path] = {}
    for name, one in code.editable.items():
        if name != "flyball":
            packages[name] = _package(name, one, root, origin, blobs, ledger, notes)
            moved[f"{PACKAGES}/{name}"] = one.path
            _write(_below(code.outside, one.path), packages[name], root, blobs)
    (root / ".flyball").mkdir(exist_ok=True)
    (root / imported.MOVED).write_bytes(msgspec.json.encode(moved))
    return Restored(root, tuple(_import_folders(code, root)), packages, tuple(notes))


def _checkout(commit: str, patch: str | None, top: Path, origin: Path, blobs: Blobs, ledger: Ledger) -> None:
    """One commit without its history, and what was not committed; from the repository, else from what was kept."""
    if shutil.which("git") is None:
        raise Unavailable("git is not installed, and the run's code is a commit", "install git")
    top.mkdir(parents=True, exist_ok=True)
    _git(top, "init", "-q")
    (top / ".git/info").mkdir(exist_ok=True)
    (top / ".git/info/exclude").write_text(".flyball/\n")
    if origin.is_dir() and git.run(origin, "cat-file", "-e", f"{commit}^{{commit}}")[0] == 0:
        serve = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
        there = git.run(origin, "rev-parse", "--show-toplevel")[1].decode().strip() or str(origin)
        _git(top, "fetch", "-q", "--depth=1", "--no-tags", f"--upload-pack={serve}", there, commit)
    else:
        for kept in commits.packs(commit, ledger):
            _git(top, "index-pack", "--stdin", given=blobs.get(str(kept.pack)))
        (top / ".git/shallow").write_text(f"{commit}\n")
    _git(top, "checkout", "-q", "--detach", "--force", commit)
    if patch is not None:
        _apply(top, blobs.get(patch))


def _apply(top: Path, patch: bytes) -> None:
    status, _, said = git.run(
        top, *_QUIET, "apply", "--index", "--binary", "--whitespace=nowarn", "-", given=patch
    )
    if status:
        raise Refused(
            f"the uncommitted patch of the run does not apply to its commit: {said.splitlines()[0] if said else ''}",
            "it was cut off when it was captured, or its bytes have changed; the run can't be rebuilt",
            folder=str(top),
        )


def _git(folder: Path, *words: str, given: bytes | None = None) -> None:
    status, _, said = git.run(folder, *_QUIET, *words, given=given)
    if status:
        raise Unavailable(f"git {words[0]} failed: {said or status}", "try it by hand", folder=str(folder))


def _package(
    name: str, one: Checkout, root: Path, origin: Path, blobs: Blobs, ledger: Ledger, notes: list[str]
) -> Path:
    """An editable package: at its commit; where that is not known, its folder as it is now."""
    target, now = root / PACKAGES / name, origin / one.path
    target.mkdir(parents=True, exist_ok=True)
    if one.commit is not None:
        try:
            _checkout(one.commit, one.patch, target, now, blobs, ledger)
        except (FlyballError, OSError) as error:
            what = error.what if isinstance(error, FlyballError) else str(error)
            notes.append(f"{name}: only what the run imported of it, not the rest of its folder: {what}")
    elif now.is_dir():
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".venv", "node_modules")
        shutil.copytree(now, target, dirs_exist_ok=True, ignore=ignored, symlinks=True)
        notes.append(f"{name}: its folder is in no git; what the run did not import is as it is now")
    return target


def _below(outside: tuple[FileEntry, ...], folder: str) -> list[FileEntry]:
    prefix = folder.rstrip("/") + "/"
    return [
        msgspec.structs.replace(one, path=one.path.removeprefix(prefix))
        for one in outside
        if one.path.startswith(prefix)
    ]


def _write(
    entries: list[FileEntry] | tuple[FileEntry, ...], folder: Path, within: Path, blobs: Blobs
) -> None:
    """Each file's bytes, checked against its digest; a path that leads out of ``within`` is refused."""
    bound = within.resolve()
    for one in entries:
        target = folder / one.path
        if not target.parent.resolve().is_relative_to(bound) or target.name in ("", ".."):
            raise Refused(
                f"the path {one.path!r} leads out of the folder", "its record was not made by Flyball"
            )
        try:
            data = blobs.get(one.digest)
        except NotFound as error:
            raise NotFound(
                f"the source {one.path} of this run is gone: {error.what}",
                "flyball restore BACKUP brings it back",
                digest=one.digest,
            ) from error
        target = target.parent.resolve() / target.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():
            target.unlink()
        target.write_bytes(data)


def _import_folders(code: Code, root: Path) -> list[Path]:
    """Folders from which the sources outside the project are imported: those above each outermost package."""
    paths = {one.path for one in code.outside}
    editable = [one.path.rstrip("/") + "/" for one in code.editable.values()]
    found: dict[Path, None] = {}
    for path in sorted(paths):
        if path.startswith(tuple(editable)):
            continue
        folder = PurePosixPath(path).parent
        while f"{folder}/__init__.py" in paths:
            folder = folder.parent
        found[(root / OUTSIDE / str(folder).lstrip("/")) if folder.is_absolute() else (root / folder)] = None
    return list(found)
