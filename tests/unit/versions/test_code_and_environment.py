"""The code of a project and the environment of a process, with a real git."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from flyball.core.records import Code, Environment
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import code, environment


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://")
    yield ledger
    ledger.close()


@pytest.fixture
def blobs():
    return Blobs.open("memory:")


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org", "-c", "init.defaultBranch=trunk")
    return subprocess.run(
        ("git", *who, *words), cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "pipelines.py").write_text("TREES = 100\n")
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_tree_is_its_commit(repository, blobs, ledger):
    captured = code.capture(repository, blobs, ledger)
    assert captured.commit == git(repository, "rev-parse", "HEAD")
    assert (captured.branch, captured.patch, captured.sources) == ("trunk", None, ())
    assert ledger.get("code", captured.digest, Code) == captured


def test_an_uncommitted_change_is_kept_as_a_patch(repository, blobs, ledger):
    clean = code.capture(repository, blobs, ledger)
    (repository / "pipelines.py").write_text("TREES = 200\n")
    changed = code.capture(repository, blobs, ledger)
    assert changed.digest != clean.digest
    assert changed.commit == clean.commit
    assert b"+TREES = 200" in blobs.get(changed.patch)
    assert code.capture(repository, blobs, ledger) == changed
    assert len(ledger.keys("code")) == 2


def test_the_patch_applies_to_the_commit_again(repository, blobs, ledger, tmp_path_factory):
    (repository / "pipelines.py").write_text("TREES = 200\n")
    captured = code.capture(repository, blobs, ledger)
    again = tmp_path_factory.mktemp("again")
    git(again, "clone", "-q", str(repository), ".")
    subprocess.run(("git", "apply"), cwd=again, check=True, input=blobs.get(captured.patch))
    assert (again / "pipelines.py").read_text() == "TREES = 200\n"


def test_untracked_sources_are_kept_and_ignored_ones_are_not(repository, blobs, ledger):
    (repository / "new.py").write_text("x = 1\n")
    (repository / "ignored.py").write_text("x = 2\n")
    (repository / "data.bin").write_bytes(b"\0" * 10)
    captured = code.capture(repository, blobs, ledger)
    assert [one.path for one in captured.sources] == ["new.py"]
    assert blobs.get(captured.sources[0].digest) == b"x = 1\n"


def test_without_git_the_sources_themselves_are_kept(tmp_path, blobs, ledger):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/steps.py").write_text("x = 1\n")
    (tmp_path / "flyball.toml").write_text("")  # empty, and yet a file of the project
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "notes.md").write_text("no")
    (tmp_path / ".flyball").mkdir()
    (tmp_path / ".flyball/x.py").write_text("no")
    captured = code.capture(tmp_path, blobs, ledger)
    assert captured.commit is None
    assert [one.path for one in captured.sources] == ["flyball.toml", "inner/steps.py", "pyproject.toml"]


def test_a_project_in_an_ignored_folder_is_not_that_repositorys(repository, blobs, ledger):
    inner = repository / "scratch"
    inner.mkdir()
    (inner / "pipelines.py").write_text("x = 1\n")
    (repository / ".gitignore").write_text("scratch/\n")
    captured = code.capture(inner, blobs, ledger)
    assert captured.commit is None
    assert [one.path for one in captured.sources] == ["pipelines.py"]


def test_the_environment_names_every_package_as_importlib_does(ledger):
    from importlib.metadata import distributions

    captured = environment.capture(ledger)
    theirs = {}
    for one in distributions():
        theirs.setdefault(one.metadata["Name"].lower().replace("_", "-").replace(".", "-"), one.version)
    assert captured.packages == dict(sorted(theirs.items()))
    assert environment.capture(ledger) is captured
    assert ledger.keys("environment") == [captured.digest]


def test_differences_name_what_was_added_removed_and_changed():
    one = Environment(digest="1", python="3.11", platform="linux", packages={"a": "1", "b": "1"})
    two = Environment(digest="2", python="3.12", platform="linux", packages={"b": "2", "c": "1"})
    assert environment.differences(one, two) == {
        "a": ("1", None),
        "b": ("1", "2"),
        "c": (None, "1"),
        "python": ("3.11", "3.12"),
    }


def test_capturing_costs_less_than_a_bare_python_start(repository, blobs, ledger):
    import sys

    started = time.perf_counter()
    subprocess.run((sys.executable, "-I", "-c", "import json, subprocess, email"), check=True)
    python_s = time.perf_counter() - started
    environment._last = None
    started = time.perf_counter()
    code.capture(repository, blobs, ledger)
    environment.capture(ledger)
    assert time.perf_counter() - started < 3 * python_s
