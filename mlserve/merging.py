"""Several requests into one, and one response into several: what a model with adaptive batching sees and gives.

Rows are counted and cut exactly. Parameters merge to lists, one value per request in order (None where a request has
none), and lists in the response are dealt out again in the same order; content types stay as they are, since only
requests that agree on them come together. Headers merge to text, as HTTP joins them, which knows whose each part is: a
model that gives them back gives each caller its own, and nobody another's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mlserve.errors import CodecError, ModelError
from mlserve.settings import ModelSettings
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

_SHARED = frozenset({"content_type", "binary_data", "binary_data_output"})  # the same in all requests of a batch


class JoinedHeader(str):
    """A header that requests of a batch do not share, as HTTP joins repeated ones; `own` has it for each request."""

    own: list[str | None]

    @classmethod
    def of(cls, own: list[str | None]) -> JoinedHeader:
        """From what each request has; None for one without."""
        joined = cls(", ".join(dict.fromkeys(one for one in own if one is not None)))
        joined.own = own
        return joined


def merge(requests: Sequence[InferenceRequest]) -> InferenceRequest:
    """One request with the rows of all. CodecError if the data of one does not fit its shape."""
    first = requests[0]
    parameters = _merge_parameters([one.parameters for one in requests]) or Parameters()
    parameters._members = list(requests)  # private: never on the wire
    return InferenceRequest(
        id=",".join(one.id or "" for one in requests),
        parameters=parameters,
        inputs=[_merge_inputs([one.inputs[place] for one in requests]) for place in range(len(first.inputs))],
        outputs=first.outputs,
    )


def may_merge(settings: ModelSettings) -> bool:
    """Whether requests to a model may come merged. As in MLServer, batching needs both a size and a time; with "auto",
    the size is only an upper bound, and may be left out. For models that cannot take that."""
    size, wait = settings.max_batch_size, settings.max_batch_time
    return size != 1 if wait == "auto" else size > 1 and wait > 0


def members_of(request: InferenceRequest) -> list[InferenceRequest]:
    """The requests that one was merged of; itself alone if it came so. For models whose inputs are not all rows."""
    return getattr(request.parameters, "_members", None) or [request]


def rows_of(request: InferenceRequest) -> int:
    """The number of rows of a request that can be merged."""
    return request.inputs[0].shape[0]


def give_rows(response: InferenceResponse, rows: Sequence[int]) -> None:
    """Says how many rows of the answer to a merged request each member gets, in order. For models that leave rows out,
    or make several of one, and know whose they are."""
    if response.parameters is None:
        response.parameters = Parameters()
    response.parameters._rows = list(rows)  # private: never on the wire


def split(response: InferenceResponse, rows: Sequence[int]) -> list[InferenceResponse]:
    """One response for each request, which had so many rows, unless the model said how many each gets (`give_rows`).
    ModelError if the rows do not add up."""
    own = response.parameters
    if own is not None and hasattr(own, "_rows"):
        rows, own = own._rows, own if len(own) > 0 else None
    parts = [_split_output(output, rows) for output in response.outputs]
    parameters = _split_parameters(own, len(rows))
    return [
        InferenceResponse(
            model_name=response.model_name,
            model_version=response.model_version,
            parameters=parameters[place],
            outputs=[part[place] for part in parts],
        )
        for place in range(len(rows))
    ]


def _merge_inputs(inputs: Sequence[RequestInput]) -> RequestInput:
    first = inputs[0]
    arrays = [_rows(one) for one in inputs]
    return RequestInput(
        name=first.name,
        shape=[sum(one.shape[0] for one in inputs), *first.shape[1:]],
        datatype=first.datatype,
        parameters=_merge_parameters([one.parameters for one in inputs]),
        data=TensorData.joined(np.concatenate(arrays), first.datatype, [one.data for one in inputs]),
    )


def _rows(tensor: RequestInput | ResponseOutput) -> np.ndarray[Any, Any]:
    """The tensor's values in its exact shape: also for BYTES, where a lone request may be lenient."""
    array = tensor.data.to_numpy(tensor.datatype, tensor.shape, writable=False)
    if list(array.shape) != list(tensor.shape):
        raise CodecError(f"'{tensor.name}': shape {tensor.shape} does not hold the {array.size} values that came")
    return array


def _split_output(output: ResponseOutput, rows: Sequence[int]) -> list[ResponseOutput]:
    total = sum(rows)
    given = output.shape[0] if output.shape else 0
    if given != total:
        raise ModelError(
            f"output '{output.name}' has {given} rows, but the batch of {len(rows)} requests had {total}; a model "
            f"with max_batch_size must return one row per row of its input"
        )
    parameters = _split_parameters(output.parameters, len(rows))
    return [
        ResponseOutput(
            name=output.name,
            shape=[count, *output.shape[1:]],
            datatype=output.datatype,
            parameters=own,
            data=data,
        )
        for count, own, data in zip(rows, parameters, _cut(output, rows))
    ]


def _cut(output: ResponseOutput, rows: Sequence[int]) -> Iterator[TensorData]:
    """The data of each request's rows. A list stays one, as nested as it is and with the values that it has."""
    values: Any = output.data.listed
    step = 1  # how many elements a row takes
    if values is None:
        values = _rows(output)
    elif len(values) != output.shape[0]:
        step = math.prod(output.shape[1:])
        if len(values) != output.shape[0] * step:
            raise CodecError(f"'{output.name}': shape {output.shape} does not hold the {len(values)} values that came")
    start = 0
    for count in rows:
        yield TensorData(values[start * step : (start + count) * step])
        start += count


def _merge_parameters(all_parameters: Sequence[Parameters | None]) -> Parameters | None:
    known = [{**one} if one is not None else {} for one in all_parameters]
    merged: dict[str, Any] = {}
    for name in _in_order(known):
        values = [one.get(name) for one in known]
        if name in _SHARED:
            merged[name] = values[0]
        elif name == "headers":
            merged[name] = _merge_headers([value or {} for value in values])
        else:
            merged[name] = values
    return Parameters(merged) if any(one is not None for one in all_parameters) else None


def _merge_headers(all_headers: Sequence[dict[str, Any]]) -> dict[str, str]:
    merged = {}
    for name in _in_order(all_headers):
        own = [None if one.get(name) is None else str(one[name]) for one in all_headers]
        first = own[0]
        if first is not None and own.count(first) == len(own):
            merged[name] = first
        else:
            merged[name] = JoinedHeader.of(own)
    return merged


def _in_order(mappings: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order in which they first appear."""
    return list(dict.fromkeys(name for one in mappings for name in one))


def _split_parameters(parameters: Parameters | None, count: int) -> list[Parameters | None]:
    if parameters is None:
        return [None] * count
    return [
        Parameters({name: _dealt(value, place, count) for name, value in dict.items(parameters)})
        for place in range(count)
    ]


def _dealt(value: Any, place: int, count: int) -> Any:
    """A list of at most one value per request is dealt out, and so are joined headers; anything else belongs to all."""
    if isinstance(value, list) and len(value) <= count:
        value = value[place] if place < len(value) else None
    return _own(value, place)


def _own(value: Any, place: int) -> Any:
    """The value with what one request has of joined headers, however deep; those that only others sent are left out."""
    if isinstance(value, JoinedHeader):
        return value.own[place]
    if isinstance(value, dict):
        own = {name: _own(one, place) for name, one in value.items()}
        return {name: one for name, one in own.items() if one is not None or value[name] is None}
    if isinstance(value, list):
        return [_own(one, place) for one in value]
    return value
