"""Sends requests and responses over the protocol's transports, without sockets: what one side writes the other reads.

The functions are those of the client and the server themselves.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from mlserve.client import bodies
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput
from mlserve.wire import v2json, v2proto

FORMS = ("json", "binary", "grpc", "grpc raw")
BINARY = FORMS[1:]
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)

forms = pytest.mark.parametrize("form", FORMS)
quick = settings(max_examples=25, deadline=None)


def sent_request(request: InferenceRequest, form: str) -> InferenceRequest:
    """The request as the server gets it."""
    if form.startswith("grpc"):
        return v2proto.decode_request(b"".join(v2proto.encode_request(request, "m", raw=form == "grpc raw"))).request
    pieces, json_length = bodies.encode_request(request, binary=form == "binary")
    arrived = v2json.decode_request(b"".join(pieces), json_length)
    if arrived.parameters is not None:
        arrived.parameters.pop("binary_data_output", None)  # It asks for the form of the answer.
    return arrived


def sent_response(response: InferenceResponse, form: str) -> InferenceResponse:
    """The response as the client gets it."""
    if form.startswith("grpc"):
        chunks = v2proto.encode_response(response, "raw" if form == "grpc raw" else "contents")
        return v2proto.decode_response(b"".join(chunks))
    if form == "binary":
        response = response.model_copy(update={"outputs": [_raw(one) for one in response.outputs]})
    pieces, json_length = v2json.encode_response(response)
    return bodies.decode_response(b"".join(pieces), json_length)


def sent(tensor: Any, form: str) -> Any:
    """An input as the server gets it, or an output as the client gets it."""
    if isinstance(tensor, RequestInput):
        return sent_request(InferenceRequest(inputs=[tensor]), form).inputs[0]
    return sent_response(InferenceResponse(model_name="m", outputs=[tensor]), form).outputs[0]


def _raw(output: Any) -> Any:
    """The output in the form in which the server gives it to who asks for binary data."""
    raw = TensorData.from_raw(output.data.to_raw(output.datatype), output.datatype, output.shape)
    return output.model_copy(update={"data": raw})


def made(data: Any, datatype: str = "FP32", shape: list[int] | None = None, content_type: str | None = None) -> Any:
    """An input `x` as a REST client sends it."""
    body = {"name": "x", "shape": shape or [len(data)], "datatype": datatype, "data": data}
    if content_type:
        body["parameters"] = {"content_type": content_type}
    return RequestInput.model_validate_json(json.dumps(body))
