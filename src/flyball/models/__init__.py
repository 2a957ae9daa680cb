"""Practice 1, the registry: numbered model versions, aliases with their history, signatures, exports that are proved.

``registry`` (versions and aliases), ``export`` (to ONNX, proved), ``predictor`` (load and ask). The engines
(scikit-learn, ONNX) are extras, imported only where a model needs them. ``fb.models.register`` and the other verbs,
bound to the current workspace, are the service's.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from flyball import bound

    return bound("models", name)
