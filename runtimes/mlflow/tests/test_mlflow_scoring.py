"""The scoring protocol: answers equal those of MLflow's own server, which runs beside in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from sklearn.linear_model import LinearRegression
from starlette.testclient import TestClient

from mlserve.testing import RunningServer, running_server

TABLE = pd.DataFrame({"a": [1.0, 2.5, 3.0], "b": [4, 5, 6]})


class Tells(mlflow.pyfunc.PythonModel):
    """Gives its input back: a frame with its types, or arrays."""

    def predict(self, context, model_input, params=None):
        if isinstance(model_input, pd.DataFrame):
            kinds = {str(name): str(kind) for name, kind in model_input.dtypes.items()}
            rows = [[repr(one) for one in row] for row in model_input.itertuples(index=False)]
            return {"rows": rows, "kinds": kinds, "params": params}
        return {"got": model_input, "type": type(model_input).__name__, "params": params}


class Odd(mlflow.pyfunc.PythonModel):
    """Gives what has no JSON form, or fails."""

    def predict(self, context, model_input, params=None):
        return {"odd": object()} if len(model_input) == 1 else model_input["no such column"]


class Refuses(mlflow.pyfunc.PythonModel):
    """Raises what is meant for clients."""

    def predict(self, context, model_input, params=None):
        from mlserve.errors import InferenceError, ModelError

        raise InferenceError("too few") if len(model_input) == 1 else ModelError("its Java process ended")


class Busy(mlflow.pyfunc.PythonModel):
    """Raises an error with the status that it is asked for."""

    def predict(self, context, model_input, params=None):
        from mlserve.errors import MLServeError

        error = MLServeError("not now")
        error.http_status = int(model_input[0][0])
        raise error


class Adds(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[dict[str, float]]):
        return [sum(one.values()) for one in model_input]


class Dates(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[datetime]):
        return [repr(one) for one in model_input]


class Blobs(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[bytes]):
        return [repr(one) for one in model_input]


def save_all(folder: Path) -> list[str]:
    """One model of each kind of signature."""
    two = Schema([ColSpec("double", "a"), ColSpec("long", "b")])
    dated = Schema([ColSpec("datetime", "a"), ColSpec("binary", "b"), ColSpec("string", "c", required=False)])
    params = ParamSchema([ParamSpec("alpha", "double", 0.5)])
    arrays = Schema([TensorSpec(np.dtype("float32"), (-1, 2), "x"), TensorSpec(np.dtype("int64"), (-1,), "n")])
    signatures = {
        "columns": ModelSignature(inputs=two, params=params),
        "dated": ModelSignature(inputs=dated),
        "tensor": ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 2))])),
        "tensors": ModelSignature(inputs=arrays),
        "none": None,
    }
    for name, signature in signatures.items():
        mlflow.pyfunc.save_model(folder / name, python_model=Tells(), signature=signature, pip_requirements=[])
    hints = {"hints": Adds(), "dates": Dates(), "blobs": Blobs()}
    for name, model in hints.items():
        mlflow.pyfunc.save_model(folder / name, python_model=model, pip_requirements=[])
    linear = LinearRegression().fit(TABLE, [1.0, 2.0, 4.0])
    mlflow.sklearn.save_model(linear, folder / "linear", signature=infer_signature(TABLE), pip_requirements=[])
    return [*signatures, *hints, "linear"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, dict[str, TestClient]]]:
    """Our server with all models, in a process of their own, and a server of MLflow's for each."""
    from runtimes.mlflow.tests.conftest import settings_of

    folder = tmp_path_factory.mktemp("scored")
    names = save_all(folder)
    ours = [settings_of(folder / name, name) for name in names]
    with running_server(ours, parallel_workers=1) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # MLflow's server sets it; put back at the end
        peers = {name: TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(folder / name)))) for name in names}
        yield server, peers


SPLIT = {"dataframe_split": TABLE.to_dict("split")}
RECORDS = {"dataframe_records": TABLE.to_dict("records")}
FORMS: list[tuple[str, Any]] = [
    *((name, SPLIT) for name in ("columns", "none", "linear")),
    *((name, RECORDS) for name in ("columns", "none", "linear")),
    ("columns", {**SPLIT, "params": {"alpha": 0.25}}),
    ("columns", {"inputs": {"a": [1, 2.5], "b": [4, 5]}}),
    ("columns", {"inputs": [{"a": 1, "b": 4}]}),
    ("columns", {"instances": [{"a": 1, "b": 4}, {"a": 2, "b": 5}]}),
    ("linear", {"instances": [{"a": 1, "b": 4}]}),
    ("dated", {"dataframe_records": [{"a": "2026-01-02T03:04:05", "b": "/w=="}]}),
    ("tensor", {"inputs": [[1, 2], [3, 4]]}),
    ("tensor", {"instances": [[1, 2]]}),
    ("tensors", {"inputs": {"x": [[1, 2]], "n": [3]}}),
    ("tensors", {"instances": [{"x": [1, 2], "n": 3}, {"x": [3, 4], "n": 5}]}),
    ("none", {"inputs": [[1, 2]]}),
    ("none", {"instances": ["a", "b"]}),
    ("none", {"messages": [{"role": "user", "content": "hi"}]}),
    ("none", {"dataframe_records": [{"a": None, "b": "x"}]}),
    ("hints", {"inputs": [{"a": 1.5, "b": 2.0}]}),
    ("dates", {"inputs": ["2020-01-02T03:04:05"]}),
    ("blobs", {"inputs": ["YWJj"]}),
]


@pytest.mark.parametrize(("name", "body"), FORMS, ids=lambda one: one if isinstance(one, str) else next(iter(one)))
def test_json_is_answered_as_by_mlflow(both: Any, name: str, body: Any) -> None:
    server, peers = both
    wanted = peers[name].post("/invocations", json=body)
    found = httpx.post(f"{server.rest}/v2/models/{name}/invocations", json=body)
    assert wanted.status_code == 200, wanted.text
    assert (found.status_code, found.text) == (200, wanted.text)
    assert found.headers["content-type"] == "application/json"


@pytest.mark.parametrize("content_type", ["text/csv", "text/csv; charset=utf-8"])
@pytest.mark.parametrize("name", ["columns", "none", "linear"])
def test_csv_is_answered_as_by_mlflow(both: Any, name: str, content_type: str) -> None:
    server, peers = both
    body, headers = TABLE.to_csv(index=False), {"content-type": content_type}
    wanted = peers[name].post("/invocations", content=body, headers=headers)
    found = httpx.post(f"{server.rest}/v2/models/{name}/invocations", content=body, headers=headers)
    assert (found.status_code, found.text) == (wanted.status_code, wanted.text) == (200, wanted.text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_says_its_own_encoding(both: Any, encoding: str) -> None:
    server, peers = both
    body, headers = json.dumps(SPLIT).encode(encoding), {"content-type": JSON}
    wanted = peers["linear"].post("/invocations", content=body, headers=headers)
    found = httpx.post(f"{server.rest}/v2/models/linear/invocations", content=body, headers=headers)
    assert (found.status_code, found.text) == (wanted.status_code, wanted.text) == (200, wanted.text)


def test_parquet_is_answered_as_by_mlflow(both: Any) -> None:
    server, peers = both
    file = io.BytesIO()
    TABLE.to_parquet(file)
    for content_type in (PARQUET, f"{PARQUET}; charset=utf-8"):
        given: dict[str, Any] = {"content": file.getvalue(), "headers": {"content-type": content_type}}
        wanted = peers["columns"].post("/invocations", **given)
        found = httpx.post(f"{server.rest}/v2/models/columns/invocations", **given)
        assert (found.status_code, found.text) == (wanted.status_code, wanted.text) == (200, wanted.text)
    given["content"] = b"PAR1"
    assert httpx.post(f"{server.rest}/v2/models/columns/invocations", **given).status_code == 400


def test_parquet_that_nothing_reads_is_no_mistake_of_the_client(
    save: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with running_server(settings(save(Tells()))) as server:
        headers = {"content-type": PARQUET}
        answer = httpx.post(f"{server.rest}/invocations", content=b"PAR1", headers=headers)
    assert answer.status_code == 415 and "pip install 'mlserve-mlflow[parquet]'" in answer.json()["message"]


JSON = "application/json"
PARQUET = "application/vnd.apache.parquet"
WRONG: list[Any] = [
    ("columns", b"{broken", JSON, "Ensure that input is a valid JSON formatted string"),
    pytest.param("columns", b"[" * 100_000, JSON, "recursion", id="deep"),
    ("columns", b"[1, 2]", JSON, "The input must be a JSON dictionary with exactly one of the input fields"),
    ("columns", b"7", JSON, "The input must be a JSON dictionary"),
    ("columns", b'{"rows": [1]}', JSON, "Received dictionary with input fields: []"),
    ("columns", b'{"inputs": [1], "instances": [1]}', JSON, "exactly one of the input fields"),
    ("columns", json.dumps({"inputs": {"a": [1]}}).encode(), JSON, "Model is missing inputs ['b']"),
    ("columns", json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}).encode(), JSON, "columns"),
    ("columns", json.dumps({"dataframe_split": 5}).encode(), JSON, ""),
    ("columns", json.dumps({"inputs": {"a": ["x"], "b": [1]}}).encode(), JSON, ""),
    ("columns", json.dumps({**SPLIT, "params": {"alpha": "much"}}).encode(), JSON, "Can not safely convert"),
    ("tensor", json.dumps({"inputs": [[1, 2, 3]]}).encode(), JSON, "does not match expected shape (-1, 2)"),
    ("columns", b'a,b\n"1,2\n', "text/csv", "Failed to parse input as a Pandas DataFrame"),
    ("columns", b"a,b\nx,y\n", "text/csv", "Failed to parse input as a Pandas DataFrame"),
    ("columns", b"\xff\xfe", "text/csv", "no UTF-8"),
    ("linear", json.dumps({"inputs": {"a": [None], "b": [1]}}).encode(), JSON, "NaN"),
    ("hints", json.dumps({"instances": [{"a": 1.0}]}).encode(), JSON, "with 'inputs' key"),
]


@pytest.mark.parametrize(("name", "body", "content_type", "words"), WRONG)
def test_what_is_wrong_is_told_with_status_400(
    both: Any, name: str, body: bytes, content_type: str, words: str
) -> None:
    server, peers = both
    headers = {"content-type": content_type} if content_type else {}
    found = httpx.post(f"{server.rest}/v2/models/{name}/invocations", content=body, headers=headers)
    assert found.status_code == 400, found.text
    told = found.json()
    assert words in told["message"] and told["message"] == told["error"] and told["message"].strip()
    assert "Traceback" not in found.text and "stack_trace" not in told
    if content_type == JSON and told["error_code"] != "BAD_REQUEST":
        peer = peers[name].post("/invocations", content=body, headers=headers)
        assert (peer.status_code, peer.json()["error_code"]) == (400, told["error_code"])


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        ("text/plain", "only supports the following content types"),
        ("APPLICATION/JSON", "only supports the following content types"),
        ("application/x-www-form-urlencoded", "only supports the following content types"),
        ("application/json; charset=latin-1", "only supports UTF-8"),
        ("application/json; style=x", "Unrecognized content type parameters: style"),
    ],
)
def test_a_content_type_that_it_does_not_read_is_answered_415_as_by_mlflow(
    both: Any, content_type: str, words: str
) -> None:
    server, peers = both
    headers = {"content-type": content_type}
    wanted = peers["columns"].post("/invocations", content=b"{}", headers=headers)
    found = httpx.post(f"{server.rest}/v2/models/columns/invocations", content=b"{}", headers=headers)
    assert (found.status_code, found.json()["message"]) == (wanted.status_code, wanted.text) == (415, wanted.text)
    assert words in found.json()["error"]


def test_no_content_type_at_all_is_answered_415(both: Any) -> None:
    """MLflow's own server answers 500."""
    found = httpx.post(f"{both[0].rest}/v2/models/columns/invocations", content=b"{}")
    assert found.status_code == 415 and "only supports the following content types" in found.json()["error"]


def test_ping_health_and_version_are_those_of_mlflow(both: Any) -> None:
    server, peers = both
    for path in ("/ping", "/health", "/version"):
        wanted, found = peers["linear"].get(path), httpx.get(f"{server.rest}{path}")
        assert (found.status_code, found.text) == (wanted.status_code, wanted.text)
        assert found.headers["content-type"] == wanted.headers["content-type"]


def test_of_several_models_the_chosen_one_answers(both: Any, tmp_path: Path, settings: Any, save: Any) -> None:
    server, _ = both
    answer = httpx.post(f"{server.rest}/invocations", json=SPLIT)
    told = answer.json()
    assert (answer.status_code, told["error_code"], told["message"]) == (400, "BAD_REQUEST", told["error"])
    assert "9 models answer POST /invocations" in told["message"]
    assert "/v2/models/columns/invocations" in told["message"]
    folder = save(Tells())
    models = [settings(folder, "one"), settings(folder, "two", extra={"invocations": True})]
    with running_server(models) as chosen:
        assert httpx.post(f"{chosen.rest}/invocations", json=SPLIT).status_code == 200
    with running_server(models[:1]) as lone:
        assert httpx.post(f"{lone.rest}/invocations", json=SPLIT).status_code == 200


def test_what_the_model_does_wrong_is_told_without_a_traceback(save: Any, settings: Any) -> None:
    with running_server(settings(save(Odd()))) as server:
        odd = httpx.post(f"{server.rest}/invocations", json={"inputs": [[1]]})
        assert odd.status_code == 500 and "object is not JSON serializable" in odd.json()["message"]
        failed = httpx.post(f"{server.rest}/invocations", json=SPLIT)
        assert failed.status_code == 400  # as MLflow has it, which cannot know whose fault it is
        assert "unexpected error while evaluating the model" in failed.json()["message"]
        assert "(KeyError: 'no such column')" in failed.json()["message"]
        assert "Traceback" not in odd.text + failed.text


def test_errors_for_clients_keep_their_words_and_status(save: Any, settings: Any) -> None:
    with running_server(settings(save(Refuses()))) as server:
        few = httpx.post(f"{server.rest}/invocations", json={"inputs": [[1]]})
        many = httpx.post(f"{server.rest}/invocations", json={"inputs": [[1], [2]]})
    assert (few.status_code, few.json()["error_code"], few.json()["message"]) == (400, "BAD_REQUEST", "too few")
    assert (many.status_code, many.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert many.json()["message"] == "its Java process ended"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_models_own_has_its_status_also_where_mlflow_has_no_code_for_it(
    save: Any, settings: Any, workers: int
) -> None:
    wanted = {501: (501, "NOT_IMPLEMENTED"), 413: (413, "BAD_REQUEST"), 422: (422, "BAD_REQUEST")}
    wanted |= {503: (503, "TEMPORARILY_UNAVAILABLE"), 507: (507, "INTERNAL_ERROR"), 700: (500, "INTERNAL_ERROR")}
    with running_server(settings(save(Busy())), parallel_workers=workers) as server:
        for status, told in wanted.items():
            answer = httpx.post(f"{server.rest}/invocations", json={"inputs": [[status]]})
            body = answer.json()
            assert (answer.status_code, body["error_code"]) == told
            assert body["message"] == body["error"] == "not now" and "retry-after" not in answer.headers


def test_errors_of_the_server_have_the_form_of_mlflow_too(save: Any, settings: Any) -> None:
    with running_server(settings(save(Tells())), max_body_bytes=100) as server:
        large = httpx.post(f"{server.rest}/invocations", json={"inputs": [[1]] * 100})
        headers = {"x-request-timeout": "soon"}
        odd = httpx.post(f"{server.rest}/v2/models/m/invocations", json={"inputs": [[1]]}, headers=headers)
    assert (large.status_code, large.json()["error_code"]) == (413, "BAD_REQUEST")
    assert "more than the limit of 100 bytes" in large.json()["message"]
    assert (odd.status_code, odd.json()["error_code"]) == (400, "BAD_REQUEST") and "soon" in odd.json()["message"]


def test_both_protocols_give_one_answer(both: Any) -> None:
    server, _ = both
    rows = [{"a": 1.0, "b": 4}]
    scored = httpx.post(f"{server.rest}/v2/models/linear/invocations", json={"dataframe_records": rows}).json()
    inputs = [
        {"name": "a", "shape": [1], "datatype": "FP64", "data": [1.0]},
        {"name": "b", "shape": [1], "datatype": "INT64", "data": [4]},
    ]
    inferred = httpx.post(f"{server.rest}/v2/models/linear/infer", json={"inputs": inputs}).json()
    assert inferred["outputs"][0]["data"] == scored["predictions"]
