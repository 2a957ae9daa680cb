"""Several questions at once: combining e-values, and controlling the share of false discoveries (F5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def log_mean_e(log_es: Sequence[float]) -> float:
    """Log of the mean of e-values: again an e-value, whatever binds the metrics to one another (Vovk & Wang 2021).

    >>> round(log_mean_e([math.log(40), 0.0]), 3) == round(math.log(20.5), 3)
    True
    """
    if not len(log_es):
        return 0.0
    top = max(log_es)
    return (
        top if math.isinf(top) else top + math.log(sum(math.exp(one - top) for one in log_es) / len(log_es))
    )


def e_bh(e_values: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """e-BH: which to reject so that at most ``rate`` of the rejections are false, under any dependence.

    >>> e_bh([100.0, 1.0, 90.0], rate=0.05).tolist()
    [True, False, True]
    """
    e = np.asarray(e_values, dtype=np.float64)
    order = np.argsort(-e)
    enough = e[order] >= e.size / (rate * np.arange(1, e.size + 1))
    return _first_of(order, enough)


def benjamini_hochberg(
    p_values: ArrayLike, rate: float, weights: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Which to reject so that at most ``rate`` of the rejections are false, for p-values independent or alike in sign.

    ``weights`` (scaled to a mean of 1) favour what matters more (Genovese 2006); a weight of 0 is never rejected.

    >>> benjamini_hochberg([0.001, 0.6, 0.02], rate=0.05).tolist()
    [True, False, True]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if weights is not None and p.size:
        w = np.asarray(weights, dtype=np.float64)
        mean = float(w.mean())
        p = np.divide(p * mean, w, out=np.full(p.shape, np.inf), where=w > 0.0)
    order = np.argsort(p)
    return _first_of(order, p[order] <= rate * np.arange(1, p.size + 1) / max(p.size, 1))


def _first_of(order: NDArray[np.intp], enough: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rejected = np.zeros(order.size, dtype=np.bool_)
    if enough.any():
        rejected[order[: int(np.flatnonzero(enough)[-1]) + 1]] = True
    return rejected
