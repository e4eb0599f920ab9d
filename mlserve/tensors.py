"""TensorData: the values of one tensor in the form they arrived in, turned into another only when somebody asks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mlserve.datatypes import BYTES, Array, cast, datatype_of, fit_shape
from mlserve.errors import CodecError
from mlserve.wire import contents, json_data, raw_data
from mlserve.wire.raw_data import Buffer

__all__ = ["TensorData"]

_UNSET: Any = object()
_OCTETS = (bytes, bytearray)
_PLAIN = (list, np.ndarray, tuple, str, bytes, int, float, dict)
_new = object.__new__


class TensorData:
    """One tensor's values, with list behaviour; converted lazily, and from bytes at most once for numpy and Python.

    `form` says what `payload` is: "json" (text of the JSON value), "raw" (V2 binary), "contents" (a serialised
    InferTensorContents) or "object" (numpy array, list, scalar). The payload's memory lives as long as this object or
    an array made from it; this class never writes to it.

    A bare string or number is one element. A bare string or bytes also passes for what it is: `isinstance(data, str)`
    holds and str's methods work, as code written for MLServer expects.
    """

    __slots__ = (
        "__weakref__",
        "_array",
        "_array_type",
        "_checked",
        "_datatype",
        "_form",
        "_list",
        "_payload",
        "_shape",
    )

    _form: str
    _payload: Any
    _datatype: str | None
    _shape: Sequence[int] | None
    _list: Any  # The values as Python has them, once somebody asked; else _UNSET.
    _array: Array | None  # The last array made, and the datatype it was asked in.
    _array_type: str | None
    _checked: bool  # The JSON text is UTF-8.

    def __init__(self, root: Any) -> None:
        self.root = root

    @classmethod
    def from_json(cls, text: Buffer | msgspec.Raw | Array) -> TensorData:
        """From the text of one JSON value. Its syntax is taken on trust until it is read (msgspec has checked a Raw);
        that it is UTF-8 is checked before it is passed on."""
        return _make("json", text, None, None)

    @classmethod
    def from_raw(cls, buffer: Buffer | Array, datatype: str, shape: Sequence[int]) -> TensorData:
        """From the V2 binary form; checked when it is read (`wire.raw_data.check_raw` checks at once)."""
        return _make("raw", buffer, datatype, shape)

    @classmethod
    def from_contents(cls, buffer: Buffer | Array, datatype: str, shape: Sequence[int]) -> TensorData:
        """From a serialised InferTensorContents; checked when it is read (`wire.contents.check_contents` checks at
        once)."""
        return _make("contents", buffer, datatype, shape)

    @classmethod
    def from_numpy(cls, array: Any) -> TensorData:
        """From an array, or from what numpy can see as one; not copied."""
        return cls(np.asarray(array))

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

    # -- conversions --------------------------------------------------------------------------------------------------

    def to_numpy(self, datatype: str, shape: Sequence[int], *, writable: bool = True) -> Array:
        """The values as an array of this datatype and shape; BYTES as objects: text or bytes, as they came.

        A view of the payload where that is possible (raw, contents of fixed-size values, arrays): who writes into it
        writes there. Read-only payloads are copied, unless `writable` is False. CodecError if a value does not fit
        the datatype or their number does not fit the shape.
        """
        array = self._array
        if array is None or self._array_type != datatype:
            array = self._to_array(datatype)
            if self._form != "object":  # Objects may change; bytes are taken to stay as they are.
                self._array, self._array_type = array, datatype
        if writable and not array.flags.writeable:
            array = array.copy()
            if self._form != "object":
                self._array = array
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
        return json_data.to_json(self._object() if form == "object" else self._values())

    def to_raw(self, datatype: str) -> Buffer:
        """The values in the V2 binary form; the payload itself if it has that form and datatype."""
        if self._form == "raw" and self._datatype == datatype:
            return self._octets()
        if datatype == BYTES:
            return raw_data.raw_from_elements(self._elements())
        return raw_data.numbers_to_raw(self._to_array(datatype))

    def to_contents(self, datatype: str) -> bytes:
        """The values as a serialised InferTensorContents; CodecError for FP16, for which it has no field."""
        if self._form == "contents" and self._datatype == datatype:
            return bytes(self._octets())
        if datatype == BYTES:
            return contents.contents_from_elements(self._elements())
        return contents.contents_from_numbers(self._to_array(datatype), datatype)

    @property
    def root(self) -> Any:
        """Plain Python: what the JSON says, as nested as there; a flat list of the other forms; or the object itself.

        A list that is handed out here becomes the payload, so that changing it changes the tensor.
        """
        value = self.tolist()
        if self._form != "object" and isinstance(value, list):
            self.root = value
        return value

    @root.setter
    def root(self, value: Any) -> None:
        if type(value) is TensorData:
            for name in TensorData.__slots__[1:]:
                setattr(self, name, getattr(value, name))
            return
        self._form = "object"
        self._payload = value
        self._datatype = self._shape = self._array = self._array_type = None
        self._list = _UNSET
        self._checked = False

    def tolist(self) -> Any:
        """Plain Python values like `root`'s, for reading only. Of an array that was put in, NaN is None here, as it is
        null in JSON, and text its UTF-8 bytes; in data that came over the wire NaN stays NaN."""
        if self._list is not _UNSET:
            return self._list
        if self._form == "json":
            value = json_data.values_from_json(self._octets())
        elif self._form == "object":
            value = self._object()
            if not isinstance(value, np.ndarray):
                return value
            return _plain_list(value.ravel())
        else:
            value = self._values()
            value = value.tolist() if isinstance(value, np.ndarray) else value
        self._list = value
        return value

    # -- as pydantic's root models are used ---------------------------------------------------------------------------

    def model_dump(self, **_: Any) -> Any:
        """Plain Python values, in lists of their own."""
        return copy.deepcopy(self.tolist())

    def model_dump_json(self, **_: Any) -> str:
        """The values as JSON text."""
        return bytes(self.to_json()).decode()

    def model_copy(self, *, deep: bool = False, **_: Any) -> TensorData:
        """A copy, deep or not (then what it holds is shared)."""
        return copy.deepcopy(self) if deep else copy.copy(self)

    @classmethod
    def model_validate(cls, value: Any, **_: Any) -> TensorData:
        """From any values; a TensorData passes as it is."""
        return value if type(value) is cls else cls(value)

    if not TYPE_CHECKING:
        dict = model_dump
        json = model_dump_json
        copy = model_copy
        parse_obj = model_validate

    # -- list behaviour -----------------------------------------------------------------------------------------------

    def __bytes__(self) -> bytes:
        """The bytes of a bare bytes value."""
        value = self.tolist()
        if not isinstance(value, bytes):
            raise TypeError(f"the data is {type(value).__name__}, not bytes; to_raw() gives the binary form")
        return value

    def __len__(self) -> int:
        return self._payload.size if isinstance(self._payload, np.ndarray) else len(self._as_list())

    def __getitem__(self, at: Any) -> Any:
        if isinstance(self._payload, np.ndarray):
            part = _plain_list(np.atleast_1d(self._payload.ravel()[at]))
            return part if isinstance(at, slice) else part[0]
        return self._as_list()[at]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._as_list())

    def __contains__(self, value: object) -> bool:
        return value in self._as_list()

    def __bool__(self) -> bool:
        return len(self) > 0

    def __eq__(self, other: object) -> bool:
        mine = self.tolist()
        if type(other) is TensorData:
            return bool(_listed(mine) == _listed(other.tolist()))
        if isinstance(other, np.ndarray):
            return bool(mine == _plain_list(other.ravel()))
        return bool(_listed(mine) == _listed(other))

    __hash__ = None  # type: ignore[assignment]  # Mutable through `root`, like a list.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        value = self._payload
        if not isinstance(value, np.ndarray):
            value = self.tolist() if self._form in ("json", "object") else self._values()
        return np.array(value, dtype) if copy else np.asarray(value, dtype)

    def __repr__(self) -> str:
        return f"TensorData({self._shown()})"

    def __str__(self) -> str:
        bare = self._bare()
        return bare if isinstance(bare, str) else repr(self)

    @property  # type: ignore[misc]  # isinstance() asks this where the real type does not answer.
    def __class__(self) -> type:
        bare = self._bare()
        return TensorData if bare is None else type(bare)

    def __getattr__(self, name: str) -> Any:
        if name[:1] != "_":
            bare = self._bare()
            if bare is not None:
                return getattr(bare, name)
        raise AttributeError(f"TensorData has no {name!r}")

    def __copy__(self) -> TensorData:
        return TensorData(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorData:
        if self._form == "object":
            return TensorData(copy.deepcopy(self._payload, memo))
        return _make(self._form, bytes(self._octets()), self._datatype, self._shape)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self._form == "object":
            return TensorData, (self._payload,)
        return _make, (self._form, bytes(self._octets()), self._datatype, self._shape)

    # -- inside -------------------------------------------------------------------------------------------------------

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

    def _elements(self) -> list[Any]:
        """The text or bytes of a BYTES tensor, flat."""
        if self._form == "json":
            return json_data.strings_from_values(json_data.values_from_json(self._octets()))
        if self._form == "object":
            value = self._object()
            if isinstance(value, np.ndarray) and value.dtype.kind not in "USOT":
                raise CodecError(f"an array of {datatype_of(value.dtype)} is no BYTES tensor")
            return json_data.strings_from_values(value)
        if self._datatype != BYTES:
            raise CodecError(f"{self._datatype} data is no BYTES tensor")
        values: list[Any] = self._values()
        return values

    def _as_list(self) -> list[Any]:
        """The values as a list; a bare scalar or string is one element, null is none."""
        value = self.tolist()
        if isinstance(value, list):
            return value
        if isinstance(value, tuple):
            return list(value)
        return [] if value is None else [value]

    def _bare(self) -> str | bytes | None:
        """The string or bytes that stands alone, not in a list; looks no further than at the first character."""
        if self._form == "object":
            return self._payload if isinstance(self._payload, str | bytes) else None
        if self._form == "json" and bytes(self._octets()[:1]) == b'"':
            value = self.tolist()
            return value if isinstance(value, str) else None
        return None

    def _shown(self) -> str:
        if self._form == "json":
            start = bytes(self._octets()[:60]).decode("utf-8", "replace")
            return start if self.nbytes <= 60 else f"{start}... {self.nbytes} bytes of JSON"
        if self._form != "object":
            return f"<{self._datatype} {list(self._shape or ())}, {self.nbytes} bytes, {self._form}>"
        value = self._payload
        if isinstance(value, np.ndarray):
            head = ", ".join(repr(one) for one in value.ravel()[:6].tolist())
            return f"<{value.dtype} {list(value.shape)}: {head}{', ...' if value.size > 6 else ''}>"
        if isinstance(value, list) and len(value) > 6:
            return f"[{', '.join(_cut(repr(one), 24) for one in value[:6])}, ... {len(value)} values]"
        return _cut(repr(value), 80)


def _make(form: str, payload: Any, datatype: str | None, shape: Sequence[int] | None) -> TensorData:
    made: TensorData = _new(TensorData)
    made._form = form
    made._payload = payload
    made._datatype = datatype
    made._shape = shape
    made._list = _UNSET
    made._array = None
    made._array_type = None
    made._checked = False
    return made


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain_list(flat: Array) -> list[Any]:
    """A flat array as a tensor of lists would hold it: NaN is None, text is its UTF-8 bytes, as BYTES elements are."""
    values: list[Any] = flat.tolist()
    if flat.dtype.kind == "f" and np.isnan(flat).any():
        return [None if math.isnan(one) else one for one in values]
    return list(raw_data.encoded(values)) if flat.dtype.kind == "U" else values


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
