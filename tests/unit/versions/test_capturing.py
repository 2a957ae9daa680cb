"""One capture for every run: records once per digest, git asked once a second, secrets left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flyball.core.config import load
from flyball.core.records import Configuration, Environment, Hardware
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import capture, capture_late, capturing, configuration, git, started


@pytest.fixture
def blobs():
    return Blobs.open("memory:")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "flyball.toml").write_text('[stores]\nmetadata = "postgresql://me:hunter2@db/x"\n')
    (tmp_path / "pipelines.py").write_text("x = 1\n")
    return tmp_path


def test_a_run_names_everything_it_was_made_from(root, blobs, ledger):
    captured = capture(root, blobs, ledger, settings=load(root), params={"seed": 3}, script=True)
    assert ledger.get("environment", captured.environment, Environment).packages["msgspec"]
    assert ledger.get("hardware", captured.hardware, Hardware).cores
    kept = ledger.get("configuration", captured.configuration, Configuration)
    assert kept.values["stores.metadata"] == "postgresql://me:***@db/x"
    assert kept.origins == {"stores.metadata": "flyball.toml"}
    assert captured.seeds["param seed"] == 3
    assert captured.command
    assert not any(b"hunter2" in repr(event).encode() for event in ledger.events(kind="configuration"))
    assert b"hunter2" in blobs.get(_file(ledger, captured.code, "flyball.toml"))  # a file of the user's own


def _file(ledger: Ledger, digest: str, path: str) -> str:
    from flyball.core.records import Code

    return next(one.digest for one in ledger.get("code", digest, Code).sources if one.path == path)


def test_the_same_again_writes_nothing(root, blobs, ledger):
    first = capture(root, blobs, ledger, settings=load(root))
    events = len(ledger.events())
    assert capture(root, blobs, ledger, settings=load(root)).code == first.code
    assert len(ledger.events()) == events


def test_git_is_asked_once_a_second_and_when_something_changed(root, blobs, ledger, monkeypatch):
    subprocess.run(("git", "init", "-q"), cwd=root, check=True)
    asked = []
    ask = git.ask
    monkeypatch.setattr(git, "ask", lambda *words, **options: asked.append(words) or ask(*words, **options))
    for _ in range(20):
        capture(root, blobs, ledger)
    assert len(asked) == 1
    (root / "other.py").write_text("y = 1\n")
    before = capture(root, blobs, ledger).code
    assert len(asked) == 2
    monkeypatch.setattr(capturing, "FRESH_S", 0.0)
    (root / "other.py").write_text("y = 2\n")
    assert capture(root, blobs, ledger).code != before


def test_what_is_imported_late_changes_the_code_at_the_end(root, blobs, ledger, monkeypatch):
    begun = capture(root, blobs, ledger).code
    assert capture_late(begun, root, blobs, ledger) == begun
    (root / "fbt_at_the_end.py").write_text("z = 1\n")
    monkeypatch.syspath_prepend(str(root))
    __import__("fbt_at_the_end")
    try:
        ended = capture_late(begun, root, blobs, ledger)
        assert ended != begun
        assert capture_late(ended, root, blobs, ledger) == ended
    finally:
        del sys.modules["fbt_at_the_end"]


def test_a_run_does_not_fail_at_its_end_for_its_late_imports(root, blobs, ledger, monkeypatch):
    begun = capture(root, blobs, ledger).code
    monkeypatch.setattr(capturing, "_modules_at", {})
    monkeypatch.setattr(capturing.code, "with_late", _full_disk)
    assert capture_late(begun, root, blobs, ledger) == begun


def _full_disk(*_: object, **__: object) -> None:
    raise OSError("no space")


def test_settings_that_differ_are_named_but_for_the_tables_that_may(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "flyball.toml").write_text("[serve]\nport = 1\n")
    one, two = configuration.capture(load(root)), configuration.capture(load(other))
    assert set(configuration.differences(one, two)) == {"serve.port", "stores.metadata"}
    assert configuration.differences(one, two, but=("stores",)) == {"serve.port": (8080, 1)}


@pytest.mark.parametrize(
    ("argv", "cwd", "command", "where"),
    [
        (["/usr/bin/python3.11", "train.py", "--n=3"], "", ("python", "train.py", "--n=3"), ""),
        (["python", "{root}/jobs/fit.py"], "jobs", ("python", "fit.py"), "jobs"),
        (["python", "{root}/jobs/fit.py", "/etc/x"], "..", ("python", "jobs/fit.py", "/etc/x"), ""),
        (
            ["python", "-c", "import x", "--token", "abc"],
            "",
            ("python", "-c", "import x", "--token", "***"),
            "",
        ),
        (["{root}/bin/job", "a"], "", ("bin/job", "a"), ""),
    ],
)
def test_a_command_line_is_kept_as_seen_from_the_project(root, monkeypatch, argv, cwd, command, where):
    (root / "jobs").mkdir()
    monkeypatch.chdir(root / cwd)
    monkeypatch.setattr(sys, "orig_argv", [word.replace("{root}", str(root)) for word in argv])
    assert started.capture(root) == (command, where)


def test_a_prompt_has_nothing_to_start_again(root, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python"])
    monkeypatch.setattr(sys, "argv", [""])
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert started.capture(root) == ((), "")
