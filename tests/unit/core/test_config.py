"""Configuration: an unknown key names the nearest; every value knows its origin; paths belong to the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyball.core.config import SET, give, load
from flyball.errors import Invalid, NotFound


def project(folder: Path, text: str) -> Path:
    (folder / "flyball.toml").write_text(text)
    return folder


def test_an_empty_file_is_a_project_with_defaults(tmp_path: Path) -> None:
    found = load(project(tmp_path, ""))
    assert (found.config.serve.port, found.config.console.port, found.profile) == (8080, 7070, "local")
    assert found.origins == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serv]\nport = 1", r"unknown table \[serv\][\s\S]*did you mean 'serve'"),
        ("[serve]\nprot = 1", r"unknown key serve.prot[\s\S]*did you mean 'port'"),
        ('[serve]\nport = "x"', r"Expected `int`, got `str`"),
        ("serve = 3", r"serve must be a table"),
        ("[serve", r"is not TOML"),
        ("[profiles.prod.serve]\nportt = 1", None),
    ],
)
def test_a_mistake_says_what_and_what_to_do(tmp_path: Path, text: str, message: str | None) -> None:
    root = project(tmp_path, text)
    if message is None:  # a profile that is not used is not read
        assert load(root).config.serve.port == 8080
        with pytest.raises(Invalid, match="did you mean 'port'"):
            load(root, "prod")
        return
    with pytest.raises(Invalid, match=message):
        load(root)


def test_a_profile_lies_over_the_rest_and_says_so(tmp_path: Path) -> None:
    found = load(
        project(tmp_path, "[serve]\nport = 1\nworkers = 4\n[profiles.prod.serve]\nport = 2\n"), "prod"
    )
    assert (found.config.serve.port, found.config.serve.workers) == (2, 4)
    assert found.origins == {"serve.port": "flyball.toml [profiles.prod]", "serve.workers": "flyball.toml"}


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"no profile 'prodd'[\s\S]*did you mean 'prod'"):
        load(project(tmp_path, "[profiles.prod]\n"), "prodd")


def test_relative_stores_belong_to_the_project_whatever_folder_you_stand_in(tmp_path: Path) -> None:
    found = load(project(tmp_path, ""))
    stores = found.config.stores
    assert found.url(stores.metadata) == f"sqlite:///{tmp_path}/.flyball/ledger.db"
    assert found.url(stores.blobs) == f"file:{tmp_path}/.flyball/blobs"
    assert found.url("lmdb:x?map_mb=5") == f"lmdb:{tmp_path}/x?map_mb=5"
    assert found.url("postgresql://host/db") == "postgresql://host/db"
    assert found.url("file:/abs") == "file:/abs"


def test_pyproject_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.flyball.serve]\nport = 9\n")
    assert load(tmp_path).config.serve.port == 9


def test_no_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="flyball init"):
        load(tmp_path)


def test_the_environment_lies_over_the_file_and_the_command_line_over_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path, "[serve]\nport = 1\nworkers = 3\n")
    monkeypatch.setenv("FLYBALL_SERVE__PORT", "2")
    monkeypatch.setenv("FLYBALL_PROJECT__DEFINITIONS", "a.py, b.py")
    monkeypatch.setenv("FLYBALL_ACTOR", "ann")  # no setting: it has no table
    found = load(root)
    assert (found.config.serve.port, found.config.serve.workers) == (2, 3)
    assert found.config.project.definitions == ("a.py", "b.py")
    assert found.origins["serve.port"] == "FLYBALL_SERVE__PORT"
    given = load(root, given={"serve.port": "4", "govern.every_s": "2.5"})
    assert (given.config.serve.port, given.config.govern.every_s) == (4, 2.5)
    assert given.origins["serve.port"] == "--set"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("FLYBALL_SERVE__PROT", "1", r"FLYBALL_SERVE__PROT names an unknown setting[\s\S]*serve.port"),
        ("FLYBALL_SERVE__PORT", "many", r"FLYBALL_SERVE__PORT: serve.port: Expected `int`"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(Invalid, match=message):
        load(project(tmp_path, ""))


def test_every_setting_is_listed_with_its_origin_and_without_secrets(tmp_path: Path) -> None:
    found = load(project(tmp_path, '[stores]\nmetadata = "postgresql://me:hunter2@db/flyball"\n'))
    items = {one.name: one for one in found.items()}
    assert items["stores.metadata"].value == "postgresql://me:***@db/flyball"
    assert items["stores.metadata"].origin == "flyball.toml"
    assert items["serve.port"].origin == "default"
    assert found.config.stores.metadata.endswith("hunter2@db/flyball")  # who opens it has the whole


def test_what_the_command_line_gave_holds_here_and_in_processes_started_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SET, "")
    monkeypatch.setenv("FLYBALL_SERVE__PORT", "2")
    give({"serve.port": "5"})
    give({"serve.workers": "6"})
    found = load(project(tmp_path, ""))
    assert (found.config.serve.port, found.config.serve.workers) == (5, 6)
    assert found.origins == {"serve.port": "--set", "serve.workers": "--set"}
    monkeypatch.setenv(SET, "[]")
    with pytest.raises(Invalid, match="FLYBALL_SET is not a JSON object"):
        load(tmp_path)


def test_a_folders_own_settings_lie_over_the_shared_ones(tmp_path: Path) -> None:
    root = project(tmp_path, "[serve]\nport = 1\n[profiles.prod.serve]\nport = 2\n")
    (root / ".flyball").mkdir()
    (root / ".flyball/settings.toml").write_text("[serve]\nport = 3\n")
    found = load(root, "prod")
    assert (found.config.serve.port, found.origins["serve.port"]) == (3, ".flyball/settings.toml")
    (root / ".flyball/settings.toml").write_text("[serve")
    with pytest.raises(Invalid, match=r"settings.toml is not TOML"):
        load(root)
