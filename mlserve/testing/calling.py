"""Calls a model as a worker does, and compares answers; what the checks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlserve import execute
from mlserve.errors import CodecError, MLServeError
from mlserve.model import MLModel
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput

__all__ = ["bytes_of", "check_expected", "check_same", "check_sendable", "finish", "predicted", "values_of"]


async def finish(value: Any) -> Any:
    """What a method gives, whether it is async or plain."""
    return await value if hasattr(value, "__await__") else value


async def predicted(model: MLModel, request: InferenceRequest) -> InferenceResponse:
    """The answer to one request, with what the server fills in."""
    return execute.complete(model, request.id, await finish(model.predict(request)))


def check_sendable(whose: str, output: ResponseOutput) -> None:
    """Whether an output can go out in each form that a client may ask for."""
    try:
        output.model_copy(update={"data": []}).model_dump_json()
        output.data.to_json(output.datatype)
        output.data.to_raw(output.datatype)
        if output.datatype != "BYTES":
            output.data.to_numpy(output.datatype, output.shape)
    except (MLServeError, TypeError) as error:
        raise AssertionError(f"{whose}, output '{output.name}' cannot be sent: {error}") from error


def bytes_of(tensor: Any) -> bytes:
    """The values of an input or output as bytes of their own."""
    try:
        return bytes(tensor.data.to_raw(tensor.datatype))
    except CodecError:  # a null among texts has no binary form
        return bytes(tensor.data.to_json(tensor.datatype))


def values_of(answer: InferenceResponse) -> dict[str, Any]:
    """The outputs as arrays."""
    return {one.name: one.data.to_numpy(one.datatype, one.shape) for one in answer.outputs}


def check_expected(answer: InferenceResponse, expected: Mapping[str, Any], rtol: float) -> None:
    """Whether outputs have these values; floating point numbers within `rtol`."""
    found = {output.name: output for output in answer.outputs}
    for name, wanted in expected.items():
        assert name in found, f"there is no output '{name}' among {list(found)}"
        values = found[name].data.to_numpy(found[name].datatype, found[name].shape)
        assert values.size == np.size(wanted), f"output '{name}': expected {wanted}, got {values}"
        values = values.reshape(np.shape(wanted))
        exact = not rtol or values.dtype.kind not in "fc"
        same = np.array_equal(values, wanted) if exact else np.allclose(values, wanted, rtol, equal_nan=True)
        assert same, f"output '{name}': expected {wanted}, got {values}"


def check_same(form: str, one: InferenceResponse, other_form: str, other: InferenceResponse) -> None:
    """Whether two answers have the same tensors, bit for bit; the forms say where each comes from."""
    names, other_names = ([output.name for output in response.outputs] for response in (one, other))
    assert names == other_names, f"outputs are {names} over {form}, but {other_names} over {other_form}"
    for was, now in zip(one.outputs, other.outputs):
        for what in ("datatype", "shape"):
            before, after = getattr(was, what), getattr(now, what)
            assert before == after, f"output '{was.name}': {what} {before} over {form}, {after} over {other_form}"
        same = bytes(was.data.to_raw(was.datatype)) == bytes(now.data.to_raw(now.datatype))
        assert same, f"output '{was.name}': {was.data} over {form}, but {now.data} over {other_form}"
