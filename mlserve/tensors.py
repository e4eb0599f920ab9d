"""TensorData: a tensor's payload as a list to who reads it, with the methods of pydantic's root models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.as_lists import converted, widened
from mlserve.datatypes import INT_RANGES, Array
from mlserve.errors import CodecError
from mlserve.in_pydantic import InPydantic
from mlserve.payload import UNSET, Payload, plain_list
from mlserve.wire.json_data import values_from_json

__all__ = ["TensorData"]

_INT64_MAX = INT_RANGES["INT64"][1]


class TensorData(Payload, InPydantic):
    """One tensor's values with list behaviour: `data[0]`, `len(data)`, `for`, `==`; `data.root` is plain Python.

    A bare string or number is one element. A bare string or bytes also passes for what it is: `isinstance(data, str)`
    holds and str's methods work, as code written for MLServer expects.
    """

    __slots__ = ()

    # -- as pydantic's root models are used ---------------------------------------------------------------------------

    def model_dump(self, **_: Any) -> Any:
        """Plain Python values, in lists of their own."""
        return _own_lists(self.tolist())

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

    @classmethod
    def model_validate_json(cls, json_data: str | bytes, **_: Any) -> TensorData:
        """From the text of one JSON value. ValueError if it is none."""
        try:
            return cls(values_from_json(json_data.encode() if isinstance(json_data, str) else json_data))
        except CodecError as error:
            raise ValueError(error.message) from None

    @classmethod
    def model_json_schema(cls, **_: Any) -> dict[str, Any]:
        """The JSON schema: an array, or a bare value."""
        return {"title": cls.__name__, "anyOf": [{"type": "array", "items": {}}, {}]}

    if not TYPE_CHECKING:
        dict = model_dump
        json = model_dump_json
        copy = model_copy
        parse_obj = model_validate
        parse_raw = model_validate_json
        schema = model_json_schema

    # -- list behaviour -----------------------------------------------------------------------------------------------

    def __bytes__(self) -> bytes:
        """The bytes of a bare bytes value, or of a list of integers that are bytes."""
        value = self.tolist()
        return value if isinstance(value, bytes) else bytes(self._as_list())

    def __len__(self) -> int:
        array = self._value_array
        return len(self._as_list()) if array is None else array.size

    def __getitem__(self, at: Any) -> Any:
        array = self._value_array
        if array is not None:
            part = plain_list(np.atleast_1d(array.ravel()[at]))
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
            return bool(mine == plain_list(other.ravel()))
        return bool(_listed(mine) == _listed(other))

    __hash__ = None  # type: ignore[assignment]  # Mutable through `root`, like a list.

    @property
    def __array__(self) -> Callable[..., Array]:
        """What numpy and pandas ask of objects that are arrays: there for an array that was put in, which it gives,
        and for flat lists of numbers, of which it makes what numpy makes of the list. All else they read as lists."""
        held = self._held() if self._form == "object" and self._list is UNSET else None
        if isinstance(held, np.ndarray) and not self._is_list:
            return partial(_array, held)
        numbers = self._flat_numbers()
        if numbers is None or (numbers.dtype == np.uint64 and numbers.max(initial=0) > _INT64_MAX):
            raise AttributeError("__array__")
        return partial(self._listed_array, numbers)

    def _listed_array(self, numbers: Array, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("tensor data is no array, one has to be made of it: leave copy=False out")
        made = widened(numbers) if dtype is None else converted(numbers, dtype)
        return np.array(self.tolist(), dtype) if made is None else made

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
            held = copy.deepcopy(self._held(), memo)
            return TensorData.encoded(held) if self._is_list else TensorData(held)
        return self._make(self._form, bytes(self._octets()), self._datatype, self._shape)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self._form == "object":
            return (TensorData.encoded if self._is_list else TensorData), (self._held(),)
        return _remade, (self._form, bytes(self._octets()), self._datatype, self._shape)

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _value_array(self) -> np.ndarray[Any, Any] | None:
        """The array that holds the values, where no list does. In the other forms it may hold their text or bytes."""
        held = self._form == "object" and self._list is UNSET
        return self._payload if held and isinstance(self._payload, np.ndarray) else None

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


def _array(held: Array, dtype: Any = None, copy: bool | None = None) -> Array:
    return np.array(held, dtype) if copy else np.asarray(held, dtype)


def _remade(form: str, payload: Any, datatype: str | None, shape: Sequence[int] | None) -> TensorData:
    """What a pickle of a byte form calls."""
    return TensorData._make(form, payload, datatype, shape)


def _own_lists(value: Any) -> Any:
    return [_own_lists(one) for one in value] if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
