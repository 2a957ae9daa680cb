"""Whatever lies in a working tree, committed or not: written into another folder it is the same, and has the same digest."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import code, commits, environment, imported, restore

NAMES = (
    "a.py",
    "b.py",
    "deep/er/c.py",
    "with space.py",
    "ünï.py",
    "-dash.py",
    "data.bin",
    "*.py",
    'q"uote.toml',
)
CONTENTS = st.one_of(
    st.sampled_from(
        [b"", b"x = 1\n", b"x = 1", b"x = 1\r\ny = 2\r\n", b"\x00\xff" * 200, b"a\n" * 50 + b"b\n" * 50]
    ),
    st.binary(max_size=300),
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NAMES), CONTENTS),
        st.tuples(st.just("delete"), st.sampled_from(NAMES), st.just(b"")),
        st.tuples(st.just("stage"), st.sampled_from(NAMES), st.just(b"")),
        st.tuples(st.just("unstage"), st.sampled_from(NAMES), st.just(b"")),
        st.tuples(st.just("commit"), st.just(""), st.just(b"")),
        st.tuples(st.just("executable"), st.sampled_from(NAMES), st.just(b"")),
    ),
    max_size=12,
)


@pytest.fixture(autouse=True, scope="module")
def _without_this_checkout():
    """Flyball's own commit is part of a code's digest where it runs from its sources: somebody may commit meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "editable_folders", dict)
        patch.setattr(imported, "look", lambda root, script=True: imported.Imported((), {}))  # nor this test
        yield


def git(folder: Path, *words: str, check: bool = False) -> None:
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org", "--literal-pathspecs")
    subprocess.run(("git", *who, *words), cwd=folder, check=check, capture_output=True)


def carry_out(root: Path, change: str, name: str, content: bytes) -> None:
    file = root / name
    if change == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    elif change == "delete":
        file.unlink(missing_ok=True)
    elif change == "executable":
        if file.exists():
            file.chmod(0o755)
    elif change == "commit":
        git(root, "commit", "-q", "-m", "more")
    else:
        git(root, *(("add", "-A") if change == "stage" else ("rm", "-q", "--cached")), "--", name)


def sources(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and not {".git", ".flyball"} & set(file.relative_to(root).parts)
    }


@given(CHANGES, st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_working_tree_comes_back(changes, from_packs):
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        root, blobs, ledger = (
            Path(name).resolve() / "project",
            Blobs.open("memory:"),
            Ledger.open("sqlite://"),
        )
        root.mkdir()
        git(root, "init", "-q", check=True)
        (root / "flyball.toml").write_text("")
        git(root, "add", ".", check=True)
        git(root, "commit", "-q", "-m", "first", check=True)
        for change in changes:
            carry_out(root, *change)
        captured = code.look(root, blobs)
        assert captured.left_out == ()
        commits.keep(root, str(captured.commit), blobs, ledger)
        expected = sources(root)
        untracked = subprocess.run(
            ("git", "ls-files", "--others", "-z"), cwd=root, check=True, capture_output=True
        ).stdout.decode()
        for one in untracked.split("\0"):
            if one.endswith(".bin"):
                del expected[one]  # no source, and in no commit: data
        origin = Path(other) / "gone" if from_packs else root
        restored = restore.restore(captured, Path(other) / "again", origin, blobs, ledger)
        assert sources(restored.root) == expected
        assert code.look(restored.root, blobs).digest == captured.digest
        ledger.close()
