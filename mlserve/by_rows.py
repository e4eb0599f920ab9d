"""Whether a model's answers to merged requests can be cut by rows, for runtimes that cannot know it from the model.

For authors of runtimes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from mlserve.datatypes import Array
from mlserve.errors import ModelError
from mlserve.merging import members_of, rows_of
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput

__all__ = ["ByRows"]

_logger = logging.getLogger("mlserve.batching")
_ROUNDING = 0.02  # of the largest number: half precision in another order; others' numbers are further away
_MOST = 256  # sets of outputs that are remembered; clients name them


class ByRows:
    """Looks at the first merged requests of a model: the first member is run alone too, and must get what it gets in
    the batch: the same outputs, with a row for each row of its input, and in them the same values but for rounding.

    An axis that happens to be as long as the rows of a batch, a list with an entry for each row, or products of rows
    with those of others would be cut as if they were rows, and give callers each other's numbers.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._known: dict[tuple[str, ...], bool] = {}  # by the outputs asked for

    def answer(
        self, request: InferenceRequest, ask: Callable[[InferenceRequest], InferenceResponse]
    ) -> InferenceResponse:
        """What `ask` gives. ModelError for a merged request that must not be cut: its members then run one by one."""
        members = members_of(request)
        if len(members) == 1:
            return ask(request)
        asked = tuple(one.name for one in request.outputs or ())
        if self._known.get(asked) is False:
            raise self._refusal()
        response, rows = ask(request), rows_of(request)
        why_not = _without_rows(response, rows)
        if why_not is None and asked not in self._known:
            why_not = _unlike(response, rows, ask(members[0]), rows_of(members[0]))
        if why_not is not None or asked not in self._known:
            self._remember(asked, why_not)
        if why_not is not None:
            raise self._refusal()
        return response

    def _remember(self, asked: tuple[str, ...], why_not: str | None) -> None:
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[asked] = why_not is None
        if why_not is not None:
            _logger.warning(
                "model '%s': %s, so requests for it cannot run together: they run one by one. Leave max_batch_size and "
                "max_batch_time out",
                self._model_name,
                why_not,
            )

    def _refusal(self) -> ModelError:
        return ModelError(f"model '{self._model_name}': its answers to several requests cannot be cut by rows")


def _unlike(together: InferenceResponse, rows: int, alone: InferenceResponse, own_rows: int) -> str | None:
    """Why an answer to some rows and one to fewer are not of one kind; None if they are."""
    count, own_count = len(together.outputs), len(alone.outputs)
    if [one.name for one in together.outputs] != [one.name for one in alone.outputs]:
        return f"it has {own_count} outputs for {own_rows} rows and {count} for {rows}"
    why_not = _without_rows(alone, own_rows)
    if why_not is not None:
        return why_not
    for one, own in zip(together.outputs, alone.outputs):
        if one.datatype != own.datatype or list(one.shape[1:]) != list(own.shape[1:]):
            return (
                f"its output '{one.name}' has rows of the shape {list(own.shape[1:])} alone, {list(one.shape[1:])} not"
            )
        if not _alike(_array_of(one)[:own_rows], _array_of(own)):
            return f"its output '{one.name}' has other values for the same rows beside others"
    return None


def _array_of(output: ResponseOutput) -> Array:
    return output.data.to_numpy(output.datatype, output.shape, writable=False)


def _alike(some: Array, others: Array) -> bool:
    """Whether values are the same, numbers with a point but for what rounding in another order makes of them."""
    if some.dtype.kind != "f":
        return bool(np.array_equal(some, others))
    most = np.abs(others, dtype=np.float64).max(initial=0.0, where=np.isfinite(others))
    return bool(np.allclose(some, others, rtol=_ROUNDING, atol=_ROUNDING * float(most), equal_nan=True))


def _without_rows(response: InferenceResponse, rows: int) -> str | None:
    """Which output has no row for each row; None if all have."""
    for output in response.outputs:
        if list(output.shape[:1]) != [rows]:
            return f"its output '{output.name}' has the shape {list(output.shape)} for {rows} rows"
    return None
