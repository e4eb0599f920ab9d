"""Requests made out of a request: in another form of the wire, a copy, some of its rows, one value too few."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, RequestInput

__all__ = ["copied", "in_form", "one_value_short", "rows_from", "with_data"]


def in_form(request: InferenceRequest, form: str) -> InferenceRequest:
    """The request as if its tensors had come over the wire in this form."""
    inputs = []
    for one in request.inputs:
        if form == "json":
            data = TensorData.from_json(bytes(one.data.to_json(one.datatype)))
        elif form == "raw":
            data = TensorData.from_raw(bytes(one.data.to_raw(one.datatype)), one.datatype, one.shape)
        else:
            data = TensorData.from_contents(one.data.to_contents(one.datatype), one.datatype, one.shape)
        inputs.append(with_data(one, data))
    return copied(request, inputs=inputs)


def one_value_short(request: InferenceRequest, at: int) -> InferenceRequest:
    inputs = list(request.inputs)
    flat = inputs[at].data.to_numpy(inputs[at].datatype, inputs[at].shape).ravel()
    assert flat.size, f"input '{inputs[at].name}' has no values: give a request with some"
    inputs[at] = with_data(inputs[at], TensorData(flat[:-1].tolist()))
    return copied(request, inputs=inputs)


def with_data(one: RequestInput, data: TensorData) -> RequestInput:
    parameters = deepcopy(one.parameters)
    return RequestInput(name=one.name, shape=list(one.shape), datatype=one.datatype, parameters=parameters, data=data)


def copied(request: InferenceRequest, **changed: Any) -> InferenceRequest:
    """A request of its own, since models may note things in what they get."""
    inputs = changed.get("inputs") or [with_data(one, deepcopy(one.data)) for one in request.inputs]
    outputs = changed.get("outputs", request.outputs)
    return InferenceRequest(
        id=request.id or "check", parameters=deepcopy(request.parameters), inputs=inputs, outputs=deepcopy(outputs)
    )


def rows_from(request: InferenceRequest, start: int, stop: int) -> InferenceRequest:
    """The request of some of its rows, which are the first dimension of each input."""
    inputs = []
    for one in request.inputs:
        rows = one.data.to_numpy(one.datatype, one.shape)[start:stop]
        cut = with_data(one, TensorData.from_numpy(rows))
        cut.shape = [stop - start, *one.shape[1:]]
        inputs.append(cut)
    return copied(request, inputs=inputs)
