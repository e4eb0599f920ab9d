"""An HTTPException of FastAPI's or Starlette's, raised in a model, is its status and its detail on both protocols."""

from __future__ import annotations

import grpc
import httpx
import pytest

from mlserve.errors import MLServeError, from_exception
from mlserve.grpc import dataplane_pb2 as pb
from tests.grpc_calls import SERVICE, connected, failure, message
from tests.serving import serving, write_model

MODEL = """
from fastapi import HTTPException
from mlserve import MLModel
from mlserve.errors import InferenceError, MLServeError
from pathlib import Path


class Picky(MLModel):
    async def load(self):
        how = Path(__file__).with_name("how")
        if how.exists():
            raise eval(how.read_text())
        return True

    async def predict(self, request):
        raise HTTPException(409, "conflict")

    async def predict_stream(self, requests):
        async for request in requests:
            raise HTTPException(404, {"no": "such user"})
            yield
"""
REQUEST = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
AT_LOAD = {
    'HTTPException(409, "conflict")': 409,
    'MLServeError("conflict", 409)': 409,
    'InferenceError("conflict")': 500,  # its 400 speaks of a request
    'ValueError("conflict")': 500,
}


@pytest.mark.parametrize("workers", [0, 1])
def test_it_is_its_status_and_its_detail(workers: int, tmp_path) -> None:
    place = write_model(tmp_path, "m", "models.Picky")
    (place / "models.py").write_text(MODEL)
    with serving(tmp_path, env={"MLSERVER_PARALLEL_WORKERS": str(workers)}) as server, httpx.Client(timeout=60) as rest:
        answer = rest.post(f"{server.rest}/v2/models/m/infer", json=REQUEST)
        assert (answer.status_code, answer.json()) == (409, {"error": "conflict"})
        streamed = rest.post(f"{server.rest}/v2/models/m/infer_stream", json=REQUEST)
        assert (streamed.status_code, streamed.json()) == (404, {"error": '{"no": "such user"}'})
        with connected(server.grpc) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
            )
            failed = failure(call, message("m"))
            assert (failed.code(), failed.details()) == (grpc.StatusCode.ABORTED, "conflict")
        for how, status in AT_LOAD.items():
            (place / "how").write_text(how)
            loaded = rest.post(f"{server.rest}/v2/repository/models/m/load")
            assert (loaded.status_code, "conflict" in loaded.json()["error"]) == (status, True)


def test_what_only_looks_like_one_is_an_error_of_the_model() -> None:
    class HTTPException(Exception):
        status_code = 409
        detail = "conflict"

    assert from_exception(HTTPException("mine")).http_status == 500
    assert from_exception(MLServeError("ours", 409)).http_status == 409


def test_one_with_a_status_that_is_no_failure_is_still_one() -> None:
    from starlette.exceptions import HTTPException

    from mlserve.execute import sendable

    class Mine(HTTPException):
        pass

    assert sendable(from_exception(Mine(204, "nothing"))) == ("nothing", 500, "INTERNAL")
    assert sendable(from_exception(Mine(503, "later"))) == ("later", 503, "UNAVAILABLE")
