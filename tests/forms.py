"""Sends requests and responses through the protocol's forms, as a transport does: JSON, raw binary, typed contents."""

from __future__ import annotations

from typing import Any

from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, Parameters

FORMS = ("json", "raw", "contents")


def sent(tensor: Any, form: str) -> Any:
    """The tensor as the other side gets it. The object itself never arrives, only what its bytes say."""
    copied = type(tensor).model_validate(
        {name: getattr(tensor, name) for name in tensor.__struct_fields__ if name not in ("data", "parameters")}
        | {"parameters": dict(tensor.parameters) if tensor.parameters is not None else None, "data": []}
    )
    datatype = tensor.datatype
    if form == "json":
        copied.data = TensorData.from_json(bytes(tensor.data.to_json(datatype)))
    elif form == "raw":
        copied.data = TensorData.from_raw(bytes(tensor.data.to_raw(datatype)), datatype, tensor.shape)
    else:
        copied.data = TensorData.from_contents(bytes(tensor.data.to_contents(datatype)), datatype, tensor.shape)
    return copied


def sent_request(request: InferenceRequest, form: str) -> InferenceRequest:
    """The request as the server gets it."""
    inputs = [sent(one, form) for one in request.inputs]
    return InferenceRequest(id=request.id, parameters=_parameters(request), inputs=inputs)


def sent_response(response: InferenceResponse, form: str) -> InferenceResponse:
    """The response as the client gets it."""
    outputs = [sent(one, form) for one in response.outputs]
    return InferenceResponse(model_name=response.model_name, parameters=_parameters(response), outputs=outputs)


def can_carry(form: str, datatype: str) -> bool:
    """Whether a form has a way to carry a datatype: contents have no field for FP16."""
    return form != "contents" or datatype != "FP16"


def _parameters(message: Any) -> Parameters:
    """What of the parameters travels: no private attributes."""
    return Parameters(dict(message.parameters or {}))
