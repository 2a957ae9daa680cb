"""The seal of a run: its record in the ledger carries the digest of its rows from its end on.

Whoever changes the rows of an ended run (a tag, an artifact, a late metric) seals it again in the same transaction, with
an event that says who did; so ``--verify`` finds a byte that was flipped behind the ledger's back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flyball.core.clock import to_us
from flyball.core.records import Run
from flyball.errors import Invalid, NotFound
from flyball.stores import run_facts, run_summaries
from flyball.stores.prepared import Prepared
from flyball.stores.run_tables import RUNS, upsert

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger, Transaction

NAMES_IN_A_RECORD = 1000  # of params and of metrics: with more, the record counts them
LETTERS_IN_A_RECORD = 4000  # of a param that was logged: the whole of it is in the table


_HEAD = Prepared(sa.select(RUNS.c.ended_us, RUNS.c.deleted_us).where(RUNS.c.id == sa.bindparam("id")))


@contextmanager
def changing(ledger: Ledger, run: str, actor: str = "") -> Iterator[Connection]:
    """A connection to write a run's rows with. One that has ended is sealed again; a deleted one is :class:`Invalid`."""
    with ledger.writing(alone=run) as connection:
        if open_head(connection, run).ended_us is None:
            yield connection
            return
    with ledger.transaction() as tx:
        tx.alone(run)
        head = open_head(tx.connection, run)
        yield tx.connection
        if head.ended_us is not None:
            record = tx.find("run", run, Run)
            if record is not None:
                sealed = sealed_record(tx.connection, record)
                tx.append("run.amended", run, actor=actor or record.actor, sets=[("run", run, sealed)])


def open_head(connection: Connection, run: str) -> Any:
    """The head of a run that may be written."""
    head = _HEAD.run(connection, {"id": run}).first()
    if head is None:
        raise NotFound(f"no run {run!r}", "flyball runs ls names them", noun="run", key=run)
    if head.deleted_us is not None:
        raise Invalid(f"{run} is deleted", f"flyball runs restore {run} brings it back", run=run)
    return head


def head_of(run: Run) -> dict[str, Any]:
    """The row of ``runs`` that a record stands for."""
    return {
        "id": run.id,
        "experiment": run.experiment,
        "name": run.name,
        "pipeline": run.pipeline,
        "status": run.status,
        "started_us": to_us(run.started),
        "ended_us": None if run.ended is None else to_us(run.ended),
        "deleted_us": None if run.deleted is None else to_us(run.deleted),
        "actor": run.actor,
        "parent": run.parent,
        "process": run.process,
    }


def put_head(tx: Transaction, run: Run) -> None:
    """Bring the searched row of a run up to its record; in the transaction that sets the record."""
    upsert(tx.connection, RUNS, [head_of(run)])
    if run.ended is None:
        run_summaries.drop(tx.connection, run.id)


def sealed_record(
    connection: Connection,
    run: Run,
    finite: dict[str, float] | None = None,
    typed: Mapping[str, Any] | None = None,
) -> Run:
    """The record with what its rows hold now: finite metrics and params (bounded), counts, and the seal.

    ``finite`` and ``typed`` are what its process knows better: the last finite values, and params with their types.
    """
    facts, seal = run_facts.sealed(connection, run.id)
    run_summaries.put(connection, run.id, facts)
    return msgspec.structs.replace(
        run,
        metrics=bounded_metrics({**run.metrics, **(finite or {})}, facts),
        params=bounded_params(run.params, facts.params, typed or {}),
        counts={
            "params": len(facts.params),
            "metrics": len(facts.metrics),
            "tags": len(facts.tags),
            "points": sum(one.points for one in facts.metrics.values()),
        },
        seal=seal,
    )


def bounded_metrics(known: dict[str, float], facts: run_facts.Facts) -> dict[str, float]:
    """The latest values as JSON can say them; of a metric that is NaN now, the last finite one that was known."""
    found = {name: value for name, value in known.items() if name in facts.metrics}
    for name, one in facts.metrics.items():
        if one.value - one.value == 0:  # finite
            found[name] = one.value
    return dict(list(found.items())[:NAMES_IN_A_RECORD])


def bounded_params(known: dict[str, Any], logged: dict[str, str], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Params with the types they were given with where that is known; those logged later bounded, long ones cut."""
    found = dict(known)
    for name, content in logged.items():
        if len(found) >= NAMES_IN_A_RECORD:
            break
        if name not in found:
            value = typed.get(name, content)
            if len(content) > LETTERS_IN_A_RECORD:
                value = f"{content[:1000]}…"
            elif run_facts.text_of(value) != content:
                value = content  # another process wrote it first, and differently
            found[name] = value
    return found
