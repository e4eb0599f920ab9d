"""The ONNX runtime: inputs and outputs by name, datatypes, shapes, errors; its answers are ONNX Runtime's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlserve.codecs import StringCodec
from mlserve.errors import InferenceError
from mlserve.tensors import TensorData
from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest, Parameters, RequestInput
from mlserve_onnx import OnnxModel
from mlserve_onnx.session import without_place
from runtimes.onnx.tests import onnx_graphs as graphs
from tests.runtime_trial import Trial, arrays, named_request, refusal_of, response_of, served

TRIAL = Trial(OnnxModel)

IRIS, SPECIES = load_iris(return_X_y=True)
FLOWERS = IRIS.astype("f4")
CLASSIFIER = LogisticRegression(max_iter=500).fit(IRIS, np.array(["a", "b", "c"])[SPECIES])


def ask(model: OnnxModel, *outputs: str, **tensors: Any) -> dict[str, Any]:
    return arrays(response_of(model, named_request(outputs, **tensors)))


def refusal(model: OnnxModel, *outputs: str, **tensors: Any) -> str:
    return refusal_of(model, named_request(outputs, **tensors))


def own(path: Path, **arrays: Any) -> list[Any]:
    """ONNX Runtime's own answer."""
    answers: list[Any] = onnxruntime.InferenceSession(str(path)).run(None, arrays)
    return answers


def test_it_passes_the_conformance_suite_and_answers_bit_for_bit(tmp_path: Path) -> None:
    graphs.linear(tmp_path / "model.onnx")
    (wanted,) = own(tmp_path / "model.onnx", x=FLOWERS[::10])
    (answer,) = check_runtime(
        TRIAL.settings(tmp_path), named_request(x=FLOWERS[::10]), expected={"y": wanted}, batches=True
    )
    assert (answer.outputs[0].datatype, answer.outputs[0].shape) == ("FP32", [15, 3])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("FLOAT16", np.array([1.5, -2, 65504], "f2")),
        ("DOUBLE", np.array([0.1, 1e300])),
        ("BOOL", np.array([True, False])),
        *(
            (f"{sign}INT{bits}", np.array([1, 100], f"{sign.lower()}int{bits}"))
            for sign in ("", "U")
            for bits in (8, 16, 32, 64)
        ),
        ("STRING", np.array(["a", "größer", ""], object)),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_every_datatype_goes_in_and_out(tmp_path: Path, kind: str, values: Any) -> None:
    graphs.same(tmp_path / "model.onnx", getattr(TensorProto, kind))
    request = named_request(x=values)
    (answer,) = check_runtime(TRIAL.settings(tmp_path), request, expected={"y": values}, batches=True)
    assert (answer.outputs[0].datatype, answer.outputs[0].shape) == (request.inputs[0].datatype, [len(values)])


def test_a_classifier_of_scikit_learn_with_its_map_of_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(CLASSIFIER, FLOWERS[:1]).SerializeToString())
    labels, maps = own(path, X=FLOWERS[::10])
    (answer,) = check_runtime(TRIAL.settings(tmp_path), named_request(X=FLOWERS[::10]), batches=True)
    outputs = arrays(answer)
    assert outputs["output_label"].tolist() == labels.tolist()
    assert np.array_equal(outputs["output_probability"], np.array([[row[one] for one in "abc"] for row in maps], "f4"))
    assert answer.outputs[1].parameters == {"content_type": "np", "labels": '["a", "b", "c"]'}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(tmp_path: Path, workers: int) -> None:
    graphs.adding(tmp_path / "model.onnx")
    a, b = (np.random.default_rng(seed).random((20, 1000), "f4") for seed in (0, 1))  # 80 kB each: over shared memory
    found = served(tmp_path, {"implementation": "onnx"}, {"a": a, "b": b}, ["difference", "sum"], workers)
    for transport, answer in found.items():
        assert np.array_equal(answer["sum"], a + b), transport
        assert np.array_equal(answer["difference"], a - b), transport


# -- inputs and outputs -----------------------------------------------------------------------------------------------


def test_inputs_go_by_name_and_outputs_come_as_asked(tmp_path: Path) -> None:
    graphs.adding(tmp_path / "model.onnx")
    model = TRIAL.load(tmp_path)
    a, b = np.float32([[1, 2]]), np.float32([[10, 20]])
    assert list(ask(model, b=b, a=a)) == ["sum", "difference"]
    outputs = ask(model, "difference", b=b, a=a)
    assert list(outputs) == ["difference"] and np.array_equal(outputs["difference"], a - b)
    response = response_of(model, named_request(("sum", "difference", "sum"), a=a, b=b))
    assert [one.name for one in response.outputs] == ["sum", "difference", "sum"]


def test_wrong_names_are_told_with_the_right_ones(tmp_path: Path) -> None:
    graphs.adding(tmp_path / "model.onnx")
    model, one = TRIAL.load(tmp_path), np.ones((1, 2), "f4")
    assert "inputs are missing: 'b'; the request has 'a'" in refusal(model, a=one)
    assert "has no input 'c': it takes 'a', 'b'" in refusal(model, a=one, b=one, c=one)
    assert "has no output 'product': it has 'sum', 'difference'" in refusal(model, "product", a=one, b=one)
    twice = InferenceRequest(inputs=2 * named_request(a=one).inputs)
    with pytest.raises(InferenceError, match="there are two inputs 'a'"):
        response_of(model, twice)


def test_the_name_of_an_only_input_does_not_matter(tmp_path: Path) -> None:
    graphs.linear(tmp_path / "model.onnx")
    assert np.array_equal(ask(TRIAL.load(tmp_path), flowers=FLOWERS)["y"], own(tmp_path / "model.onnx", x=FLOWERS)[0])


def test_an_input_with_a_value_of_its_own_may_be_left_out(tmp_path: Path) -> None:
    graphs.with_default(tmp_path / "model.onnx")
    model, a = TRIAL.load(tmp_path), np.zeros((2, 2), "f4")
    assert ask(model, a=a)["y"].tolist() == [[1, 1], [1, 1]]
    assert ask(model, a=a, b=np.float32([5, 6]))["y"].tolist() == [[5, 6], [5, 6]]
    assert ask(model, whatever=a)["y"].tolist() == [[1, 1], [1, 1]]
    assert "inputs are missing: 'a'" in refusal(model, b=np.float32([5, 6]))


def test_a_list_of_tensors_becomes_an_output_each(tmp_path: Path) -> None:
    graphs.parts(tmp_path / "model.onnx")
    x = np.float32([[1, 2], [3, 4]])
    outputs = ask(TRIAL.load(tmp_path), "y", "rows", x=x)
    assert list(outputs) == ["y", "rows_0", "rows_1"]
    assert outputs["rows_1"].tolist() == [[3, 4]]


def test_values_of_another_datatype_are_taken_if_they_fit(tmp_path: Path) -> None:
    graphs.picking(tmp_path / "model.onnx")
    model, values = TRIAL.load(tmp_path), [1.5, 2.5, 3.5]
    assert ask(model, values=np.array(values), places=np.array([2.0, 0.0]))["y"].tolist() == [3.5, 1.5]
    assert "input 'places': data[0]: 0.5 is no INT64" in refusal(model, values=values, places=np.array([0.5]))
    told = refusal(model, values=np.array([1.0, 1e300]), places=np.array([0]))
    assert "input 'values': data[1]: 1e+300 is no FP32 (at most 3.40282e+38)" in told
    whole = ask(model, values=np.array([np.inf, 3.4e38, np.nan]), places=np.arange(3))["y"]
    assert np.isinf(whole[0]) and np.isfinite(whole[1]) and np.isnan(whole[2])


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u4"])
def test_what_fp16_cannot_hold_is_refused(tmp_path: Path, dtype: str) -> None:
    graphs.same(tmp_path / "model.onnx", TensorProto.FLOAT16)
    model = TRIAL.load(tmp_path)
    for value in (10**9, 65520):
        assert f"data[1]: {np.array(value, dtype).item()!r} is no FP16 (at most 65504)" in refusal(
            model, x=np.array([1, value], dtype)
        )
    assert ask(model, x=np.array([65504, 65472], dtype))["y"].tolist() == [65504, 65472]
    if np.dtype(dtype).kind == "f":  # floats may lose precision
        assert ask(model, x=np.array([65505], dtype))["y"].tolist() == [65504]
    else:
        assert "data[0]: 65505 is no FP16 (the nearest is 65504)" in refusal(model, x=np.array([65505], dtype))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("FLOAT", 2**24 + 1), ("DOUBLE", 2**53 + 1), ("FLOAT", 2**63 - 1), ("DOUBLE", 2**64 - 1), ("DOUBLE", 1 - 2**63)],
)
def test_whole_numbers_that_would_be_rounded_are_refused(tmp_path: Path, kind: str, value: int) -> None:
    graphs.same(tmp_path / "model.onnx", getattr(TensorProto, kind))
    model = TRIAL.load(tmp_path)
    numbers = np.array([0, value], "u8" if value >= 2**63 else "i8")
    assert f"input 'x': data[1]: {value} is no FP{32 if kind == 'FLOAT' else 64} (the nearest is" in refusal(
        model, x=numbers
    )
    assert ask(model, x=np.array([0, 2**24, -(2**62)]))["y"].tolist() == [0, 2**24, -(2**62)]


def test_a_last_axis_that_a_content_type_added_is_dropped(tmp_path: Path) -> None:
    graphs.same(tmp_path / "model.onnx", TensorProto.STRING)
    model = TRIAL.load(tmp_path)
    request = InferenceRequest(inputs=[StringCodec.encode_input("x", ["a", "b"])])
    assert request.inputs[0].shape == [2, 1]
    assert arrays(response_of(model, request))["y"].tolist() == ["a", "b"]


def test_texts_must_be_texts(tmp_path: Path) -> None:
    graphs.same(tmp_path / "model.onnx", TensorProto.STRING)
    model = TRIAL.load(tmp_path)
    assert "data[1] is null" in refusal(model, x=np.array(["a", None], object))
    raw = RequestInput(
        name="x", datatype="BYTES", shape=[1], data=TensorData.from_raw(b"\2\0\0\0\xff\xfe", "BYTES", [1])
    )
    with pytest.raises(InferenceError, match=r"data\[0\] is no UTF-8"):
        response_of(model, InferenceRequest(inputs=[raw]))


def test_base64_reaches_the_graph_decoded(tmp_path: Path) -> None:
    graphs.same(tmp_path / "model.onnx", TensorProto.STRING)
    one = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["aGk="], "parameters": {"content_type": "base64"}}
    assert arrays(response_of(TRIAL.load(tmp_path), InferenceRequest(inputs=[one])))["y"].tolist() == ["hi"]


def test_shapes_are_checked_against_the_graph(tmp_path: Path) -> None:
    graphs.linear(tmp_path / "model.onnx")
    model = TRIAL.load(tmp_path)
    for shape in ((2, 3), (4,), (2, 4, 2)):
        told = refusal(model, x=np.ones(shape, "f4"))
        assert f"input 'x' has shape {list(shape)}, the model takes [-1, 4]" in told
    assert ask(model, x=np.ones((0, 4), "f4"))["y"].shape == (0, 3)


def test_what_fails_in_a_node_is_told_in_a_line(tmp_path: Path) -> None:
    graphs.adding(tmp_path / "model.onnx")
    told = refusal(TRIAL.load(tmp_path), "sum", a=np.ones((2, 3), "f4"), b=np.ones((2, 4), "f4"))
    assert re.search("cannot use this input: (Add|Sub): axis == 1", told) and "3 by 4" in told and ".h:" not in told
    graphs.picking(tmp_path / "model.onnx")
    told = refusal(TRIAL.load(tmp_path), values=np.ones(3, "f4"), places=np.array([7]))
    assert "cannot use this input: Gather: indices element out of data bounds, idx=7" in told


def test_an_answer_that_no_array_can_hold_is_the_clients_fault(tmp_path: Path) -> None:
    inputs, outputs = {"x": (graphs.INT64, ["N"])}, {"y": (graphs.FLOAT, None)}
    graphs.save(tmp_path / "model.onnx", [graphs.node("ConstantOfShape", ["x"], ["y"])], inputs, outputs)
    model = TRIAL.load(tmp_path)
    assert "cannot use this input: array is too big" in refusal(model, x=np.array([0, 1 << 62]))
    assert refusal(model, x=np.array([-1])).endswith(
        "cannot use this input: ConstantOfShape: Tensor shape.Size() must be >= 0"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("element_wise_ops.cc:703 Compute Integer division by zero", "Integer division by zero"),
        ("element_wise_ops.cc:2421 operator() Integer modulo by zero", "Integer modulo by zero"),
        (
            "/o/op_kernel.cc:87 virtual OrtValue* onnxruntime::K::Out(int, const onnxruntime::TensorShape&) "
            "[ONNXRuntimeError] : 1 : FAIL : tensor.cc:57 Size Tensor shape.Size() must be >= 0",
            "Tensor shape.Size() must be >= 0",
        ),
        ("/o/a.h:5 void a::B<T>::Init(long) const [with T = int] axis (1) is 2", "axis (1) is 2"),
        ("indices element out of data bounds (idx=7)", "indices element out of data bounds (idx=7)"),
    ],
)
def test_places_of_the_source_are_left_out(text: str, words: str) -> None:
    assert without_place(text) == words


def test_a_division_by_zero_is_told_without_its_place(tmp_path: Path) -> None:
    tensor = (TensorProto.INT32, ["N"])
    inputs = {"a": tensor, "b": tensor}
    graphs.save(tmp_path / "model.onnx", [graphs.node("Div", ["a", "b"], ["y"])], inputs, {"y": tensor})
    told = refusal(TRIAL.load(tmp_path), a=np.int32([1]), b=np.int32([0]))
    assert told.endswith("cannot use this input: Div: Integer division by zero")


def test_a_content_type_that_does_not_fit_an_output_is_the_clients_fault(tmp_path: Path) -> None:
    graphs.linear(tmp_path / "model.onnx")
    model = TRIAL.load(tmp_path)
    for content_type in ("pd", "datetime"):
        request = named_request(("y",), x=FLOWERS[:1])
        assert request.outputs
        request.outputs[0].parameters = Parameters(content_type=content_type)
        assert f"content type '{content_type}'" in refusal_of(model, request)


def test_inputs_and_outputs_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.linear(tmp_path / "model.onnx")
    model = TRIAL.load(tmp_path)
    seen: dict[str, Any] = {}

    class Watching:
        def run(self, names: list[str], feed: dict[str, Any]) -> Any:
            seen.update(feed)
            seen["answer"] = session.run(names, feed)[0]
            return [seen["answer"]]

    session = model._session
    monkeypatch.setattr(model, "_session", Watching())
    memory = bytearray(FLOWERS.tobytes())
    data = TensorData.from_raw(memory, "FP32", [150, 4])
    request = InferenceRequest(inputs=[RequestInput(name="x", datatype="FP32", shape=[150, 4], data=data)])
    response = response_of(model, request)
    assert np.shares_memory(seen["x"], np.frombuffer(memory, "f4"))
    assert response.outputs[0].data.payload is seen["answer"]
