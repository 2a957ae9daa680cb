"""PyTorch modules as programs: ``torch.export`` where a sample shows the inputs, TorchScript for what is scripted already.

A program needs none of the Python that made it. A module without a sample is kept as any other object: pickled, with
the project's code.
"""

from __future__ import annotations

import io
import zipfile
from importlib import import_module
from typing import Any

import msgspec
import numpy as np

from flyball.errors import Invalid, Refused
from flyball.models.formats.pickles import globals_of

_DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


def is_own(model: Any) -> bool:
    """Whether it is a module or a program of PyTorch."""
    torch = import_module("torch")
    return isinstance(model, torch.nn.Module | torch.export.ExportedProgram)


def write(model: Any, sample: Any = None) -> bytes:
    """The program of a module, for any number of rows; it computes in float32, in evaluation mode."""
    torch = import_module("torch")
    buffer = io.BytesIO()
    if isinstance(model, torch.jit.ScriptModule):
        torch.jit.save(model, buffer)
        return buffer.getvalue()
    if not isinstance(model, torch.export.ExportedProgram):
        if type(model).__name__ == "GraphModule":
            raise Invalid(
                "a program that was loaded can't be exported again", "register the bytes it came from"
            )
        model = _exported(model, sample)
    torch.export.save(model, buffer)
    return buffer.getvalue()


def read(data: bytes) -> Any:
    """The module of a program; nothing of it is unpickled."""
    torch = import_module("torch")
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile as error:
        raise Invalid(f"not a program of PyTorch, or a torn one: {error}", "copy the whole file") from error
    scripted = any(name.endswith("/constants.pkl") for name in names) and any(
        "/code/" in name for name in names
    )
    if not scripted:
        _check_inside(data)
    try:
        if scripted:
            return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
        return torch.export.load(io.BytesIO(data)).module()
    except Exception as error:
        raise Invalid(
            f"not a program of PyTorch, or a torn one: {str(error)[:200]}", "copy the whole file"
        ) from error


def _check_inside(data: bytes) -> None:
    """A program is JSON and raw numbers, but torch.export falls back to unpickling parts (seen in 2.15): only tensors may be
    in them; anything else is :class:`Refused`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickled = [name for name in archive.namelist() if name.endswith((".pt", ".pkl"))]
        for name in archive.namelist():
            if name.endswith("_config.json"):
                pickled += _said_pickled(archive, name)
        for name in dict.fromkeys(pickled):
            content = archive.read(name)
            parts = [content]
            if content.startswith(b"PK"):
                with zipfile.ZipFile(io.BytesIO(content)) as inner:
                    parts = [inner.read(one) for one in inner.namelist() if one.endswith(".pkl")]
            wrong = {one for part in parts for one in globals_of(part) if not _is_tensor_part(*one)}
            if wrong:
                raise Refused(
                    f"the program's {name} names {', '.join('.'.join(one) for one in sorted(wrong))}",
                    "a program holds tensors alone; look where it comes from",
                )


def _said_pickled(archive: zipfile.ZipFile, name: str) -> list[str]:
    config = msgspec.json.decode(archive.read(name), type=dict[str, Any]).get("config") or {}
    folder = name.rpartition("/")[0]
    return [f"{folder}/{one.get('path_name')}" for one in config.values() if one.get("use_pickle")]


def _is_tensor_part(module: str, name: str) -> bool:
    if module == "torch":
        return name.endswith("Storage") or name in ("Size", "device") or name in _DTYPES
    return (module, name) == ("collections", "OrderedDict") or (
        module == "torch._utils" and name.startswith("_rebuild_")
    )


def ask(model: Any, rows: Any) -> Any:
    """What a module answers to an array of rows, in evaluation mode; it is left in the mode it was in."""
    torch = import_module("torch")
    given = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    training = settle(model)
    try:
        with torch.no_grad():
            answer = model(given)
    finally:
        if training:
            model.train()
    return answer.detach().cpu().numpy()


def settle(model: Any) -> bool:
    """Put a module into evaluation mode; whether it was in training. A program has no modes."""
    if not getattr(model, "training", False):
        return False
    try:
        model.eval()
    except NotImplementedError:  # a program that was read back: it was exported in evaluation mode
        return False
    return True


def _exported(model: Any, sample: Any) -> Any:
    torch = import_module("torch")
    if sample is None or len(sample) == 0:
        raise Invalid("a program is traced on rows, and there are none", "pass sample=FRAME")
    from flyball.models.signature import as_array

    rows = np.ascontiguousarray(as_array(sample[:2] if len(sample) > 1 else sample, np.float32))
    given = torch.from_numpy(np.vstack([rows, rows])[:2])
    training = model.training
    model.eval()
    try:
        batch = torch.export.Dim("batch", min=1)
        return torch.export.export(model, (given,), dynamic_shapes=({0: batch},))
    except Exception as error:
        raise Invalid(
            f"torch.export: {type(error).__name__}: {str(error)[:300]}", "torch.jit.script it, or pickle it"
        ) from error
    finally:
        model.train(training)
