"""The project's code as it ran: git commit, the uncommitted patch, untracked and foreign sources; without git, all.

What a bound keeps out is named in ``left_out``: nothing is lost silently.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from flyball.core.hashing import digest_bytes, digest_file, digest_of
from flyball.core.records import Checkout, Code, FileEntry
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import environment, git, imported

SOURCES = frozenset(
    {
        ".py", ".pyi", ".pyx", ".toml", ".sql", ".yaml", ".yml", ".json", ".cfg", ".ini", ".sh", ".ipynb", ".lock",
        ".jinja", ".j2", ".c", ".h", ".cpp", ".r", ".txt",
    }
)  # fmt: skip
ALL_SOURCES = frozenset(
    {".py", ".toml", ".ipynb", ".sql", ".yaml", ".yml"}
)  # kept when there is no git to ask
MOST_BYTES_PER_FILE = 1024 * 1024
MOST_BYTES = 8 * 1024 * 1024
MOST_FILES = 2000
MOST_NESTED = 16
MOST_LEFT_OUT = 100
HASHED_BYTES = 64 * 1024 * 1024  # 20 ms
WALK_S = 2.0
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "venv", "build", "dist"}
_NOT_OURS = ("--", ".", ":(exclude).flyball")


def capture(root: Path, blobs: Blobs, ledger: Ledger) -> Code:
    """Keep the code of the project at ``root``; the same code again is the same record."""
    code = look(root, blobs)
    if ledger.find("code", code.digest, Code) is None:
        with ledger.transaction() as tx:
            tx.append("code.captured", code.digest, actor="flyball", sets=[("code", code.digest, code)])
    return code


def look(root: Path, blobs: Blobs, *, script: bool = True) -> Code:
    """The same, without writing the record."""
    root = root.resolve()
    loaded = imported.look(root, script=script)
    keeper = _Keeper(root, blobs)
    code = _from_git(root, loaded, keeper) or _from_sources(root, loaded, keeper)
    return _sealed(_with_foreign(code, loaded, keeper), keeper)


def with_late(code: Code, root: Path, blobs: Blobs, *, script: bool = True) -> Code:
    """The code of a run that ends now: with what was imported since it began. Asks git only about new files."""
    root = root.resolve()
    loaded = imported.look(root, script=script)
    known = {one.path for one in (*code.sources, *code.outside)}
    inside = [name for name in loaded.inside if name not in known]
    keeper = _Keeper(root, blobs)
    if code.commit is not None and inside:
        inside = _untracked(root, inside)
    late = msgspec.structs.replace(code, sources=_merged(code.sources, keeper.keep(inside)))
    return _sealed(_with_foreign(late, loaded, keeper), keeper)


def _with_foreign(code: Code, loaded: imported.Imported, keeper: _Keeper) -> Code:
    """With what lies outside the project: imported files, editable packages' commits, a notebook's cells."""
    known = {one.path for one in code.outside}
    new = {name: file for name, file in loaded.outside.items() if name not in known}
    outside = _merged(code.outside, keeper.keep(new, new))
    sources = code.sources
    cells = imported.session_cells()
    if cells is not None:
        sources = _merged(sources, (keeper.keep_text(imported.SESSION, cells),))
    editable = {
        name: Checkout(
            path=imported.from_root(folder, keeper.root),
            commit=git.head_of(folder),
            imports=environment.import_folders(name, folder),
        )
        for name, folder in environment.editable_folders().items()
        if _foreign(folder, keeper.root)
    }
    return msgspec.structs.replace(code, sources=sources, outside=outside, editable=editable)


def _foreign(folder: Path, root: Path) -> bool:
    """Whether a package's folder is not the project's own; in a rebuilt project those lie in ``.flyball``."""
    if folder.is_relative_to(root / ".flyball"):
        return True
    return not folder.is_relative_to(root) and not root.is_relative_to(folder)


def _sealed(code: Code, keeper: _Keeper) -> Code:
    """With its digest: of content, whatever folder it lies in."""
    left_out = tuple(dict.fromkeys([*code.left_out, *keeper.left_out]))
    if len(left_out) > MOST_LEFT_OUT:
        left_out = (*left_out[:MOST_LEFT_OUT], f"and {len(left_out) - MOST_LEFT_OUT} more")
    more = {
        "outside": code.outside,
        "nested": [(one.path, one.commit, one.patch) for one in code.nested],
        "editable": {name: one.commit for name, one in code.editable.items()},
        "left out": left_out,
    }
    content = [code.commit, code.patch, code.sources, {name: one for name, one in more.items() if one}]
    return msgspec.structs.replace(code, digest=digest_of(content), left_out=left_out)


def _from_git(root: Path, loaded: imported.Imported, keeper: _Keeper) -> Code | None:
    """A few questions to git at once; ``None`` when git does not know this folder, or has no commit yet."""
    answers = git.ask(
        root,
        ("rev-parse", "--show-prefix", "HEAD", "--abbrev-ref", "HEAD"),
        (*git.DIFF, "HEAD", *_NOT_OURS),
        ("ls-files", "--others", "--exclude-standard", "--exclude=.flyball", "-z"),
        ("check-ignore", "-q", "."),  # a project in an ignored folder is not that repository's
        ("--literal-pathspecs", "ls-files", "-z", "--", *(loaded.inside[:MOST_FILES] or ("flyball.toml",))),
    )
    if answers is None:
        return None
    head, patch, untracked, ignored, tracked = answers
    if head.status or ignored.status == 0 or not head.whole:
        if "dubious ownership" in head.error:
            keeper.left_out.append("git's commit: it refuses this folder, whose owner is another user")
        return None
    place, commit, branch, *_ = [*head.out.decode().split("\n"), "", ""]
    kept_patch = _patch(root, patch, keeper)
    if not untracked.ok:
        keeper.left_out.append("untracked sources: git did not list them in time")
    others = {name for name in untracked.names if Path(name).suffix.lower() in SOURCES}
    if tracked.ok:  # what is ignored, or lies in a repository inside this one, but was imported
        others |= set(loaded.inside) - set(tracked.names)
    return Code(
        digest="",
        commit=commit,
        branch=None if branch in ("", "HEAD") else branch,
        patch=kept_patch,
        sources=keeper.keep(others),
        place=place.rstrip("/"),
        nested=_submodules(root, place, keeper),
    )


def _untracked(root: Path, names: list[str]) -> list[str]:
    answers = git.ask(root, ("--literal-pathspecs", "ls-files", "-z", "--", *names[:MOST_FILES]))
    if answers is None or not answers[0].ok:
        return names
    tracked = set(answers[0].names)
    return [name for name in names if name not in tracked]


def _patch(root: Path, answer: git.Answer, keeper: _Keeper) -> str | None:
    """The patch as a blob; where it is too large or too slow, that of the files that are not."""
    if answer.ok:
        return keeper.blobs.put(answer.out) if answer.out else None
    changed = git.ask(root, ("diff", "--name-only", "--no-renames", "-z", "--relative", "HEAD", *_NOT_OURS))
    if changed is None or not changed[0].ok:
        keeper.left_out.append(f"the uncommitted patch: git did not give it within {git.DEADLINE_S:.0f} s")
        return None
    small = []
    for name in changed[0].names:
        size_bytes = _size_of(root / name)
        if size_bytes > MOST_BYTES_PER_FILE:
            keeper.left_out.append(f"{name}: changed, {_said(size_bytes)}{_told_apart(root / name)}")
        else:
            small.append(name)
    again = git.ask(root, ("--literal-pathspecs", *git.DIFF, "HEAD", "--", *small)) if small else None
    if again is None or not again[0].ok:
        if small:
            keeper.left_out.append(
                f"the uncommitted patch of {len(small)} files: above {_said(git.MOST_BYTES)}"
            )
        return None
    return keeper.blobs.put(again[0].out) if again[0].out else None


def _submodules(root: Path, place: str, keeper: _Keeper) -> tuple[Checkout, ...]:
    """Submodules that are checked out, with what is not committed in each; asked only where there are some."""
    top = root.parents[place.rstrip("/").count("/")] if place else root
    found: list[Checkout] = []
    waiting = [top]
    while waiting:
        for folder in _submodule_folders(waiting.pop(0)):
            commit = git.head_of(folder) if (folder / ".git").exists() else None
            if commit is None:
                continue
            path = imported.from_root(folder, root)
            if len(found) == MOST_NESTED:
                keeper.left_out.append(f"{path}: the {MOST_NESTED + 1}th submodule")
                return tuple(found)
            answers = git.ask(folder, (*git.DIFF, "HEAD"))
            patch = _patch(folder, answers[0], keeper) if answers else None
            found.append(Checkout(path=path, commit=commit, patch=patch))
            waiting.append(folder)
    return tuple(found)


def _submodule_folders(top: Path) -> list[Path]:
    try:
        lines = (top / ".gitmodules").read_text(errors="replace").splitlines()
    except OSError:
        return []
    said = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "path"]
    return [top / one for one in said if one and ".." not in Path(one).parts and not Path(one).is_absolute()]


def _from_sources(root: Path, loaded: imported.Imported, keeper: _Keeper) -> Code:
    found: dict[str, None] = {}
    until = time.monotonic() + WALK_S
    for folder, inner, names in os.walk(root):
        if folder != str(root) and ("flyball.toml" in names or ".flyball" in inner):
            inner[:] = []
            continue  # another project
        inner[:] = sorted(name for name in inner if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix in ALL_SOURCES:
                found[Path(folder, name).relative_to(root).as_posix()] = None
        if len(found) >= MOST_FILES or time.monotonic() > until:
            keeper.left_out.append(
                f"sources that were not imported: more than {len(found)} lie in {root.name}"
            )
            break
    imports = [name for name in loaded.inside if name not in found]
    return Code(digest="", commit=None, branch=None, patch=None, sources=keeper.keep([*imports, *found]))


class _Keeper:
    """Puts files into the blobs within a budget; what does not fit is named."""

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self.root = root
        self.blobs = blobs
        self.left_out: list[str] = []
        self._budget_bytes = MOST_BYTES
        self._budget_files = MOST_FILES

    def keep(self, names: Iterable[str], where: Mapping[str, str] | None = None) -> tuple[FileEntry, ...]:
        """Files by their path from the project's folder, in order of path; ``where`` says if they lie elsewhere."""
        kept: list[FileEntry] = []
        for name in sorted(names):
            file = self.root / name if where is None else Path(where[name])
            size_bytes = _size_of(file)
            if size_bytes < 0:
                continue  # gone, or no file
            if size_bytes > min(MOST_BYTES_PER_FILE, self._budget_bytes) or not self._budget_files:
                self.left_out.append(f"{name}: {_said(size_bytes)}{_told_apart(file)}")
                continue
            try:
                data = file.read_bytes()
            except OSError as error:
                self.left_out.append(f"{name}: {error.strerror}")
                continue
            self._budget_bytes -= len(data)
            self._budget_files -= 1
            kept.append(FileEntry(name, _put(file, data, self.blobs), len(data)))
        return tuple(kept)

    def keep_text(self, name: str, text: str) -> FileEntry:
        """A source that is no file."""
        data = text.encode(errors="surrogateescape")
        return FileEntry(name, self.blobs.put(data), len(data))


_put_before: WeakKeyDictionary[Blobs, dict[str, float]] = WeakKeyDictionary()
_SEEN_FOR_S = 1800.0  # well below the age at which a collection takes what nothing came to name


def _put(file: Path, data: bytes, blobs: Blobs) -> str:
    """Store it, unless this process did just now: a look into the store costs more than the hash."""
    digest = digest_bytes(data)
    seen = _put_before.setdefault(blobs, {})
    if time.monotonic() - seen.get(digest, float("-inf")) > _SEEN_FOR_S:
        blobs.put(data)
        seen[digest] = time.monotonic()
    return digest


def _merged(before: tuple[FileEntry, ...], more: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
    """By path; the newer one of two wins."""
    return tuple(sorted({one.path: one for one in (*before, *more)}.values(), key=lambda one: one.path))


def _size_of(file: Path) -> int:
    """-1 for what is no file."""
    try:
        status = file.stat()
    except OSError:
        return -1
    return status.st_size if file.is_file() else -1


def _told_apart(file: Path) -> str:
    """The beginning of a digest: what is left out still tells two runs apart."""
    try:
        return f", {digest_file(file)[:15]}" if file.stat().st_size <= HASHED_BYTES else ""
    except OSError:
        return ""


def _said(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes} bytes"
