"""How far apart two samples of one column lie: four distances, none of which knows what is far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Distance = Literal["wasserstein", "ks", "psi", "total_variation"]

LEVELS = (np.arange(200) + 0.5) / 200


def wasserstein(reference: ArrayLike, present: ArrayLike) -> float:
    """Wasserstein-1 in standard deviations of the reference, over 200 quantiles.

    >>> round(wasserstein(np.arange(100.0), np.arange(100.0) + 28.866), 2)
    1.0
    """
    a, b = seen_of(reference), seen_of(present)
    return standardised_distance(np.quantile(a, LEVELS), float(a.std()), b)


def standardised_distance(quantiles: Floats, scale: float, present: Floats) -> float:
    """:func:`wasserstein` from what is kept of a reference: its quantiles at :data:`LEVELS` and its deviation."""
    moved = float(np.abs(np.quantile(present, LEVELS) - quantiles).mean())
    return moved / scale if scale > 0.0 else (math.inf if moved > 0.0 else 0.0)


def ks(reference: ArrayLike, present: ArrayLike) -> float:
    """Kolmogorov-Smirnov: the greatest distance between the two distribution functions."""
    a, b = np.sort(seen_of(reference)), np.sort(seen_of(present))
    both = np.concatenate([a, b])
    gap = np.searchsorted(a, both, "right") / a.size - np.searchsorted(b, both, "right") / b.size
    return float(np.abs(gap).max())


def psi(reference: ArrayLike, present: ArrayLike, bins: int = 10) -> float:
    """Population stability index over the reference's deciles; an empty bin counts half a row."""
    a, b = seen_of(reference), seen_of(present)
    edges = np.unique(np.quantile(a, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    p, q = (_shares(np.bincount(np.searchsorted(edges, x, "left"), minlength=edges.size + 1)) for x in (a, b))
    return float(((q - p) * np.log(q / p)).sum())


def _shares(counts: NDArray[np.intp]) -> Floats:
    kept = np.maximum(counts.astype(np.float64), 0.5)
    shares: Floats = kept / kept.sum()
    return shares


def total_variation(reference: Sequence[Any] | NDArray[Any], present: Sequence[Any] | NDArray[Any]) -> float:
    """Half the sum of differences between the shares of each category: 0 alike, 1 disjoint.

    >>> total_variation(["JFK", "LGA"], ["JFK", "JFK"])
    0.5
    """
    names, codes = np.unique(
        np.concatenate([np.asarray(reference), np.asarray(present)]), return_inverse=True
    )
    cut = len(reference)
    p = np.bincount(codes[:cut], minlength=names.size) / max(cut, 1)
    q = np.bincount(codes[cut:], minlength=names.size) / max(len(present), 1)
    return float(0.5 * np.abs(p - q).sum())


def distance_between(kind: Distance, reference: NDArray[Any], present: NDArray[Any]) -> float:
    """One distance by its name."""
    measure = {"wasserstein": wasserstein, "ks": ks, "psi": psi, "total_variation": total_variation}[kind]
    return float(measure(reference, present))


def known_of(value: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are there: neither null nor NaN."""
    if value.dtype.kind == "f":
        return np.asarray(~np.isnan(value), dtype=np.bool_)
    if value.dtype.kind == "O":
        return np.array(
            [not (one is None or (isinstance(one, float) and math.isnan(one))) for one in value],
            dtype=np.bool_,
        )
    return np.ones(value.shape, dtype=np.bool_)


def seen_of(values: ArrayLike) -> Floats:
    """The numbers that are there."""
    value = np.asarray(values, dtype=np.float64)
    return value[~np.isnan(value)]
