"""Whether a runtime leaves its request alone, and answers in memory that it does not write to again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from mlserve.model import MLModel
from mlserve.tensors import TensorData
from mlserve.testing.calling import bytes_of, predicted
from mlserve.testing.variants import copied, in_form, with_data
from mlserve.types import InferenceRequest, InferenceResponse

__all__ = ["Snapshot", "check_answer_stays", "check_request_stays"]


class Snapshot:
    """The values of an answer as they were when it came."""

    def __init__(self, answer: InferenceResponse) -> None:
        self._outputs = [(one, bytes_of(one)) for one in answer.outputs]

    def check(self, whose: str, when: str) -> None:
        """AssertionError if some output is not as it was."""
        for output, was in self._outputs:
            assert bytes_of(output) == was, (
                f"{whose} changed when {when}: its output '{output.name}' lies in memory that the model wrote to "
                "again. Put a copy into the answer (NumpyCodec.encode_output makes one)"
            )


async def check_answer_stays(model: MLModel, asked: Sequence[InferenceRequest]) -> None:
    """Whether an answer is still the same after the model has answered others."""
    answer = await predicted(model, copied(asked[0]))
    snapshot = Snapshot(answer)
    for other in [*asked[1:], _reversed(asked[0])]:
        with suppress(Exception):  # what it makes of the reversed one is not asked here
            await predicted(model, copied(other))
        snapshot.check(f"{model!r}: an answer", "the next call was answered")


async def check_request_stays(model: MLModel, request: InferenceRequest) -> None:
    """Whether a request has the same tensors after it was answered as before."""
    for form in ("json", "raw"):
        given = _writable(in_form(request, form))
        before = [_told(one) for one in given.inputs]
        await predicted(model, given)
        after = [_told(one) for one in given.inputs]
        for was, now in zip(before, after):
            assert was == now, (
                f"{model!r}: predict() changed input '{was[0]}' of its request: it was {was[1]} {was[2]}, and is "
                f"{now[1]} {now[2]}{' of other values' if was[:3] == now[:3] else ''}. Other code may read it again: "
                "work on a copy (self.decode gives one)"
            )
        assert len(before) == len(after), f"{model!r}: predict() changed how many inputs its request has"


def _told(one: Any) -> tuple[Any, ...]:
    return one.name, str(one.datatype), list(one.shape), bytes_of(one)


def _writable(request: InferenceRequest) -> InferenceRequest:
    """The same request with raw tensors as they lie in shared memory, where large ones come: it can be written to."""
    for one in request.inputs:
        if one.data.form == "raw":
            memory = np.frombuffer(bytearray(one.data.payload), np.uint8)
            one.data = TensorData.from_raw(memory, one.datatype, one.shape)
    return request


def _reversed(request: InferenceRequest) -> InferenceRequest:
    """The request with the values of each input in the opposite order."""
    inputs = []
    for one in request.inputs:
        array = one.data.to_numpy(one.datatype, one.shape, writable=False)
        inputs.append(with_data(one, TensorData(array.ravel()[::-1].tolist())))
    return copied(request, inputs=inputs)
