"""Runs reproduced for real: a real git, a real uv, processes of their own, and no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flyball.core.records import Code, Environment, Report, Run
from flyball.errors import Conflict, Invalid, NotFound
from flyball.service.reproduce import Rebuilt, Reproduction, reproduce
from flyball.service.workspace import Workspace
from flyball.versions import rebuild

pytestmark = pytest.mark.integration

PIPELINES = """
import numpy as np
import polars as pl
import flyball as fb
from flyball.track.runs import log_metric
from shapes import width

@fb.step
def fit(rows: pl.DataFrame, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=width()) * rows["x"].sum()

@fb.step
def judge(weights: np.ndarray) -> float:
    score = float(np.abs(weights).mean())
    log_metric("score", score)
    return score

@fb.pipeline
def train(seed: int = 7):
    judge(fit(fb.data.use("rows"), seed))
"""
SCRIPT = """
import sys
import flyball as fb
sys.path.append("../shared")
import fbt_lib

with fb.track.start("script", {"trees": int(sys.argv[1])}) as run:
    import late
    rows = fb.data.use("rows")
    run.metric("score", fbt_lib.scale(rows["x"].sum()) * int(sys.argv[1]) + late.OFFSET)
    run.artifact(b"weights " + sys.argv[1].encode(), "weights.bin")
"""
OFFLINE = {
    "UV_OFFLINE": "1",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",  # the bucket's server is on this machine
}


def flyball(
    root: Path, *words: str, python: str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLYBALL_")}
    return subprocess.run(
        (python, "-m", "flyball", *words),
        cwd=root,
        env={**environment, **OFFLINE, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def script(root: Path, *words: str, python: str = sys.executable) -> None:
    done = subprocess.run((python, *words), cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    return subprocess.run(
        ("git", *who, *words), cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    folder = write(
        tmp_path / "work/project",
        {
            "flyball.toml": '[project]\nname = "p"\n[serve]\nworkers = 1\n',
            "pipelines.py": PIPELINES,
            "shapes.py": "def width() -> int:\n    return 3\n",
            ".gitignore": ".flyball/\n",
            "rows.csv": "x\n1\n2\n3\n",
        },
    )
    assert flyball(folder, "data", "add", "rows", "rows.csv").returncode == 0
    return folder


@pytest.fixture
def committed(root: Path) -> Path:
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def last_run(ws: Workspace) -> Run:
    return ws.ledger.ls("run", Run)[-1]


def again(root: Path, into: Path, **options: Any) -> Reproduction:
    ws = Workspace.open(root)
    try:
        found = reproduce(last_run(ws).id, into=str(into), ws=ws, **options)
        assert isinstance(found, Reproduction)
        return found
    finally:
        ws.ledger.close()


def code_of(found: Reproduction) -> list[Any]:
    """The code that differs, but for Flyball's own: in its own checkout somebody may commit meanwhile."""
    return [one for one in found.inputs if one.what == "code" and one.name != "flyball"]


def test_a_pipeline_is_reproduced_with_an_environment_built_again_without_network(committed, tmp_path):
    write(
        committed, {"shapes.py": "def width() -> int:\n    return 5\n", "extra.py": "e = 1\n"}
    )  # not committed
    done = flyball(committed, "run", "train", FLYBALL_SERVE__PORT="9321")
    assert done.returncode == 0, done.stderr
    write(
        committed, {"shapes.py": "def width() -> int:\n    return 9\n", "rows.csv": "x\n100\n"}
    )  # and now changed
    flyball(committed, "data", "add", "rows", "rows.csv")
    found = again(committed, tmp_path / "again")
    assert found.equal, found.as_text()
    assert {one.how for one in (*found.metrics, *found.outputs)} == {"equal"}
    assert [one.what for one in found.inputs if one.what not in ("seeds", "code")] == []
    folder = tmp_path / "again"
    assert (folder / "shapes.py").read_text().endswith("return 5\n")
    assert (folder / "extra.py").read_text() == "e = 1\n"
    assert git(folder, "rev-parse", "HEAD") == git(committed, "rev-parse", "HEAD")
    assert (folder / ".flyball/venv/bin/python").exists()
    there = Workspace.open(folder)
    assert there.ledger.get("run", found.again, Run).inputs == {"rows": "rows@1"}
    there.ledger.close()
    ws = Workspace.open(committed)
    report = ws.ledger.get("report", found.report, Report)
    assert (report.kind, report.subject, report.passed) == ("reproduction", found.run, True)
    ws.ledger.close()


def test_the_command_says_so_and_exits_with_the_verdict(root, tmp_path):
    flyball(root, "run", "train")
    run = flyball(root, "runs", "ls", "-q").stdout.split()[-1]
    done = flyball(root, "reproduce", run, "--into", str(tmp_path / "again"), "--this-environment")
    assert done.returncode == 0, done.stderr
    assert f"{run} reproduced in {tmp_path}/again as run_" in done.stdout
    assert "metrics  1 equal" in done.stdout


def test_a_script_is_run_again_with_its_words_and_sources_from_everywhere(root, tmp_path):
    write(tmp_path / "work", {"shared/fbt_lib/__init__.py": "", "shared/fbt_lib/inner.py": "F = 2\n"})
    write(
        tmp_path / "work",
        {"shared/fbt_lib/__init__.py": "from .inner import F\ndef scale(x): return x * F\n"},
    )
    write(
        root, {"jobs/fit.py": SCRIPT.replace("../shared", "../../shared"), "jobs/late.py": "OFFSET = 0.5\n"}
    )
    script(root / "jobs", "fit.py", "4")
    ws = Workspace.open(root)
    run = last_run(ws)
    code = ws.ledger.get("code", run.code, Code)
    ws.ledger.close()
    assert (run.command, run.cwd, run.inputs) == (("python", "fit.py", "4"), "jobs", {"rows": "rows@1"})
    assert [one.path for one in code.outside] == [
        "../shared/fbt_lib/__init__.py",
        "../shared/fbt_lib/inner.py",
    ]
    assert "jobs/late.py" in [one.path for one in code.sources]
    shutil.rmtree(tmp_path / "work/shared")
    (root / "jobs/late.py").unlink()
    found = again(root, tmp_path / "again", this_environment=True)
    assert found.equal, found.as_text()
    assert [(one.what, one.after) for one in found.metrics] == [("score", 48.5)]
    assert "artifact weights.bin" in [one.what for one in found.outputs]
    assert not code_of(found), found.inputs


def test_the_second_run_of_a_script_is_compared_with_the_second(root, tmp_path):
    write(
        root,
        {
            "sweep.py": "import flyball as fb\n"
            "for n in (1, 2, 3):\n"
            "    with fb.track.start('sweep', {'n': n}) as run: run.metric('n', n)\n"
        },
    )
    script(root, str(root / "sweep.py"))
    ws = Workspace.open(root)
    second = ws.ledger.ls("run", Run)[1]
    found = reproduce(second.id, into=str(tmp_path / "again"), this_environment=True, ws=ws)
    ws.ledger.close()
    assert found.equal, found.as_text()
    assert [one.after for one in found.metrics] == [2.0]


def test_a_script_beside_the_project_is_run_again_as_it_was(root, tmp_path, monkeypatch):
    program = "import flyball as fb\nwith fb.track.start('beside') as run: run.metric('m', 1.5)\n"
    write(tmp_path / "work", {"tools/job.py": program})
    monkeypatch.setenv("FLYBALL_PROJECT", str(root))
    script(tmp_path / "work", "tools/job.py")
    write(tmp_path / "work", {"tools/job.py": program.replace("1.5", "2.5")})
    found = again(root, tmp_path / "again", this_environment=True)
    assert found.equal, found.as_text()
    assert not code_of(found), found.inputs
    assert (tmp_path / "again/tools/job.py").read_text() == program


@pytest.mark.parametrize("how", ["zip", "-c", "notebook"])
def test_runs_without_a_script_file_are_tracked_and_reproduced(root, tmp_path, how):
    program = "import flyball as fb\nwith fb.track.start('odd') as run: run.metric('m', 1.25)\n"
    if how == "zip":
        with zipfile.ZipFile(root / "app.zip", "w") as archive:
            archive.writestr("__main__.py", "import inner")
            archive.writestr("inner.py", program)
        script(root, "app.zip")
        (root / "app.zip").rename(root / "elsewhere.zip")
    elif how == "-c":
        script(root, "-c", program)
    else:  # what IPython leaves in __main__
        cells = ["", "import flyball as fb", program.partition("\n")[2]]
        script(root, "-c", f"import __main__; __main__.In = {cells!r}\n" + program)
    found = again(root, tmp_path / "again", this_environment=True)
    assert found.equal, found.as_text()
    assert [one.after for one in found.metrics] == [1.25]


def test_what_chance_made_differs_and_the_seeds_are_named(root, tmp_path):
    write(
        root,
        {
            "luck.py": "import random, flyball as fb\n"
            "with fb.track.start('luck') as run: run.metric('luck', random.random())\n"
        },
    )
    script(root, "luck.py")
    found = again(root, tmp_path / "again", this_environment=True)
    assert not found.equal
    assert found.exit_code == 1
    assert [one.how for one in found.metrics] == ["differs"]
    assert "random state" in [one.name for one in found.inputs if one.what == "seeds"]
    assert "NOT reproduced" in found.as_text()
    close = again(root, tmp_path / "again", this_environment=True, tolerance=1e6)
    assert close.equal
    assert [one.how for one in close.metrics] == ["within tolerance"]


def test_a_seeded_script_repeats_its_chance(root, tmp_path):
    write(
        root,
        {
            "luck.py": "import random, flyball as fb\nfb.track.seed(3)\n"
            "with fb.track.start('luck') as run: run.metric('luck', random.random())\n"
        },
    )
    script(root, "luck.py")
    found = again(root, tmp_path / "again", this_environment=True)
    assert found.equal
    assert not [one for one in found.inputs if one.what == "seeds"]


def wheel(folder: Path, version: str, value: int) -> Path:
    """A real wheel of one module."""
    folder.mkdir(exist_ok=True)
    path = folder / f"fbtpkg-{version}-py3-none-any.whl"
    info = f"fbtpkg-{version}.dist-info"
    files = {
        "fbtpkg.py": f"VALUE = {value}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: fbtpkg\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return path


@pytest.fixture
def other_python(root: Path, tmp_path: Path) -> Path:
    """An environment of its own: this one's packages, and a package that only lies here as a wheel."""
    from flyball.versions import environment

    here = environment.capture()
    folder = tmp_path / "other"
    nothing = Code(digest="", commit=None, branch=None, patch=None)
    python = rebuild.rebuild(here, nothing, folder, folder, {}, root).python
    install = (
        rebuild.uv_command(),
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--offline",
        "--python",
        str(python),
    )
    subprocess.run((*install, str(wheel(tmp_path / "wheels", "1.0", 5))), check=True)
    return python


USES_PACKAGE = (
    "import fbtpkg, flyball as fb\nwith fb.track.start('uses') as run: run.metric('value', fbtpkg.VALUE)\n"
)


def test_another_environment_is_built_with_its_packages_from_where_they_came(root, tmp_path, other_python):
    write(root, {"uses.py": USES_PACKAGE})
    script(root, "uses.py", python=str(other_python))
    ws = Workspace.open(root)
    environment = ws.ledger.get("environment", last_run(ws).environment, Environment)
    ws.ledger.close()
    assert environment.sources["fbtpkg"].startswith("file://")
    found = again(root, tmp_path / "again")
    assert found.equal, found.as_text()
    assert not [one for one in found.inputs if one.what == "environment"], found.inputs
    (tmp_path / "wheels/fbtpkg-1.0-py3-none-any.whl").unlink()
    ws = Workspace.open(root)
    with pytest.raises(NotFound, match=r"fbtpkg @ file[\s\S]*this environment has it"):
        reproduce(last_run(ws).id, into=str(tmp_path / "gone"), ws=ws)
    ws.ledger.close()
    assert not (tmp_path / "gone").exists()
    assert not (tmp_path / ".gone.part").exists()


def test_another_version_of_a_package_is_named_as_what_differs(root, tmp_path, other_python):
    write(root, {"uses.py": USES_PACKAGE})
    script(root, "uses.py", python=str(other_python))
    run = flyball(root, "runs", "ls", "-q").stdout.split()[-1]
    install = (
        rebuild.uv_command(),
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--offline",
        "--python",
        str(other_python),
    )
    subprocess.run((*install, str(wheel(tmp_path / "wheels", "2.0", 6))), check=True)
    done = flyball(
        root,
        "reproduce",
        run,
        "--into",
        str(tmp_path / "again"),
        "--this-environment",
        python=str(other_python),
    )
    assert done.returncode == 1, done.stderr
    assert "value: 5 -> 6" in done.stdout
    assert "environment: fbtpkg: 1.0 from file://" in done.stdout


def test_an_editable_package_comes_back_at_its_commit(root, tmp_path, other_python):
    library = write(
        tmp_path / "lib", {"src/fbtedit/__init__.py": "V = 1\n", "src/fbtedit/unused.py": "u = 1\n"}
    )
    git(library, "init", "-q")
    git(library, "add", ".")
    git(library, "commit", "-q", "-m", "one")
    site = next(other_python.parent.parent.glob("lib/*/site-packages"))
    rebuild._link("fbtedit", "0.1", library, ("src",), site, None)  # as an installer leaves it
    write(root, {"uses.py": USES_PACKAGE.replace("fbtpkg.VALUE", "fbtedit.V").replace("fbtpkg", "fbtedit")})
    write(library, {"src/fbtedit/__init__.py": "V = 2\n"})  # not committed, and what runs
    script(root, "uses.py", python=str(other_python))
    write(library, {"src/fbtedit/__init__.py": "V = 3\n"})
    git(library, "commit", "-q", "-a", "-m", "two")
    found = again(root, tmp_path / "again")
    assert found.equal, found.as_text()
    assert not code_of(found), found.inputs
    assert list((tmp_path / "again").rglob("fbtedit/unused.py"))


def test_a_killed_reproduce_leaves_no_half_folder_and_goes_on(root, tmp_path):
    flyball(root, "run", "train")
    run = flyball(root, "runs", "ls", "-q").stdout.split()[-1]
    into = tmp_path / "again"
    command = (sys.executable, "-m", "flyball", "reproduce", run, "--into", str(into))
    for wait_for in (tmp_path / ".again.part", into / ".flyball/reproduce.log"):
        process = subprocess.Popen(command, cwd=root, env={**os.environ, **OFFLINE}, start_new_session=True)
        until = time.monotonic() + 60
        while not wait_for.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert into.exists() == (wait_for.parent != tmp_path)
    done = flyball(root, "reproduce", run, "--into", str(into))
    assert done.returncode == 0, done.stderr + done.stdout
    assert not (tmp_path / ".again.part").exists()


def test_one_flipped_byte_of_the_data_stops_it_before_it_runs(root, tmp_path):
    flyball(root, "run", "train")
    run = flyball(root, "runs", "ls", "-q").stdout.split()[-1]
    ws = Workspace.open(root)
    snapshot = ws.ledger.find("snapshot", "rows@1", dict)
    from flyball.core.records import Snapshot
    from flyball.versions.transfer import needed_by

    digest = sorted(needed_by(ws.blobs, ws.ledger.get("snapshot", "rows@1", Snapshot)))[-1]
    ws.ledger.close()
    assert snapshot
    path = ws.blobs.path(digest)
    assert path is not None
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    done = flyball(root, "reproduce", run, "--into", str(tmp_path / "again"), "--this-environment")
    assert done.returncode != 0
    assert "have changed" in done.stderr
    assert not (tmp_path / "again").exists()


def test_what_can_not_be_done_says_what_to_do(root, tmp_path, monkeypatch):
    flyball(root, "run", "train")
    ws = Workspace.open(root)
    run = last_run(ws)
    full = write(tmp_path / "full", {"mine.txt": "mine"})
    with pytest.raises(Conflict, match="not empty"):
        reproduce(run.id, into=str(full), ws=ws)
    assert (full / "mine.txt").read_text() == "mine"
    with pytest.raises(NotFound, match="run_nothing"):
        reproduce("run_nothing", into=str(tmp_path / "x"), ws=ws)
    made = reproduce(run.id, into=str(tmp_path / "built"), this_environment=True, only_rebuild=True, ws=ws)
    assert isinstance(made, Rebuilt)
    assert (tmp_path / "built/pipelines.py").exists()
    flyball(root, "run", "train", "-p", "seed=8")
    with pytest.raises(Conflict, match=rf"reproduces {run.id}"):
        reproduce(last_run(ws).id, into=str(tmp_path / "built"), ws=ws)
    foreign = msgspec.structs.replace(run, id="run_01m87wvqqwmjghtvheh3gz5000", code="", environment="")
    running = msgspec.structs.replace(run, id="run_01m87wvqqwmjghtvheh3gz5001", status="running")
    with ws.ledger.transaction() as tx:
        tx.append("run.started", foreign.id, actor="x", sets=[("run", foreign.id, foreign)])
        tx.append("run.started", running.id, actor="x", sets=[("run", running.id, running)])
    with pytest.raises(Invalid, match="says nothing about its code"):
        reproduce(foreign.id, into=str(tmp_path / "x"), ws=ws)
    with pytest.raises(Conflict, match="is running"):
        reproduce(running.id, into=str(tmp_path / "x"), ws=ws)
    ws.ledger.close()


def test_without_uv_the_same_environment_serves_and_another_is_refused(root, tmp_path, monkeypatch):
    flyball(root, "run", "train")
    monkeypatch.setattr(rebuild, "uv_command", _no_uv)
    found = again(root, tmp_path / "again")
    assert found.equal
    assert any("not rebuilt, uv is not installed" in note for note in found.notes)


def _no_uv() -> str:
    from flyball.errors import Unavailable

    raise Unavailable("uv is not installed, and an environment is rebuilt with it", "pip install uv")


def test_a_workspace_on_a_server_and_a_bucket_is_reproduced_in_a_folder_alone(root, tmp_path, postgres, s3):
    settings = f'[stores]\nmetadata = "{postgres.new()}"\nblobs = "{s3.new()}"\n'
    write(root, {"flyball.toml": f'[project]\nname = "p"\n{settings}'})
    assert flyball(root, "data", "add", "rows", "rows.csv").returncode == 0
    done = flyball(root, "run", "train")
    assert done.returncode == 0, done.stderr
    found = again(root, tmp_path / "again", this_environment=True)
    assert found.equal, found.as_text()
    assert not [one for one in found.inputs if one.what == "configuration"]
    assert (tmp_path / "again/.flyball/ledger.db").exists()
    there = Workspace.open(tmp_path / "again")
    assert there.config.stores.metadata == "sqlite:///.flyball/ledger.db"  # by hand, too
    assert there.ledger.get("run", found.again, Run).status == "done"
    assert "postgresql" in (there.root / "flyball.toml").read_text()
    there.ledger.close()
