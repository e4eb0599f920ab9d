"""One column of a frame to and from a tensor: numbers as arrays, text, bytes, dates, and everything else as JSON.

The rule for missing values: NaN in floating point, null in text and dates; a column of integers or booleans in which
one is missing becomes floating point, as pandas itself does it.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.base64 import Base64Codec
from mlserve.codecs.datetime import DatetimeCodec
from mlserve.codecs.decoded import NOTHING, decoded_input, get_content_type, get_decoded, has_decoded
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.jsontext import JsonContentType, json_texts, values_of_json
from mlserve.codecs.lists import ListCodec, elements
from mlserve.codecs.numbers import array_of
from mlserve.codecs.numpy import to_datatype
from mlserve.codecs.registry import find_input_codec
from mlserve.codecs.string import StringCodec
from mlserve.datatypes import BYTES, Datatype, changed
from mlserve.errors import InvalidRequest
from mlserve.types import RequestInput

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["decode_column", "encode_column"]

_NUMBERS = (bool, int, float, np.bool_, np.number)


def encode_column(name: str, column: pd.Series[Any], use_bytes: bool) -> tuple[Datatype, Any, str | None]:
    """A column's datatype, its values as the tensor shall hold them, and its content type if it needs one.

    CodecError names the column if the protocol has no way to carry it.
    """
    import pandas as pd

    dtype: Any = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return encode_column(name, _of_categories(column), use_bytes)
    if isinstance(dtype, pd.SparseDtype):
        return encode_column(name, pd.Series(np.asarray(column)), use_bytes)
    kind = getattr(dtype, "kind", "O")
    if kind in "biuf":
        array = column.to_numpy(copy=True) if isinstance(dtype, np.dtype) else _without_mask(name, column)
        return _of_numpy(name, array), array, None
    if kind == "M":
        values = [None if one is pd.NaT else one.isoformat() for one in column.array]
        return Datatype.BYTES, DatetimeCodec.encode_output(name, values, use_bytes).data, DatetimeCodec.ContentType
    if kind in "OUT" and not isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype):
        return _encode_objects(name, column.tolist(), use_bytes)
    raise unencodable(f"column '{name}': no datatype of the protocol holds pandas' {dtype}")


def decode_column(tensor: InputOrOutput) -> Any:
    """A tensor as the values of a column: a flat array, or a list of one object a row.

    Its decoded form if it has one, its content type's, or else numbers by the datatype and text as it came. Each value
    is a row, whatever the shape says; of data that came as nested lists each list is one, unless it holds one value.
    """
    value: Any = NOTHING
    if has_decoded(tensor):
        value = get_decoded(tensor)
    elif get_content_type(tensor) == JsonContentType:
        return _by_lists(values_of_json(tensor), tensor)
    elif isinstance(tensor, RequestInput):
        value = decoded_input(tensor)
    elif tensor.parameters is not None:
        value = _decode_output(tensor)
    if value is not NOTHING:
        return _by_lists(value, tensor) if _is_of_elements(value, tensor) else _rows(value)
    if tensor.datatype == BYTES:
        return _by_lists(elements(tensor, "pd"), tensor)
    try:
        flat = tensor.data.to_numpy(tensor.datatype, tensor.shape, writable=False).reshape(-1)
    except InvalidRequest as error:
        raise located(error, tensor) from None
    return _by_lists(flat, tensor)


def _is_of_elements(value: Any, tensor: InputOrOutput) -> bool:
    """Whether this is what one of our codecs made of each element: text, bytes or dates."""
    content_type = get_content_type(tensor)
    codec = find_input_codec(content_type) if content_type is not None and isinstance(value, list) else None
    return isinstance(codec, type) and issubclass(codec, ListCodec)


def _by_lists(flat: Any, tensor: InputOrOutput) -> Any:
    """The values as they were nested, a list a row; flat as they are if they were not, or with one value in each."""
    count = tensor.data.rows
    if count is None or count == len(flat):
        return flat
    shape, nested = [], tensor.data.tolist()
    while isinstance(nested, list | tuple):
        shape.append(len(nested))
        nested = nested[0] if nested else None
    array = flat if isinstance(flat, np.ndarray) else np.fromiter(flat, dtype=object, count=len(flat))
    return array.reshape(shape).tolist()


def _decode_output(tensor: Any) -> Any:
    codec = find_input_codec(tensor.parameters.content_type) if tensor.parameters.content_type else None
    return codec.decode_output(tensor) if codec is not None else NOTHING


def _rows(value: Any) -> Any:
    """What a codec made of a tensor, as one entry a row: the last axes of an array stay together in their row."""
    if isinstance(value, np.ndarray):
        if value.ndim > 1 and value.size != value.shape[0]:
            return list(value)
        flat = value.reshape(-1)
        return flat.tolist() if value.dtype.kind in "USO" else flat
    return value if isinstance(value, list) else [value]


def _of_numpy(name: str, array: Any) -> Datatype:
    try:
        return to_datatype(array.dtype)
    except CodecError as error:
        raise unencodable(f"column '{name}': {error.message}") from None


def _without_mask(name: str, column: Any) -> Any:
    """The array of a nullable column: of its own numpy type, or of floats with NaN where something is missing."""
    wanted = column.dtype.numpy_dtype
    missing = column.isna()
    if not missing.any():
        return column.to_numpy(dtype=wanted, copy=True)
    if wanted.kind == "f":
        return column.to_numpy(dtype=wanted, copy=True, na_value=np.nan)
    floats = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if wanted.kind in "iu" and changed(column.to_numpy(dtype=wanted, na_value=0), floats)[~missing].any():
        raise unencodable(f"column '{name}': integers beyond 2**53 beside missing values, which make it floating point")
    return floats


def _encode_objects(name: str, values: list[Any], use_bytes: bool) -> tuple[Datatype, Any, str | None]:
    """A column of Python objects: by what all of them are."""
    import pandas as pd

    values = [None if _is_missing(one, pd) else one for one in values]
    present = [one for one in values if one is not None]
    if all(isinstance(one, str) for one in present):
        return Datatype.BYTES, StringCodec.encode_output(name, values, use_bytes).data, StringCodec.ContentType
    if all(isinstance(one, str | bytes) for one in present):
        blobs = [one if one is None or isinstance(one, bytes) else one.encode() for one in values]
        return _encode_blobs(name, blobs, use_bytes)
    if all(isinstance(one, datetime.date | np.datetime64) for one in present):
        return Datatype.BYTES, DatetimeCodec.encode_output(name, values, use_bytes).data, DatetimeCodec.ContentType
    if all(isinstance(one, _NUMBERS) for one in present):
        array = _numbers(values)
        if array is not None:
            return _of_numpy(name, array), array, None
    return Datatype.BYTES, json_texts(name, values, use_bytes), JsonContentType


def _of_categories(column: Any) -> Any:
    """The values of a categorical column. Where one is missing pandas would make integers floating point.

    Where all are missing, categories of numbers say what they would be, as the type of a nullable column does.
    """
    import pandas as pd

    kinds = column.cat.categories
    if len(kinds) and len(column) and column.isna().all() and all(isinstance(one, _NUMBERS) for one in kinds):
        return pd.Series(np.full(len(column), np.nan))
    if getattr(kinds.dtype, "kind", "O") not in "iu" or not column.isna().any():
        return pd.Series(np.asarray(column))
    known = kinds.tolist()
    return pd.Series([known[code] if code >= 0 else None for code in column.cat.codes], dtype=object)


def _is_missing(one: Any, pd: Any) -> bool:
    return (
        one is None or one is pd.NA or one is pd.NaT or (isinstance(one, float | np.floating) and bool(np.isnan(one)))
    )


def _encode_blobs(name: str, values: list[Any], use_bytes: bool) -> tuple[Datatype, Any, str | None]:
    """Bytes go as text, as MLServer sends them, if all are UTF-8; otherwise as base64, which JSON can carry."""
    try:
        texts = [one if one is None else str(one, "utf-8") for one in values]
    except UnicodeDecodeError:
        return Datatype.BYTES, Base64Codec.encode_output(name, values, use_bytes).data, Base64Codec.ContentType
    return Datatype.BYTES, values if use_bytes else texts, StringCodec.ContentType


def _numbers(values: list[Any]) -> Any:
    """Numbers as an array, None as NaN; None if they do not go into one without loss."""
    if None not in values and len({isinstance(one, bool | np.bool_) for one in values}) > 1:
        return None  # true beside 2: numpy would make it 1
    try:
        array = array_of(values)
    except (CodecError, OverflowError):
        return None
    return array if array.dtype.kind in "biuf" else None
