"""Tensors as they arrive over the wire: as JSON, raw binary, or a serialised InferTensorContents."""

from __future__ import annotations

from typing import Any, TypeVar

from mlserve.datatypes import BYTES, Array
from mlserve.errors import CodecError
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, Parameters, RequestInput, ResponseOutput

__all__ = ["FORMS", "can_carry", "resent_output", "resent_request", "values_of"]

FORMS = ("raw", "contents", "json")

T = TypeVar("T", RequestInput, ResponseOutput)


def can_carry(carried: InferenceRequest | RequestInput | ResponseOutput, form: str) -> bool:
    """Whether a form has a way to carry the tensors: contents have no FP16, and JSON no bytes that are not text."""
    tensors = carried.inputs if isinstance(carried, InferenceRequest) else [carried]
    return all(_can_carry(one, form) for one in tensors)


def _can_carry(tensor: RequestInput | ResponseOutput, form: str) -> bool:
    if form == "contents":
        return tensor.datatype != "FP16"
    if form == "json" and tensor.datatype == BYTES:
        try:
            tensor.data.to_json(tensor.datatype)
        except CodecError:
            return False
    return True


def resent_request(request: InferenceRequest, form: str) -> InferenceRequest:
    """The request as a server gets it in that form; nothing is shared with the original."""
    return InferenceRequest(
        id=request.id,
        parameters=_copied(request.parameters),
        inputs=[_resent(one, form) for one in request.inputs],
        outputs=None if request.outputs is None else list(request.outputs),
    )


def resent_output(output: ResponseOutput, form: str) -> ResponseOutput:
    """The output as a client gets it in that form. CodecError if the form cannot carry it."""
    return _resent(output, form)


def _resent(tensor: T, form: str) -> T:
    return type(tensor)(
        name=tensor.name,
        shape=list(tensor.shape),
        datatype=tensor.datatype,
        parameters=_copied(tensor.parameters),
        data=_data(tensor, form),
    )


def _data(tensor: RequestInput | ResponseOutput, form: str) -> TensorData:
    data, datatype = tensor.data, tensor.datatype
    if form == "json":
        return TensorData.from_json(bytearray(data.to_json(datatype)))
    if form == "raw":
        return TensorData.from_raw(bytearray(data.to_raw(datatype)), datatype, tensor.shape)
    return TensorData.from_contents(bytearray(data.to_contents(datatype)), datatype, tensor.shape)


def _copied(parameters: Parameters | None) -> Parameters | None:
    return None if parameters is None else Parameters(dict(parameters))


def values_of(tensor: RequestInput | ResponseOutput) -> Array:
    """The tensor's values as an array, BYTES as objects. CodecError if they do not fit its datatype or shape."""
    values: Any = tensor.data.to_numpy(tensor.datatype, tensor.shape, writable=False)
    return values  # type: ignore[no-any-return]  # a view, so that the tensor keeps its form
