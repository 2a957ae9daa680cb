"""The Open Inference Protocol V2 in JSON: KServe's, Triton's and Seldon's clients speak it.

Requests are checked against the signature: names, datatypes, shapes and values. Inputs come either as one tensor
per signature input, or as one two-dimensional tensor named ``input`` that holds all features in signature order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flyball.core.records import Field, Signature
from flyball.errors import Invalid, nearest
from flyball.wire.faults import decode
from flyball.wire.predict import check_id

_RANGES = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_LARGEST = {"FP16": 65504.0, "FP32": 3.4028235e38, "FP64": 3.4028235e38}  # the model computes in float32
DATATYPES = ("BOOL", *_RANGES, *_LARGEST)
_MOST_ROWS = 100_000
ALL = "input"  # the name of a tensor that holds all features


class Tensor(msgspec.Struct):
    """One input of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct):
    """One output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferBody(msgspec.Struct):
    """``POST /v2/models/{name}/infer``."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[WantedOutput] = []


_infer = msgspec.json.Decoder(InferBody)


def read_infer(body: bytes, signature: Signature) -> tuple[list[list[float | None]], str | None]:
    """The rows of a request in signature order, and its id."""
    asked = decode(_infer, body, "the request")
    if asked.id:
        check_id(asked.id)
    known = [field.name for field in signature.outputs]
    for wanted in asked.outputs:
        if wanted.name not in known:
            raise Invalid(f"no output {wanted.name!r}", nearest(wanted.name, known), field="outputs")
    names = [tensor.name for tensor in asked.inputs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"the input {twice!r} is there twice", "send each input once", field=f"inputs.{twice}")
    if names == [ALL] and not (len(signature.inputs) == 1 and signature.inputs[0].name == ALL):
        return _all_features(asked.inputs[0], signature), asked.id
    return _by_name(asked.inputs, signature), asked.id


def _by_name(tensors: list[Tensor], signature: Signature) -> list[list[float | None]]:
    known = [field.name for field in signature.inputs]
    given = {tensor.name: tensor for tensor in tensors}
    for name in given:
        if name not in known:
            raise Invalid(f"the model has no input {name!r}", nearest(name, known), field=f"inputs.{name}")
    columns = []
    for field in signature.inputs:
        tensor = given.get(field.name)
        if tensor is None:
            raise Invalid(
                f"the input {field.name!r} is missing",
                f"send {', '.join(known[:20])}",
                field=f"inputs.{field.name}",
            )
        if tensor.datatype != field.datatype:
            raise Invalid(
                f"the input {field.name!r} is {field.datatype}, not {tensor.datatype}",
                f'set "datatype": "{field.datatype}"',
                field=f"inputs.{field.name}.datatype",
            )
        columns.append(_column(tensor, field))
    rows = len(columns[0])
    for field, column in zip(signature.inputs, columns, strict=True):
        if len(column) != rows:
            raise Invalid(
                f"the input {field.name!r} has {len(column)} rows, {known[0]!r} has {rows}",
                "send equally many of each",
                field=f"inputs.{field.name}.shape",
            )
    return [list(row) for row in zip(*columns, strict=True)]


def _column(tensor: Tensor, field: Field) -> list[float | None]:
    shape, place = tensor.shape, f"inputs.{tensor.name}"
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        expected = [-1, *field.shape[1:]]
        raise Invalid(
            f"the input {tensor.name!r} has shape {shape[:8]}, expected {expected}",
            "one value per row",
            field=f"{place}.shape",
        )
    return _values(tensor, field.datatype, lambda index: field.nullable, place)


def _all_features(tensor: Tensor, signature: Signature) -> list[list[float | None]]:
    width, place = len(signature.inputs), f"inputs.{ALL}"
    if len(tensor.shape) != 2 or tensor.shape[1] != width:
        raise Invalid(
            f"the input {ALL!r} has shape {tensor.shape[:8]}, expected [-1, {width}]",
            f"its columns are {', '.join(field.name for field in signature.inputs[:20])}",
            field=f"{place}.shape",
        )
    if tensor.datatype not in DATATYPES:
        raise Invalid(
            f"the input {ALL!r} can't be {tensor.datatype}",
            f"send one of {', '.join(DATATYPES)}",
            field=f"{place}.datatype",
        )
    nullable = [field.nullable for field in signature.inputs]
    flat = _values(tensor, tensor.datatype, lambda index: nullable[index % width], place)
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _values(tensor: Tensor, datatype: str, nullable: Any, place: str) -> list[float | None]:
    if any(size < 0 for size in tensor.shape) or not 0 < tensor.shape[0] <= _MOST_ROWS:
        raise Invalid(
            f"{place} has shape {tensor.shape[:8]}", f"send 1 to {_MOST_ROWS} rows", field=f"{place}.shape"
        )
    expected = 1
    for size in tensor.shape:
        expected *= size
    data = _flat(tensor.data, tensor.shape, place)
    if len(data) != expected:
        raise Invalid(
            f"{place} has {len(data)} values, its shape {tensor.shape} needs {expected}",
            "make shape and data agree",
            field=f"{place}.data",
        )
    check = _checker(datatype, place)
    found: list[float | None] = []
    for index, value in enumerate(data):
        if value is None:
            if not nullable(index):
                raise Invalid(
                    f"{place} is null at {index}, and it may not be", "send a value", field=f"{place}.data"
                )
            found.append(None)
        else:
            found.append(check(value, index))
    return found


def _flat(data: list[Any], shape: list[int], place: str) -> list[Any]:
    if not data or not isinstance(data[0], list):
        if any(isinstance(value, list) for value in data):
            raise Invalid(
                f"{place} mixes numbers and lists", "flat or nested, not both", field=f"{place}.data"
            )
        return data
    if len(shape) != 2:
        raise Invalid(f"{place} is nested, its shape {shape} is not", "flatten it", field=f"{place}.data")
    if len(data) != shape[0] or any(not isinstance(row, list) or len(row) != shape[1] for row in data):
        raise Invalid(
            f"{place} does not have the shape {shape} that it says",
            "make shape and data agree",
            field=f"{place}.data",
        )
    return _flat([value for row in data for value in row], [shape[0]], place)


def _checker(datatype: str, place: str) -> Any:
    low, high = _RANGES.get(datatype, (0, 0))
    largest = _LARGEST.get(datatype)

    def wrong(value: Any, index: int) -> Invalid:
        return Invalid(
            f"{place} holds {str(value)[:40]!r} at {index}, which is not {datatype}",
            "send a number of that type, or null where it may be",
            field=f"{place}.data",
        )

    def boolean(value: Any, index: int) -> float:
        if value is True or value is False:
            return float(value)
        raise wrong(value, index)

    def integer(value: Any, index: int) -> float:
        if type(value) is int and low <= value <= high:
            return float(value)
        raise wrong(value, index)

    def real(value: Any, index: int) -> float:
        if type(value) in (int, float) and largest is not None and -largest <= value <= largest:
            return float(value)
        raise wrong(value, index)

    if datatype == "BOOL":
        return boolean
    return integer if datatype in _RANGES else real


def infer_answer(
    model: str,
    version: str,
    signature: Signature,
    outputs: list[float | None],
    *,
    request_id: str | None,
    parameters: dict[str, Any],
) -> bytes:
    """The answer of ``infer``: one output tensor, the request's id when it had one."""
    output = signature.outputs[0]
    body: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "outputs": [
            {
                "name": output.name,
                "datatype": output.datatype,
                "shape": [len(outputs), *[1] * (len(output.shape) - 1)],
                "data": outputs,
            }
        ],
        "parameters": parameters,
    }
    if request_id:
        body["id"] = request_id
    return msgspec.json.encode(body)


def metadata(name: str, versions: list[str], platform: str, signature: Signature) -> dict[str, Any]:
    """``GET /v2/models/{name}``: what goes in and what comes out."""

    def shown(fields: tuple[Field, ...]) -> list[dict[str, Any]]:
        return [
            {"name": field.name, "datatype": field.datatype, "shape": list(field.shape)} for field in fields
        ]

    return {
        "name": name,
        "versions": versions,
        "platform": platform,
        "inputs": shown(signature.inputs),
        "outputs": shown(signature.outputs),
    }
