"""Models as a worker runs them: bytes checked by digest, float32 rows in, checked numbers out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.core.plan import ServedModel
from flyball.core.records import Signature
from flyball.errors import Invalid, Refused, Unavailable
from flyball.models.formats import FORMATS, decode
from flyball.models.formats.asking import ask_of, column
from flyball.models.formats.needs import missing
from flyball.stores.blobs import Blobs

Rows = NDArray[np.float32]  # (n_rows, n_features), NaN where unknown
_SLACK = 1e-6  # float32 sums of probabilities end this close outside [0, 1]


class LoadedModel:
    """One model version in memory."""

    def __init__(self, served: ServedModel, compute: Callable[[Rows], NDArray[Any]]) -> None:
        self.ref = served.ref
        self.artifact = served.artifact
        self.format = served.format
        self.signature = served.signature
        self._compute = compute
        self._probability = served.signature.outputs[0].name == "probability"

    def run(self, rows: Rows) -> list[float]:
        """One number per row. Raises ValueError for an answer of the wrong shape, not finite, or impossible."""
        raw = np.asarray(self._compute(rows))
        if raw.shape != (len(rows),):
            raise ValueError(f"the model answered shape {raw.shape} for {len(rows)} rows")
        answers = [float(answer) for answer in raw.tolist()]
        low, high = min(answers), max(answers)  # a NaN may hide from these, not from the sum
        if not math.isfinite(sum(answers)):
            raise ValueError("the model answered NaN or infinity")
        if self._probability and (low < 0.0 or high > 1.0):
            if low < -_SLACK or high > 1.0 + _SLACK:
                raise ValueError(f"the model answered {low:g} to {high:g}, which is no probability")
            answers = [min(max(answer, 0.0), 1.0) for answer in answers]
        return answers


def load(served: ServedModel, blobs: Blobs) -> LoadedModel:
    """Bring a model into memory; its bytes are checked against their digest before anything looks at them."""
    if served.format not in (*FORMATS, "mlmodel"):
        raise Invalid(
            f"{served.ref} has format {served.format!r}",
            f"workers load {', '.join(FORMATS)} and mlmodel",
            model=served.ref,
        )
    for field in served.signature.inputs:
        if field.datatype == "BYTES":
            raise Invalid(
                f"{served.ref} takes text ({field.name})",
                "encode it as a number in the feature view",
                model=served.ref,
                field=field.name,
            )
    data = blobs.get(served.artifact)
    try:
        # Not tried on a made-up row: a model that hangs there would hang the worker, which a canary would not.
        return LoadedModel(served, _loaded(served, data, blobs))
    except Unavailable as error:
        raise Unavailable(f"{served.ref} does not load: {error.what}", error.hint, **error.facts) from error
    except (Invalid, Refused) as error:
        raise type(error)(f"{served.ref} does not load: {error.what}", error.hint, **error.facts) from error
    except ModuleNotFoundError as error:
        raise missing(error, f"{served.ref} does not load: it") from error
    except Exception as error:
        raise Invalid(
            f"{served.ref} does not load: {type(error).__name__}: {str(error)[:300]}",
            f"flyball models show {served.ref} says what it needs",
            model=served.ref,
        ) from error


def _loaded(served: ServedModel, data: bytes, blobs: Blobs) -> Callable[[Rows], NDArray[Any]]:
    if served.format == "onnx":
        return _load_onnx(data, served.signature)
    names = [field.name for field in served.signature.inputs]
    if served.format == "mlmodel":
        from flyball.models.mlmodel.loading import load_folder

        ask = load_folder(data, blobs, trusted=served.trusted, name=served.ref).ask(
            names, served.signature.outputs[0].name
        )
    else:
        ask = ask_of(decode(served.format, data), names)
    _one_thread()
    return lambda rows: column(ask(rows))


def _one_thread() -> None:
    """OpenMP's threads spin while they wait for one another: processes are our parallelism."""
    if "sklearn" in sys.modules:
        import_module("threadpoolctl").threadpool_limits(1)  # scikit-learn brings it


def _load_onnx(data: bytes, signature: Signature) -> Callable[[Rows], NDArray[Any]]:
    session = decode("onnx", data)
    names = [node.name for node in session.get_inputs()]
    output = _output_of(session.get_outputs(), signature)
    run, wanted = session.run, [output]
    if len(names) == 1:
        only = names[0]
        return lambda rows: column(run(wanted, {only: rows})[0])
    expected = [field.name for field in signature.inputs]
    if sorted(names) != sorted(expected):
        raise Invalid(
            f"the graph takes {names}, the signature says {expected}", "register it with its own signature"
        )
    return lambda rows: column(
        run(wanted, {name: rows[:, [index]] for index, name in enumerate(expected)})[0]
    )


def _output_of(nodes: Any, signature: Signature) -> str:
    """The output that answers: the signature's by name, else the probabilities, else the first of floats."""
    names = [str(node.name) for node in nodes]
    if signature.outputs[0].name in names:
        return signature.outputs[0].name
    probable = [name for name in names if "probabilit" in name]
    floats = [str(node.name) for node in nodes if node.type in ("tensor(float)", "tensor(double)")]
    return (probable + floats + names)[0]
