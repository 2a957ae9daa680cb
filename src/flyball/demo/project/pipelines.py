"""How a delay model is made: from the landings known by then to a version that passed its gate.

Each step is a plain function; call it in a test as it is.
"""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
from features import VIEWS, delay

import flyball as fb

LATE_AFTER_MIN = 15


@fb.step
def choose(landings: pl.DataFrame, until: datetime, days: int, holdout_days: int, most: int) -> pl.DataFrame:
    """The flights to learn from: landed by ``until``; the newest ``holdout_days`` are kept whole, for the gate."""
    known = landings.filter(pl.col("landed_at") <= until)
    if days:
        known = known.filter(pl.col("asked_at") > until - timedelta(days=days))
    newest = pl.col("asked_at") > until - timedelta(days=holdout_days)
    older = known.filter(~newest)
    if older.height > most:  # a fixed sample, spread evenly over the time there is
        older = older.sort("asked_at", "flight_id").gather(np.linspace(0, older.height - 1, most).astype(int))
    return pl.concat([older, known.filter(newest)]).with_columns(
        late=(pl.col("arr_delay") > LATE_AFTER_MIN).cast(pl.Int8)
    )


@fb.step
def features_for(
    flights: pl.DataFrame, landings: pl.DataFrame, weather: pl.DataFrame, planes: pl.DataFrame
) -> pl.DataFrame:
    """Each flight as it was known one hour before it left."""
    sources = {"landings": landings, "weather": weather, "planes": planes}
    return fb.features.point_in_time(flights, "asked_at", VIEWS, sources, service=delay)


@fb.step
def split(frame: pl.DataFrame, until: datetime, holdout_days: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """By time: learn from the past, judge on the newest days."""
    newest = pl.col("asked_at") > until - timedelta(days=holdout_days)
    return frame.filter(~newest), frame.filter(newest)


def boosted(x: np.ndarray, y: np.ndarray, trees: int, seed: int):
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=15, min_samples_leaf=300, l2_regularization=10.0, early_stopping=False,
        random_state=seed,
    )  # fmt: skip
    with threadpool_limits(
        1
    ):  # beside busy servers, threads that wait for one another cost thirty times more
        return model.fit(x, y)


def matrix(frame: pl.DataFrame) -> np.ndarray:
    return frame.select(delay.features).to_numpy().astype(np.float32)


@fb.step
def fit(train: pl.DataFrame, trees: int, seed: int):
    """Gradient-boosted trees on the service's features, in its order."""
    return boosted(matrix(train), train["late"].to_numpy(), trees, seed)


@fb.step
def out_of_sample(train: pl.DataFrame, trees: int, seed: int, folds: int, most: int = 20_000) -> pl.DataFrame:
    """What such a model says on days it has not seen, by whole weeks: its quality's own variation in time."""
    train = train.gather_every(max(1, round(train.height / most)))
    week = (train["asked_at"].dt.date().to_physical() // 7 % folds).to_numpy()
    x, y = matrix(train), train["late"].to_numpy()
    p = np.empty(train.height)
    for fold in range(folds):
        inside = week == fold
        p[inside] = boosted(x[~inside], y[~inside], trees, seed).predict_proba(x[inside])[:, 1]
    return train.select("asked_at", "late").with_columns(p=pl.Series(p))


@fb.pipeline
def train_delays(
    until: datetime,
    days: int = 0,
    trees: int = 80,
    seed: int = 7,
    holdout_days: int = 14,
    most: int = 100_000,
):
    """From landings to a challenger; registered only when it beats the champion on the newest days."""
    landings, weather = fb.data.use("landings"), fb.data.use("weather")
    checked = fb.checks.require("landings", landings)
    flights = choose(checked, until, days, holdout_days, most)
    frame = features_for(flights, landings, weather, fb.data.use("planes"))
    train, test = split(frame, until, holdout_days)
    model = fit(train, trees, seed)
    verdict = fb.gate(
        model, test, label="late", at="asked_at", service="delay", against="delays@champion", slices=["origin"],
        reference=out_of_sample(train, trees, seed, folds=4), train=train,
    )  # fmt: skip
    with fb.when(verdict.passed):
        fb.models.register(
            "delays", model, sample=train, service="delay", gate=verdict, aliases=["challenger"]
        )
