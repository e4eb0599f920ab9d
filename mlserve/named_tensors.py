"""For runtimes whose model takes and gives named tensors: inputs by name, their shapes, and the outputs asked for.

For authors of runtimes. All refusals are InferenceErrors that say which input or output, what came, what was expected.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from mlserve.codecs import NumpyCodec, StringCodec
from mlserve.codecs.decoded import get_content_type
from mlserve.codecs.errors import located
from mlserve.datatypes import BYTES, Array, cast, changed, datatype_of
from mlserve.errors import CodecError, InferenceError, InvalidRequest
from mlserve.model import MLModel
from mlserve.repeated import check_repeated
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, Parameters, RequestInput, RequestOutput, ResponseOutput

__all__ = ["array_of", "fit", "inputs_by_name", "output_of", "outputs_asked"]

# Content types that say no more than the datatype does. Others have a codec make the value.
_PLAIN = frozenset({None, NumpyCodec.ContentType, StringCodec.ContentType})
_FLOATS = ("FP16", "FP32", "FP64")  # a cast to which may round, or end in infinity


def inputs_by_name(
    model: MLModel, request: InferenceRequest, names: Sequence[str], optional: Collection[str] = ()
) -> dict[str, RequestInput]:
    """The request's inputs by the model's names for them, in the model's order.

    Where model and request have only one each, its name does not matter.
    """
    required = [name for name in names if name not in optional]
    if len(request.inputs) == len(required) == 1 and request.inputs[0].name not in names:
        return {required[0]: request.inputs[0]}
    given: dict[str, RequestInput] = {}
    for one in request.inputs:
        if one.name in given:
            raise InferenceError(f"model '{model.name}': there are two inputs '{one.name}'")
        given[one.name] = one
    missing = [name for name in required if name not in given]
    if missing:
        raise InferenceError(
            f"model '{model.name}': inputs are missing: {_listed(missing)}; the request has {_listed(given) or 'none'}"
        )
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InferenceError(f"model '{model.name}' has no input {_listed(unknown)}: it takes {_listed(names)}")
    return {name: given[name] for name in names if name in given}


def array_of(model: MLModel, one: RequestInput, datatype: str | None = None, *, writable: bool = False) -> Array:
    """An input's values as an array of this datatype, its own unless given: a view of the request where it can be.

    Values that the datatype cannot hold are refused: also those beyond FP16 or FP32, and whole numbers that would be
    rounded. Floats may lose precision. BYTES are an array of objects.
    """
    wanted = datatype or one.datatype
    metadata = (model.declared("inputs") or {}).get(one.name)
    try:
        decoded = one.data if get_content_type(one, metadata) in _PLAIN else model.decode(one)
        if decoded is one.data:  # as it came, also where nobody has registered the content type
            array = one.data.to_numpy(wanted, one.shape, writable=writable)
            if wanted in _FLOATS and one.datatype != wanted:
                _check_floats(array, one.data.to_numpy(one.datatype, one.shape, writable=False), wanted)
            return array
        value = np.asarray(decoded)
        return value.astype(object) if wanted == BYTES else _check_floats(cast(value, wanted), value, wanted)
    except InvalidRequest as error:
        raise located(error, one) from None


def _check_floats(array: Array, source: Array, datatype: str) -> Array:
    """The array, if no number in it has become infinite and no integer another. CodecError names the first that has."""
    if datatype not in _FLOATS:
        return array
    lost = changed(source, array) if source.dtype.kind in "iu" else np.isinf(array) & np.isfinite(source)
    if lost.any():
        at = int(np.flatnonzero(lost)[0])
        greatest, near = float(np.finfo(array.dtype).max), array.ravel()[at].item()
        told = f"at most {greatest:g}" if np.isinf(near) else f"the nearest is {near:.0f}"
        raise CodecError(f"data[{at}]: {source.ravel()[at].item()!r} is no {datatype} ({told})")
    return array


def fit(model: MLModel, name: str, array: Array, shape: Sequence[int]) -> Array:
    """The array, if the model's shape for this input (-1: any size) allows it.

    A last axis of size 1 that the model does not have is dropped: the content types `np` and `str` add it to [N].
    """
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array.reshape(array.shape[:-1])
    if array.ndim != len(shape) or any(size not in (-1, found) for size, found in zip(shape, array.shape)):
        raise InferenceError(
            f"model '{model.name}': input '{name}' has shape {list(array.shape)}, the model takes {list(shape)}"
        )
    return array


def outputs_asked(model: MLModel, request: InferenceRequest, names: Sequence[str]) -> list[RequestOutput]:
    """The outputs that the request asks for, in its order; all of the model's, if it names none."""
    if not request.outputs:
        return [RequestOutput(name=name) for name in names]
    check_repeated(request.outputs)
    unknown = [one.name for one in request.outputs if one.name not in names]
    if unknown:
        raise InferenceError(f"model '{model.name}' has no output {_listed(unknown)}: it has {_listed(names)}")
    return request.outputs


def output_of(
    model: MLModel, asked: RequestOutput, array: Array, name: str | None = None, **parameters: Any
) -> ResponseOutput:
    """An output of the array's exact shape, by the content type that somebody names, else as it is."""
    metadata = (model.declared("outputs") or {}).get(asked.name)
    if get_content_type(asked, metadata) not in _PLAIN:
        return model.encode(array, asked)
    content_type = StringCodec.ContentType if array.dtype.kind in "OUS" else NumpyCodec.ContentType
    return ResponseOutput(
        name=name or asked.name,
        shape=list(array.shape),
        datatype=datatype_of(array.dtype),
        parameters=Parameters(content_type=content_type, **parameters),
        data=TensorData.encoded(array),
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
