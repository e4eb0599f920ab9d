"""TensorData: the values of one tensor in the form they arrived in, turned into another only when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from mlserve.datatypes import BYTES, Array, cast, datatype_of, fit_shape, numpy_dtype
from mlserve.errors import CodecError
from mlserve.wire import contents, json_data, raw_data

__all__ = ["TensorData"]

Buffer = bytes | bytearray | memoryview

_UNSET: Any = object()
_new = object.__new__


class TensorData:
    """One tensor's values, with list behaviour; converted lazily, and for numpy and Python at most once.

    `form` says what `payload` is: "json" (text of the JSON value), "raw" (V2 binary), "contents" (a serialised
    InferTensorContents) or "object" (numpy array, list, scalar). The payload's memory is kept alive as long as this
    object or an array made from it lives; it is never written to by this class.
    """

    __slots__ = ("__weakref__", "_array", "_array_type", "_buffer", "_checked", "_datatype", "_form", "_list", "_shape")

    def __init__(self, root: Any) -> None:
        if root.__class__ is TensorData:
            for name in TensorData.__slots__[1:]:
                setattr(self, name, getattr(root, name))
            return
        self._form = "object"
        self._buffer = root
        self._datatype: str | None = None
        self._shape: Sequence[int] | None = None
        self._list: Any = _UNSET
        self._array: Array | None = None
        self._array_type: str | None = None
        self._checked = False

    @classmethod
    def from_json(cls, text: Buffer | msgspec.Raw | Array) -> TensorData:
        """From the text of one JSON value. Its syntax is taken on trust (msgspec has checked it, or `to_numpy`
        will); that it is UTF-8 is checked before it is used."""
        return _make("json", text, None, None)

    @classmethod
    def from_raw(cls, buffer: Buffer | Array, datatype: str, shape: Sequence[int]) -> TensorData:
        """From the V2 binary form; lengths are checked on use (`wire.raw_data.check_raw` checks at once)."""
        return _make("raw", buffer, datatype, shape)

    @classmethod
    def from_contents(cls, buffer: Buffer | Array, datatype: str, shape: Sequence[int]) -> TensorData:
        """From a serialised InferTensorContents; checked on use (`wire.contents.check_contents` checks at once)."""
        return _make("contents", buffer, datatype, shape)

    @classmethod
    def from_numpy(cls, array: Any) -> TensorData:
        """From an array (or what numpy can see as one without a copy); not copied."""
        return cls(np.asarray(array))

    @property
    def form(self) -> str:
        """What `payload` is: "json", "raw", "contents" or "object"."""
        return self._form

    @property
    def payload(self) -> Any:
        """The bytes (bytes, bytearray or memoryview of bytes) or the object, as it came."""
        return self._buffer if self._form == "object" else self._bytes()

    @property
    def datatype(self) -> str | None:
        """The datatype of the raw or contents form; otherwise None."""
        return self._datatype

    @property
    def nbytes(self) -> int:
        """The size of the payload; for Python objects a guess from the number of values."""
        if self._form != "object":
            return len(self._bytes())
        if isinstance(self._buffer, np.ndarray):
            return self._buffer.nbytes
        return 8 * len(self._buffer) if isinstance(self._buffer, list | tuple | str | bytes) else 8

    def to_numpy(self, datatype: str, shape: Sequence[int], *, writable: bool = True) -> Array:
        """The values as an array of this datatype and shape; BYTES as objects: text or bytes, as they came.

        A view of the payload where possible (raw, contents with fixed-size values, arrays), so that writing into it
        writes there; a payload that is read-only is copied, unless `writable=False`. CodecError if values do not
        fit the datatype or their number does not fit the shape.
        """
        array = self._array
        if array is None or self._array_type != datatype:
            array = self._to_array(datatype)
            self._array, self._array_type = array, datatype
        if writable and not array.flags.writeable:
            array = self._array = array.copy()
        return fit_shape(array, shape)

    def to_json(self, datatype: str | None = None) -> Buffer:
        """The values as JSON text: as it came, or one flat list; NaN and the infinities are null.

        CodecError for BYTES that are not UTF-8: JSON has no way to carry them.
        """
        if self._form == "json":
            text = self._bytes()
            if not self._checked:
                json_data.check_utf8(text)
                self._checked = True
            return text
        if self._form == "object":
            return json_data.to_json(self._buffer)
        return json_data.to_json(self._values())

    def to_raw(self, datatype: str) -> Buffer:
        """The values in the V2 binary form; the payload itself if it has that form and datatype."""
        if self._form == "raw" and self._datatype == datatype:
            return self._bytes()
        if datatype == BYTES:
            return raw_data.raw_from_elements(self._elements())
        return raw_data.numbers_to_raw(self._to_array(datatype))

    def to_contents(self, datatype: str) -> bytes:
        """The values as a serialised InferTensorContents; CodecError for FP16, which it has no field for."""
        if self._form == "contents" and self._datatype == datatype:
            return bytes(self._bytes())
        if datatype == BYTES:
            return contents.contents_from_elements(self._elements())
        return contents.contents_from_numbers(self._to_array(datatype), datatype)

    @property
    def root(self) -> Any:
        """Plain Python: what the JSON says, as nested as there; a flat list of other forms; or the object itself.

        A list that is handed out here becomes the payload, so that changing it changes the tensor.
        """
        value = self.tolist()
        if self._form != "object" and isinstance(value, list):
            self.root = value
        return value

    @root.setter
    def root(self, value: Any) -> None:
        TensorData.__init__(self, value)

    def tolist(self) -> Any:
        """Plain Python values, like `root`, but for reading only."""
        if self._form == "object" and not isinstance(self._buffer, np.ndarray | np.generic):
            return self._buffer
        if self._list is _UNSET:
            self._list = self._to_python()
        return self._list

    def __len__(self) -> int:
        if self._form == "object" and isinstance(self._buffer, np.ndarray):
            return self._buffer.size
        return len(self._as_list())

    def __getitem__(self, at: Any) -> Any:
        return self._as_list()[at]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._as_list())

    def __contains__(self, value: object) -> bool:
        return value in self._as_list()

    def __bool__(self) -> bool:
        return len(self) > 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TensorData):
            return bool(self.tolist() == other.tolist())
        if isinstance(other, np.ndarray):
            return bool(self.tolist() == other.ravel().tolist())
        if isinstance(other, tuple):
            other = list(other)
        return bool(self.tolist() == other)

    __hash__ = None  # type: ignore[assignment]  # Mutable through `root`, like a list.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        value = self._buffer if isinstance(self._buffer, np.ndarray) else self.tolist()
        return np.array(value, dtype=dtype) if copy or dtype is not None else np.asarray(value)

    def __repr__(self) -> str:
        return f"TensorData({self._shown()})"

    def __copy__(self) -> TensorData:
        return TensorData(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorData:
        again, args = self.__reduce__()
        copied: TensorData = again(*args)
        if copied._form == "object":
            import copy

            copied._buffer = copy.deepcopy(self._buffer, memo)
        return copied

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self._form == "object":
            return TensorData, (self._buffer,)
        return _make, (self._form, bytes(self._bytes()), self._datatype, self._shape)

    def _bytes(self) -> Buffer:
        """The payload of a byte form, as something with len() and slices in bytes."""
        buffer = self._buffer
        if not isinstance(buffer, bytes | bytearray):
            if not isinstance(buffer, memoryview):
                buffer = memoryview(buffer)
            if buffer.format != "B" or buffer.ndim != 1:
                buffer = buffer.cast("B") if buffer.nbytes else b""
            self._buffer = buffer
        return buffer  # type: ignore[no-any-return]  # The slot holds Any: bytes or an object.

    def _to_array(self, datatype: str) -> Array:
        """Flat (an array payload keeps its shape), of the datatype's numpy type."""
        form = self._form
        if datatype == BYTES:
            elements = self._elements()
            array = np.empty(len(elements), object)
            array[:] = elements
            return array
        if form == "json":
            numpy_dtype(datatype)
            return json_data.numbers_from_json(self._bytes(), datatype)
        if form == "object":
            value = self._buffer
            if not isinstance(value, np.ndarray):
                numpy_dtype(datatype)
                return json_data.numbers_from_values(_plain(value), datatype)
            if value.dtype.kind in "USO":
                return json_data.numbers_from_values(value, datatype)
            return cast(value, datatype)
        return cast(self._own_array(), datatype)

    def _own_array(self) -> Array:
        """The flat array of a raw or contents payload, in its own datatype."""
        assert self._datatype is not None  # Set by every constructor of these forms.
        if self._form == "raw":
            return raw_data.numbers_from_raw(self._bytes(), self._datatype)
        return contents.numbers_from_contents(self._bytes(), self._datatype)

    def _values(self) -> Any:
        """Array or list of a raw or contents payload."""
        if self._datatype != BYTES:
            return self._own_array()
        if self._form == "raw":
            return raw_data.elements_from_raw(self._bytes())
        return contents.elements_from_contents(self._bytes())

    def _elements(self) -> list[Any]:
        """The text or bytes of a BYTES tensor, flat."""
        if self._form == "json":
            return json_data.strings_from_values(json_data.values_from_json(self._bytes()))
        if self._form == "object":
            value = self._buffer
            if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
                raise CodecError(f"an array of {datatype_of(value.dtype)} is no BYTES tensor")
            return json_data.strings_from_values(_plain(value))
        if self._datatype != BYTES:
            raise CodecError(f"{self._datatype} data is no BYTES tensor")
        return self._values()  # type: ignore[no-any-return]  # A list, as the datatype is BYTES.

    def _to_python(self) -> Any:
        if self._form == "json":
            return json_data.values_from_json(self._bytes())
        if self._form == "object":
            return self._buffer.ravel().tolist()
        values = self._values()
        return values.tolist() if isinstance(values, np.ndarray) else values

    def _as_list(self) -> list[Any]:
        """The values as a list; a bare scalar or string is one element."""
        value = self.tolist()
        if isinstance(value, list):
            return value
        if isinstance(value, tuple):
            return list(value)
        return [] if value is None else [value]

    def _shown(self) -> str:
        if self._form == "json":
            start = bytes(self._bytes()[:60]).decode("utf-8", "replace")
            return start if self.nbytes <= 60 else f"{start}... {self.nbytes} bytes of JSON"
        if self._form != "object":
            return f"<{self._datatype}{list(self._shape or ())}, {self.nbytes} bytes, {self._form}>"
        value = self._buffer
        if isinstance(value, np.ndarray):
            head = value.ravel()[:6].tolist()
            dots = ", ..." if value.size > 6 else ""
            return f"<{value.dtype}{list(value.shape)}: {', '.join(map(repr, head))}{dots}>"
        text = repr(value[:20]) if isinstance(value, list) and len(value) > 20 else repr(value)
        return text if len(text) <= 80 else f"{text[:76]}..."


def _make(form: str, buffer: Any, datatype: str | None, shape: Sequence[int] | None) -> TensorData:
    made: TensorData = _new(TensorData)
    made._form = form
    made._buffer = buffer
    made._datatype = datatype
    made._shape = shape
    made._list = _UNSET
    made._array = None
    made._array_type = None
    made._checked = False
    return made


def _plain(value: Any) -> Any:
    """Lists and scalars as they are; other sequences and arrays of other libraries as lists."""
    if isinstance(value, list | tuple | str | bytes | int | float | np.ndarray) or value is None:
        return value
    if hasattr(value, "__array__"):
        return np.asarray(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, dict) else value
