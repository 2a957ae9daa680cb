"""What a model needs installed: its requirements as they are here, and what to install when something is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from flyball.errors import Unavailable

EXTRAS = {
    "sklearn": "sklearn",
    "skops": "skops",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "torch": "torch",
    "onnxruntime": "onnx",
    "onnx": "sklearn",
    "skl2onnx": "sklearn",
}
# Import names whose distribution is called otherwise, and those whose distribution has more than one name.
DISTRIBUTIONS = {
    "sklearn": ("scikit-learn",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "torch": ("torch",),
    "yaml": ("pyyaml",),
    "PIL": ("pillow",),
    "cv2": ("opencv-python", "opencv-python-headless"),
}
_BRINGS = {  # what one's pickles need beside it
    "sklearn": ("numpy", "scipy"),
    "skops": ("sklearn",),
    "xgboost": ("numpy", "scipy", "sklearn"),
    "lightgbm": ("numpy", "scipy", "sklearn"),
    "onnxruntime": ("numpy",),
}


def install_line(module: str) -> str:
    """The command that brings a module.

    >>> install_line("sklearn"), install_line("PIL.Image")
    ("pip install 'flyball[sklearn]'", 'pip install pillow')
    """
    top = module.partition(".")[0]
    if top in EXTRAS:
        return f"pip install 'flyball[{EXTRAS[top]}]'"
    return f"pip install {DISTRIBUTIONS.get(top, (top,))[0]}"


def missing(error: ImportError, what: str) -> Unavailable:
    """An import that failed, as what to install; a name that its module lacks is a matter of versions, and says so."""
    name = error.name or str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"{install_line(error.name)}; a class of your project's own: register it again, with its code"
        return Unavailable(f"{what} needs the module {error.name!r}", hint, module=error.name)
    return Unavailable(
        f"{what} does not load with the {name.partition('.')[0]} that is installed: {error}",
        "install the version it was made with: flyball models show says which",
        module=name,
    )


def requirements(modules: Iterable[str]) -> dict[str, str]:
    """Distributions that provide these modules, with the versions that are installed here; the standard library and
    modules of no distribution count for nothing.

    >>> sorted(requirements({"json", "numpy.linalg"}))
    ['numpy']
    """
    from importlib import metadata  # 15 ms that a worker does not need

    found: dict[str, str] = {}
    waiting = sorted({name.partition(".")[0] for name in modules})
    seen = set(waiting)
    while waiting:
        top = waiting.pop()
        if top in sys.stdlib_module_names or top in ("__main__", "flyball") or not top:
            continue
        for distribution in _distributions_of(top):
            found[distribution] = metadata.version(distribution)
        waiting += [one for one in _BRINGS.get(top, ()) if one not in seen]
        seen.update(_BRINGS.get(top, ()))
    return dict(sorted(found.items()))


def _distributions_of(top: str) -> list[str]:
    from importlib import metadata

    for name in DISTRIBUTIONS.get(top, (top,)):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return [name]
    return sorted(set(metadata.packages_distributions().get(top, [])))[:1]
