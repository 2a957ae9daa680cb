"""Code captured in one folder and written into another is the same code: same bytes, same digest."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.core.records import Code, KeptCommit
from flyball.errors import NotFound, Refused, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import code, commits, environment, git, imported, restore

MIB = 1024 * 1024


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://")
    yield ledger
    ledger.close()


@pytest.fixture
def blobs():
    return Blobs.open("memory:")


@pytest.fixture(autouse=True, scope="module")
def _without_this_checkout():
    """Flyball's own commit is part of a code's digest where it runs from its sources: somebody may commit meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "editable_folders", dict)
        yield


@pytest.fixture(autouse=True)
def _without_other_tests_modules(monkeypatch):
    """What other tests left imported lies near one folder and far from another: it is no code of these projects."""
    before = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    look = imported.look

    def own(root: Path, *, script: bool = True) -> imported.Imported:
        found = look(root, script=script)
        return imported.Imported(
            found.inside, {name: file for name, file in found.outside.items() if file not in before}
        )

    monkeypatch.setattr(imported, "look", own)


def run_git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org", "-c", "init.defaultBranch=trunk")
    allow = ("-c", "protocol.file.allow=always")
    done = subprocess.run(
        ("git", *who, *allow, *words), cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def repository(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    run_git(folder, "init", "-q")
    write(folder, files)
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-q", "-m", "first")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not {".git", ".flyball", "__pycache__"} & set(file.relative_to(folder).parts)
    }


@pytest.fixture
def project(tmp_path):
    return repository(
        tmp_path / "project",
        {
            "flyball.toml": "",
            "pipelines.py": "TREES = 100\n",
            "old.py": "x = 1\n",
            "logo.bin": bytes(range(256)) * 40,
            ".gitignore": "settings_local.py\ndata/\n",
        },
    )


def test_a_commit_with_every_kind_of_change_comes_back_byte_by_byte(project, blobs, ledger, tmp_path):
    write(
        project,
        {
            "pipelines.py": "TREES = 200\n",
            "logo.bin": bytes(range(255, -1, -1)) * 40,
            "staged.py": "s = 1\n",
            "new.py": "n = 1\n",
            "no_newline.py": "x = 1",
            "ünï cödé.py": "u = 1\n",
            "data/big.csv": "ignored",
        },
    )
    run_git(project, "add", "staged.py")
    (project / "old.py").unlink()
    captured = code.look(project, blobs)
    assert captured.left_out == ()
    restored = restore.restore(captured, tmp_path / "again", project, blobs, ledger)
    expected = contents(project)
    del expected["data/big.csv"]
    assert contents(restored.root) == expected
    assert code.look(restored.root, blobs).digest == captured.digest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("diff.noprefix", "true"), ("diff.mnemonicPrefix", "true"), ("color.ui", "always"), ("diff.context", "0"),
        ("diff.renames", "copies"), ("core.quotePath", "false"), ("apply.whitespace", "error"),
    ],
)  # fmt: skip
def test_the_users_taste_in_diffs_does_not_break_the_patch(project, blobs, ledger, tmp_path, name, value):
    run_git(project, "config", name, value)
    write(project, {"pipelines.py": "TREES = 200   \n\n", "renamed.py": "x = 1\n"})
    (project / "old.py").unlink()
    captured = code.look(project, blobs)
    restored = restore.restore(captured, tmp_path / "again", project, blobs, ledger)
    assert contents(restored.root) == contents(project)


def test_a_project_inside_a_repository_keeps_its_place(tmp_path, blobs, ledger):
    top = repository(tmp_path / "mono", {"shared.py": "s = 1\n", "apps/churn/pipelines.py": "x = 1\n"})
    project = top / "apps/churn"
    write(project, {"pipelines.py": "x = 2\n"})
    captured = code.look(project, blobs)
    assert captured.place == "apps/churn"
    restored = restore.restore(captured, tmp_path / "again", project, blobs, ledger)
    assert restored.root == tmp_path / "again/apps/churn"
    assert contents(tmp_path / "again") == contents(top)


def test_a_worktree_is_a_repository_like_any_other(project, blobs, ledger, tmp_path):
    run_git(project, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "other")
    write(tmp_path / "tree", {"pipelines.py": "TREES = 3\n"})
    captured = code.look(tmp_path / "tree", blobs)
    assert (captured.branch, captured.commit) == ("other", run_git(project, "rev-parse", "HEAD"))
    assert git.head_of(tmp_path / "tree") == captured.commit
    restored = restore.restore(captured, tmp_path / "again", tmp_path / "tree", blobs, ledger)
    assert (restored.root / "pipelines.py").read_text() == "TREES = 3\n"


def test_a_submodule_comes_back_at_its_commit_with_what_was_changed_in_it(project, blobs, ledger, tmp_path):
    library = repository(tmp_path / "library", {"lib.py": "v = 1\n", "other.py": "o = 1\n"})
    run_git(project, "submodule", "add", "-q", str(library), "vendor/library")
    run_git(project, "commit", "-q", "-m", "library")
    write(project / "vendor/library", {"lib.py": "v = 2\n"})
    captured = code.look(project, blobs)
    assert [(one.path, bool(one.patch)) for one in captured.nested] == [("vendor/library", True)]
    restored = restore.restore(captured, tmp_path / "again", project, blobs, ledger)
    assert (restored.root / "vendor/library/lib.py").read_text() == "v = 2\n"
    assert (restored.root / "vendor/library/other.py").read_text() == "o = 1\n"
    assert code.look(restored.root, blobs).digest == captured.digest


@pytest.fixture
def importing(monkeypatch):
    """Import modules for one test only."""
    before = set(sys.modules)

    def load(folder: Path, name: str) -> None:
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if name.startswith("fbt_"):
            del sys.modules[name]


def test_what_was_imported_is_kept_wherever_it_lies(project, blobs, ledger, tmp_path, importing):
    write(project, {"settings_local.py": "no", "fbt_ignored.py": "i = 1\n", ".gitignore": "fbt_ignored.py\n"})
    write(
        tmp_path / "shared", {"fbt_shared/__init__.py": "", "fbt_shared/deep.py": "d = 1\n", "fbt_no.py": ""}
    )
    importing(project, "fbt_ignored")
    importing(tmp_path / "shared", "fbt_shared.deep")
    captured = code.look(project, blobs)
    assert "fbt_ignored.py" in [one.path for one in captured.sources]
    foreign = [one.path for one in captured.outside if "fbt_" in one.path]
    assert foreign == ["../shared/fbt_shared/__init__.py", "../shared/fbt_shared/deep.py"]
    restored = restore.restore(captured, tmp_path / "again", project, blobs, ledger)
    assert (restored.root / "../shared/fbt_shared/deep.py").resolve().read_text() == "d = 1\n"
    assert tmp_path / "again" in (restored.root / "../shared").resolve().parents
    assert (restored.root / "../shared") in restored.imports
    assert not (restored.root / "../shared/fbt_no.py").exists()


def test_far_away_sources_lie_in_the_project_and_keep_their_name(project, blobs, ledger, tmp_path, importing):
    far = write(Path(os.path.realpath("/var/tmp")) / f"fbt-{os.getpid()}", {"fbt_far.py": "f = 1\n"})
    try:
        importing(far, "fbt_far")
        captured = code.look(project, blobs)
        name = str(far / "fbt_far.py")
        assert name in [one.path for one in captured.outside]
        restored = restore.restore(captured, tmp_path / "again", project, blobs, ledger)
        place = restored.root / restore.OUTSIDE / name.lstrip("/")
        assert place.read_text() == "f = 1\n"
        moved = imported._moved(restored.root)
        assert imported._before_it_moved(str(place), moved) == name
    finally:
        shutil.rmtree(far)


def test_what_is_imported_during_the_run_is_kept_at_its_end(project, blobs, importing):
    begun = code.look(project, blobs)
    write(
        project,
        {
            "settings_local.py": "late = 1\n",
            ".gitignore": "*_local.py\nfbt_late.py\n",
            "fbt_late.py": "l = 1\n",
        },
    )
    importing(project, "fbt_late")
    ended = code.with_late(begun, project, blobs)
    assert "fbt_late.py" in [one.path for one in ended.sources]
    assert ended.digest != begun.digest
    assert code.with_late(ended, project, blobs) == ended


def test_a_repository_without_a_commit_is_kept_as_sources(tmp_path, blobs, ledger):
    run_git(tmp_path, "init", "-q")
    write(tmp_path, {"pipelines.py": "x = 1\n", "pack/__init__.py": ""})
    captured = code.look(tmp_path, blobs)
    assert captured.commit is None
    restored = restore.restore(captured, tmp_path.parent / "again", tmp_path, blobs, ledger)
    assert contents(restored.root) == contents(tmp_path)


def test_a_bare_repository_is_no_checkout(tmp_path, blobs):
    run_git(tmp_path, "init", "-q", "--bare")
    write(tmp_path, {"pipelines.py": "x = 1\n"})
    assert code.look(tmp_path, blobs).commit is None


def test_without_git_the_sources_are_kept(project, blobs, monkeypatch):
    monkeypatch.setenv("PATH", "")
    captured = code.look(project, blobs)
    assert captured.commit is None
    assert "pipelines.py" in [one.path for one in captured.sources]


def test_a_hooks_variables_do_not_lead_to_another_repository(project, blobs, tmp_path, monkeypatch):
    other = repository(tmp_path / "other", {"a.py": ""})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    captured = code.look(project, blobs)
    monkeypatch.undo()
    assert captured.commit == run_git(project, "rev-parse", "HEAD")


def test_what_a_bound_keeps_out_is_named_and_the_rest_comes_back(
    project, blobs, ledger, tmp_path, monkeypatch
):
    monkeypatch.setattr(git, "MOST_BYTES", MIB)
    monkeypatch.setattr(git.ask, "__kwdefaults__", {**git.ask.__kwdefaults__, "most_bytes": MIB})
    write(
        project,
        {
            "logo.bin": os.urandom(3 * MIB),  # changed, and too large for the patch
            "pipelines.py": "TREES = 5\n",
            "huge.py": b"#" * (2 * MIB),
        },
    )
    captured = code.look(project, blobs)
    said = [one.rpartition(", b3:")[0] for one in captured.left_out]
    assert said == ["logo.bin: changed, 3.0 MiB", "huge.py: 2.0 MiB"]
    restored = restore.restore(captured, tmp_path / "again", project, blobs, ledger)
    assert (restored.root / "pipelines.py").read_text() == "TREES = 5\n"
    assert restored.notes == tuple(
        f"can't be exact: left out when it was captured: {one}" for one in captured.left_out
    )
    write(project, {"huge.py": b"-" * (2 * MIB)})
    assert code.look(project, blobs).digest != captured.digest


def test_a_git_that_warns_about_every_file_does_not_stop(project, blobs):
    run_git(project, "config", "core.autocrlf", "input")
    run_git(project, "config", "core.safecrlf", "warn")
    for number in range(1200):
        (project / f"{number:0>60}.py").write_bytes(b"x = 1\n")
    run_git(project, "add", ".")
    for number in range(1200):
        (project / f"{number:0>60}.py").write_bytes(b"x = 2\r\n")
    captured = code.look(project, blobs)
    assert captured.commit
    assert captured.patch
    assert captured.left_out == ()


def test_a_slow_git_is_not_waited_for(project, blobs, tmp_path, monkeypatch):
    slow = write(tmp_path / "bin", {"git": "#!/bin/sh\nexec sleep 60\n"})
    (slow / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow}:{os.environ['PATH']}")
    monkeypatch.setattr(git.ask, "__kwdefaults__", {**git.ask.__kwdefaults__, "deadline_s": 0.2})
    assert code.look(project, blobs).commit is None  # the sources are kept instead


def test_a_lost_commit_comes_back_from_what_was_kept(project, blobs, ledger, tmp_path):
    first = code.look(project, blobs)
    commits.keep_in_background(project, first, blobs, ledger)
    commits.wait()
    write(project, {"pipelines.py": "TREES = 7\n"})
    run_git(project, "commit", "-q", "-a", "-m", "second")
    second = code.look(project, blobs)
    kept = commits.keep(project, str(second.commit), blobs, ledger)
    assert kept.base == first.commit
    assert kept.size_bytes < ledger.get("commit", str(first.commit), KeptCommit).size_bytes
    shutil.rmtree(project)
    restored = restore.restore(second, tmp_path / "again", project, blobs, ledger)
    assert (restored.root / "pipelines.py").read_text() == "TREES = 7\n"
    assert run_git(restored.root, "rev-parse", "HEAD") == second.commit
    assert run_git(restored.root, "status", "--porcelain") == ""
    assert code.look(restored.root, blobs).digest == second.digest


def test_a_lost_commit_that_was_too_large_says_why_and_what_to_do(
    project, blobs, ledger, tmp_path, monkeypatch
):
    monkeypatch.setattr(commits, "MOST_PACK_BYTES", 100)
    captured = code.look(project, blobs)
    commits.keep(project, str(captured.commit), blobs, ledger)
    shutil.rmtree(project)
    with pytest.raises(
        NotFound, match=r"not in the repository any more[\s\S]*MiB, more than[\s\S]*git fetch"
    ):
        restore.restore(captured, tmp_path / "again", project, blobs, ledger)


def test_a_patch_that_was_cut_off_is_refused(project, blobs, ledger, tmp_path):
    write(project, {"pipelines.py": "TREES = 5\n", "logo.bin": os.urandom(5000)})
    captured = code.look(project, blobs)
    patch = blobs.get(str(captured.patch))
    cut = Code(digest="", commit=captured.commit, branch=None, patch=blobs.put(patch[: len(patch) // 2]))
    with pytest.raises(Refused, match="patch of the run does not apply"):
        restore.restore(cut, tmp_path / "again", project, blobs, ledger)


def test_a_source_that_was_collected_is_named(tmp_path, blobs, ledger):
    write(tmp_path / "project", {"pipelines.py": "x = 1\n"})
    captured = code.look(tmp_path / "project", blobs)
    with pytest.raises(NotFound, match=r"the source pipelines.py of this run is gone"):
        restore.restore(captured, tmp_path / "again", tmp_path / "project", Blobs.open("memory:"), ledger)


@pytest.mark.parametrize("path", ["../../../evil.py", "a/../../../../evil.py"])
def test_a_path_that_leads_out_is_refused(tmp_path, blobs, ledger, path):
    from flyball.core.records import FileEntry

    made_up = Code(
        digest="", commit=None, branch=None, patch=None, sources=(FileEntry(path, blobs.put(b"x"), 1),)
    )
    with pytest.raises(Refused, match="leads out of the folder"):
        restore.restore(made_up, tmp_path / "deep/again", tmp_path, blobs, ledger)
    assert not list(tmp_path.rglob("evil.py"))


def test_git_gone_since_says_so(project, blobs, ledger, tmp_path, monkeypatch):
    captured = code.look(project, blobs)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="git is not installed"):
        restore.restore(captured, tmp_path / "again", project, blobs, ledger)


def test_another_project_inside_this_one_is_not_its_code(tmp_path, blobs):
    write(
        tmp_path, {"pipelines.py": "", "again/flyball.toml": "", "again/x.py": "", "run_1/.flyball/a.py": ""}
    )
    write(tmp_path, {"run_1/pipelines.py": "", "part/steps.py": ""})
    assert [one.path for one in code.look(tmp_path, blobs).sources] == ["part/steps.py", "pipelines.py"]
