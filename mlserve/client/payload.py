"""What callers give, as a request: arrays, frames, text, dicts of them, or the protocol's own types."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlserve.client.checking import check_mapping, check_text
from mlserve.codecs import NumpyCodec, PandasCodec, find_input_codec, find_request_codec
from mlserve.codecs.numbers import array_of
from mlserve.errors import CodecError, InvalidRequest
from mlserve.types import InferenceRequest, Parameters, RequestInput, RequestOutput

__all__ = ["make_request"]

_ONLY = "input-1"  # as the codecs for whole requests call a single input


def make_request(
    payload: Any,
    *,
    request_id: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    outputs: Sequence[str | RequestOutput] | None = None,
) -> tuple[InferenceRequest, dict[str, str]]:
    """The request that holds the payload, and the headers that its parameters ask for. CodecError if nothing takes it.

    A request that is given stays as it is: what is added goes into a copy, which shares its tensors.
    """
    check_text("id", request_id, optional=True)
    check_mapping("parameters", parameters)
    if isinstance(outputs, str):
        raise InvalidRequest(f"outputs: expected a list of names, got a text; write [{outputs!r}]")
    made = payload if isinstance(payload, InferenceRequest) else _encode(payload)
    given = {**(made.parameters or {}), **(parameters or {})}
    headers = given.pop("headers", None)
    check_mapping("parameters.headers", headers)
    wanted = made.outputs if outputs is None else [_output(one) for one in outputs]
    request = InferenceRequest(
        id=request_id if request_id is not None else made.id,
        parameters=Parameters(given) if given else None,
        inputs=made.inputs,
        outputs=wanted,
    )
    return request, {str(name): str(value) for name, value in (headers or {}).items()}


def _encode(payload: Any) -> InferenceRequest:
    if isinstance(payload, Mapping):
        return InferenceRequest(inputs=[_input(str(name), value) for name, value in payload.items()])
    if isinstance(payload, RequestInput):
        return InferenceRequest(inputs=[payload])
    if isinstance(payload, list | tuple) and payload and all(isinstance(one, RequestInput) for one in payload):
        return InferenceRequest(inputs=list(payload))
    payload = _plain("the payload", payload)
    codec = find_request_codec(payload=payload)
    if codec is not None:
        return codec.encode_request(payload)
    return InferenceRequest(inputs=[_input(_ONLY, payload)])


def _input(name: str, value: Any) -> RequestInput:
    if isinstance(value, RequestInput):
        return value
    pandas = sys.modules.get("pandas")  # Who gives a Series has imported it.
    if pandas is not None and isinstance(value, pandas.Series):
        return PandasCodec.encode_inputs(value.to_frame(name))[0]
    value = _plain(f"'{name}'", value)
    codec = find_input_codec(payload=value) or NumpyCodec
    return codec.encode_input(name, value)


def _plain(what: str, value: Any) -> Any:
    """A value that codecs know: a single text or date as a list of one; numbers, and lists of them, as an array."""
    if find_input_codec(payload=value) is not None or find_request_codec(payload=value) is not None:
        return value
    if isinstance(value, tuple):
        value = list(value)
    as_list = value if isinstance(value, list) else [value]
    if find_input_codec(payload=as_list) is not None:
        return as_list
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise CodecError(f"{what}: {error}") from None
    if array.dtype.kind not in "biufSUO" or (array.dtype.kind == "O" and not isinstance(value, list)):
        raise CodecError(f"{what}: no codec takes a {type(value).__name__}")
    return _kept(what, value, array) if isinstance(value, list) else array


def _kept(what: str, values: list[Any], array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array, with all values as they were; CodecError where numpy changed one to have them all in one."""
    if array.dtype.kind in "US":
        kinds = sorted({_kind(one) for one in _leaves(values)})
        if len(kinds) > 1:
            raise CodecError(f"{what}: a list of {' and '.join(kinds)}; one tensor holds one kind: make them all text")
    elif array.dtype.kind == "f":
        try:
            array = array_of(np.array(values, object).ravel().tolist()).reshape(array.shape)
        except CodecError as error:
            raise CodecError(f"{what}: {error.message}") from None
    return array


def _kind(value: Any) -> str:
    return next((kind.__name__ for kind in (str, bytes) if isinstance(value, kind)), type(value).__name__)


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, (list, tuple)):
        for one in values:
            yield from _leaves(one)
    else:
        yield values


def _output(wanted: str | RequestOutput) -> RequestOutput:
    if isinstance(wanted, RequestOutput):
        return wanted
    check_text("outputs", wanted)
    return RequestOutput(name=wanted)
