"""What a deployed MLmodel folder serves as: loaded once, on a person's word, to see what goes in and what comes out.

The folder says what its columns are called, seldom what its numbers mean, and often neither. The model itself does. Where
an input example is there, the same proved ONNX export is tried that our own models get.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from flyball.core.events import Edge
from flyball.core.records import Field, ModelVersion, Served, Signature
from flyball.errors import Invalid
from flyball.models.export import export
from flyball.models.formats import is_trusted
from flyball.models.mlmodel.examples import around, example_of
from flyball.models.mlmodel.loading import LoadedFolder, load_folder
from flyball.models.mlmodel.signatures import PREDICTION, PROBABILITY
from flyball.models.refs import lineage_name
from flyball.models.scoring import is_binary, takes_nulls
from flyball.models.signature import Sample, names_of
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

_SEVERAL = "python_function"


def prepare(ledger: Ledger, blobs: Blobs, version: ModelVersion, *, actor: str) -> Served:
    """What a version of format ``mlmodel`` serves as; decided once and kept.

    Loads the model: call it where a person asked for that. :class:`Refused` when nobody has vouched for what it runs.
    """
    if (found := ledger.find("served", version.ref, Served)) is not None:
        return found
    loaded = load_folder(
        blobs.get(version.artifact), blobs, trusted=is_trusted(version.export), name=version.ref
    )
    example = example_of(loaded.folder, loaded.mlmodel)
    signature = signature_of(loaded, version.signature, example)
    refuse_unservable(signature, version.ref)
    artifact, format = version.artifact, version.format
    facts: dict[str, Any] = {"reason": "no input example to prove an export on"}
    if example is not None and len(names_of(example)) == len(signature.inputs):
        exported = export(loaded.native, around(example))
        facts = exported.facts
        if exported.onnx is not None:
            artifact, format = blobs.put(exported.onnx), "onnx"
            facts = {**facts, "example_rows": len(example)}
    served = Served(model=version.ref, artifact=artifact, format=format, signature=signature, facts=facts)
    edges = [Edge(lineage_name(version.ref), artifact, "served as")] if artifact != version.artifact else []
    with ledger.transaction() as tx:
        if (found := tx.find("served", version.ref, Served)) is not None:
            return found
        tx.append(
            "model.prepared", version.ref, actor=actor, sets=[("served", version.ref, served)], edges=edges
        )
    return served


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
