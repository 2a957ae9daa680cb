"""Scikit-learn estimators as skops keeps them: a zip of arrays and a tree of types, read without running anything.

skops builds only types that it knows or is told to trust. It knows public estimators; what those are made of (trees,
losses, calibrators) it leaves to the reader. Ours takes a type when it is a class that scikit-learn itself defines: none
of them runs code that the file brings. Functions and everything of other modules are refused by name.
"""

from __future__ import annotations

import warnings
import zipfile
from importlib import import_module
from typing import Any

from flyball.errors import Invalid, Refused


def write(model: Any, sample: Any = None) -> bytes:
    """The skops file of an estimator; :class:`Refused` when it holds types that reading would refuse."""
    io = _io()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = bytes(io.dumps(model))
        except Exception as error:
            raise Invalid(
                f"skops can't keep a {type(model).__name__}: {error}", 'format="pickle" keeps it'
            ) from error
    trusted(data)
    return data


def read(data: bytes, *, also: frozenset[str] = frozenset()) -> Any:
    """The estimator of a skops file. Types that are not scikit-learn's are :class:`Refused`, but those in ``also``."""
    types = trusted(data, also=also)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _io().loads(data, trusted=types)


def trusted(data: bytes, *, also: frozenset[str] = frozenset(), strictly: bool = False) -> list[str]:
    """The types beyond skops' own list that a file holds, all of which may be built; :class:`Refused` names the others.

    ``strictly`` allows none beyond skops' own: a tree from elsewhere may send its reader out of bounds.
    """
    io = _io()
    try:
        types = sorted(io.get_untrusted_types(data=data))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise Invalid(f"not a skops file, or a torn one: {error}", "copy the whole file") from error
    wrong = [name for name in types if name not in also and (strictly or not _is_harmless(name))]
    if wrong:
        raise Refused(
            f"the skops file holds types that are not known to be safe: {', '.join(wrong[:10])}",
            "look where it comes from before you trust it",
            types=wrong,
        )
    return types


def _is_harmless(name: str) -> bool:
    module, _, kind = name.rpartition(".")
    if not module.startswith("sklearn."):
        return False
    try:
        found = getattr(import_module(module), kind)
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and found.__module__.startswith("sklearn.")


def _io() -> Any:
    import_module("skops")  # its absence is said as what it is; scikit-learn's own follows
    return import_module("skops.io")
