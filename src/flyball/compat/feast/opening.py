"""Which workspace a ``repo_path`` means: a Flyball project, or a Feast repository with a project made of it beside."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

from flyball import __version__
from flyball.core.config import FILE
from flyball.errors import NotFound
from flyball.service import Workspace

PLACE = ".flyball/feast"  # below the repository: the project that stands for it


def workspace_of(repo_path: str | Path | None) -> Workspace:
    """The workspace; of a Feast repository, one in :data:`PLACE`, its ``features.py`` made anew when the files changed."""
    if repo_path is None:
        return Workspace.current()
    root = Path(repo_path).resolve()
    if (root / FILE).is_file():
        return Workspace.open(root)
    if (root / "feature_store.yaml").is_file():
        return Workspace.open(_carried(root))
    try:
        return Workspace.open(root)
    except NotFound as error:
        raise NotFound(
            f"{root} is neither a Flyball project nor a Feast repository",
            "flyball init makes a project; a repository has a feature_store.yaml",
            path=str(root),
        ) from error


def _carried(root: Path) -> Path:
    from flyball.service.feast.reading import files_of, read
    from flyball.service.feast.translating import translate
    from flyball.service.feast.writing import code_for, put

    place = root / PLACE
    files = [root / "feature_store.yaml", *files_of(root)]
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    stamp = blake2b(json.dumps([__version__, state]).encode(), digest_size=16).hexdigest()
    noted = place / ".stamp"
    if noted.is_file() and noted.read_text() == stamp:
        return place
    found = translate(read(root))
    code = code_for(found, place, origin=str(root))
    for file, text in (("features.py", code), (FILE, _settings(found.project)), (".stamp", stamp)):
        if file != FILE or not (place / file).is_file():  # a person may have set stores there
            put(place / file, text)
    return place


def _settings(project: str) -> str:
    return (
        "# Made for FeatureStore(repo_path) over a Feast repository; its stores may be set here.\n"
        f'[project]\nname = {json.dumps(project)}\ndefinitions = ["features.py"]\n'
    )
