"""Small ONNX files for the tests, built node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
WEIGHTS = np.arange(12, dtype="f4").reshape(4, 3) / 7


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, **attributes)


def save(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    initial: dict[str, Any] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    **options: Any,
) -> None:
    """Writes a graph; inputs and outputs by name, each with its type and shape."""

    def infos(given: dict[str, tuple[int, list[Any]]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in given.items()]

    tensors = [numpy_helper.from_array(value, name) for name, value in (initial or {}).items()]
    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    onnx.save(model, str(path), **options)


def linear(path: Path, **options: Any) -> None:
    """x [N, 4] times WEIGHTS: y [N, 3]."""
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    save(path, nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 3])}, {"w": WEIGHTS}, **options)


def same(path: Path, kind: int, shape: list[Any] | None = None, **options: Any) -> None:
    """y is x, of any type."""
    tensor = (kind, ["N"] if shape is None else shape)
    save(path, [node("Identity", ["x"], ["y"])], {"x": tensor}, {"y": tensor}, **options)


def adding(path: Path) -> None:
    """a + b, both [N, M], and their difference."""
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])]
    tensor = (FLOAT, ["N", "M"])
    save(path, nodes, {"a": tensor, "b": tensor}, {"sum": tensor, "difference": tensor})


def with_default(path: Path) -> None:
    """a + b, where b is an input with a value of its own: 1."""
    inputs = {"a": (FLOAT, ["N", 2]), "b": (FLOAT, [2])}
    save(path, [node("Add", ["a", "b"], ["y"])], inputs, {"y": (FLOAT, ["N", 2])}, {"b": np.ones(2, "f4")})


def picking(path: Path) -> None:
    """The values at some places."""
    inputs = {"values": (FLOAT, ["N"]), "places": (INT64, ["M"])}
    save(path, [node("Gather", ["values", "places"], ["y"])], inputs, {"y": (FLOAT, ["M"])})


def parts(path: Path) -> None:
    """x cut into a list of single rows, and x itself."""
    nodes = [node("SplitToSequence", ["x"], ["rows"], axis=0), node("Identity", ["x"], ["y"])]
    inputs, y = {"x": (FLOAT, ["N", 2])}, helper.make_tensor_value_info("y", FLOAT, ["N", 2])
    rows = helper.make_tensor_sequence_value_info("rows", FLOAT, None)
    x = helper.make_tensor_value_info("x", *inputs["x"])
    graph = helper.make_graph(nodes, "graph", [x], [rows, y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
