"""Models of PyTorch, transformers and Spark in worker processes answer as in MLflow; unfit input is told as that."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import mlflow.pyfunc
import numpy as np
import pytest
from starlette.requests import Request

from mlserve import ModelSettings, spark_process
from mlserve.codecs import NumpyCodec, PandasCodec
from mlserve.errors import InferenceError, ModelError
from mlserve.merging import merge
from mlserve.testing import RunningServer, running_server
from mlserve.types import InferenceRequest, RequestInput
from mlserve_mlflow import MLflowRuntime
from runtimes.mlflow.tests import frameworks
from runtimes.mlflow.tests.conftest import settings_of

pytestmark = pytest.mark.slow
TEXTS = ["a good film", "bad"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frameworks")
    spark_process.use(folder)
    frameworks.save_spark(folder / "spark")
    predicted = mlflow.pyfunc.load_model(str(folder / "spark")).predict(frameworks.TABLE)
    (folder / "predicted.json").write_text(json.dumps(predicted))
    spark_process.leave(folder)
    frameworks.save_pytorch(folder / "pytorch")
    frameworks.save_transformers(folder / "transformers")
    return folder


@pytest.fixture(scope="module")
def server(saved: Path) -> Iterator[RunningServer]:
    """One worker process with all of them."""
    models = [settings_of(saved / name, name) for name in ("spark", "pytorch", "transformers")]
    with running_server(models, parallel_workers=1) as running:
        yield running


def infer(server: RunningServer, name: str, *inputs: Any) -> Any:
    body = {"inputs": [json.loads(one.model_dump_json()) for one in inputs]}
    return httpx.post(f"{server.rest}/v2/models/{name}/infer", json=body)


def test_spark_in_a_worker_process_answers_as_in_mlflow(server: RunningServer, saved: Path) -> None:
    table = frameworks.TABLE
    wanted = json.loads((saved / "predicted.json").read_text())
    answer = infer(server, "spark", *PandasCodec.encode_inputs(table))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == wanted
    scored = {"dataframe_split": table.to_dict("split")}
    answer = httpx.post(f"{server.rest}/v2/models/spark/invocations", json=scored)
    assert (answer.status_code, answer.json()) == (200, {"predictions": wanted})


def test_pytorch_answers_as_in_mlflow(server: RunningServer, saved: Path) -> None:
    data = frameworks.SINGLE
    wanted = mlflow.pyfunc.load_model(str(saved / "pytorch")).predict(data)
    answer = infer(server, "pytorch", NumpyCodec.encode_input("x", data))
    assert answer.status_code == 200, answer.text
    found = np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(wanted.shape)
    assert np.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["input-0", "x", "text"])
def test_transformers_take_a_request_made_of_their_own_metadata(server: RunningServer, saved: Path, name: str) -> None:
    (declared,) = httpx.get(f"{server.rest}/v2/models/transformers").json()["inputs"]
    assert (declared["name"], declared["datatype"]) == ("input-0", "BYTES")
    wanted = mlflow.pyfunc.load_model(str(saved / "transformers")).predict(TEXTS)
    asked = RequestInput(name=name, shape=[2, 1], datatype="BYTES", data=TEXTS)
    answer = infer(server, "transformers", asked)
    assert answer.status_code == 200, answer.text
    label, score = answer.json()["outputs"]
    assert label["data"] == wanted["label"].tolist()
    assert np.allclose(score["data"], wanted["score"], atol=1e-6)
    scored = httpx.post(f"{server.rest}/v2/models/transformers/invocations", json={"inputs": TEXTS}).json()
    assert [one["label"] for one in scored["predictions"]] == label["data"]


def ask(model: MLflowRuntime, *inputs: Any) -> Any:
    return model.predict(InferenceRequest(inputs=list(inputs)))


def array(values: Any, dtype: Any = np.float32, name: str = "x") -> RequestInput:
    return NumpyCodec.encode_input(name, np.array(values, dtype))


UNFIT = {
    "lightgbm": (frameworks.save_lightgbm, [array([[1, 2, 3]])], "LightGBMError: The number of features in data (3)"),
    "catboost": (frameworks.save_catboost, [array([5], name="q"), array([5], name="r")], "CatBoostError: "),
    "onnx": (frameworks.save_onnx, [array([[1, 2, 3]])], "InvalidArgument: "),
    "pytorch": (partial(frameworks.save_pytorch, signed=False), [array([[1, 2]], np.float64)], "RuntimeError: "),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_a_framework_says_of_unfit_input_is_the_clients_mistake(
    tmp_path: Path, load: Callable[..., MLflowRuntime], name: str
) -> None:
    save, inputs, words = UNFIT[name]
    save(tmp_path / "model")
    with pytest.raises(InferenceError, match=re.escape(f"model 'm' cannot use this input: {words}")):
        ask(load(tmp_path / "model"), *inputs)


def test_memory_that_a_framework_lacks_is_no_clients_mistake(
    tmp_path: Path, load: Callable[..., MLflowRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    frameworks.save_pytorch(tmp_path / "model", signed=False)
    model = load(tmp_path / "model")

    def exhausted(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(torch.nn.Linear, "forward", exhausted)
    with pytest.raises(RuntimeError, match="allocate memory"):
        ask(model, array([[1, 2]]))


def test_spark_is_shared_with_models_of_mllib_and_ends_with_the_last(
    saved: Path, load: Callable[..., MLflowRuntime]
) -> None:
    from pyspark import SparkContext

    from mlserve_mllib import MLlibModel

    columns = PandasCodec.encode_inputs(frameworks.TABLE)
    wanted = json.loads((saved / "predicted.json").read_text())
    stages = saved / "spark" / "sparkml"
    first = MLlibModel(ModelSettings(name="first", implementation=MLlibModel, parameters={"uri": str(stages)}))
    assert anyio.run(first.load)
    second = load(saved / "spark")
    assert (
        NumpyCodec.decode_output(first.predict(InferenceRequest(inputs=columns)).outputs[0]).ravel().tolist() == wanted
    )
    anyio.run(first.unload)
    assert ask(second, *columns).outputs[0].data == wanted
    assert anyio.run(first.load)
    anyio.run(second.unload)
    assert (
        NumpyCodec.decode_output(first.predict(InferenceRequest(inputs=columns)).outputs[0]).ravel().tolist() == wanted
    )
    anyio.run(first.unload)
    assert SparkContext._gateway is None


OF_SPARK_BY_CODE = """
import mlflow

class Doubles(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        from pyspark.sql import SparkSession
        self.spark = SparkSession.builder.getOrCreate()

    def predict(self, context, model_input, params=None):
        rows = self.spark.createDataFrame([(one,) for one in model_input["a"].tolist()], ["a"])
        return [row[0] for row in rows.selectExpr("a * 2").collect()]

mlflow.models.set_model(Doubles())
"""


def test_spark_stays_for_a_model_from_code_that_has_joined_it(
    saved: Path, tmp_path: Path, save: Any, load: Callable[..., MLflowRuntime]
) -> None:
    (tmp_path / "doubles.py").write_text(OF_SPARK_BY_CODE)
    first, second = load(saved / "spark"), load(save(str(tmp_path / "doubles.py")))
    anyio.run(first.unload)
    columns = PandasCodec.encode_inputs(frameworks.TABLE)
    found = NumpyCodec.decode_output(ask(second, *columns).outputs[0])
    assert found.ravel().tolist() == (frameworks.TABLE["a"] * 2).tolist()
    anyio.run(second.unload)
    assert spark_process.running() is None


def test_requests_to_spark_are_not_answered_together(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its joins sort the rows of many callers."""
    model = MLflowRuntime(settings_of(saved / "spark").model_copy(update={"max_batch_size": 2, "max_batch_time": 0.1}))
    assert anyio.run(model.load)
    assert "model 'm': the rows of Spark that MLflow hands on have no order" in caplog.text
    request = InferenceRequest(inputs=PandasCodec.encode_inputs(frameworks.TABLE))
    with pytest.raises(ModelError, match="run one by one"):
        model.predict(merge([request, request]))
    assert model.predict(merge([request])).outputs
    anyio.run(model.unload)


def test_a_model_of_spark_is_loaded_again_when_its_java_process_is_gone(
    saved: Path, load: Callable[..., MLflowRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system still says for a moment that it runs, after it was killed; on both protocols."""
    from pyspark import SparkContext

    model = load(saved / "spark")
    assert SparkContext.getOrCreate().uiWebUrl is None  # no web interface, though MLflow has started it
    columns = PandasCodec.encode_inputs(frameworks.TABLE)
    wanted = json.loads((saved / "predicted.json").read_text())
    kill_java(monkeypatch, is_seen=False)
    assert NumpyCodec.decode_output(ask(model, *columns).outputs[0]).ravel().tolist() == wanted
    kill_java(monkeypatch, is_seen=True)
    answer = invoke(model)
    assert (answer.status_code, json.loads(answer.body)) == (200, {"predictions": wanted})
    anyio.run(model.unload)
    assert spark_process.running() is None


def kill_java(monkeypatch: pytest.MonkeyPatch, is_seen: bool) -> None:
    process: Any = spark_process.running()
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if not is_seen:
        monkeypatch.setattr(process, "poll", lambda: None)


def invoke(model: MLflowRuntime) -> Any:
    """The answer of `/invocations`."""
    body = json.dumps({"dataframe_split": frameworks.TABLE.to_dict("split")}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", b"application/json")]
    return anyio.run(model.invocations, Request({"type": "http", "headers": headers}, receive))
