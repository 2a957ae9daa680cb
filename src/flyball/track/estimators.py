"""Note what ``fit`` is told and comes to, of every estimator with scikit-learn's interface.

    with fb.track.autolog():
        GridSearchCV(Ridge(), {"alpha": [1, 10]}).fit(X, y)      # one run: params, best params, scores, a table of trials

scikit-learn has no callbacks, so the one public method ``fit`` of the classes is wrapped while autolog is on, and nothing
else; ``xgboost.train`` and ``lightgbm.train`` get our callback beside those they were given. Of fits inside fits (a
pipeline's steps, a search's candidates) only the outer one is noted. What goes wrong while noting is a warning: a model
must not fail to train because it could not be written down. :func:`fit` does the same for one call, wrapping nothing.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flyball.errors import FlyballError
from flyball.track.boosting import lightgbm_callback, note_params, xgboost_callback
from flyball.track.runs import current

if TYPE_CHECKING:
    from flyball.track.runs import ActiveRun

_inside: ContextVar[bool] = ContextVar("inside_a_fit", default=False)
_MARK = "__flyball_fit__"
Opener = Callable[[str], AbstractContextManager["ActiveRun"]]


def fit(estimator: Any, X: Any, y: Any = None, *, score: bool = True, **more: Any) -> Any:
    """``estimator.fit(X, y, **more)``, noted in the current run; returns the estimator."""
    run = current()
    if run is None:
        return estimator.fit(X, y, **more) if y is not None else estimator.fit(X, **more)
    given = (X,) if y is None else (X, y)
    return _noted(run, estimator, type(estimator).fit, given, more, score)


class Autolog:
    """On from the start; off at the end of the ``with`` block or by :meth:`stop`."""

    def __init__(self, opener: Opener | None = None, *, score: bool = True) -> None:
        self._opener = opener
        self._score = score
        self._undo: list[Callable[[], None]] = []
        base = getattr(sys.modules.get("sklearn.base"), "BaseEstimator", None)
        if base is None:
            from importlib import import_module
            from importlib.util import find_spec

            if find_spec("sklearn") is not None:
                base = import_module("sklearn.base").BaseEstimator
        if base is not None:
            self._watch_classes(base)
        for name, callback in (("xgboost", xgboost_callback), ("lightgbm", lightgbm_callback)):
            if (module := sys.modules.get(name)) is not None:
                self._watch_train(module, callback)

    def stop(self) -> None:
        """Every method is what it was."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Autolog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _watch_classes(self, base: Any) -> None:
        for kind in _all_subclasses(base):
            self._wrap(kind)
        before = base.__dict__.get("__init_subclass__")

        # Python's own hook for classes that are defined (imported) while autolog is on.
        def later(cls: Any, /, **kwargs: Any) -> None:
            super(base, cls).__init_subclass__(**kwargs)
            self._wrap(cls)

        base.__init_subclass__ = classmethod(later)
        if before is None:
            self._undo.append(lambda: delattr(base, "__init_subclass__"))
        else:
            self._undo.append(lambda: setattr(base, "__init_subclass__", before))

    def _wrap(self, kind: Any) -> None:
        plain = kind.__dict__.get("fit")
        if not callable(plain) or hasattr(plain, _MARK):
            return
        log = self

        @functools.wraps(plain)
        def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
            return log._fit(self, plain, args, kwargs)

        setattr(fit, _MARK, True)
        kind.fit = fit
        self._undo.append(lambda: setattr(kind, "fit", plain))

    def _fit(self, estimator: Any, plain: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _inside.get():
            return plain(estimator, *args, **kwargs)
        run = current()
        if run is None and self._opener is None:
            return plain(estimator, *args, **kwargs)
        assert run is not None or self._opener is not None
        around = nullcontext(run) if run is not None else self._opener(type(estimator).__name__)  # type: ignore[misc]
        with around as active:
            assert active is not None
            return _noted(active, estimator, plain, args, kwargs, self._score)

    def _watch_train(self, module: Any, callback: Callable[[], Any]) -> None:
        plain = module.train

        @functools.wraps(plain)
        def train(params: Any, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
            if _inside.get() or (current() is None and self._opener is None):
                return plain(params, *args, callbacks=callbacks, **kwargs)
            run = current()
            around = nullcontext(run) if run is not None else self._opener(module.__name__)  # type: ignore[misc]
            token = _inside.set(True)
            try:
                with around as active:
                    with _guarded():
                        note_params(active, dict(params))
                    return plain(params, *args, callbacks=[*(callbacks or ()), callback()], **kwargs)
            finally:
                _inside.reset(token)

        module.train = train
        self._undo.append(lambda: setattr(module, "train", plain))


def _noted(
    run: ActiveRun, estimator: Any, plain: Any, args: tuple[Any, ...], kwargs: dict[str, Any], score: bool
) -> Any:
    token = _inside.set(True)
    try:
        with _guarded():
            note_params(run, estimator.get_params(deep=True))
            run.tags({"estimator_name": type(estimator).__name__, "estimator_class": _full_name(estimator)})
        started = time.perf_counter()
        fitted = plain(estimator, *args, **kwargs)
        seconds = time.perf_counter() - started
        with _guarded():
            run.metric("fit_seconds", seconds)
            _note_result(run, estimator, args, kwargs, score)
        return fitted
    finally:
        _inside.reset(token)


def _note_result(
    run: ActiveRun, estimator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], score: bool
) -> None:
    X = args[0] if args else kwargs.get("X")
    y = args[1] if len(args) > 1 else kwargs.get("y")
    shape: Any = getattr(X, "shape", ())
    if len(shape) == 2:
        run.metrics({"training_rows": int(shape[0]), "training_columns": int(shape[1])})
    for name, course in _courses(estimator):
        run.metric_points(name, course)
    if hasattr(estimator, "best_params_") and hasattr(estimator, "cv_results_"):
        note_params(run, {f"best_{name}": value for name, value in estimator.best_params_.items()})
        if hasattr(estimator, "best_score_"):
            run.metric("best_cv_score", float(estimator.best_score_))
        results = estimator.cv_results_
        names = [name for name in results if name != "params" and len(results[name].shape) == 1]
        run.table({name: [_plain(one) for one in results[name]] for name in names}, "cv_results")
    if score and y is not None and X is not None and hasattr(estimator, "score"):
        run.metric("training_score", float(estimator.score(X, y)))


def _courses(estimator: Any) -> Iterator[tuple[str, Any]]:
    """What the estimator kept of each round: XGBoost's and LightGBM's evaluations, scikit-learn's own curves."""
    evaluations: Any = getattr(estimator, "evals_result_", None)
    if isinstance(evaluations, dict):
        for data, metrics in evaluations.items():
            for metric, values in metrics.items():
                yield f"{data}-{metric}", values
    for name in ("loss_curve_", "validation_scores_", "train_score_"):
        values = getattr(estimator, name, None)
        if values is not None and len(values):
            yield name.rstrip("_"), values


def _plain(value: Any) -> Any:
    found = value.item() if hasattr(value, "item") else value
    return found if isinstance(found, int | float | str | bool | None) else str(found)


def _full_name(estimator: Any) -> str:
    return f"{type(estimator).__module__}.{type(estimator).__qualname__}"


class _guarded:  # noqa: N801 (reads as the statement that it is)
    """What goes wrong in here is a warning."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        said = error.what if isinstance(error, FlyballError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"autolog could not note everything: {said}", RuntimeWarning, stacklevel=3)
        return True


def _all_subclasses(base: Any) -> Iterator[Any]:
    seen: set[Any] = set()
    waiting = [base]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            if kind not in seen:
                seen.add(kind)
                waiting.append(kind)
                yield kind
