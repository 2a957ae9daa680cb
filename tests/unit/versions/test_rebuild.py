"""An environment built again with the real uv, from its cache and from what is here; and what can't be had."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from flyball.core.records import Code, Environment
from flyball.errors import NotFound, Unavailable
from flyball.versions import environment, rebuild

NO_CODE = Code(digest="", commit=None, branch=None, patch=None)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")


def some(*names: str, **more: str) -> Environment:
    here = environment.capture()
    packages = {name: here.packages[name] for name in names} | more
    return msgspec.structs.replace(here, packages=packages)


def test_packages_come_from_the_cache_and_those_it_lacks_from_here(tmp_path):
    wanted = some("msgspec", "pip", "flyball")
    built = rebuild.rebuild(wanted, NO_CODE, tmp_path / "venv", tmp_path / "venv", {}, tmp_path)
    program = "import msgspec, pip, flyball; print(msgspec.__version__, pip.__version__, flyball.__file__)"
    said = subprocess.run(
        (built.python, "-I", "-c", program), check=True, capture_output=True, text=True
    ).stdout
    assert said.split()[:2] == [wanted.packages["msgspec"], wanted.packages["pip"]]
    assert said.split()[2] == sys.modules["flyball"].__file__
    help_ = subprocess.run(
        (tmp_path / "venv/bin/flyball", "--version"), check=False, capture_output=True, text=True
    )
    assert "No module named" in help_.stderr  # the script is there; its other packages were not asked for


def test_the_environment_may_be_moved_after_it_was_built(tmp_path):
    built = rebuild.rebuild(some("msgspec"), NO_CODE, tmp_path / "part", tmp_path / "whole", {}, tmp_path)
    (tmp_path / "part").rename(tmp_path / "whole")
    python = tmp_path / "whole" / built.python.relative_to(tmp_path / "part")
    subprocess.run((python, "-I", "-c", "import msgspec"), check=True)


def test_a_package_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"msgspec==0\.0\.1: neither uv's cache"):
        rebuild.rebuild(some(msgspec="0.0.1"), NO_CODE, tmp_path / "venv", tmp_path / "venv", {}, tmp_path)


def test_a_python_that_is_nowhere_is_named(tmp_path):
    wanted = msgspec.structs.replace(some("msgspec"), python="3.11.99")
    with pytest.raises(NotFound, match=r"Python 3\.11\.99 is not on this machine[\s\S]*uv python install"):
        rebuild.rebuild(wanted, NO_CODE, tmp_path / "venv", tmp_path / "venv", {}, tmp_path)


def test_without_uv_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Unavailable, match=r"uv is not installed[\s\S]*pip install uv"):
        rebuild.uv_command()


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Because pip was not found in the cache and you require pip==23.2.1, we can conclude", "pip"),
        ("Because there is no version of Typing_Extensions==9.9 and you require", "typing-extensions"),
        ("Because only foo==1.0 is available and you require foo==2.0", "foo"),
        ("error: Failed to fetch: `https://pypi.org/simple/foo/`", ""),
        ("error: something else altogether", ""),
    ],
)
def test_the_package_that_an_answer_is_about_is_found_in_it(said, name):
    pins = {"pip": "", "typing-extensions": "", "foo": ""}
    assert rebuild._named_in(said, pins) == name
