"""What an MLmodel folder says it is: flavors, signature, requirements, and which of its files run code when loaded.

Nothing is unpickled here, and no engine is imported: the console reads folders that strangers have sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from flyball.core.records import Signature
from flyball.errors import Invalid
from flyball.models.mlmodel import signatures
from flyball.models.mlmodel.folder import Folder, check_path, verify
from flyball.stores.blobs import Blobs

FILE = "MLmodel"
# Flavors that are loaded by their own library alone, best first; anything else goes through python_function and MLflow.
FLAVORS = ("onnx", "xgboost", "lightgbm", "sklearn", "pytorch")
GENERIC = "python_function"
_MOST_BYTES = 1 << 20
_yaml: Any = yaml.load  # untyped
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class MLmodel(msgspec.Struct, frozen=True, kw_only=True):
    """An MLmodel file, checked against the folder it lies in."""

    flavor: str  # the one that loads it
    flavors: dict[str, dict[str, Any]]
    data: str  # the file (or folder) that the flavor's library reads
    runs_code: tuple[str, ...]  # files that run what they say when they are loaded
    signature: Signature | None
    schema: dict[str, Any]  # the signature as MLflow wrote it
    example: dict[str, Any]  # saved_input_example_info
    requirements: tuple[str, ...]
    python: str
    uuid: str
    created: datetime | None
    mlflow_version: str
    metadata: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What the folder says of its flavor."""
        return self.flavors[self.flavor]

    @property
    def code(self) -> str:
        """The folder of the sources that came with it; empty when none did."""
        return str(self.settings.get("code") or self.flavors.get(GENERIC, {}).get("code") or "")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A folder to be looked at."""

    ref: str
    manifest: str  # digest
    said: Signature  # by the folder
    trusted: bool
    blobs: str = ""  # URL


def read(source: Path | str | Mapping[str, bytes | str] | Folder, blobs: Blobs | None = None) -> MLmodel:
    """Read a folder, given as a path or as its files (bytes, or digests in ``blobs``).

    :class:`Invalid` says what is missing, torn or unknown; :class:`Refused` what reaches out of the folder.
    """
    if isinstance(source, Path | str):
        source = Folder.at(Path(source))
    folder = source if isinstance(source, Folder) else Folder(source, blobs)
    content = _parsed(folder)
    flavors = content.get("flavors")
    if (
        not isinstance(flavors, dict)
        or not all(isinstance(one, dict) for one in flavors.values())
        or not flavors
    ):
        raise Invalid("MLmodel names no flavors", "is it a model of MLflow's?")
    flavor = next((name for name in FLAVORS if name in flavors), GENERIC)
    if flavor not in flavors:
        raise Invalid(
            f"no flavor of {', '.join(map(str, flavors))} can be loaded",
            f"known: {', '.join(FLAVORS)}, and what has {GENERIC}",
        )
    data = _data_of(flavor, flavors, folder)
    schema = _table(content, "signature")
    metadata = _table(content, "metadata")
    if isinstance(own := metadata.get("flyball"), dict) and isinstance(own.get("files"), dict):
        verify(folder, own["files"])
    return MLmodel(
        flavor=flavor,
        flavors=flavors,
        data=data,
        runs_code=_runs_code(flavor, flavors[flavor], data, folder),
        signature=signatures.from_schema(schema) if schema.get("inputs") else None,
        schema=schema,
        example=_table(content, "saved_input_example_info"),
        requirements=_requirements(folder),
        python=str(flavors.get(GENERIC, {}).get("python_version") or ""),
        uuid=str(content.get("model_uuid") or ""),
        created=_time(content.get("utc_time_created")),
        mlflow_version=str(content.get("mlflow_version") or ""),
        metadata=metadata,
    )


def _parsed(folder: Folder) -> dict[str, Any]:
    if FILE not in folder:
        inside = [path for path in folder.paths if path.endswith(f"/{FILE}")]
        hint = (
            f"name the folder itself: {inside[0].removesuffix(f'/{FILE}')}"
            if inside
            else "it lies at the top"
        )
        raise Invalid("the folder has no file MLmodel", hint)
    data = folder.read(FILE)
    if len(data) > _MOST_BYTES:
        raise Invalid(f"MLmodel has {len(data)} bytes", "is it a model of MLflow's?")
    try:
        content = _yaml(data, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Invalid(f"MLmodel is not YAML: {first}", "copy the whole file") from error
    if not isinstance(content, dict):
        raise Invalid("MLmodel holds no settings", "copy the whole file")
    return content


def _data_of(flavor: str, flavors: dict[str, dict[str, Any]], folder: Folder) -> str:
    settings = flavors[flavor]
    if flavor == GENERIC:
        if not settings.get("loader_module"):
            raise Invalid("the python_function flavor names no loader_module", "log the model again")
        return _there(settings.get("data") or settings.get("model_path") or "", folder)
    keys = {"sklearn": ("pickled_model",), "pytorch": ("model_data",)}.get(flavor, ("data",))
    named = next((settings[key] for key in keys if settings.get(key)), None)
    if named is None:
        named = flavors.get(GENERIC, {}).get("model_path") or flavors.get(GENERIC, {}).get("data")
    if not named:
        raise Invalid(f"the {flavor} flavor names no file ({' or '.join(keys)})", "log the model again")
    path = _there(named, folder)
    if flavor == "pytorch":
        programs = [one for one in (f"{path}/model.pt2", f"{path}/model.pth", path) if one in folder]
        if not programs:
            raise Invalid(f"the folder has neither {path}/model.pth nor {path}/model.pt2", "copy all of it")
        return programs[0]
    return path


def _there(named: Any, folder: Folder) -> str:
    if not named:
        return ""
    path = check_path(str(named).removeprefix("./").rstrip("/"))
    if path not in folder and not any(one.startswith(f"{path}/") for one in folder.paths):
        raise Invalid(f"MLmodel names {path}, which the folder does not have", "copy all of it", path=path)
    return path


def _runs_code(flavor: str, settings: dict[str, Any], data: str, folder: Folder) -> tuple[str, ...]:
    if flavor == GENERIC:
        return tuple(path for path in folder.paths if path.endswith((".pkl", ".py", ".pickle"))) or (
            data or FILE,
        )
    if flavor == "sklearn" and settings.get("serialization_format", "pickle") != "skops":
        return (data,)
    if (
        flavor == "lightgbm"
        and settings.get("model_class", "lightgbm.basic.Booster") != "lightgbm.basic.Booster"
    ):
        return () if settings.get("serialization_format") == "skops" else (data,)
    if flavor == "pytorch" and not data.endswith(".pt2"):
        return (data,)
    return ()


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Invalid(
            f"{key} of MLmodel is {type(found).__name__}, not a table", "log the model again", field=key
        )
    return found


def _requirements(folder: Folder) -> tuple[str, ...]:
    if "requirements.txt" not in folder:
        return ()
    lines = folder.read("requirements.txt").decode(errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith(("#", "-")))


def _time(text: Any) -> datetime | None:
    if isinstance(text, datetime):
        return text if text.tzinfo else text.replace(tzinfo=UTC)
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
