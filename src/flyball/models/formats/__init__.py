"""Models as bytes and back: each family in the format its own library keeps, everything else pickled with its code.

| format | what it holds | loading it runs |
|---|---|---|
| ``onnx`` | a graph | nothing |
| ``skops`` | scikit-learn estimators | nothing: types outside scikit-learn are refused by name |
| ``xgboost``, ``lightgbm`` | boosters and their scikit-learn wrappers, as UBJSON and as text | nothing |
| ``torch`` | a program of ``torch.export``, or TorchScript | nothing of Python |
| ``python`` | any object: its pickle, and the sources of the project that its classes need | that pickle, that code |
| ``pickle`` | any object whose classes are installed | that pickle |

A family is recognised by what is loaded already (``sys.modules``); an engine is imported when one of its models is read.
Workers import this: no dataframe, no database, no scikit-learn unless the model needs it.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.errors import FlyballError, Invalid
from flyball.models.formats.needs import missing, requirements

if TYPE_CHECKING:
    from flyball.models.signature import Sample

Wanted = Literal["auto", "onnx", "pickle", "skops", "xgboost", "lightgbm", "torch", "python"]
FORMATS = ("onnx", "skops", "xgboost", "lightgbm", "torch", "python", "pickle")
RUNS_CODE = ("python", "pickle")  # loading these runs what they say; the others can't
_OWN = ("skops", "xgboost", "lightgbm", "torch")  # a library's own way to keep its models
_PLACES = {"python": "bundle", "pickle": "pickles"}
_COMPARED_ROWS = 500


class Encoded(msgspec.Struct, frozen=True):
    """A model's bytes, the format that reads them, and what is to be known of them.

    ``facts``: ``class``, ``requires`` (distributions, as they are installed here), and ``reason`` when a plainer format
    was taken than the family's own.
    """

    format: str
    data: bytes
    facts: dict[str, Any]


def encode(model: Any, wanted: str = "auto", sample: Sample | None = None) -> Encoded:
    """The bytes of a native model, in its family's own format where that gives the same model back.

    With a ``sample``, "the same" is tried: what is read back must answer its rows equally. What can't be kept otherwise is
    pickled with the code of the project that it needs; :class:`Invalid` when even that fails.

    >>> from functools import partial
    >>> kept = encode(partial(max, 0.0))
    >>> kept.format, decode(kept.format, kept.data)(2.5)
    ('pickle', 2.5)
    """
    if wanted not in ("auto", *FORMATS):
        raise Invalid(f"no format {wanted!r}", f"known: auto, {', '.join(FORMATS)}", format=wanted)
    native = _family_of(model) if wanted in ("auto", "onnx") else wanted
    reason = ""
    if native in _OWN:
        try:
            return _checked(_own(model, native, sample), model, sample)
        except FlyballError as error:
            if wanted == native:
                raise
            reason = f"{native}: {error.what}"
        except ImportError as error:
            if wanted == native:
                raise missing(error, f"writing {native}") from error
            reason = f"{native}: {missing(error, native).hint}"
    kept = _pickled(model, "auto" if native in _OWN else native)
    return msgspec.structs.replace(kept, facts={**kept.facts, "reason": reason}) if reason else kept


def decode(format: str, data: bytes) -> Any:
    """The model of these bytes; whoever asks has checked their digest, and that they were made or trusted here.

    What is not installed is :class:`Unavailable` with the line that installs it.
    """
    if format not in FORMATS:
        raise Invalid(f"no format {format!r}", f"known: {', '.join(FORMATS)}", format=format)
    try:
        return _keeper(format).read(data)
    except ImportError as error:
        raise missing(error, f"a {format} model") from error


def is_trusted(facts: Mapping[str, Any]) -> bool:
    """Whether a version's bytes may run what they say when they are loaded: made here, or somebody vouched for them."""
    return "foreign" not in facts or bool(facts.get("trusted"))


def _keeper(format: str) -> Any:
    """The module that reads (and writes) a format."""
    return import_module(f"{__name__}.{_PLACES.get(format, format)}")


def is_loaded(module: str) -> bool:
    """Whether a library is in use already; a model of a library that is not can't have been made."""
    return module in sys.modules


def _family_of(model: Any) -> str:
    """The format of the family a model belongs to, by the libraries that are loaded; ``"auto"`` for none."""
    for family in ("xgboost", "lightgbm", "torch"):
        if is_loaded(family) and _keeper(family).is_own(model):
            return family
    if is_loaded("sklearn") and isinstance(model, sys.modules["sklearn"].base.BaseEstimator):
        return "skops"
    return "auto"


def _own(model: Any, family: str, sample: Sample | None) -> Encoded:
    keeper = _keeper(family)
    data = keeper.write(model, sample)
    facts = _facts(model, {type(model).__module__, family})
    if family == "skops":
        facts["trusted_types"] = keeper.trusted(data)
    return Encoded(family, data, facts)


def _pickled(model: Any, wanted: str) -> Encoded:
    from flyball.models.formats import bundle, pickles

    data = pickles.dumps(model)
    modules = pickles.modules_of(data)
    format = wanted
    if wanted == "auto":
        format = "python" if any(bundle.is_project(name) for name in modules) else "pickle"
    facts = _facts(model, modules)
    if format == "python":
        sources = bundle.collect(modules)
        data = bundle.pack(sources, pickles.renamed(data, bundle.own_name))
        modules |= sources.imports
        facts |= {"code": sources.digest, "modules": sorted(sources.files), "requires": requirements(modules)}
    return Encoded(format, data, facts)


def _facts(model: Any, modules: set[str]) -> dict[str, Any]:
    return {
        "class": _class_of(model),
        "estimator": hasattr(model, "__sklearn_tags__"),
        "python": platform.python_version(),
        "requires": requirements(modules),
    }


def _class_of(model: Any) -> str:
    module = type(model).__module__
    if module.startswith("flyball_code_"):  # loaded from a bundle: the name it had before
        module = module.partition(".")[2]
    return f"{module}.{type(model).__qualname__}"


def _checked(encoded: Encoded, model: Any, sample: Sample | None) -> Encoded:
    """The same, after it was read back and has answered as the model does."""
    again = decode(encoded.format, encoded.data)
    if sample is None or len(sample) == 0:
        return encoded
    import numpy as np

    from flyball.models.scoring import score

    rows = sample[:_COMPARED_ROWS]
    try:
        wanted = score(model, rows)
    except Exception:  # noqa: BLE001 (a model that can't answer can't be compared; whoever registers it hears of that)
        return encoded
    found = score(again, rows)
    if not np.allclose(wanted, found, rtol=1e-6, atol=1e-7, equal_nan=True):  # a program may round otherwise
        gap = float(np.nanmax(np.abs(wanted - found)))
        raise Invalid(
            f"what was read back answers differently, by up to {gap:.2g}", 'format="pickle" keeps it'
        )
    return encoded
