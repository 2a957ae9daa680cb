"""``flyball.toml`` (or ``[tool.flyball]`` in pyproject.toml): where a project keeps its things, per profile.

Later ones win: defaults, the file, its profile, ``.flyball/settings.toml``, the environment
(``FLYBALL_SERVE__PORT=8081``), the command line (``flyball --set serve.port=8081 up``). An unknown key is an error
that names the nearest known one. Every value knows where it came from (:attr:`Resolved.origins`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import msgspec

from flyball.core.redaction import redacted
from flyball.errors import Invalid, NotFound, nearest

FILE = "flyball.toml"
PREFIX = "FLYBALL_"
HERE = ".flyball/settings.toml"  # of one folder, never shared: a reproduced project keeps to its own stores by it
COMMAND_LINE = "--set"
SET = "FLYBALL_SET"  # what --set gave, for this process and those it starts


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
    remote: str = (
        ""  # another blob store: where `data push`, `data pull` and `data verify` look by themselves
    )


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


class Features(msgspec.Struct, frozen=True):
    """Whether ``flyball up`` reads the project's streams (Kafka, NATS, RabbitMQ, Redis) too."""

    streams: bool = False


class Models(msgspec.Struct, frozen=True):
    """Whose Ed25519 signatures count (public keys, base64; none named: those of the ledger), and whether one is needed."""

    trusted: tuple[str, ...] = ()
    require_signature: bool = False


class Config(msgspec.Struct, frozen=True):
    """The whole of it, resolved."""

    project: Project = Project()
    stores: Stores = Stores()
    serve: Serve = Serve()
    console: Console = Console()
    govern: Govern = Govern()
    models: Models = Models()
    features: Features = Features()


class Setting(msgspec.Struct, frozen=True):
    """One setting for people: its value without secrets, and what gave it."""

    name: str
    value: Any
    origin: str


class Resolved(msgspec.Struct, frozen=True):
    """A configuration, the folder it belongs to, its profile, and the origin of each value that is not a default."""

    config: Config
    root: Path
    profile: str
    origins: dict[str, str]

    def items(self) -> list[Setting]:
        """Every setting in the order of the classes above; passwords and tokens in the values are ``***``."""
        return [
            Setting(f"{table}.{key}", redacted(value, key), self.origins.get(f"{table}.{key}", "default"))
            for table, values in msgspec.to_builtins(self.config).items()
            for key, value in values.items()
        ]

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


def load(
    root: Path | None = None, profile: str | None = None, given: Mapping[str, str] | None = None
) -> Resolved:
    """Read the project's configuration; ``profile`` (or ``FLYBALL_PROFILE``) lays its table over the rest.

    The environment comes over that, and ``given`` (``{"serve.port": "8081"}``, of the command line) over all.
    """
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
    named = FILE if file.is_file() else "pyproject.toml [tool.flyball]"
    values: dict[str, tuple[Any, str]] = {}  # name -> value, origin
    for origin, part in ((named, raw), (f"{named} [profiles.{profile}]", profiles.get(profile, {}))):
        _lay(values, part, origin)
    _lay(values, _of_this_folder(root), HERE)
    for origin, said in (
        (PREFIX, _from_environment(os.environ)),
        (COMMAND_LINE, {**_from_command_line(), **(given or {})}),
    ):
        for name, text in said.items():
            _lay_text(values, name, text, origin)
    tables: dict[str, dict[str, Any]] = {}
    for name, (value, _) in values.items():
        table, _, key = name.partition(".")
        tables.setdefault(table, {})[key] = value
    config = msgspec.convert(tables, Config)
    return Resolved(config, root, profile, {name: origin for name, (_, origin) in values.items()})


def _lay(over: dict[str, tuple[Any, str]], part: dict[str, Any], origin: str) -> None:
    tables = list(_TABLES)
    for table, values in part.items():
        if table not in _TABLES:
            raise Invalid(f"{origin} has an unknown table [{table}]", nearest(table, tables), key=table)
        if not isinstance(values, dict):
            raise Invalid(
                f"{origin}: {table} must be a table", f"write [{table}] and its keys below it", key=table
            )
        known = _TABLES[table]
        for key, value in values.items():
            name = f"{table}.{key}"
            if key not in known:
                raise Invalid(f"{origin} has an unknown key {name}", nearest(key, list(known)), key=name)
            over[name] = (_converted(name, value, known[key], origin, strict=True), origin)


def _lay_text(over: dict[str, tuple[Any, str]], name: str, text: str, origin: str) -> None:
    """A value that was given as text: ``8081``, ``true``, ``features.py,pipelines.py``."""
    table, _, key = name.partition(".")
    said = origin if origin == COMMAND_LINE else f"{PREFIX}{table}__{key}".upper()
    kind = _TABLES.get(table, {}).get(key)
    if kind is None:
        known = [f"{one}.{inner}" for one, fields in _TABLES.items() for inner in fields]
        raise Invalid(f"{said} names an unknown setting {name}", nearest(name, known), key=name)
    value: Any = text
    if get_origin(kind) is tuple:
        value = [part.strip() for part in text.split(",") if part.strip()]
    over[name] = (_converted(name, value, kind, said, strict=False), said)


def _converted(name: str, value: Any, kind: Any, origin: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise Invalid(
            f"{origin}: {name}: {error}",
            "flyball config show prints every setting with its default",
            key=name,
        ) from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``FLYBALL_SERVE__PORT`` as ``serve.port``; variables without two underscores are something else."""
    return {
        name.removeprefix(PREFIX).lower().replace("__", ".", 1): text
        for name, text in sorted(environment.items())
        if name.startswith(PREFIX) and "__" in name.removeprefix(PREFIX)
    }


def give(pairs: Mapping[str, str]) -> None:
    """Lay settings of the command line over those of the environment, here and in processes that start from now on."""
    os.environ[SET] = msgspec.json.encode({**_from_command_line(), **pairs}).decode()


def _of_this_folder(root: Path) -> dict[str, Any]:
    file = root / HERE
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{file} is not TOML: {error}", "mend that line") from error


def _from_command_line() -> dict[str, str]:
    try:
        return msgspec.json.decode(os.environ.get(SET) or "{}", type=dict[str, str])
    except msgspec.DecodeError as error:
        raise Invalid(
            f"{SET} is not a JSON object of text: {error}", "flyball --set NAME=VALUE sets it"
        ) from error


# table -> key -> type, as the classes above have them
_TABLES = {
    table.name: {field.name: field.type for field in msgspec.structs.fields(table.type)}
    for table in msgspec.structs.fields(Config)
}


def _in_pyproject(folder: Path) -> dict[str, Any] | None:
    file = folder / "pyproject.toml"
    if not file.is_file():
        return None
    try:
        found = tomllib.loads(file.read_text()).get("tool", {}).get("flyball")
    except tomllib.TOMLDecodeError:
        return None  # not ours to complain about
    return found if isinstance(found, dict) else None
