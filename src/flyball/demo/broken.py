"""A release that is broken on purpose: every answer is NaN. Offline nobody looked; online it must cost no client anything."""

from __future__ import annotations


def not_a_number(model: bytes) -> bytes:
    """The same ONNX model with its output divided by zero twice over: 0 / 0."""
    import onnx
    from onnx import TensorProto, helper

    graph = onnx.load_from_string(model)
    output = graph.graph.output[0]
    inner = f"{output.name}_before"
    for node in graph.graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    zero = helper.make_tensor("flyball_demo_zero", TensorProto.FLOAT, [1], [0.0])
    graph.graph.initializer.append(zero)
    graph.graph.node.extend(
        [
            helper.make_node("Mul", [inner, "flyball_demo_zero"], [f"{inner}_zero"]),
            helper.make_node("Div", [f"{inner}_zero", "flyball_demo_zero"], [output.name]),
        ]
    )
    return bytes(graph.SerializeToString())
