"""Load a registered model again, bytes checked first, and ask it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from flyball.core.records import ModelVersion
from flyball.errors import Unavailable
from flyball.models.export import INSTALL, open_session
from flyball.models.refs import resolve
from flyball.models.scoring import score
from flyball.models.signature import Sample, as_array, rows_for
from flyball.models.signing import Trust
from flyball.models.trust import check as check_signature
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger


class Predictor:
    """A model version that answers: one number per row."""

    def __init__(self, version: ModelVersion, native: Any = None, session: Any = None) -> None:
        self.version = version
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
    if version.native is None and version.format == "onnx":
        return Predictor(version, session=open_session(blobs.get(version.artifact)))
    data = blobs.get(version.native or version.artifact)
    try:
        return Predictor(version, native=pickle.loads(data))
    except ImportError as error:
        raise Unavailable(
            f"{version.ref} needs {error.name or error}",
            f"{INSTALL}; a project's own class: load it from the project",
        ) from error
