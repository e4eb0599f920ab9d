"""Real models of many flavours: the runtime passes the conformance suite with each, and answers as MLflow does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import catboost
import lightgbm
import mlflow
import mlflow.catboost
import mlflow.lightgbm
import mlflow.onnx
import mlflow.pyfunc
import mlflow.sklearn
import mlflow.xgboost
import numpy as np
import pandas as pd
import pytest
import xgboost
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import ElasticNet, LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlserve.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec
from mlserve.errors import ModelError
from mlserve.merging import merge
from mlserve.testing import check_runtime
from mlserve.types import RequestOutput
from mlserve_mlflow import MLflowRuntime, TensorDictCodec

IRIS = pd.DataFrame(load_iris().data, columns=["sl", "sw", "pl", "pw"])
SPECIES = load_iris().target
ROWS = IRIS.iloc[::30].reset_index(drop=True)
OF_OWN_CODE = """
import mlflow
import pandas as pd

class Ratio(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        factor = (params or {}).get("factor", 1.0)
        return pd.DataFrame({"ratio": model_input["pl"] / model_input["pw"] * factor, "long": model_input["sl"] > 6})

mlflow.models.set_model(Ratio())
"""


def save_onnx(folder: Path, signature: Any) -> None:
    from skl2onnx import to_onnx

    model = make_pipeline(StandardScaler(), ElasticNet(alpha=0.01)).fit(IRIS.to_numpy(np.float32), SPECIES)
    made = to_onnx(model, IRIS.to_numpy(np.float32)[:1])
    mlflow.onnx.save_model(made, folder, signature=signature, pip_requirements=[], save_as_external_data=False)


def save_flavour(flavour: str, folder: Path, signature: Any) -> None:
    options = {"n_estimators": 5, "n_jobs": 1}
    known: dict[str, tuple[Any, Any]] = {
        "sklearn": (mlflow.sklearn, lambda: make_pipeline(StandardScaler(), ElasticNet(alpha=0.1))),
        "xgboost": (mlflow.xgboost, lambda: xgboost.XGBClassifier(**options)),
        "lightgbm": (mlflow.lightgbm, lambda: lightgbm.LGBMClassifier(**options, verbose=-1)),
        "catboost": (
            mlflow.catboost,
            lambda: catboost.CatBoostClassifier(iterations=3, verbose=False, allow_writing_files=False),
        ),
    }
    if flavour == "onnx":
        save_onnx(folder, signature)
        return
    module, make = known[flavour]
    module.save_model(make().fit(IRIS, SPECIES), folder, signature=signature, pip_requirements=[])


@pytest.mark.parametrize("flavour", ["sklearn", "xgboost", "lightgbm", "catboost"])
def test_a_flavour_answers_as_mlflow_does_for_columns_and_for_one_tensor(
    tmp_path: Path, settings: Callable[..., Any], flavour: str
) -> None:
    answers = SPECIES.astype(float) if flavour == "sklearn" else SPECIES
    save_flavour(flavour, tmp_path / "model", infer_signature(IRIS, answers))
    wanted = np.asarray(mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(ROWS))
    requests = [PandasCodec.encode_request(ROWS), NumpyRequestCodec.encode_request(ROWS.to_numpy())]
    for request in requests:
        request.parameters = None  # the signature says how to take them
    answers = check_runtime(
        settings(tmp_path / "model"), requests, expected={"output-1": wanted}, batches=flavour != "catboost"
    )
    for answer in answers:
        assert answer.parameters.content_type == "np"
        found = NumpyCodec.decode_output(answer.outputs[0])
        assert found.dtype == wanted.dtype and np.array_equal(found.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("flavour", ["sklearn", "xgboost", "lightgbm", "catboost", "onnx"])
def test_outputs_are_declared_as_they_are_answered(tmp_path: Path, settings: Callable[..., Any], flavour: str) -> None:
    data = ROWS.to_numpy(np.float32) if flavour == "onnx" else ROWS
    frame = IRIS.to_numpy(np.float32) if flavour == "onnx" else IRIS
    save_flavour(flavour, tmp_path / "model", None)
    answer = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(data)
    shutil.rmtree(tmp_path / "model")
    unnamed = next(iter(answer.values())) if flavour == "onnx" else answer
    save_flavour(flavour, tmp_path / "model", infer_signature(frame, unnamed))
    model = MLflowRuntime(settings(tmp_path / "model"))
    assert anyio.run(model.load)
    request = (NumpyRequestCodec if flavour == "onnx" else PandasCodec).encode_request(data)
    sent = model.predict(request).outputs
    assert [(one.name, one.datatype, one.shape) for one in model.outputs] == [
        (one.name, one.datatype, [-1, *one.shape[1:]]) for one in sent
    ]
    for name in {model.outputs[0].name, "output-1"}:  # both are answered, under the name that was asked for
        request.outputs = [RequestOutput(name=name)]
        assert [one.name for one in model.predict(request).outputs] == [name]


def test_without_a_signature_one_tensor_is_an_array_and_several_are_columns(
    tmp_path: Path, settings: Callable[..., Any]
) -> None:
    save_flavour("sklearn", tmp_path / "model", None)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    requests = [PandasCodec.encode_request(ROWS), NumpyRequestCodec.encode_request(ROWS.to_numpy())]
    for request in requests:
        request.parameters = None
        request.inputs[0].parameters = None
    answers = check_runtime(settings(tmp_path / "model"), requests, expected={"output-1": loaded.predict(ROWS)})
    assert bytes(answers[0].outputs[0].data.to_raw("FP64")) == bytes(answers[1].outputs[0].data.to_raw("FP64"))


def test_onnx_takes_a_tensor_and_gives_its_outputs_by_name(tmp_path: Path, settings: Callable[..., Any]) -> None:
    signature = infer_signature(IRIS.to_numpy(np.float32), {"variable": np.zeros((1, 1), np.float32)})
    save_flavour("onnx", tmp_path / "model", signature)
    data = ROWS.to_numpy(np.float32)
    wanted = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(data)
    (answer,) = check_runtime(
        settings(tmp_path / "model"), NumpyRequestCodec.encode_request(data), expected=wanted, batches=True
    )
    assert answer.parameters.content_type == "dict"
    assert {one.name for one in answer.outputs} == set(wanted)


def save_softmax(folder: Path) -> None:
    """Over the rows."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=0)], "g", values[:1], values[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    mlflow.onnx.save_model(made, folder, pip_requirements=[], save_as_external_data=False)


def save_sums(folder: Path) -> None:
    """Of a row and those before it."""
    model = make_pipeline(FunctionTransformer(np.cumsum, kw_args={"axis": 0}), LinearRegression())
    model.fit(np.ones((4, 2)), np.arange(4.0))
    mlflow.sklearn.save_model(model, folder, pip_requirements=[], serialization_format="cloudpickle")


class Shares(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return np.asarray(model_input) / np.sum(model_input)


@pytest.mark.parametrize("kind", [save_softmax, save_sums, Shares])
def test_a_model_whose_rows_meet_answers_each_request_alone(tmp_path: Path, load: Any, save: Any, kind: Any) -> None:
    if kind is Shares:
        save(Shares())
    else:
        kind(tmp_path / "model")
    model = load(tmp_path / "model")
    requests = [NumpyRequestCodec.encode_request(np.full((1, 2), at, np.float32)) for at in (1, 2, 3)]
    for _ in range(2):
        with pytest.raises(ModelError, match="cannot be cut by rows"):
            model.predict(merge(requests))
    alone = [NumpyCodec.decode_output(model.predict(one).outputs[0]) for one in requests]
    wanted = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    for found, one in zip(alone, requests, strict=True):
        expected = wanted.predict(NumpyRequestCodec.decode_request(one))
        expected = expected["y"] if isinstance(expected, dict) else expected
        np.testing.assert_array_equal(found, expected.reshape(found.shape))


def test_models_from_code_get_params_from_the_request(tmp_path: Path, settings: Callable[..., Any], save: Any) -> None:
    (tmp_path / "ratio.py").write_text(OF_OWN_CODE)
    answers = pd.DataFrame({"ratio": [1.0], "long": [True]})
    signature = infer_signature(IRIS, answers, params={"factor": 1.0})
    folder = save(str(tmp_path / "ratio.py"), signature)
    request = PandasCodec.encode_request(ROWS)
    request.parameters = {"factor": 2.0}  # type: ignore[assignment]
    wanted = mlflow.pyfunc.load_model(str(folder)).predict(ROWS, params={"factor": 2.0})
    (answer,) = check_runtime(
        settings(folder), request, expected={name: wanted[name].to_numpy() for name in wanted}, batches=True
    )
    pd.testing.assert_frame_equal(PandasCodec.decode_response(answer), wanted)


class Tensors(mlflow.pyfunc.PythonModel):
    """Takes and gives a dict of tensors."""

    def predict(self, context, model_input, params=None):  # MLflow reads hints as a signature
        return {"sum": model_input["x"].sum(axis=1) + model_input["y"], "twice": model_input["x"] * 2}


def test_a_dict_of_tensors_goes_in_and_out(settings: Callable[..., Any], save: Any) -> None:
    data = {"x": np.arange(8, dtype=np.float32).reshape(2, 4), "y": np.array([10, 20])}
    wanted = Tensors().predict(None, data)
    for name, signature in (("signed", infer_signature(data, wanted)), ("plain", None)):
        request = TensorDictCodec.encode_request(data)
        if signature is not None:
            request.parameters = None
        for one in request.inputs:
            one.shape = list(data[one.name].shape)
        folder = save(Tensors(), signature, name)
        (answer,) = check_runtime(settings(folder), request, expected=wanted, batches=True)
        decoded = TensorDictCodec.decode_response(answer)
        assert decoded.keys() == wanted.keys()
        assert np.array_equal(decoded["twice"], wanted["twice"])


class Talks(mlflow.pyfunc.PythonModel):
    """A model that streams."""

    def predict(self, context, model_input, params=None):
        return ["whole"]

    def predict_stream(self, context, model_input, params=None):
        yield from f"{model_input['text']} to you".split()
        yield {"end": True}


def test_a_model_that_streams_gives_its_chunks(load: Any, save: Any) -> None:
    model = load(save(Talks(), infer_signature(pd.DataFrame({"text": ["a"]}))))

    async def stream() -> list[Any]:
        async def only() -> Any:
            yield PandasCodec.encode_request(pd.DataFrame({"text": ["good day"]}))

        return [response async for response in model.predict_stream(only())]

    chunks = anyio.run(stream)
    assert [json.loads(one.model_dump_json())["outputs"][0]["data"] for one in chunks] == [
        *([word] for word in ["good", "day", "to", "you"]),
        [True],
    ]
