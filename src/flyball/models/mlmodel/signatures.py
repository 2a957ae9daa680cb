"""MLflow's schemas and our signatures, both ways: columns or tensors in, fields out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flyball.core.records import Field, Signature
from flyball.errors import Invalid

PREDICTION, PROBABILITY = "prediction", "probability"
_COLUMNS = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
}
_NESTED = {"array", "object", "map", "any", "sparkml_vector"}
_TENSORS = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
# Written wider than what is served: MLflow refuses a column of doubles where it expects floats.
_WRITTEN = {
    "BOOL": "boolean",
    "BYTES": "string",
    "INT8": "integer",
    "INT16": "integer",
    "INT32": "integer",
} | {
    "UINT8": "integer",
    "UINT16": "integer",
    "UINT32": "long",
    "INT64": "long",
    "UINT64": "long",
}
_MOST_FIELDS = 100_000


def from_schema(schema: Mapping[str, Any]) -> Signature:
    """The signature that an MLmodel's ``signature`` means: JSON texts under ``inputs`` and ``outputs``.

    Columns keep their names and types; a tensor of shape ``(-1, k)`` is k fields ``f0``, ``f1``, ... One number comes out.

    >>> from_schema({"inputs": '[{"type": "double", "name": "a"}]'}).inputs
    (Field(name='a', datatype='FP64', shape=(-1, 1), nullable=True),)
    """
    inputs = _fields(_parsed(schema, "inputs"), "inputs")
    return Signature(inputs, (Field(PREDICTION, "FP32", nullable=False),))


def answers_classes(schema: Mapping[str, Any]) -> bool:
    """Whether the model's own ``predict`` says whole numbers, booleans or texts: labels, not quantities."""
    kinds = [one.get("type") for one in _parsed(schema, "outputs")]
    tensors = [
        str(one["tensor-spec"].get("dtype")) for one in _parsed(schema, "outputs") if "tensor-spec" in one
    ]
    return any(kind in ("boolean", "integer", "long", "string") for kind in kinds) or any(
        kind.startswith(("int", "uint", "bool", "str", "object")) for kind in tensors
    )


def to_schema(signature: Signature, *, outputs: bool = True) -> dict[str, Any]:
    """A signature as MLflow writes it. Fields that only have places (``f0``, ``f1``, ...) become columns without names."""
    unnamed = is_unnamed(signature)
    columns = [
        {"type": _WRITTEN.get(field.datatype, "double"), **({} if unnamed else {"name": field.name})}
        | {"required": True}
        for field in signature.inputs
    ]
    out = None
    if outputs:
        tensor = {"dtype": "float32", "shape": [-1, 1]}
        out = [{"name": field.name, "type": "tensor", "tensor-spec": tensor} for field in signature.outputs]
    return {"inputs": _text(columns), "outputs": None if out is None else _text(out), "params": None}


def is_unnamed(signature: Signature) -> bool:
    """Whether the inputs are known by their places alone, as the columns of an array are."""
    return [field.name for field in signature.inputs] == [
        f"f{place}" for place in range(len(signature.inputs))
    ]


def _text(content: Any) -> str:
    return msgspec.json.encode(content).decode()


def _parsed(schema: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    text = schema.get(part)
    if text is None:
        return []
    try:
        found = msgspec.json.decode(text, type=list[dict[str, Any]])
    except (msgspec.DecodeError, TypeError) as error:
        raise Invalid(
            f"the signature's {part} are not a schema of MLflow's: {error}",
            "log the model again with signature=infer_signature(...)",
            field=f"signature.{part}",
        ) from error
    return found


def _fields(specs: list[dict[str, Any]], part: str) -> tuple[Field, ...]:
    if len(specs) == 1 and specs[0].get("type") == "tensor" and not specs[0].get("name"):
        return _places(specs[0])
    fields: list[Field] = []
    for place, spec in enumerate(specs):
        kind = spec.get("type")
        name = str(spec.get("name") or f"f{place}")
        if kind == "tensor":
            datatype, shape = _tensor(spec)
            if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
                fields.append(Field(name, datatype, shape))
            else:
                fields.append(Field(name, datatype, nullable=datatype.startswith("FP")))
        elif kind in _COLUMNS or kind in _NESTED:
            datatype = _COLUMNS.get(str(kind), "BYTES")
            nullable = datatype.startswith("FP") or spec.get("required", True) is False
            fields.append(Field(name, datatype, nullable=nullable))
        else:
            raise Invalid(
                f"the signature's {part} have the unknown type {kind!r}",
                f"known: {', '.join([*_COLUMNS, *sorted(_NESTED), 'tensor'])}",
                field=f"signature.{part}",
            )
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        raise Invalid(
            "the signature names an input twice", "name each column once", field=f"signature.{part}"
        )
    return tuple(fields)


def _places(spec: dict[str, Any]) -> tuple[Field, ...]:
    datatype, shape = _tensor(spec)
    if len(shape) == 2 and 0 < shape[1] <= _MOST_FIELDS:
        return tuple(
            Field(f"f{place}", datatype, nullable=datatype.startswith("FP")) for place in range(shape[1])
        )
    return (Field("input", datatype, shape),)


def _tensor(spec: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    told = spec.get("tensor-spec")
    if not isinstance(told, dict) or not isinstance(told.get("shape"), list | tuple):
        raise Invalid("a tensor of the signature has no shape", "log the model again with a signature")
    try:
        shape = tuple(int(one) for one in told["shape"])
    except (TypeError, ValueError) as error:
        raise Invalid(f"a tensor of the signature has shape {told['shape']}", "log it again") from error
    return _TENSORS.get(str(told.get("dtype")), "BYTES"), shape
