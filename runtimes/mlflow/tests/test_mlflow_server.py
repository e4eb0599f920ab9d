"""Served by worker processes: over REST, binary REST, gRPC and the scoring protocol, alone and in batches."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc
import tritonclient.http
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlserve.testing import running_server

pytestmark = pytest.mark.slow

NAMES = ["sl", "sw", "pl", "pw"]
IRIS = pd.DataFrame(load_iris().data, columns=NAMES)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_server_gives_the_same_over_every_transport(tmp_path: Path, workers: int) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS, load_iris().target)
    signature = infer_signature(IRIS, model.predict(IRIS))
    mlflow.sklearn.save_model(model, tmp_path / "model", signature=signature, pip_requirements=[])
    batching = {"max_batch_size": 8, "max_batch_time": 0.01}
    settings = {"name": "iris", "implementation": "mlserver_mlflow.MLflowRuntime", **batching}
    (tmp_path / "model-settings.json").write_text(json.dumps({**settings, "parameters": {"uri": "./model"}}))
    wanted = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(IRIS[:20])
    rows = IRIS[:20].to_numpy()
    with running_server(tmp_path, parallel_workers=workers) as server:
        inputs = [{"name": "x", "shape": [20, 4], "datatype": "FP64", "data": rows.ravel().tolist()}]
        answer = httpx.post(f"{server.rest}/v2/models/iris/infer", json={"inputs": inputs}, timeout=60).json()
        assert answer["outputs"][0]["data"] == wanted.tolist()
        for kind, address in (
            (tritonclient.http, server.rest.removeprefix("http://")),
            (tritonclient.grpc, server.grpc),
        ):
            tensors = [kind.InferInput(name, [20, 1], "FP64") for name in NAMES]
            for one, name in zip(tensors, NAMES, strict=True):
                one.set_data_from_numpy(IRIS[:20][[name]].to_numpy())
            with kind.InferenceServerClient(address) as client:
                found = client.infer("iris", tensors).as_numpy("output-1")
            assert np.array_equal(found.ravel(), wanted), kind.__name__

        def ask(at: int) -> Any:
            one = [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": rows[at].tolist()}]
            reply = httpx.post(f"{server.rest}/v2/models/iris/infer", json={"inputs": one}, timeout=60)
            return reply.json()["outputs"][0]["data"][0]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(20))) == wanted.tolist()
        scored = httpx.post(f"{server.rest}/invocations", json={"dataframe_split": IRIS[:20].to_dict("split")})
        assert scored.json() == {"predictions": wanted.tolist()}
