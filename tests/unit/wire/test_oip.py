"""The Open Inference Protocol: every datatype, shape and name is checked against the signature."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flyball.core.records import Field, Signature
from flyball.errors import Invalid
from flyball.wire.oip import DATATYPES, infer_answer, metadata, read_infer

TWO = Signature(
    (Field("wind", "FP32"), Field("hour", "INT64", nullable=False)), (Field("probability", "FP32", (-1,)),)
)


def tensor(name: str, data: Any, *, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def read(*inputs: dict[str, Any], signature: Signature = TWO, **more: Any) -> Any:
    return read_infer(msgspec.json.encode({"inputs": inputs, **more}), signature)


def test_tensors_by_name_in_any_order_flat_or_nested() -> None:
    rows, request_id = read(
        tensor("hour", [[9], [10]], shape=[2, 1], datatype="INT64"),
        tensor("wind", [0.5, None], shape=[2]),
        id="x",
    )
    assert (rows, request_id) == ([[0.5, 9.0], [None, 10.0]], "x")


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_one_tensor_holds_all_features(data: Any) -> None:
    assert read(tensor("input", data, shape=[2, 2]))[0] == [[1.0, 2.0], [3.0, 4.0]]


GOOD_AND_BAD = {
    "BOOL": ([True, False], [1]),
    "INT8": ([-128, 127], [128]),
    "INT16": ([-32768, 32767], [32768]),
    "INT32": ([-(2**31), 2**31 - 1], [2**31]),
    "INT64": ([-(2**63), 2**63 - 1], [2**63]),
    "UINT8": ([0, 255], [-1]),
    "UINT16": ([0, 65535], [65536]),
    "UINT32": ([0, 2**32 - 1], [-1]),
    "UINT64": ([0, 2**63], [-1]),
    "FP16": ([0.5, 65504], [65505]),
    "FP32": ([0.5, 3], [1e39]),
    "FP64": ([0.5, -2.5e30], ["1"]),
}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_takes_its_values_and_refuses_others(datatype: str) -> None:
    signature = Signature((Field("x", datatype),), TWO.outputs)
    good, bad = GOOD_AND_BAD[datatype]
    rows, _ = read(tensor("x", good, shape=[2, 1], datatype=datatype), signature=signature)
    assert rows == [[float(value)] for value in good]
    for wrong in (bad, ["text"], [[]], [{}]):
        with pytest.raises(Invalid) as caught:
            read(tensor("x", wrong, shape=[1, 1], datatype=datatype), signature=signature)
        assert caught.value.facts["field"] == "inputs.x.data"


HOUR = tensor("hour", [9], shape=[1], datatype="INT64")
WIND = tensor("wind", [1.0], shape=[1])


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([], "inputs.wind"),
        ([WIND], "inputs.hour"),
        ([WIND, HOUR, tensor("rain", [1], shape=[1])], "inputs.rain"),
        ([WIND, WIND, HOUR], "inputs.wind"),
        ([tensor("wind", [1], shape=[1], datatype="FP64"), HOUR], "inputs.wind.datatype"),
        ([tensor("wind", [1], shape=[1], datatype="BYTES"), HOUR], "inputs.wind.datatype"),
        ([tensor("wind", [1, 2], shape=[1]), HOUR], "inputs.wind.data"),
        ([tensor("wind", [1, 2], shape=[1, 2]), HOUR], "inputs.wind.shape"),
        ([tensor("wind", [1, 2], shape=[2]), HOUR], "inputs.hour.shape"),
        ([tensor("wind", [], shape=[0]), HOUR], "inputs.wind.shape"),
        ([tensor("wind", [1], shape=[-1]), HOUR], "inputs.wind.shape"),
        ([tensor("wind", [1], shape=[1] * 10_000), HOUR], "inputs.wind.shape"),
        ([tensor("wind", [[1], 2], shape=[2, 1]), HOUR], "inputs.wind.data"),
        ([tensor("wind", [[1], [2, 3]], shape=[2, 1]), HOUR], "inputs.wind.data"),
        ([WIND, tensor("hour", [None], shape=[1], datatype="INT64")], "inputs.hour.data"),
        ([WIND, tensor("hour", [9.5], shape=[1], datatype="INT64")], "inputs.hour.data"),
        ([tensor("input", [1, None], shape=[1, 2])], "inputs.input.data"),
        ([tensor("input", [1, 2, 3], shape=[1, 3])], "inputs.input.shape"),
        ([tensor("input", [1, 2], shape=[2])], "inputs.input.shape"),
        ([tensor("input", [1, 2], shape=[1, 2], datatype="BYTES")], "inputs.input.datatype"),
    ],
)
def test_what_does_not_fit_the_signature_is_named(inputs: list[Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(*inputs)
    assert caught.value.facts["field"] == field


def test_an_output_that_does_not_exist_is_named() -> None:
    with pytest.raises(Invalid, match="no output 'probabilty'") as caught:
        read(WIND, HOUR, outputs=[{"name": "probabilty"}])
    assert "did you mean 'probability'" in caught.value.hint


def test_an_answer_carries_name_shape_and_id() -> None:
    body = msgspec.json.decode(
        infer_answer("delays", "3", TWO, [0.5, 0.25], request_id="x", parameters={"a": 1})
    )
    assert body == {
        "model_name": "delays",
        "model_version": "3",
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]}],
        "parameters": {"a": 1},
        "id": "x",
    }


def test_metadata_is_the_signature() -> None:
    shown = metadata("delays", ["1"], "onnx_onnxv1", TWO)
    assert shown["inputs"][1] == {"name": "hour", "datatype": "INT64", "shape": [-1, 1]}
