"""``flyball.toml`` (or ``[tool.flyball]`` in pyproject.toml): where a project keeps its things, per profile.

An unknown key is an error that names the nearest known one. Every value knows where it came from (:attr:`origins`).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from flyball.errors import Invalid, NotFound, nearest

FILE = "flyball.toml"


class Project(msgspec.Struct, frozen=True):
    """What it is called, and which of its files define features and pipelines."""

    name: str = "project"
    definitions: tuple[str, ...] = ("features.py", "pipelines.py")


class Stores(msgspec.Struct, frozen=True):
    """The seams, by URL. Relative paths start at the project's folder."""

    metadata: str = "sqlite:///.flyball/ledger.db"
    blobs: str = "file:.flyball/blobs"
    online: str = "lmdb:.flyball/online"
    tables: str = "file:.flyball/tables"


class Serve(msgspec.Struct, frozen=True):
    """The data plane. ``clock = "request"`` lets a request say its own time (replays); never in production."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 2
    clock: str = "system"
    deadline_ms: int = 1000
    candidate_share: float = 0.5  # of the deadline that a candidate may use before the champion answers
    max_body_bytes: int = 16 * 1024 * 1024


class Console(msgspec.Struct, frozen=True):
    """The control plane."""

    host: str = "127.0.0.1"
    port: int = 7070


class Govern(msgspec.Struct, frozen=True):
    """How often the governor looks, and the file of its policies."""

    every_s: float = 5.0
    policy: str = "policy.toml"


class Config(msgspec.Struct, frozen=True):
    """The whole of it, resolved."""

    project: Project = Project()
    stores: Stores = Stores()
    serve: Serve = Serve()
    console: Console = Console()
    govern: Govern = Govern()


class Resolved(msgspec.Struct, frozen=True):
    """A configuration, the folder it belongs to, its profile, and the origin of each value that is not a default."""

    config: Config
    root: Path
    profile: str
    origins: dict[str, str]

    def path(self, relative: str) -> Path:
        """A path of the project, made absolute."""
        return (self.root / relative).resolve()

    def url(self, url: str) -> str:
        """A store's URL with its relative path made absolute, so that any working directory opens the same store."""
        for scheme in ("sqlite:///", "file:", "lmdb:"):
            rest = url.removeprefix(scheme)
            if rest != url and rest and not rest.startswith("/"):
                place, mark, options = rest.partition("?")
                return f"{scheme}{self.path(place)}{mark}{options}"
        return url

    @property
    def state(self) -> Path:
        """``.flyball/``: everything embedded; one folder to copy."""
        return self.root / ".flyball"


def find_root(start: Path | None = None) -> Path:
    """The folder of the nearest ``flyball.toml`` at or above ``start`` (or ``FLYBALL_PROJECT``)."""
    if start is None and os.environ.get("FLYBALL_PROJECT"):
        start = Path(os.environ["FLYBALL_PROJECT"])
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file() or _in_pyproject(folder) is not None:
            return folder
    raise NotFound(f"no {FILE} in {here} or above it", "flyball init makes a project here", folder=str(here))


def load(root: Path | None = None, profile: str | None = None) -> Resolved:
    """Read the project's configuration; ``profile`` (or ``FLYBALL_PROFILE``) lays its table over the rest."""
    root = find_root(root)
    profile = profile or os.environ.get("FLYBALL_PROFILE") or "local"
    file = root / FILE
    try:
        raw = tomllib.loads(file.read_text()) if file.is_file() else (_in_pyproject(root) or {})
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{file} is not TOML: {error}", "mend that line") from error
    profiles = raw.pop("profiles", {})
    if profile != "local" and profile not in profiles:
        raise Invalid(f"no profile {profile!r} in {FILE}", nearest(profile, ["local", *profiles]))
    origins: dict[str, str] = {}
    merged: dict[str, dict[str, Any]] = {}
    for origin, part in ((FILE, raw), (f"{FILE} [profiles.{profile}]", profiles.get(profile, {}))):
        _lay(merged, part, origin, origins)
    try:
        config = msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:
        raise Invalid(
            f"{FILE}: {error}", "flyball config show prints every setting with its default"
        ) from error
    return Resolved(config, root, profile, origins)


def _lay(over: dict[str, dict[str, Any]], part: dict[str, Any], origin: str, origins: dict[str, str]) -> None:
    tables = {field.name: field.type for field in msgspec.structs.fields(Config)}
    for table, values in part.items():
        if table not in tables:
            raise Invalid(f"{origin} has an unknown table [{table}]", nearest(table, list(tables)), key=table)
        if not isinstance(values, dict):
            raise Invalid(
                f"{origin}: {table} must be a table", f"write [{table}] and its keys below it", key=table
            )
        known = [field.name for field in msgspec.structs.fields(tables[table])]
        for key, value in values.items():
            if key not in known:
                raise Invalid(
                    f"{origin} has an unknown key {table}.{key}", nearest(key, known), key=f"{table}.{key}"
                )
            over.setdefault(table, {})[key] = value
            origins[f"{table}.{key}"] = origin


def _in_pyproject(folder: Path) -> dict[str, Any] | None:
    file = folder / "pyproject.toml"
    if not file.is_file():
        return None
    try:
        found = tomllib.loads(file.read_text()).get("tool", {}).get("flyball")
    except tomllib.TOMLDecodeError:
        return None  # not ours to complain about
    return found if isinstance(found, dict) else None
