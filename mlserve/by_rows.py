"""Whether a model's answers to merged requests can be cut by rows, for runtimes that cannot know it from the model.

For authors of runtimes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from mlserve.datatypes import Array
from mlserve.errors import ModelError
from mlserve.merging import members_of, rows_of
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput

__all__ = ["ByRows"]

_Response = TypeVar("_Response", bound=InferenceResponse)
_logger = logging.getLogger("mlserve.batching")
_ROUNDING = 0.02  # of the largest number: half precision in another order; others' numbers are further away
_FEW = 0.02  # of the values
_MOST = 256  # sets of outputs that are remembered; clients name them


class ByRows:
    """Looks at merged requests of a model: a member is run alone too, and must get what it gets in the batch: the same
    outputs, with a row for each row of its input, and in them the same values but for rounding.

    An axis that happens to be as long as the rows of a batch, a list with an entry for each row, or products of rows
    with those of others would be cut as if they were rows, and give callers each other's numbers.

    It looks at the last and at the first member of the first merged request, for rows may hang on those before and on
    those behind; then at one of the second, the fourth, the eighth and so on, each time at the next member: what hangs
    on values, such as how many boxes an image has, does not show in each of them.
    """

    def __init__(self, model_name: str, is_extended: bool = False) -> None:
        """`is_extended`: other code stands before `ask` and may change requests, so that members are not what it asks
        for; then nothing is looked at."""
        self._model_name = model_name
        self._is_extended = is_extended
        self._answered: dict[tuple[str, ...], int | None] = {}  # merged requests, by the outputs; None: not cut by rows

    def answer(self, request: InferenceRequest, ask: Callable[[InferenceRequest], _Response]) -> _Response:
        """What `ask` gives. ModelError for a merged request that must not be cut: its members then run one by one."""
        members = members_of(request)
        if len(members) == 1 or self._is_extended:
            return ask(request)
        asked = tuple(one.name for one in request.outputs or ())
        before = self._answered.get(asked, 0)
        if before is None:
            raise self._refusal()
        response = ask(request)
        why_not = _without_rows(response, rows_of(request))
        for place in _places(before, len(members)):
            if why_not is None:
                first = sum(map(rows_of, members[:place]))
                why_not = _unlike(response, rows_of(request), first, ask(members[place]), rows_of(members[place]))
        if len(self._answered) >= _MOST and asked not in self._answered:
            self._answered.clear()
        if why_not is not None:
            self._answered[asked] = None
            self._warn(why_not)
            raise self._refusal()
        self._answered[asked] = before + 1
        return response

    def _warn(self, why_not: str) -> None:
        _logger.warning(
            "model '%s': %s, so requests for it cannot run together: they run one by one. Leave max_batch_size and "
            "max_batch_time out",
            self._model_name,
            why_not,
        )

    def _refusal(self) -> ModelError:
        return ModelError(f"model '{self._model_name}': its answers to several requests cannot be cut by rows")


def _places(before: int, members: int) -> list[int]:
    """Which members to look at, after so many merged requests: the last one may hang on all others, the first too."""
    if not before:
        return [0, members - 1]
    return [before.bit_length() % members] if before & (before + 1) == 0 else []  # 1, 3, 7


def _unlike(together: InferenceResponse, rows: int, first: int, alone: InferenceResponse, own_rows: int) -> str | None:
    """Why an answer to some rows and one to a few of them, from `first` on, are not of one kind; None if they are."""
    count, own_count = len(together.outputs), len(alone.outputs)
    if [one.name for one in together.outputs] != [one.name for one in alone.outputs]:
        return f"it has {own_count} outputs for {own_rows} rows and {count} for {rows}"
    why_not = _without_rows(alone, own_rows)
    if why_not is not None:
        return why_not
    for one, own in zip(together.outputs, alone.outputs):
        if one.datatype != own.datatype:
            return f"its output '{one.name}' is {own.datatype} alone, {one.datatype} beside others"
        if list(one.shape[1:]) != list(own.shape[1:]):
            return (
                f"its output '{one.name}' has rows of the shape {list(own.shape[1:])} alone, {list(one.shape[1:])} not"
            )
        batch = _array_of(one)
        if not _alike(batch[first : first + own_rows], _array_of(own), batch):
            return f"its output '{one.name}' has other values for the same rows beside others"
    return None


def _array_of(output: ResponseOutput) -> Array:
    return output.data.to_numpy(output.datatype, output.shape, writable=False)


def _alike(some: Array, others: Array, batch: Array) -> bool:
    """Whether values are the same, numbers with a point but for what rounding in another order makes of them.

    That is measured by the largest number of the batch, and for nearly all values by that of their own column, the last
    axis: a share may stand beside a price. A few may be close to zero in all rows, where rounding shows.
    """
    if some.dtype.kind != "f":
        return bool(np.array_equal(some, others))
    size = np.abs(batch, dtype=np.float64)
    columns = size.max(axis=tuple(range(max(batch.ndim - 1, 1))), initial=0.0, where=np.isfinite(size))
    few = _differ(some, others, columns).sum() <= some.size * _FEW
    return bool(few) and not _differ(some, others, columns.max(initial=0.0)).any()


def _differ(some: Array, others: Array, size: Array) -> Array:
    """Which values are further from one another than the rounding of numbers of such a size."""
    with np.errstate(invalid="ignore"):  # infinities
        is_near = np.abs(np.subtract(some, others, dtype=np.float64)) <= _ROUNDING * size
    return np.asarray(~is_near & (some != others) & ~(np.isnan(some) & np.isnan(others)))


def _without_rows(response: InferenceResponse, rows: int) -> str | None:
    """Which output has no row for each row; None if all have."""
    for output in response.outputs:
        if list(output.shape[:1]) != [rows]:
            return f"its output '{output.name}' has the shape {list(output.shape)} for {rows} rows"
    return None
