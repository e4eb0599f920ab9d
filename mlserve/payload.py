"""Payload: the values of one tensor in the form they arrived in, turned into another only when somebody asks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mlserve.datatypes import BYTES, Array, cast, datatype_of, fit_shape, is_masked, without_mask
from mlserve.errors import CodecError
from mlserve.wire import contents, json_data, raw_data
from mlserve.wire.raw_data import Buffer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Payload", "plain_list"]

UNSET: Any = object()
_NESTED = re.compile(rb"\s*\[\s*\[")  # how the JSON text of a list of lists begins
_OCTETS = (bytes, bytearray)
_PLAIN = (list, np.ndarray, tuple, str, bytes, int, float, dict)
_new = object.__new__


class Payload:
    """One tensor's values; converted lazily: to Python at most once, to numpy for each caller who may write to it.

    `form` says what `payload` is: "json" (text of the JSON value), "raw" (V2 binary), "contents" (a serialised
    InferTensorContents) or "object" (numpy array, list, scalar). The payload's memory lives as long as this object or
    an array made from it; this class never writes to it.
    """

    __slots__ = (
        "__weakref__",
        "_array",
        "_array_type",
        "_checked",
        "_datatype",
        "_form",
        "_is_list",
        "_list",
        "_payload",
        "_shape",
    )

    _form: str
    _payload: Any
    _datatype: str | None
    _shape: Sequence[int] | None
    _is_list: bool  # The array that it holds stands for the flat list of its values.
    _list: Any  # The values as Python has them, once somebody asked; else UNSET.
    _array: Array | None  # The last array made that nobody writes into, and the datatype it was asked in.
    _array_type: str | None
    _checked: bool  # The JSON text is UTF-8.

    def __init__(self, root: Any) -> None:
        self.root = list(root) if root.__class__ is list else root  # arrays are held as they are

    @classmethod
    def from_json(cls, text: Buffer | msgspec.Raw | Array) -> Self:
        """From the text of one JSON value. Its syntax is taken on trust until it is read (msgspec has checked a Raw);
        that it is UTF-8 is checked before it is passed on."""
        return cls._make("json", text, None, None)

    @classmethod
    def from_raw(cls, buffer: Buffer | Array, datatype: str, shape: Sequence[int]) -> Self:
        """From the V2 binary form; checked when it is read (`wire.raw_data.check_raw` checks at once)."""
        return cls._make("raw", buffer, datatype, shape)

    @classmethod
    def from_contents(cls, buffer: Buffer | Array, datatype: str, shape: Sequence[int]) -> Self:
        """From a serialised InferTensorContents; checked when it is read (`wire.contents.check_contents` checks at
        once)."""
        return cls._make("contents", buffer, datatype, shape)

    @classmethod
    def from_body(cls, buffer: Buffer | Array) -> Self:
        """From a whole request that nobody has read yet (sealed.py); it cannot be converted."""
        return cls._make("body", buffer, None, None)

    @classmethod
    def from_numpy(cls, array: Any) -> Self:
        """From an array, or from what numpy can see as one; not copied."""
        return cls(array if is_masked(array) else np.asarray(array))

    @classmethod
    def encoded(cls, array: Array) -> Self:
        """From an array that stands for the flat list of its values, as codecs encode it; not copied."""
        made = cls(array)
        made._is_list = True
        return made

    @classmethod
    def joined(cls, array: Array, datatype: str, parts: Sequence[Self]) -> Self:
        """From the rows of several tensors, laid under each other. As a list it is theirs, one after the other: as
        nested as they are, with the values that came rather than those rounded to the datatype."""
        if datatype != BYTES and all(one._form in ("raw", "contents") for one in parts):
            return cls._make("raw", array, datatype, array.shape)
        made = cls(array)
        made._list = _Joined(parts)
        return made

    @classmethod
    def _make(cls, form: str, payload: Any, datatype: str | None, shape: Sequence[int] | None) -> Self:
        made: Self = _new(cls)
        made._form = form
        made._payload = payload
        made._datatype = datatype
        made._shape = shape
        made._is_list = False
        made._list = UNSET
        made._array = None
        made._array_type = None
        made._checked = False
        return made

    # -- what it holds ------------------------------------------------------------------------------------------------

    @property
    def form(self) -> str:
        """What `payload` is: "json", "raw", "contents" or "object"."""
        return self._form

    @property
    def payload(self) -> Any:
        """The bytes (as bytes, bytearray or memoryview of bytes) or the object, as it came."""
        return self._payload if self._form == "object" else self._octets()

    @property
    def datatype(self) -> str | None:
        """The datatype of the raw and contents forms; None of the others, which have none of their own."""
        return self._datatype

    @property
    def nbytes(self) -> int:
        """The size of the payload; of Python objects an estimate."""
        if self._form != "object":
            return len(self._octets())
        value = self._payload
        if isinstance(value, np.ndarray):
            return value.nbytes
        return 8 * len(value) if hasattr(value, "__len__") else 8

    @property
    def listed(self) -> list[Any] | None:
        """The list that the values were given as, if they were: to be read only."""
        held = self._held() if self._form == "object" else None
        return held if isinstance(held, list) else None

    @property
    def rows(self) -> int | None:
        """The number of lists that the values' list holds, as they were given; None of values that are no lists."""
        is_unread = self._form == "json" and self._list is UNSET
        if self._form in ("raw", "contents") or (is_unread and not _NESTED.match(self._octets())):
            return None
        value = self._held() if self._form == "object" else self.tolist()
        is_nested = isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple)
        return len(value) if is_nested else None

    # -- conversions --------------------------------------------------------------------------------------------------

    def to_numpy(self, datatype: str, shape: Sequence[int], *, writable: bool = True) -> Array:
        """The values as an array of this datatype and shape; BYTES as objects: text or bytes, as they came.

        The array is the caller's own: what is written into it changes nothing else. With `writable=False` it is to be
        read only, as it may be a view of the payload (raw, contents of fixed-size values, arrays) or an array that
        others have as well. CodecError if a value does not fit the datatype or their number does not fit the shape.
        """
        array = self._array
        if array is None or self._array_type != datatype:
            array = self._to_array(datatype)
            if writable:
                if not self._is_fresh(array):
                    array = array.copy()
            elif self._form != "object":  # Objects may change; bytes are taken to stay as they are.
                self._array, self._array_type = array, datatype
        elif writable:
            array = array.copy()
        return fit_shape(array, shape)

    def to_json(self, datatype: str | None = None) -> Buffer:
        """The values as JSON text: as it came, or one flat list; NaN and the infinities are null.

        CodecError for BYTES that are not UTF-8: JSON cannot carry them. `datatype` is not needed; it is taken so
        that all conversions are called alike.
        """
        form = self._form
        if form == "json":
            text = self._octets()
            if not self._checked:
                json_data.check_utf8(text)
                self._checked = True
            return text
        return json_data.to_json(self._held() if form == "object" else self._values())

    def to_raw(self, datatype: str) -> Buffer:
        """The values in the V2 binary form; the payload itself if it has that form and datatype."""
        if self._form == "raw" and self._datatype == datatype:
            return self._octets()
        if datatype == BYTES:
            return raw_data.raw_from_elements(self._elements(json_data.flatten))
        return raw_data.numbers_to_raw(self._to_array(datatype))

    def to_contents(self, datatype: str) -> bytes:
        """The values as a serialised InferTensorContents; CodecError for FP16, for which it has no field."""
        if self._form == "contents" and self._datatype == datatype:
            return bytes(self._octets())
        if datatype == BYTES:
            return contents.contents_from_elements(self._elements(json_data.flatten))
        return contents.contents_from_numbers(self._to_array(datatype), datatype)

    @property
    def root(self) -> Any:
        """Plain Python: what the JSON says, as nested as there; a flat list of the other forms; or the object itself.

        A list that is handed out here becomes the payload, so that changing it changes the tensor; that of an array
        of text does not, since it has the bytes of the text.
        """
        value = self.tolist()
        if isinstance(value, list) and (value is self._list or _is_numbers(self._payload)):
            self.root = value
        return value

    @root.setter
    def root(self, value: Any) -> None:
        if type(value) is type(self):
            for name in Payload.__slots__[1:]:
                setattr(self, name, getattr(value, name))
            return
        self._form = "object"
        self._payload = value if value.__class__ is np.ndarray or not is_masked(value) else without_mask(value)
        self._datatype = self._shape = self._array = self._array_type = None
        self._list = UNSET
        self._is_list = self._checked = False

    def tolist(self) -> Any:
        """Plain Python values like `root`'s, for reading only. Of an array that was put in, NaN is None here, as it is
        null in JSON, and text its UTF-8 bytes; in data that came over the wire NaN stays NaN."""
        if self._list is not UNSET:
            if type(self._list) is _Joined:
                self._list = self._list.tolist()
            return self._list
        if self._form == "json":
            value = json_data.values_from_json(self._octets())
        elif self._form == "object":
            value = self._object()
            if not isinstance(value, np.ndarray):
                return value
            return plain_list(value.ravel())
        else:
            value = self._values()
            value = value.tolist() if isinstance(value, np.ndarray) else value
        self._list = value
        return value

    # -- inside -------------------------------------------------------------------------------------------------------

    def _held(self) -> Any:
        """The payload of the object form, or the list that stands beside it."""
        return self._object() if self._list is UNSET else self.tolist()

    def _octets(self) -> Buffer:
        """The payload of a byte form, as something whose length and slices count bytes."""
        payload = self._payload
        if not isinstance(payload, _OCTETS):
            if not isinstance(payload, memoryview):
                payload = self._payload = memoryview(payload)
            if payload.format != "B" or payload.ndim != 1:
                payload = self._payload = payload.cast("B") if payload.nbytes else b""
        return payload  # type: ignore[no-any-return]  # Any, because the object form keeps its object there.

    def _object(self) -> Any:
        """The payload of the object form: an array, a list, a tuple or a scalar; sequences of other kinds are made
        into one of them."""
        value = self._payload
        if isinstance(value, _PLAIN) or value is None:
            return value
        if isinstance(value, np.generic):
            value = value.item()
        elif hasattr(value, "__array__"):
            value = np.asarray(value)
        elif isinstance(value, bytearray | memoryview):
            value = bytes(value)
        elif hasattr(value, "__iter__"):
            value = list(value)
        self._payload = value
        return value

    def _to_array(self, datatype: str) -> Array:
        """An array of the datatype's numpy type; flat, unless the payload is an array."""
        if datatype == BYTES:
            held = self._object() if self._form == "object" else None
            if isinstance(held, np.ndarray) and held.dtype.kind == "O":
                return held  # with other values than text in it, if Python code has put them there
            elements = self._elements()
            array = np.empty(len(elements), object)
            array[:] = elements
            return array
        if self._form == "json":
            return json_data.numbers_from_json(self._octets(), datatype)
        if self._form == "object":
            value = self._object()
            if isinstance(value, np.ndarray) and value.dtype.kind not in "USO":
                return cast(value, datatype)
            return json_data.numbers_from_values(value, datatype)
        if self._datatype == BYTES:
            raise CodecError(f"BYTES data holds no {datatype}")
        values: Array = self._values()
        return cast(values, datatype)

    def _is_fresh(self, array: Array) -> bool:
        """Whether an array of `_to_array` has memory of its own, which can be written to."""
        if self._form == "json" or self._form == "object":
            return array is not self._payload and array.flags.writeable
        return array.flags.owndata

    def _values(self) -> Any:
        """The raw or contents payload as a flat array, or a list if it is BYTES."""
        assert self._datatype is not None  # Each constructor of these forms takes one.
        if self._form == "raw":
            if self._datatype == BYTES:
                return raw_data.elements_from_raw(self._octets())
            return raw_data.numbers_from_raw(self._octets(), self._datatype)
        if self._datatype == BYTES:
            return contents.elements_from_contents(self._octets())
        return contents.numbers_from_contents(self._octets(), self._datatype)

    def _flat_numbers(self) -> Array | None:
        """The values as an array, to be read only, if their list is a flat one of numbers and need not be made."""
        if self._form == "json":
            return json_data.flat_numbers(self._octets())
        if type(self._list) is _Joined:
            return self._list.flat_numbers()
        if self._form == "object":
            return self._payload.ravel() if self._is_list and _is_numbers(self._payload) else None
        if self._datatype == BYTES:
            return None
        values: Array = self._values()
        return values

    def _elements(self, read: Callable[[Any], list[Any]] = json_data.strings_from_values) -> list[Any]:
        """The text or bytes of a BYTES tensor, flat; `flatten` leaves it to who writes them to refuse other values."""
        if self._form == "json":
            return read(json_data.values_from_json(self._octets()))
        if self._form == "object":
            value = self._object()
            if isinstance(value, np.ndarray) and value.dtype.kind not in "USOT":
                raise CodecError(f"an array of {datatype_of(value.dtype)} is no BYTES tensor")
            return read(value)
        if self._datatype != BYTES:
            raise CodecError(f"{self._datatype} data is no BYTES tensor")
        values: list[Any] = self._values()
        return values


class _Joined(list[Payload]):
    """The tensors that one was joined of, until somebody asks for its list."""

    def tolist(self) -> list[Any]:
        lists = [value if isinstance(value, list) else [value] for value in map(Payload.tolist, self)]
        if len({isinstance(part[0], list) for part in lists if part}) > 1:  # some are nested, some are flat
            lists = [json_data.flatten(part) for part in lists]
        return [one for part in lists for one in part]

    def flat_numbers(self) -> Array | None:
        """Those of all tensors, if each has them and all are of one type."""
        arrays = [one for one in map(Payload._flat_numbers, self) if one is not None]
        alike = len(arrays) == len(self) and len({one.dtype for one in arrays}) == 1
        return np.concatenate(arrays) if alike else None


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def plain_list(flat: Array) -> list[Any]:
    """A flat array as a tensor of lists would hold it: NaN is None, text is its UTF-8 bytes, as BYTES elements are."""
    values: list[Any] = flat.tolist()
    if flat.dtype.kind == "f" and np.isnan(flat).any():
        return [None if math.isnan(one) else one for one in values]
    return list(raw_data.encoded(values)) if flat.dtype.kind == "U" else values
