"""numpy on a tensor's data in a served model and a client: what it gives for the list, by every route and at any size.

Payloads above the size that travels inline reach a worker as arrays of bytes in shared memory; none of those bytes may
be taken for values.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from mlserve import MLModel
from mlserve.client import Client
from mlserve.codecs import StringCodec
from mlserve.datatypes import DTYPES
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.layout import INLINE_BYTES
from mlserve.settings import ModelSettings
from mlserve.testing import RunningServer, running_server
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from tests.grpc_calls import SERVICE, connected

# What code written for MLServer does with data, which is a list there.
USES: dict[str, Callable[[Any], Any]] = {
    "array": np.array,
    "asarray": np.asarray,
    "as FP32": lambda data: np.array(data, dtype=np.float32),
    "as UINT8": lambda data: np.asarray(data, dtype=np.uint8),
    "times two": lambda data: np.array(data) * 2,
    "difference": lambda data: data - np.ones(1),
    "stack": lambda data: np.stack([data]),
    "several": lambda data: np.array([data, data]),
    "mean": np.mean,
    "written into": lambda data: np.multiply(np.asarray(data), 1, out=np.asarray(data)),
    "series": lambda data: pd.Series(data).to_numpy(),
}


def told(use: Callable[[Any], Any], data: Any) -> str:
    """What a use gives: type, shape and values, in a few words; or the class of its error."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # numpy 1 only warns where numpy 2 refuses
            made = np.asarray(use(data))
    except (TypeError, ValueError, OverflowError) as error:
        return type(error).__name__
    values = repr(made.tolist()).encode()
    return f"{made.dtype} {made.shape} {hashlib.sha256(values).hexdigest()[:12]} {values[:40].decode()}"


class Telling(MLModel):
    """Answers what each use gives for the first input's data, each time for data that nobody has read before."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        data = payload.inputs[0].data
        found = {name: told(use, copy.copy(data)) for name, use in USES.items()}
        found["root"] = hashlib.sha256(repr(data.root).encode()).hexdigest()
        return InferenceResponse(model_name="", outputs=[StringCodec.encode_output("found", [json.dumps(found)])])


class Echo(MLModel):
    """Gives its first input back."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        one = payload.inputs[0]
        output = ResponseOutput(name="y", shape=one.shape, datatype=one.datatype, data=one.data)
        return InferenceResponse(model_name="", outputs=[output])


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    models = [
        ModelSettings(name="telling", implementation=Telling),
        ModelSettings(name="echo", implementation=Echo),
    ]
    with running_server(models, parallel_workers=1) as running:
        yield running


VALUES: dict[str, list[Any]] = {
    "FP16": [0.5, 1.25, -2.0],
    "FP32": [0.1, 255.75, 3.0],
    "FP64": [0.1, 2.0, -1e300],
    "BOOL": [True, False, False],
    "INT8": [-128, 127, 5],
    "UINT8": [200, 100, 0],
    "INT32": [2**31 - 1, -1, 7],
    "INT64": [2**62, -1, 7],
    "UINT64": [2**64 - 1, 1, 2**63],
    "BYTES": ["ab", "", "caf\u00e9"],
}
ROUTES = ("json", "json nested", "binary", "grpc", "grpc raw")
CASES = [(route, name) for route in ROUTES for name in VALUES if (route, name) != ("grpc", "FP16")]  # it has no field


sizes = pytest.mark.parametrize("size", ["small", "large"])


def count_of(size: str, datatype: str) -> int:
    """So many values, a number of threes, that they travel inline or by shared memory."""
    return 3 if size == "small" else 3 * (INLINE_BYTES // (2 * max(DTYPES[datatype].itemsize, 1)))


def values_of(datatype: str, size: str) -> list[Any]:
    return VALUES[datatype] * (count_of(size, datatype) // 3)


def raw_of(datatype: str, values: list[Any]) -> bytes:
    if datatype != "BYTES":
        return np.array(values, DTYPES[datatype]).tobytes()
    return b"".join(len(one.encode()).to_bytes(4, "little") + one.encode() for one in values)


def call_rest(server: RunningServer, tensor: dict[str, Any], raw: bytes | None = None) -> dict[str, str]:
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {} if raw is None else {"Inference-Header-Content-Length": str(len(head))}
    answer = httpx.post(
        f"{server.rest}/v2/models/telling/infer", content=head + (raw or b""), headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = json.loads(answer.json()["outputs"][0]["data"][0])
    return found


def call_grpc(server: RunningServer, tensor: dict[str, Any], values: list[Any], raw: bytes | None) -> dict[str, str]:
    request = pb.ModelInferRequest(model_name="telling")
    message = request.inputs.add(name="x", shape=tensor["shape"], datatype=tensor["datatype"])
    if raw is not None:
        request.raw_input_contents.append(raw)
    else:
        fields = {
            "BOOL": "bool",
            "INT64": "int64",
            "UINT64": "uint64",
            "FP32": "fp32",
            "FP64": "fp64",
            "BYTES": "bytes",
        }
        field = fields.get(tensor["datatype"], "uint" if tensor["datatype"][0] == "U" else "int")
        encoded = [one.encode() if isinstance(one, str) else one for one in values]
        getattr(message.contents, f"{field}_contents").extend(encoded)
    with connected(server.grpc) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        answer = infer(request, timeout=60)
    text = answer.raw_output_contents[0][4:] if raw is not None else answer.outputs[0].contents.bytes_contents[0]
    found: dict[str, str] = json.loads(text)
    return found


def ask(server: RunningServer, route: str, datatype: str, values: list[Any]) -> tuple[dict[str, str], Any]:
    """What the model told, and the list that its data has to be on this route."""
    tensor = {"name": "x", "shape": [len(values) // 3, 3], "datatype": datatype}
    if route.startswith("json"):
        rows = [values[at : at + 3] for at in range(0, len(values), 3)] if route == "json nested" else values
        return call_rest(server, {**tensor, "data": rows}), rows
    raw = raw_of(datatype, values)
    sent = [one.encode() for one in values] if datatype == "BYTES" else np.array(values, DTYPES[datatype]).tolist()
    if route == "binary":
        return call_rest(server, {**tensor, "parameters": {"binary_data_size": len(raw)}}, raw), sent
    return call_grpc(server, tensor, values, raw if route == "grpc raw" else None), sent


def check(found: dict[str, str], root: Any) -> None:
    assert found.pop("root") == hashlib.sha256(repr(root).encode()).hexdigest()
    assert found == {name: told(use, root) for name, use in USES.items()}


@sizes
@pytest.mark.parametrize(("route", "datatype"), CASES)
def test_numpy_makes_of_data_what_it_makes_of_the_list(
    server: RunningServer, route: str, datatype: str, size: str
) -> None:
    values = values_of(datatype, size)
    check(*ask(server, route, datatype, values))


@sizes
@pytest.mark.parametrize(
    "pattern", [[1.5, None, 2.0], [1, 2.5, 3], [2**63, 1, 2**64 - 1], [2**64, 1, 2], ["a", None, "b"]]
)
@pytest.mark.parametrize("route", ["json", "json nested"])
def test_null_and_mixed_values_in_json_are_what_numpy_makes_of_them(
    server: RunningServer, route: str, pattern: list[Any], size: str
) -> None:
    check(*ask(server, route, "FP64", pattern * (count_of(size, "FP64") // 3)))


@sizes
@pytest.mark.parametrize("datatype", ["FP32", "UINT8", "BOOL", "INT64"])
@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("binary", [False, True])
def test_a_client_reads_the_data_of_an_answer_as_lists_too(
    server: RunningServer, transport: str, datatype: str, size: str, binary: bool
) -> None:
    values = np.array(values_of(datatype, size), DTYPES[datatype])
    address = server.rest if transport == "http" else f"grpc://{server.grpc}"
    request = InferenceRequest(
        inputs=[RequestInput(name="x", shape=[values.size], datatype=datatype, data=values.tolist())]  # type: ignore[arg-type]
    )
    with Client(address, binary=binary) as client:
        data = client.infer("echo", request).response.outputs[0].data
    found, wanted = np.array(data), np.array(values.tolist())
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.astype(values.dtype), values)  # JSON has the digits that FP32 needs
