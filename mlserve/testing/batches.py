"""Whether a runtime may be given several requests in one, as adaptive batching does (`max_batch_size`)."""

from __future__ import annotations

from collections.abc import Sequence

from mlserve.errors import MLServeError
from mlserve.merging import merge, rows_of, split
from mlserve.model import MLModel
from mlserve.testing.calling import check_expected, predicted, values_of
from mlserve.testing.variants import in_form, rows_from
from mlserve.types import InferenceRequest, InferenceResponse

__all__ = ["check_batches"]

_RTOL = 1e-6  # numerical libraries round differently for arrays of another size


async def check_batches(
    model: MLModel, requests: Sequence[InferenceRequest], answers: Sequence[InferenceResponse]
) -> None:
    """Each request has the same answer alone, beside itself, and beside others of other lengths, in any order.

    The rows of a request are asked for one by one as well, where it has several.
    """
    first, answer = requests[0], answers[0]
    await _check(model, [first, first], [answer, answer], "two requests in a batch")
    alike = [place for place, one in enumerate(requests) if _likeness(one) == _likeness(first)]
    members, alone = [requests[place] for place in alike], [answers[place] for place in alike]
    rows = rows_of(first)
    if rows > 1:
        pieces = [rows_from(first, 0, 1), rows_from(first, 1, rows)]
        members += pieces
        alone += [await predicted(model, in_form(one, "raw")) for one in pieces]
    await _check(model, members, alone, "requests of several lengths in a batch")
    await _check(model, members[::-1], alone[::-1], "the same requests in another order")


async def _check(
    model: MLModel, members: Sequence[InferenceRequest], alone: Sequence[InferenceResponse], what: str
) -> None:
    merged = merge([in_form(one, "raw") for one in members])
    try:
        parts = split(await predicted(model, merged), [rows_of(one) for one in members])
        for part, answer in zip(parts, alone, strict=True):
            check_expected(part, values_of(answer), _RTOL)
    except (AssertionError, MLServeError) as error:
        raise AssertionError(f"{model!r}, {what}: {error}") from error


def _likeness(request: InferenceRequest) -> object:
    """The same for requests that the server would put into one batch."""
    inputs = [(one.name, one.datatype, one.shape[1:], one.parameters) for one in request.inputs]
    outputs = None if request.outputs is None else [one.name for one in request.outputs]
    return inputs, outputs, request.parameters
