"""The project's code as it ran: git commit, the uncommitted patch, untracked sources; without git, the sources."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from flyball.core.hashing import digest_bytes, digest_of
from flyball.core.records import Code, FileEntry
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

SOURCES = frozenset(
    {".py", ".pyi", ".toml", ".sql", ".yaml", ".yml", ".cfg", ".ini", ".sh", ".ipynb", ".lock"}
)
ALL_SOURCES = frozenset({".py", ".toml"})  # kept when there is no git to ask
MOST_BYTES_PER_FILE = 1024 * 1024
MOST_BYTES_OF_PATCH = 8 * 1024 * 1024
MOST_FILES = 2000
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "venv", "build", "dist"}


def capture(root: Path, blobs: Blobs, ledger: Ledger) -> Code:
    """Keep the code of the project at ``root``; the same code again is the same record.

    The patch and the untracked sources are bounded (8 MiB; 1 MiB a file): what is left out still changes the digest.
    """
    code = look(root, blobs)
    if ledger.find("code", code.digest, Code) is None:
        with ledger.transaction() as tx:
            tx.append("code.captured", code.digest, actor="flyball", sets=[("code", code.digest, code)])
    return code


def look(root: Path, blobs: Blobs) -> Code:
    """The same, without writing the record."""
    return _from_git(root, blobs) or _from_sources(root, blobs)


def _from_git(root: Path, blobs: Blobs) -> Code | None:
    """Three questions to git at once (each starts a process); ``None`` when git does not know this folder."""
    asked = [
        ("rev-parse", "HEAD", "--abbrev-ref", "HEAD"),
        ("diff", "HEAD", "--no-color", "--no-ext-diff", "--", ".", ":(exclude).flyball"),
        ("ls-files", "--others", "--exclude-standard", "-z"),
        ("check-ignore", "-q", "."),  # a project in an ignored folder is not that repository's
    ]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        started = [
            subprocess.Popen(
                ("git", "-C", str(root), *words),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            for words in asked
        ]
    except OSError:
        return None
    answers = [(process.communicate()[0], process.returncode) for process in started]
    (head, head_rc), (patch, patch_rc), (untracked, untracked_rc), (_, ignored_rc) = answers
    if head_rc or patch_rc or untracked_rc or ignored_rc == 0:
        return None
    commit, branch = (*head.decode().split("\n"), "")[:2]
    kept = patch[:MOST_BYTES_OF_PATCH]
    others = sorted(os.fsdecode(name) for name in untracked.split(b"\0") if name)
    sources = _keep([root / name for name in others if Path(name).suffix in SOURCES], root, blobs)
    return Code(
        digest=digest_of([commit, digest_bytes(patch), sources]),
        commit=commit,
        branch=branch or None,
        patch=blobs.put(kept) if patch else None,
        sources=sources,
    )


def _from_sources(root: Path, blobs: Blobs) -> Code:
    found: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in _SKIPPED and not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if Path(name).suffix in ALL_SOURCES]
        if len(found) >= MOST_FILES:
            break
    sources = _keep(found[:MOST_FILES], root, blobs)
    return Code(
        digest=digest_of([None, None, sources]), commit=None, branch=None, patch=None, sources=sources
    )


def _keep(files: list[Path], root: Path, blobs: Blobs) -> tuple[FileEntry, ...]:
    kept: list[FileEntry] = []
    budget_bytes = MOST_BYTES_OF_PATCH
    for file in sorted(files):
        try:
            data = file.read_bytes() if file.stat().st_size <= MOST_BYTES_PER_FILE else b""
        except OSError:
            continue  # gone, or not ours to read
        if not data or len(data) > budget_bytes:
            continue
        budget_bytes -= len(data)
        kept.append(FileEntry(file.relative_to(root).as_posix(), blobs.put(data), len(data)))
    return tuple(kept)
