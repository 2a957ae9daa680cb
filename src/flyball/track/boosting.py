"""XGBoost and LightGBM tell their own callbacks how training goes; these pass it on to a run.

    xgboost.train(params, data, evals=[(valid, "valid")], callbacks=[fb.track.xgboost_callback()])
    lightgbm.train(params, data, valid_sets=[valid], callbacks=[fb.track.lightgbm_callback()])

Metrics are called as MLflow calls them: ``valid-logloss``, a point for each round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flyball.errors import Unavailable
from flyball.track.runs import current

if TYPE_CHECKING:
    from flyball.track.runs import ActiveRun


def xgboost_callback(run: ActiveRun | None = None) -> Any:
    """A callback for ``xgboost.train`` and ``XGBModel(callbacks=[…])``: every metric of every round, and the best round."""
    try:
        from xgboost.callback import TrainingCallback
    except ImportError as error:
        raise Unavailable("XGBoost is not installed", "pip install 'flyball[xgboost]'") from error

    class Track(TrainingCallback):
        """Notes each round in a run."""

        def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Any]) -> bool:
            target = run or current()
            if target is not None:
                target.metrics(
                    {
                        f"{data}-{metric}": _mean(values[-1])
                        for data, metrics in evals_log.items()
                        for metric, values in metrics.items()
                    },
                    epoch,
                )
            return False

        def after_training(self, model: Any) -> Any:
            target = run or current()
            if target is not None:
                for name in ("best_iteration", "best_score"):
                    value = model.attr(name) if hasattr(model, "attr") else None
                    if value is not None:
                        target.metric(name, float(value))
            return model

    return Track()


def lightgbm_callback(run: ActiveRun | None = None) -> Callable[[Any], None]:
    """A callback for ``lightgbm.train`` and ``fit(callbacks=[…])``: its params at first, every metric of every round."""

    def track(environment: Any) -> None:
        target = run or current()
        if target is None:
            return
        if environment.iteration == environment.begin_iteration:
            note_params(target, environment.params)
        found = {f"{row[0]}-{row[1]}": row[2] for row in environment.evaluation_result_list or ()}
        if found:
            target.metrics(found, environment.iteration)

    track.order = 25  # type: ignore[attr-defined]  # after LightGBM's own record_evaluation, before early stopping
    return track


def note_params(run: ActiveRun, params: Mapping[str, Any]) -> None:
    """Note what is not noted yet: a second fit in the same run keeps the params of the first."""
    run.params({name: value for name, value in params.items() if name not in run.known_params})


def _mean(value: Any) -> float:
    return (
        float(value[0]) if isinstance(value, tuple) else float(value)
    )  # cross-validation gives (mean, deviation)
