"""ONNX graphs, as ONNX Runtime runs them: one thread, float32 rows in, numbers out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flyball.errors import Unavailable


def read(data: bytes | str) -> Any:
    """A session of ONNX Runtime with one thread: processes are our parallelism. Text is the path of a graph whose weights
    lie in files beside it."""
    try:
        onnxruntime: Any = import_module("onnxruntime")  # its stubs export nothing
    except ImportError as error:
        raise Unavailable("an ONNX model needs onnxruntime", "pip install 'flyball[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
