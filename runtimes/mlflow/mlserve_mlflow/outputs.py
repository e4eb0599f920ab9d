"""Whatever a model predicts, as an inference response: frames, arrays, lists, dicts, texts and single values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlserve.codecs import Base64Codec, NumpyCodec, PandasCodec, StringCodec, find_input_codec
from mlserve.errors import CodecError, InferenceError, ModelError
from mlserve.repeated import check_repeated
from mlserve.types import MetadataTensor, RequestOutput, ResponseOutput
from mlserve.written_out import WrittenOut

__all__ = ["encode_prediction"]

UNNAMED = "output-1"  # what an output without a name is called
_BINARY = Base64Codec.ContentType
Parts = list[tuple[str, Any]]


def encode_prediction(
    prediction: Any,
    asked: Sequence[RequestOutput] | None,
    declared: Sequence[MetadataTensor],
    written_out: WrittenOut,
) -> tuple[str, list[ResponseOutput]]:
    """The content type of the response and its outputs: all there are, or those asked for, in that order.

    A lone output may be asked for by the name that the metadata declares, and as `output-1`. InferenceError for any
    other name.
    """
    content_type, parts = _parts_of(prediction)
    binary = {one.name for one in declared if one.parameters and one.parameters.content_type == _BINARY}
    if len(parts) == len(declared) == 1 and binary:
        binary |= {parts[0][0], UNNAMED}
    if not asked:
        return content_type, [_encode(name, _dense(name, value, written_out), name in binary) for name, value in parts]
    check_repeated(asked)
    known = dict(reversed(parts))
    if len(parts) == len(declared) == 1:
        known = {declared[0].name: parts[0][1], UNNAMED: parts[0][1]} | known
    for one in asked:
        if one.name not in known:
            raise InferenceError(f"the model has no output '{one.name}'; it gives {', '.join(dict(parts))}")
    return content_type, [
        _encode_as_asked(_dense(one.name, known[one.name], written_out), one, one.name in binary) for one in asked
    ]


def _dense(name: str, value: Any, written_out: WrittenOut) -> Any:
    """A sparse matrix as an array, any other value as it is. InferenceError for one that would be too large."""
    if not hasattr(value, "toarray"):
        return value
    written_out.check(name, value.shape[0], math.prod(value.shape[1:]))
    return value.toarray()


def _parts_of(value: Any) -> tuple[str, Parts]:
    """The outputs in a prediction by name, and the content type that puts them together again."""
    if hasattr(value, "model_dump"):  # pydantic's models, such as those of chat
        value = value.model_dump()
    if isinstance(value, pd.DataFrame):
        return "pd", [(str(label), value.iloc[:, at]) for at, label in enumerate(value.columns)]
    if isinstance(value, pd.Series):
        return "pd", [(UNNAMED if value.name is None else str(value.name), value)]
    if isinstance(value, dict):
        return "dict", [(str(name), one) for name, one in value.items()]
    if isinstance(value, list | tuple):
        return _parts_of_list(list(value))
    if isinstance(value, str):
        return "str", [(UNNAMED, [value])]
    if value is None:
        raise ModelError("the model's predict gave None; it must give what it predicts")
    return "np", [(UNNAMED, value)]


def _parts_of_list(values: list[Any]) -> tuple[str, Parts]:
    values = [one.model_dump() if hasattr(one, "model_dump") else one for one in values]
    if values and all(isinstance(one, dict) for one in values):
        return _parts_of(pd.DataFrame(values))
    return ("str" if values and all(isinstance(one, str) for one in values) else "np"), [(UNNAMED, values)]


def _encode(name: str, value: Any, is_binary: bool) -> ResponseOutput:
    """An output; bytes as base64, and texts too where the signature says that they are bytes (`is_binary`)."""
    blobs = _blobs_of(value, is_binary)
    if blobs is not None:
        return Base64Codec.encode_output(name, blobs)
    if isinstance(value, list | tuple):
        value = _of_list(list(value))
    if isinstance(value, list):
        return StringCodec.encode_output(name, value)
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        array = np.atleast_1d(np.asarray(value))  # a lone value is one row
        if array.dtype.kind in "biufSU" or array.ndim > 1:
            return NumpyCodec.encode_output(name, array)
        value = pd.Series(array.reshape(-1).tolist() if array.dtype.kind == "O" else array.reshape(-1))
    if not isinstance(value, pd.Series):
        value = pd.Series([value], dtype=object)
    return PandasCodec.encode_outputs(value.to_frame(name))[0]


def _blobs_of(value: Any, is_binary: bool) -> list[bytes | None] | None:
    """The rows of a column with bytes in it, or of texts that the signature says are bytes; None for anything else.

    PandasCodec would send them as text where all are UTF-8: what a caller gets would hang on the values of others.
    """
    rows = _objects_of(value, is_binary)
    if rows is None or not (is_binary or any(isinstance(one, bytes | bytearray) for one in rows)):
        return None
    rows = [None if pd.api.types.is_scalar(one) and pd.isna(one) else one for one in rows]
    if not all(isinstance(one, str | bytes | bytearray | None) for one in rows):
        return None
    return [one.encode() if isinstance(one, str) else one if one is None else bytes(one) for one in rows]


def _objects_of(value: Any, is_binary: bool) -> list[Any] | None:
    """One object a row, where bytes can be among them; None for anything else.

    numpy's own type of bytes is a tensor of text, as the signature of a tensor declares it.
    """
    if isinstance(value, bytes | bytearray):
        return [value]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, np.ndarray) and value.shape[1:] not in ((), (1,)):
        return None
    kinds = "OSUT" if is_binary or isinstance(value, pd.Series) else "O"
    if not isinstance(value, np.ndarray | pd.Series) or getattr(value.dtype, "kind", "O") not in kinds:
        return None
    rows: list[Any] = np.asarray(value, object).reshape(-1).tolist()
    return rows


def _of_list(values: list[Any]) -> Any:
    """Texts as they are, numbers as an array, anything else as a column with an object in each row."""
    if values and all(isinstance(one, str) for one in values):
        return values
    if all(isinstance(one, np.ndarray | np.generic | list | tuple | bool | int | float) for one in values):
        try:
            array = np.array(values)
        except ValueError:  # rows of unlike lengths
            array = np.array(None)
        if array.dtype.kind in "biuf":
            return array
    return pd.Series(values, dtype=object)


def _encode_as_asked(value: Any, asked: RequestOutput, is_binary: bool) -> ResponseOutput:
    content_type = asked.parameters.content_type if asked.parameters is not None else None
    if content_type is None:
        return _encode(asked.name, value, is_binary)
    codec = find_input_codec(content_type)
    if codec is None:
        raise CodecError(f"output '{asked.name}': there is no content type '{content_type}'")
    if content_type != NumpyCodec.ContentType and hasattr(value, "tolist"):
        value = value.tolist()
    return codec.encode_output(asked.name, np.asarray(value) if content_type == NumpyCodec.ContentType else value)
