"""The files of the commits that runs were made from, kept as packs beside them.

A commit that was amended or rebased away, or that another machine never had, is gone from the repository before anyone
asks for the run again. So its tree is packed once, in the background; the next commit costs only what changed.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from weakref import WeakKeyDictionary

from flyball.core.records import Code, KeptCommit
from flyball.errors import NotFound
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import git

log = logging.getLogger(__name__)
MOST_PACK_BYTES = 64 * 1024 * 1024
MOST_LIST_BYTES = 32 * 1024 * 1024  # of the names of a tree's objects
DEADLINE_S = 20.0
MOST_DEPTH = 30
_LOOK_BACK = 50

_begun: WeakKeyDictionary[Ledger, set[str]] = WeakKeyDictionary()
_threads: list[threading.Thread] = []


def keep_in_background(root: Path, code: Code, blobs: Blobs, ledger: Ledger) -> None:
    """Keep the commits of a code record that are not kept yet; costs the caller one look."""
    begun = _begun.setdefault(ledger, set())
    wanted = []
    checkouts = [*code.nested, *(one for name, one in code.editable.items() if name != "flyball")]
    for commit, folder in [(code.commit, root), *((one.commit, root / one.path) for one in checkouts)]:
        if commit is not None and commit not in begun:
            begun.add(commit)
            if ledger.find("commit", commit, KeptCommit) is None:
                wanted.append((folder, commit))
    if not wanted:
        return

    def work() -> None:
        for folder, commit in wanted:
            try:
                keep(folder, commit, blobs, ledger)
            except Exception:  # the edge of a thread; a run does not fail for a second copy of its code
                log.warning("commit not kept", extra={"commit": commit}, exc_info=True)

    thread = threading.Thread(target=work, name="flyball-keep-commit")
    thread.start()
    _threads[:] = [one for one in (*_threads, thread) if one.is_alive()]


def wait(timeout_s: float = DEADLINE_S) -> None:
    """Return when what was begun is kept."""
    for thread in list(_threads):
        thread.join(timeout_s)


def keep(folder: Path, commit: str, blobs: Blobs, ledger: Ledger) -> KeptCommit:
    """Pack the tree of a commit (without its history) into the blobs; what is too large is said in ``left_out``."""
    base = _base(folder, commit, ledger)
    kept = _packed(folder, commit, base, blobs)
    with ledger.transaction() as tx:
        known = tx.find("commit", commit, KeptCommit)
        if known is not None:
            return known
        tx.append("commit.kept", commit, actor="flyball", sets=[("commit", commit, kept)])
    return kept


def _base(folder: Path, commit: str, ledger: Ledger) -> KeptCommit | None:
    """The nearest commit before this one that is kept."""
    answers = git.ask(folder, ("rev-list", f"--max-count={_LOOK_BACK}", commit))
    for ancestor in answers[0].out.decode().split()[1:] if answers else ():
        kept = ledger.find("commit", ancestor, KeptCommit)
        if kept is not None and kept.pack is not None and kept.depth < MOST_DEPTH:
            return kept
    return None


def _packed(folder: Path, commit: str, base: KeptCommit | None, blobs: Blobs) -> KeptCommit:
    def without(why: str) -> KeptCommit:
        return KeptCommit(commit=commit, pack=None, left_out=why)

    objects = _objects(folder, commit)
    if objects is None:
        return without(f"git did not list its files within {DEADLINE_S:.0f} s")
    if base is not None:
        objects -= _objects(folder, base.commit) or set()
    given = "\n".join(sorted(objects)).encode() + b"\n"
    status, sizes, said = git.run(
        folder, "cat-file", "--batch-check=%(objectsize:disk)", given=given, timeout_s=DEADLINE_S
    )
    if status:
        return without(f"git: {said}")
    if b"missing" in sizes:
        return without("some of its objects are not on this machine")
    size_bytes = sum(int(word) for word in sizes.split())
    if size_bytes > MOST_PACK_BYTES:
        return without(f"its files have {size_bytes / 2**20:.0f} MiB, more than {MOST_PACK_BYTES // 2**20}")
    status, pack, said = git.run(
        folder, "pack-objects", "--stdout", "-q", "--threads=1", given=given, timeout_s=DEADLINE_S
    )
    if status:
        return without(f"git: {said}")
    return KeptCommit(
        commit=commit,
        pack=blobs.put(pack),
        base=base.commit if base else None,
        depth=base.depth + 1 if base else 0,
        size_bytes=len(pack),
    )


def _objects(folder: Path, commit: str) -> set[str] | None:
    """The commit itself, its trees and its files."""
    answers = git.ask(
        folder,
        ("rev-list", "--objects", "--no-object-names", "--no-walk", commit),
        most_bytes=MOST_LIST_BYTES,
        deadline_s=DEADLINE_S,
    )
    return set(answers[0].out.decode().split()) if answers and answers[0].ok else None


def packs(commit: str, ledger: Ledger) -> list[KeptCommit]:
    """The packs that hold a commit, in the order to unpack them; :class:`NotFound` says why there are none."""
    found: list[KeptCommit] = []
    wanted: str | None = commit
    while wanted is not None:
        kept = ledger.find("commit", wanted, KeptCommit)
        if kept is None or kept.pack is None:
            why = (
                kept.left_out
                if kept
                else "it was captured before commits were kept, or its process was killed"
            )
            raise NotFound(
                f"the commit {commit} is not in the repository any more, and was not kept: {why}",
                "fetch it from a clone that has it (git fetch PATH-OR-URL COMMIT), then try again",
                commit=commit,
            )
        found.append(kept)
        wanted = kept.base
    return found[::-1]
