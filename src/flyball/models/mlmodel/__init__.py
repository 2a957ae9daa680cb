"""MLmodel folders: what MLflow's ``log_model`` wrote becomes a version here, and versions here become such folders.

``read`` looks without loading, ``import_folder`` registers, ``files_of`` writes. What serves is decided by
:func:`flyball.models.mlmodel.preparing.prepare`, when a person deploys.
"""

from typing import Any

_PLACES = {
    "MLmodel": "reading",
    "read": "reading",
    "import_folder": "importing",
    "trust": "importing",
    "files_of": "writing",
    "prepare": "preparing",
    "load_folder": "loading",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"flyball.models.mlmodel has no {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
