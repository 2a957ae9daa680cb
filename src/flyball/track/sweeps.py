"""Sweeps: Optuna proposes, runs record. A sweep is a run, each trial a run inside it; there is no second database.

After a kill the sweep goes on: finished trials are told to Optuna again from their runs, and those that were cut off are
tried first, with the very params they had.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.core.records import Run
from flyball.errors import Invalid, NotFound, Unavailable
from flyball.stores.runs import RunStore

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger
    from flyball.track.runs import ActiveRun

Direction = Literal["maximize", "minimize"]
VALUE = "objective"
TRIAL = "flyball.trial"
Opener = Callable[[str, dict[str, Any], dict[str, str]], AbstractContextManager["ActiveRun"]]


class Trial(msgspec.Struct, frozen=True):
    """One point that was tried."""

    number: int
    run: str
    status: str
    value: float | None
    params: dict[str, Any]


class Sweep(msgspec.Struct, frozen=True):
    """A sweep so far: its trials in the order they were proposed, and the best of them."""

    run: str
    direction: Direction
    wanted: int
    trials: list[Trial]
    best: Trial | None = None

    def as_text(self) -> str:
        """The best first, and how the others did."""
        done = [one for one in self.trials if one.value is not None]
        lines = [f"{self.run}: {len(done)} of {self.wanted} trials, {self.direction}"]
        if self.best is not None:
            said = ", ".join(f"{name}={_short(value)}" for name, value in self.best.params.items())
            lines.append(f"best  {_short(self.best.value)}  with {said}  ({self.best.run})")
        sign = -1 if self.direction == "maximize" else 1
        for one in sorted(done, key=lambda one: sign * (one.value or 0.0))[1:10]:
            said = ", ".join(f"{name}={_short(value)}" for name, value in one.params.items())
            lines.append(f"      {_short(one.value)}  {said}  ({one.run})")
        failed = [one for one in self.trials if one.status not in ("done", "running")]
        if failed:
            lines.append(f"{len(failed)} without a value: {', '.join(one.run for one in failed[:5])}")
        return "\n".join(lines)


def carry_out(
    ledger: Ledger,
    sweep: ActiveRun,
    objective: Callable[..., Any],
    space: Mapping[str, Any],
    *,
    trials: int,
    direction: Direction,
    seed: int,
    opener: Opener,
    sampler: Any = None,
) -> Sweep:
    """Try until ``trials`` have a value; ``opener(name, params, tags)`` opens the run of one."""
    optuna = _optuna()
    distributions = {name: distribution(name, one) for name, one in space.items()}
    before = found(ledger, sweep.id)
    study = _study(optuna, before, distributions, direction, seed, sampler)
    number = max((one.number for one in before.trials), default=-1) + 1
    done = sum(one.status == "done" for one in before.trials)  # with a value or, pruned or NaN, without
    wants_trial = len(inspect.signature(objective).parameters) > 1
    while done < trials:
        trial = study.ask(distributions)
        value = math.nan
        pruned = False
        with opener(f"trial {number}", dict(trial.params), {TRIAL: str(number)}) as run:
            try:
                answer = (
                    objective(dict(trial.params), trial) if wants_trial else objective(dict(trial.params))
                )
                value = _value(answer)
                run.metric(VALUE, value)
            except optuna.TrialPruned:
                pruned = True
                run.tag("flyball.pruned", "true")
        state = optuna.trial.TrialState
        if pruned or math.isnan(value):
            study.tell(trial, state=state.PRUNED if pruned else state.FAIL)
        else:
            study.tell(trial, value)
        done += 1  # a trial without a value counts too: an objective that always fails must come to an end
        number += 1
    return found(ledger, sweep.id)


def found(ledger: Ledger, run_id: str) -> Sweep:
    """A sweep as its runs tell it."""
    record = ledger.get("run", run_id, Run)
    if "sweep.direction" not in record.params:
        raise NotFound(
            f"{run_id} is no sweep", 'flyball runs ls --where "params.sweep.trials > 0"', run=run_id
        )
    direction: Direction = "minimize" if record.params["sweep.direction"] == "minimize" else "maximize"
    store = RunStore(ledger)
    children = store.children(run_id)
    facts = store.facts(children)
    heads = store.heads(children)
    trials: list[Trial] = []
    for child in children:
        tag = facts[child].tags.get(TRIAL)
        if tag is None:
            continue
        value = facts[child].metrics.get(VALUE)
        ended = heads[child].status == "done" and value is not None and math.isfinite(value.value)
        params = ledger.get("run", child, Run).params
        trials.append(
            Trial(
                int(tag),
                child,
                heads[child].status,
                value.value if ended and value is not None else None,
                {name: params[name] for name in params},
            )
        )
    trials.sort(key=lambda one: one.number)
    valued = [one for one in trials if one.value is not None]
    choose = max if direction == "maximize" else min
    best = choose(valued, key=lambda one: one.value or 0.0) if valued else None
    return Sweep(run_id, direction, int(record.params["sweep.trials"]), trials, best)


def sweep_params(space: Mapping[str, Any], trials: int, direction: str, seed: int) -> dict[str, Any]:
    """What the sweep's own run is told, so that it can go on without being told again."""
    if direction not in ("maximize", "minimize"):
        raise Invalid(f"direction={direction!r}", "'maximize' or 'minimize'")
    if trials < 1:
        raise Invalid(f"trials={trials}", "1 at least")
    if not space:
        raise Invalid(
            "a sweep without a space tries nothing", "space={'depth': (2, 10), 'rate': (1e-3, 1.0, 'log')}"
        )
    optuna = _optuna()
    said = {
        name: optuna.distributions.distribution_to_json(distribution(name, one))
        for name, one in space.items()
    }
    return {
        "sweep.trials": trials,
        "sweep.direction": direction,
        "sweep.seed": seed,
        **{f"sweep.space.{name}": one for name, one in said.items()},
    }


def space_of(run: Run) -> dict[str, Any]:
    """The space that a sweep was begun with."""
    optuna = _optuna()
    start = "sweep.space."
    return {
        name.removeprefix(start): optuna.distributions.json_to_distribution(value)
        for name, value in run.params.items()
        if name.startswith(start)
    }


def distribution(name: str, given: Any) -> Any:
    """``(1, 10)`` whole numbers, ``(0.0, 1.0)`` numbers, ``(1e-4, 1.0, "log")`` on a logarithm, ``["a", "b"]`` a choice."""
    optuna = _optuna()
    kinds = optuna.distributions
    if isinstance(given, kinds.BaseDistribution):
        return given
    try:
        if isinstance(given, list):
            return kinds.CategoricalDistribution(given)
        if isinstance(given, range):
            return kinds.IntDistribution(given.start, given[-1], step=given.step)
        low, high, *how = given
        if how not in ([], ["log"]):
            raise ValueError(f"{how[0]!r} is not 'log'")
        kind = (
            kinds.IntDistribution
            if isinstance(low, int) and isinstance(high, int)
            else kinds.FloatDistribution
        )
        return kind(low, high, log=bool(how))
    except (TypeError, ValueError, IndexError) as error:
        raise Invalid(
            f"the space of {name} is {given!r:.100}: {error}",
            "(1, 10), (0.0, 1.0), (1e-4, 1.0, 'log'), ['a', 'b'], range(…), or an Optuna distribution",
        ) from error


def _study(
    optuna: Any, before: Sweep, distributions: dict[str, Any], direction: Direction, seed: int, sampler: Any
) -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    told = [one for one in before.trials if one.value is not None]
    # Seeded by how far the sweep is: the same seed again would propose again what was tried first.
    study = optuna.create_study(
        direction=direction, sampler=sampler or optuna.samplers.TPESampler(seed=seed + len(before.trials))
    )
    for one in told:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: one.params[name] for name in distributions},
                distributions=distributions,
                value=one.value,
            )
        )
    cut_off = [one for one in before.trials if one.status == "failed"]
    tried = [one.params for one in told]
    for one in cut_off:
        if one.params not in tried:
            tried.append(one.params)
            study.enqueue_trial({name: one.params[name] for name in distributions})
    return study


def _value(answer: Any) -> float:
    try:
        return float(answer)
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"the objective gave {answer!r:.100}, not a number", "return what is to be optimised"
        ) from error


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Unavailable("sweeps need Optuna", "pip install 'flyball[sweeps]'") from error
    return optuna


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
