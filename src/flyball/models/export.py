"""Scikit-learn models as ONNX, and the proof that the export answers as the model does.

A server feeds float32. A tree comparing ``x <= t`` in float64 may then take the other branch where a value ties with
a threshold, and one such branch moved a probability by 0.33. Two roundings of the thresholds are tried, since which is
right depends on what the model was fitted on: to the nearest float32 (right when ``x`` is rounded the same way) and
down (exact for values that are float32 already: ``x <= t`` holds when ``x <= floor32(t)`` does). The one that proves
equal is kept.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import msgspec
import numpy as np

from flyball.errors import Unavailable
from flyball.models.formats import decode
from flyball.models.scoring import output_of, score
from flyball.models.signature import PROBABILITY, Sample, as_array, is_float32

INSTALL = "pip install 'flyball[sklearn]'"
INPUT = "input"


class Export(msgspec.Struct, frozen=True):
    """The serving bytes (``None`` when no export was proved) and what was found on the way."""

    onnx: bytes | None
    facts: dict[str, Any]


def export(model: Any, sample: Sample | None, *, tolerance: float = 1e-5) -> Export:
    """Make the ONNX bytes of a model and prove them on a sample; without proof, the facts say why not.

    Differences are absolute for probabilities, and relative to values above 1 for regressors.
    """
    if not hasattr(model, "__sklearn_tags__"):
        return Export(None, {"reason": f"{type(model).__name__} is not a scikit-learn model"})
    if sample is None or len(sample) == 0:
        return Export(None, {"reason": "no sample to prove an export on"})
    try:
        graph = convert(model, as_array(sample).shape[1])
    except ImportError as error:
        raise Unavailable(f"exporting a scikit-learn model needs {error.name}", INSTALL) from error
    except Exception as error:  # noqa: BLE001 (a converter raises whatever it likes; the native model still serves)
        return Export(None, {"reason": f"skl2onnx: {type(error).__name__}: {str(error)[:300]}"})
    return _prove(model, graph, sample, tolerance)


def _prove(model: Any, graph: Any, sample: Sample, tolerance: float) -> Export:
    as_served = as_array(sample, np.float32)
    roundings = {"nearest": graph.SerializeToString()}
    if floored := _floored(model, graph):
        roundings["down"] = floored
    tried: list[tuple[float, str, str]] = []
    given = (("as given", False), ("float32", True))
    for inputs, float32 in given[1:] if is_float32(sample) else given:
        with _one_thread():
            wanted = score(model, sample, float32=float32)
        # the rounding that is right by argument comes first: the sample can't show every tie
        for rounding, data in sorted(roundings.items(), reverse=not float32):
            difference = largest_difference(wanted, run_onnx(data, as_served))
            tried.append((difference, inputs, rounding))
            if difference <= tolerance:
                facts = {
                    "rows": len(sample),
                    "largest_difference": difference,
                    "tolerance": tolerance,
                    "inputs": inputs,  # what the native model was given when the two were equal
                    "thresholds": rounding,
                }
                return Export(data, facts)
    difference, inputs, rounding = min(tried)
    reason = f"ONNX differs from the model by up to {difference:.2g} ({inputs}, thresholds {rounding})"
    return Export(
        None,
        {"reason": reason, "rows": len(sample), "largest_difference": difference, "tolerance": tolerance},
    )


def _one_thread() -> Any:
    """OpenMP's threads spin while they wait: on two busy cores the trees of 20,000 rows took 25 s instead of 0.4."""
    return import_module("threadpoolctl").threadpool_limits(1, user_api="openmp")  # scikit-learn brings it


def largest_difference(wanted: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    """The greatest difference over the rows, relative where values are above 1; infinite when one is not a number."""
    gap = np.abs(wanted - found) / np.maximum(1.0, np.abs(wanted))
    return float(np.max(gap)) if np.isfinite(gap).all() else float("inf")


def convert(model: Any, columns: int) -> Any:
    """The model as an ONNX graph: ``input`` FP32 [n, columns] to one FP32 [n, 1] output, labels left out."""
    from onnx import TensorProto, helper

    skl2onnx: Any = import_module("skl2onnx")  # untyped
    floats = import_module("skl2onnx.common.data_types").FloatTensorType([None, columns])
    output = output_of(model)
    options = {id(model): {"zipmap": False}} if output == PROBABILITY else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = skl2onnx.to_onnx(model, initial_types=[(INPUT, floats)], options=options)
    graph = proto.graph
    last = graph.output[-1].name  # probabilities [n, 2] of a classifier, variable [n, 1] of a regressor
    if output == PROBABILITY:
        graph.initializer.append(helper.make_tensor("class_one", TensorProto.INT64, [1], [1]))
        graph.node.append(helper.make_node("Gather", [last, "class_one"], [output], axis=1))
    else:
        graph.initializer.append(helper.make_tensor("one_column", TensorProto.INT64, [2], [-1, 1]))
        graph.node.append(helper.make_node("Reshape", [last, "one_column"], [output]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 1]))
    return proto


def run_onnx(data: bytes, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Answers of an ONNX model to float32 rows, one float64 each."""
    session = decode("onnx", data)
    answer = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(rows, dtype=np.float32)})[
        0
    ]
    return np.asarray(answer, dtype=np.float64).reshape(-1)


def _floored(model: Any, graph: Any) -> bytes | None:
    """The same graph with the thresholds of gradient-boosted trees rounded down; ``None`` for other models."""
    from onnx import ModelProto

    predictors = getattr(_last_estimator(model), "_predictors", None)
    if predictors is None:
        return None
    copy = ModelProto()
    copy.CopyFrom(graph)
    trees = [tree for iteration in predictors for tree in iteration]
    for one in copy.graph.node:
        if not one.op_type.startswith("TreeEnsemble"):
            continue
        found = {attribute.name: attribute for attribute in one.attribute}
        values = found["nodes_values"].floats
        for place, (tree, index) in enumerate(
            zip(found["nodes_treeids"].ints, found["nodes_nodeids"].ints, strict=True)
        ):
            row = trees[tree].nodes[index]
            if not row["is_leaf"]:
                values[place] = floor32(float(row["num_threshold"]))
    return bytes(copy.SerializeToString())


def floor32(value: float) -> float:
    """The greatest float32 that is not above a float64.

    >>> floor32(0.1) <= 0.1 < float(np.nextafter(np.float32(floor32(0.1)), np.float32(1)))
    True
    """
    with np.errstate(over="ignore"):
        near = np.float32(value)
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > value else near)


def _last_estimator(model: Any) -> Any:
    return model.steps[-1][1] if hasattr(model, "steps") else model
