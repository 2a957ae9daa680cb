"""Load a registered model again, bytes checked first, and ask it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from flyball.core.records import ModelVersion, Served
from flyball.errors import Unavailable
from flyball.models.formats import decode, is_trusted
from flyball.models.formats.asking import Ask, column
from flyball.models.keys import check as check_signature
from flyball.models.refs import resolve
from flyball.models.scoring import score
from flyball.models.signature import Sample, as_array, rows_for
from flyball.models.signing import Trust
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger


class Predictor:
    """A model version that answers: one number per row."""

    def __init__(
        self, version: ModelVersion, native: Any = None, session: Any = None, ask: Ask | None = None
    ) -> None:
        self.version = version
        self._ask = ask
        self.native = native  # the object that was registered; None when only ONNX bytes were
        self._session = session

    def __repr__(self) -> str:
        return f"<Predictor {self.version.ref}>"

    def predict(self, rows: Sample) -> np.ndarray[Any, Any]:
        """The probability of class 1 (or the value) for each row of a frame or array, as float64 of shape (n,).

        A frame's columns are found by name. Where the export was proved on rounded inputs, so are these rows.
        """
        rows = rows_for(self.version.signature, rows)
        if len(rows) == 0:
            return np.empty(0)
        if self._ask is not None:
            return np.asarray(column(self._ask(as_array(rows))), dtype=np.float64).reshape(-1)
        if self._session is None:
            return score(self.native, rows, float32=self.version.export.get("inputs") == "float32")
        given = np.ascontiguousarray(as_array(rows, np.float32))
        answer = self._session.run(None, {self._session.get_inputs()[0].name: given})[0]
        return np.asarray(answer, dtype=np.float64).reshape(-1)


def load(ledger: Ledger, blobs: Blobs, ref: str, *, trust: Trust | None = None) -> Predictor:
    """The predictor that ``delays@champion`` (or ``delays@7``) names: the native model where there is one, else ONNX.

    Changed bytes, and a signature that is wrong (or wanting where ``trust`` requires one), are refused before they are
    unpickled.
    """
    version = resolve(ledger, ref)
    check_signature(ledger, version, trust)
    try:
        if version.format == "mlmodel":
            return _of_folder(ledger, version, blobs)
        if version.native is None:
            opened = decode(version.format, blobs.get(version.artifact))
            onnx = version.format == "onnx"
            return Predictor(version, session=opened) if onnx else Predictor(version, native=opened)
        return Predictor(version, native=decode(version.native_format, blobs.get(version.native)))
    except Unavailable as error:
        raise Unavailable(f"{version.ref}: {error.what}", error.hint, **error.facts) from error


def _of_folder(ledger: Ledger, version: ModelVersion, blobs: Blobs) -> Predictor:
    """The predictor of a folder that MLflow wrote: only the flavor's own library is imported."""
    from flyball.models.mlmodel.examples import example_of
    from flyball.models.mlmodel.loading import load_folder
    from flyball.models.mlmodel.looking import signature_of

    manifest = blobs.get(version.artifact)
    loaded = load_folder(manifest, blobs, trusted=is_trusted(version.export), name=version.ref)
    served = ledger.find("served", version.ref, Served)
    if served is not None:
        signature = served.signature
    else:
        signature = signature_of(loaded, version.signature, example_of(loaded.folder, loaded.mlmodel))
    ask = loaded.ask([field.name for field in signature.inputs], signature.outputs[0].name)
    return Predictor(msgspec.structs.replace(version, signature=signature), native=loaded.native, ask=ask)
