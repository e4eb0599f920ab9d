"""How the ONNX runtime opens files: what is wrong with one, providers, threads, options, and the graph's metadata."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from mlserve import ModelSettings
from mlserve.errors import InvalidModelURI, ModelLoadError
from mlserve_onnx import OnnxModel
from mlserve_onnx.session import _check_providers
from runtimes.onnx.tests import onnx_graphs as graphs
from tests.runtime_trial import arrays, named_request, refusal_of, response_of


def load(folder: Path, devices: list[int | str] | None = None, **parameters: Any) -> OnnxModel:
    settings = ModelSettings(name="m", implementation=OnnxModel, parameters=parameters or None, devices=devices or [])
    settings.source_dir = folder
    model = OnnxModel(settings)
    assert anyio.run(model.load)
    return model


def refusal(folder: Path, **parameters: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder, **parameters)
    assert "model 'm'" in str(caught.value)
    assert not [words for words in ("onnxruntime_src", "std::", "(const") if words in str(caught.value)]
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    graphs.linear(tmp_path / "model.onnx")
    return tmp_path


def file_with(content: bytes) -> Any:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (file_with(b""), "the file is empty"),
        (file_with(b"just text"), "no ONNX model, or one that is cut short"),
        (file_with(b"tree\nversion=v4\n"), "a LightGBM model: its runtime is 'lightgbm'"),
        (file_with(b"PK\x03\x04"), "a zip archive"),
        (file_with(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (
            lambda path: graphs.same(path, TensorProto.FLOAT, opset=99),
            "made by a newer ONNX than this ONNX Runtime knows (Opset 99 is",
        ),
        (lambda path: graphs.same(path, TensorProto.FLOAT, ir_version=99), "Unsupported model IR version: 99"),
        (lambda path: graphs.same(path, TensorProto.BFLOAT16), "its input 'x' is a tensor(bfloat16)"),
    ],
    ids=["empty", "text", "lightgbm", "zip", "pointer", "opset", "ir", "bfloat16"],
)
def test_a_file_that_cannot_be_served_is_told_with_the_reason(tmp_path: Path, write: Any, words: str) -> None:
    write(tmp_path / "model.onnx")
    assert words in refusal(tmp_path)


def test_an_output_that_cannot_be_sent_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [graphs.node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16), graphs.node("Identity", ["x"], ["y"])]
    inputs, y = {"x": (TensorProto.FLOAT, ["N"])}, (TensorProto.FLOAT, ["N"])
    graphs.save(tmp_path / "model.onnx", nodes, inputs, {"half": (TensorProto.BFLOAT16, ["N"]), "y": y})
    model = load(tmp_path)
    (told,) = [one.getMessage() for one in caplog.records if one.name == "mlserve.onnx"]
    assert "model 'm': outputs are left out" in told and "'half' is a tensor(bfloat16)" in told
    assert [one.name for one in model.outputs] == ["y"]
    assert list(arrays(response_of(model, named_request(x=np.float32([1, 2]))))) == ["y"]


def test_a_file_that_is_cut_short_is_told(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:40])
    assert "cut short" in refusal(folder)


def test_a_missing_file_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelURI, match=r"none of model\.onnx, model\.ort"):
        load(tmp_path)


def test_weights_in_files_beside_it_are_found_or_missed(tmp_path: Path) -> None:
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    graphs.linear(tmp_path / "model.onnx", **options)
    assert (tmp_path / "weights.bin").is_file()
    here = os.getcwd()
    os.chdir("/")
    try:
        load(tmp_path)
    finally:
        os.chdir(here)
    (tmp_path / "weights.bin").unlink()
    assert "the files with its weights are missing" in refusal(tmp_path)


def test_metadata_is_the_graphs_unless_the_settings_have_their_own(folder: Path) -> None:
    found = anyio.run(load(folder).metadata).model_dump()
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    own = {"name": "flowers", "datatype": "FP64", "shape": [-1, 4]}
    settings = ModelSettings(name="m", implementation=OnnxModel, inputs=[own], parameters={"uri": str(folder)})
    model = OnnxModel(settings)
    assert anyio.run(model.load)
    assert anyio.run(model.metadata).model_dump()["inputs"] == [own]


def test_a_scalar_is_described_as_one_unlike_a_tensor_of_unknown_dimensions(tmp_path: Path) -> None:
    inputs: dict[str, Any] = {"x": (TensorProto.FLOAT, ["N"]), "k": (TensorProto.FLOAT, [])}
    outputs: dict[str, Any] = {"y": (TensorProto.FLOAT, ["N"]), "sum": (TensorProto.FLOAT, [])}
    nodes = [graphs.node("Mul", ["x", "k"], ["y"]), graphs.node("ReduceSum", ["y"], ["sum"], keepdims=0)]
    graphs.save(tmp_path / "model.onnx", nodes, inputs, outputs)
    model = load(tmp_path)
    assert [one.shape for one in model.inputs] == [[-1], []] and [one.shape for one in model.outputs] == [[-1], []]
    x, k = np.ones(3, "f4"), np.float32(2)
    for scalar in (k, k.reshape(1)):
        answer = arrays(response_of(model, named_request(x=x, k=scalar)))
        assert answer["y"].tolist() == [2, 2, 2] and (answer["sum"].shape, answer["sum"].item()) == ((), 6)
    assert "input 'k' has shape [2], the model takes []" in refusal_of(model, named_request(x=x, k=np.ones(2, "f4")))
    tensor: Any = (TensorProto.FLOAT, None)
    graphs.save(tmp_path / "model.onnx", [graphs.node("Identity", ["x"], ["y"])], {"x": tensor}, {"y": tensor})
    model = load(tmp_path)
    assert [one.shape for one in (*model.inputs, *model.outputs)] == [[-1, -1]] * 2
    assert [one.parameters for one in (*model.inputs, *model.outputs)] == [{"any_rank": True}] * 2
    for value in (k, np.ones((1, 2, 1), "f4")):
        assert arrays(response_of(model, named_request(x=value)))["y"].shape == value.shape


def test_a_session_has_as_many_threads_as_the_other_libraries_of_its_worker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for extra, threads in (({}, 3), ({"threads": 2}, 2), ({"session_options": {"intra_op_num_threads": 1}}, 1)):
        made = load(folder, extra=extra)._session.get_session_options()
        assert made.intra_op_num_threads == threads


def test_threads_and_options_reach_the_session(folder: Path) -> None:
    options = {
        "graph_optimization_level": "ORT_DISABLE_ALL",
        "enable_mem_pattern": False,
        "config": {"session.intra_op.allow_spinning": 0},
    }
    model = load(folder, extra={"threads": 1, "inter_threads": 2, "session_options": options})
    made = model._session.get_session_options()
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (1, 2)
    assert made.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert made.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert made.enable_mem_pattern is False
    assert made.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"threads": 0}, "extra.threads: expected a whole number >= 1, got 0"),
        ({"session_options": {"fast": True}}, "not 'fast'"),
        ({"session_options": {"execution_mode": "FAST"}}, "execution_mode to be one of ORT_SEQUENTIAL, ORT_PARALLEL"),
        ({"session_options": {"intra_op_num_threads": "x"}}, "intra_op_num_threads to be of type int"),
        ({"session_options": {"config": 1}}, '"config" to be an object'),
        ({"session_options": {"config": {"": 1}}}, 'entries of "config" that ONNX Runtime takes (Config key is empty'),
        ({"session_options": {"log_severity_level": 99}}, "extra.session_options: expected what ONNX Runtime can use"),
        ({"session_options": {"optimized_model_filepath": "/no/such/folder/m"}}, "expected what ONNX Runtime can use"),
        ({"providers": "CPUExecutionProvider"}, "extra.providers: expected a list"),
        ({"providers": [1]}, "extra.providers: expected names"),
        ({"providers": ["NoSuchProvider"]}, "this onnxruntime has no 'NoSuchProvider'; it has"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_options_that_cannot_be_used_are_told(folder: Path, extra: dict[str, Any], words: str) -> None:
    told = refusal(folder, extra=extra)
    assert words in told and told.startswith("model 'm': parameters.extra.")


def test_providers_come_from_the_settings(folder: Path) -> None:
    model = load(folder, extra={"providers": [["CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}]]})
    found = model._session.get_provider_options()["CPUExecutionProvider"]
    assert model._session.get_providers() == ["CPUExecutionProvider"], found
    assert load(folder, devices=[0])._session.get_providers()[-1] == "CPUExecutionProvider"


def test_a_provider_that_does_not_start_is_an_error_unless_the_cpu_is_named_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    with pytest.raises(ModelLoadError, match=r"CUDAExecutionProvider did not start.*list CPUExecutionProvider last"):
        _check_providers("m", [cuda], [cpu])
    with caplog.at_level(logging.WARNING, "mlserve.onnx"):
        _check_providers("m", [cuda, cpu], [cpu])
    assert "CUDAExecutionProvider did not start, it runs on CPUExecutionProvider" in caplog.text


def test_the_short_name_leads_to_the_class() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="onnx")
    assert entry.load() is OnnxModel
