"""What a folder's model turns out to be, once it is loaded: what goes in, what comes out, and whether ONNX answers as it does.

The folder says what its columns are called, seldom what its numbers mean, and often neither. The model itself does. Where
an input example is there, the same proved ONNX export is tried that our own models get. Runs in a process of its own
(``python -m flyball.models.mlmodel.looking``): strangers' code and what ends a process stay out of the console.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
import numpy as np

from flyball.core.records import Field, Served, Signature
from flyball.errors import FlyballError, Invalid
from flyball.models.export import export
from flyball.models.mlmodel.examples import around, example_of
from flyball.models.mlmodel.loading import LoadedFolder, load_folder
from flyball.models.mlmodel.reading import Asked
from flyball.models.mlmodel.signatures import PREDICTION, PROBABILITY
from flyball.models.scoring import is_binary, takes_nulls
from flyball.models.signature import Sample, names_of
from flyball.stores.blobs import Blobs

_SEVERAL = "python_function"


def look(asked: Asked, blobs: Blobs) -> Served:
    """Load the folder and see what it serves as; a proved export is stored. :class:`Refused` for what nobody vouched for."""
    loaded = load_folder(blobs.get(asked.manifest), blobs, trusted=asked.trusted, name=asked.ref)
    example = example_of(loaded.folder, loaded.mlmodel)
    signature = signature_of(loaded, asked.said, example)
    refuse_unservable(signature, asked.ref)
    artifact, format = asked.manifest, "mlmodel"
    facts: dict[str, Any] = {"reason": "no input example to prove an export on"}
    if example is not None and len(names_of(example)) == len(signature.inputs):
        exported = export(loaded.native, around(example))
        facts = exported.facts
        if exported.onnx is not None:
            artifact, format = blobs.put(exported.onnx), "onnx"
            facts = {**facts, "example_rows": len(example)}
    return Served(model=asked.ref, artifact=artifact, format=format, signature=signature, facts=facts)


def signature_of(loaded: LoadedFolder, said: Signature, example: Sample | None = None) -> Signature:
    """The signature that serves: inputs as the folder, its example or the model itself names them, one number out.

    :class:`Invalid` when none of the three knows the inputs.
    """
    inputs = said.inputs
    if not inputs:
        names = names_of(example) if example is not None else _own_names(loaded.native)
        if not names:
            raise Invalid(
                "nothing says what the model's inputs are",
                "log it again with signature=infer_signature(X, y) or input_example=X[:5]",
            )
        inputs = tuple(Field(name, "FP32") for name in names)
    nulls = _takes_nulls(loaded)
    inputs = tuple(
        msgspec.structs.replace(field, nullable=field.nullable and nulls)
        if field.datatype.startswith("FP")
        else field
        for field in inputs
    )
    return Signature(inputs, (Field(_output(loaded), "FP32", nullable=False),))


def refuse_unservable(signature: Signature, name: str) -> None:
    """:class:`Invalid` for inputs that are no numbers, one a field."""
    for field in signature.inputs:
        if field.datatype == "BYTES":
            raise Invalid(
                f"{name} takes text or nested values ({field.name})",
                "encode them as numbers before the model",
            )
        if len(field.shape) > 2 or (len(field.shape) == 2 and field.shape[1] != 1):
            shape = "x".join(map(str, field.shape))
            raise Invalid(f"{name} takes a tensor of {shape} ({field.name})", "rows of numbers are served")


def _output(loaded: LoadedFolder) -> str:
    if loaded.mlmodel.flavor == _SEVERAL:
        return PREDICTION
    return PROBABILITY if is_binary(loaded.native) else PREDICTION


def _takes_nulls(loaded: LoadedFolder) -> bool:
    try:
        return takes_nulls(loaded.native, np.full((1, 1), np.nan))
    except Exception:  # noqa: BLE001 (a stranger's class may lack what scikit-learn asks it for)
        return True


def _own_names(model: Any) -> list[str]:
    """The inputs as the model itself was fitted on them; empty when it does not say."""
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        return [str(name) for name in names]
    if type(model).__module__.startswith("xgboost") and type(model).__name__ == "Booster":
        return list(model.feature_names or [f"f{place}" for place in range(model.num_features())])
    if type(model).__module__.startswith("lightgbm") and type(model).__name__ == "Booster":
        return [str(name) for name in model.feature_name()]
    if type(model).__module__.startswith("onnxruntime"):
        nodes = model.get_inputs()
        shape = nodes[0].shape
        if len(nodes) == 1 and len(shape) == 2 and isinstance(shape[1], int):
            return [f"f{place}" for place in range(shape[1])]
        return [str(node.name) for node in nodes] if len(nodes) > 1 else []
    count = getattr(model, "n_features_in_", None)
    return [f"f{place}" for place in range(int(count))] if count else []


def main() -> None:
    """One folder as JSON on standard input; what it serves as, or the error, on standard output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the model prints is not the answer
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    try:
        answer: dict[str, Any] = {"served": msgspec.to_builtins(look(asked, Blobs.open(asked.blobs)))}
    except FlyballError as error:
        answer = {"failed": error.as_json()}
    out.write(msgspec.json.encode(answer, enc_hook=str))
    out.flush()


if __name__ == "__main__":
    main()
