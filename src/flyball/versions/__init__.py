"""Practice 1: what data, code and environment a thing was made from, kept by digest.

:mod:`~flyball.versions.data` keeps snapshots; :func:`capture` what a run is made from besides: the project's code as it
ran, Python and every installed package, the resolved configuration, seeds and hardware.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.versions.capturing import Captured, capture, capture_late
    from flyball.versions.seeds import seed

__all__ = ["Captured", "capture", "capture_late", "seed"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("Captured", "capture", "capture_late"):
        return getattr(import_module("flyball.versions.capturing"), name)
    if name == "seed":
        return import_module("flyball.versions.seeds").seed
    raise AttributeError(f"flyball.versions has no {name!r}")
