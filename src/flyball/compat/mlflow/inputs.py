"""What went into runs and came out of them, as MLflow tells it: datasets, and logged models.

Each is a tag of the run under a reserved name, so it is sealed, saved and moved with the run; a dataset's whole
description (schema and profile may be 17 MB) is a blob, and a record of the ledger with a lineage edge to the run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from blake3 import blake3

from flyball.stores.run_tables import FACTS, RUNS, rows_of
from flyball.track.query import Compare, matches

if TYPE_CHECKING:
    from flyball.service import Workspace

DATASET, MODEL_IN, MODEL_OUT = "flyball.dataset.", "flyball.model-input.", "flyball.model-output."
CONTEXT = "mlflow.data.context"
_KEPT_BYTES = 64 * 1024  # descriptions up to this size stay in memory, this many of them
_KEPT = 256


class Input(msgspec.Struct, frozen=True):
    """One dataset of one run: what it is found by, and where its description lies."""

    name: str
    digest: str
    content: str  # digest of the blob with its description
    tags: tuple[tuple[str, str], ...] = ()
    place: int = 0  # which one of the run it was

    @property
    def fact(self) -> str:
        """The tag it is kept under: the same dataset is the same input, whoever logs it again."""
        return DATASET + blake3(msgspec.json.encode((self.name, self.digest))).hexdigest()[:32]


class Described(msgspec.Struct, frozen=True, omit_defaults=True):
    """A dataset as the client describes it; MLflow's ``Dataset``."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str = ""
    profile: str = ""


_input = msgspec.json.Decoder(Input)
_described = msgspec.json.Decoder(Described)


def is_ours(tag: str) -> bool:
    """Whether a tag is one of these, which the client sees elsewhere."""
    return tag.startswith("flyball.") and tag.startswith((DATASET, MODEL_IN, MODEL_OUT))


def inputs_and_outputs(ws: Workspace, tags: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``RunInputs`` and ``RunOutputs`` from a run's tags."""
    fed: list[Input] = []
    models: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    for name, text in tags.items():
        if not name.startswith("flyball."):
            continue
        if name.startswith(DATASET):
            fed.append(_input.decode(text))
        elif name.startswith(MODEL_IN):
            models.append({"model_id": name.removeprefix(MODEL_IN)})
        elif name.startswith(MODEL_OUT):
            made.append({"model_id": name.removeprefix(MODEL_OUT), "step": int(text or 0)})
    if not (fed or models or made):
        return {}, {}
    datasets = [
        {
            "dataset": described(ws, one.content),
            "tags": [{"key": key, "value": value} for key, value in one.tags],
        }
        for one in sorted(fed, key=lambda one: one.place)
    ]
    inputs = {"dataset_inputs": datasets, **({"model_inputs": models} if models else {})}
    return inputs if datasets or models else {}, {"model_outputs": made} if made else {}


_descriptions: OrderedDict[str, Described] = OrderedDict()
_lock = Lock()


def described(ws: Workspace, content: str) -> Described:
    """A dataset's description. Small ones are remembered: 5,000 runs of a sweep have the same one."""
    with _lock:
        found = _descriptions.get(content)
    if found is None:
        raw = ws.blobs.get(content)
        found = _described.decode(raw)
        if len(raw) <= _KEPT_BYTES:
            with _lock:
                _descriptions[content] = found
                while len(_descriptions) > _KEPT:
                    _descriptions.popitem(last=False)
    return found


def condition(ws: Workspace, compare: Compare) -> sa.ColumnElement[bool]:
    """``dataset.name = 'flights'`` as a condition on runs: at least one of their datasets meets it."""

    kept = [
        (fact, text) for fact, text in known(ws) if matches(compare, partial(_value, _input.decode(text)))
    ]
    if not kept:
        return sa.false()
    inside = sa.tuple_(FACTS.c.name, FACTS.c.text).in_(kept)
    return RUNS.c.id.in_(sa.select(FACTS.c.run).where(FACTS.c.kind == "tag", inside))


def _value(found: Input, _kind: str, name: str) -> Any:
    if name == "context":
        return [value for key, value in found.tags if key == CONTEXT] or None
    return found.name if name == "name" else found.digest


def known(ws: Workspace, experiments: Sequence[str] | None = None) -> list[tuple[Any, ...]]:
    """Every dataset that a run was fed, once: ``(tag, text)``, or ``(tag, text, experiment)`` of some experiments."""
    query: Any = sa.select(FACTS.c.name, FACTS.c.text)
    if experiments is not None:
        query = sa.select(FACTS.c.name, FACTS.c.text, RUNS.c.experiment).join(RUNS, RUNS.c.id == FACTS.c.run)
        query = query.where(RUNS.c.experiment.in_(list(experiments)))
    between = sa.and_(FACTS.c.name >= DATASET, FACTS.c.name < DATASET[:-1] + "/")
    with ws.ledger.reading() as connection:
        return rows_of(connection, query.where(FACTS.c.kind == "tag", between).distinct())


def input_of(text: str) -> Input:
    """A tag's text as the input it is."""
    return _input.decode(text)
