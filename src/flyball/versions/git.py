"""Questions to git, asked at once, with a bound on time and bytes; and what its files say without starting it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import msgspec

DEADLINE_S = 5.0
MOST_BYTES = 8 * 1024 * 1024
# A hook's variables would make git answer for another repository; a lock would disturb the user's own git.
_FOREIGN = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
)
# As `git apply` needs it, whatever the user's configuration makes of a diff for people.
DIFF = (
    "diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "-U3",
    "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=dirty",
)  # fmt: skip


class Answer(msgspec.Struct, frozen=True):
    """What one question gave. ``whole`` is false where a bound cut it off."""

    out: bytes
    error: str
    status: int
    whole: bool

    @property
    def ok(self) -> bool:
        return self.status == 0 and self.whole

    @property
    def names(self) -> list[str]:
        """The answer as names ended by NUL."""
        return [os.fsdecode(name) for name in self.out.split(b"\0") if name]


def ask(
    folder: Path,
    *questions: Sequence[str],
    most_bytes: int = MOST_BYTES,
    deadline_s: float = DEADLINE_S,
) -> list[Answer] | None:
    """Each question's answer, all asked at the same time (each starts a process); ``None`` when there is no git."""
    with ExitStack() as stack:
        try:
            # Not a pipe: one that nobody reads yet would stop a git that warns about every file.
            said = [stack.enter_context(tempfile.TemporaryFile()) for _ in questions]
            started = [_started(folder, words, error) for words, error in zip(questions, said, strict=True)]
        except OSError:
            return None
        late = threading.Event()

        def end_them() -> None:
            late.set()
            for process in started:
                process.kill()

        timer = threading.Timer(deadline_s, end_them)
        timer.daemon = True
        timer.start()
        try:
            return [_answer(*each, most_bytes, late) for each in zip(started, said, strict=True)]
        finally:
            timer.cancel()


def _started(folder: Path, words: Sequence[str], error: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ("git", "-C", str(folder), *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=error,
        env=environment(),
    )


def _answer(
    process: subprocess.Popen[bytes], said: IO[bytes], most_bytes: int, late: threading.Event
) -> Answer:
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read(most_bytes + 1)
        too_much = len(out) > most_bytes
        if too_much:
            process.kill()
        status = process.wait()
        said.seek(0)
        error = said.read(4096).decode(errors="replace")
    return Answer(out[:most_bytes], error, status, not too_much and not late.is_set())


def environment() -> dict[str, str]:
    """The environment for git: its own language, no locks, no prompt, no other repository."""
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**inherited, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def run(
    folder: Path, *words: str, given: bytes | None = None, timeout_s: float = 600.0
) -> tuple[int, bytes, str]:
    """One command, to its end: status, output, what it said."""
    try:
        done = subprocess.run(
            ("git", "-C", str(folder), *words),
            input=given if given is not None else b"",
            capture_output=True,
            env=environment(),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, b"", f"git {words[0]} did not end within {timeout_s:.0f} s"
    except OSError as error:
        return 127, b"", f"git can't be started: {error.strerror}"
    return done.returncode, done.stdout, done.stderr.decode(errors="replace").strip()


def head_of(folder: Path) -> str | None:
    """The commit that is checked out around a folder, read from git's files in 0.1 ms; ``None`` when unknown."""
    for place in (folder, *folder.parents):
        dot_git = place / ".git"
        if dot_git.exists():
            return _head(_directory(dot_git))
    return None


def _directory(dot_git: Path) -> Path:
    """A worktree's or a submodule's ``.git`` is a file that says where the directory is."""
    if dot_git.is_dir():
        return dot_git
    try:
        said = dot_git.read_text().partition("gitdir:")[2].strip()
    except OSError:
        return dot_git
    return (dot_git.parent / said).resolve()


def _head(directory: Path) -> str | None:
    try:
        head = (directory / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head or None
        ref = head.removeprefix("ref:").strip()
        common = directory
        if (directory / "commondir").exists():
            common = (directory / (directory / "commondir").read_text().strip()).resolve()
        for place in (directory, common):
            if (place / ref).is_file():
                return (place / ref).read_text().strip()
        for line in (common / "packed-refs").read_text().splitlines():
            if line.endswith(f" {ref}"):
                return line.partition(" ")[0]
    except OSError:
        pass
    return None
