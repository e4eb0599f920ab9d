"""The messages of the Open Inference Protocol: inference, metadata, repository, errors."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from mlserve.datatypes import DATATYPES, Datatype
from mlserve.in_pydantic import InPydantic, narrowed
from mlserve.tensors import TensorData
from mlserve.types.declared import Field, declared_in
from mlserve.types.dumping import dump, dump_json
from mlserve.types.model import Model, check_texts, fault, nested_list
from mlserve.types.parameters import PARAMETERS_SCHEMA, Parameters
from mlserve.types.schemas import schema_of_hint
from mlserve.types.validation import ValidationError, from_msgspec

__all__ = [
    "InferenceErrorResponse",
    "InferenceRequest",
    "InferenceResponse",
    "MetadataModelErrorResponse",
    "MetadataModelResponse",
    "MetadataServerErrorResponse",
    "MetadataServerResponse",
    "MetadataTensor",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryIndexResponseItem",
    "RepositoryLoadErrorResponse",
    "RepositoryUnloadErrorResponse",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "State",
]

_Raw = msgspec.Raw
_set = msgspec.structs.force_setattr
_NO_DATA = msgspec.Raw(b"")  # `data` of a tensor that has none, such as one whose bytes follow in the binary part.

# What a field holds once the object is made, and what msgspec reads it from. The decoder leaves `data` as text and
# gives `parameters` as a plain dict; __post_init__ makes the rest.
if TYPE_CHECKING:
    _Data = TensorData
    _Parameters = Parameters
    _Datatype = str
else:
    _Data = msgspec.Raw
    _Datatype = Datatype
    _Parameters = Annotated[
        dict[str, Any], msgspec.Meta(extra_json_schema={"title": "Parameters", **PARAMETERS_SCHEMA})
    ]


class _Message(Model, kw_only=True):
    """A model with parameters: a dict becomes Parameters, also when it is assigned later."""

    _written: ClassVar[Mapping[str, Any]] = {"parameters": Parameters | None, "data": TensorData}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "parameters" and value is not None and value.__class__ is not Parameters:
            value = _parameters(self, value)
        super().__setattr__(name, value)


class _Tensor(_Message, kw_only=True):
    """A named tensor with its values; `data` is always a TensorData, also when something else is assigned."""

    _has_data: ClassVar[bool] = True

    name: str
    shape: list[int]
    datatype: _Datatype
    parameters: _Parameters | None = None
    data: _Data = msgspec.field(default_factory=lambda: _NO_DATA)  # type: ignore[assignment]  # Replaced.

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data" and type(value) is not TensorData:
            given, value = value, TensorData(None)
            value.root = given  # as it is: only a constructor copies lists
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        data: Any = self.data
        parameters = self.parameters
        if parameters is not None and parameters.__class__ is not Parameters:
            _set(self, "parameters", _parameters(self, parameters))
        if type(data) is _Raw:
            if data is not _NO_DATA:  # From the decoder, which has checked the rest.
                _set(self, "data", TensorData.from_json(data))
                return
            _set(self, "data", TensorData(None))
        elif type(data) is not TensorData:
            _set(self, "data", TensorData(data))
        if self.name.__class__ is not str:
            check_texts(self, "name")
        check_datatype_and_shape(self)

    def _is_whole(self) -> bool:
        return self.data.form == "json"


class RequestInput(_Tensor, kw_only=True):
    """One input tensor of a request."""


class ResponseOutput(_Tensor, kw_only=True):
    """One output tensor of a response."""


class RequestOutput(_Message, kw_only=True):
    """An output that the client asks for."""

    name: str
    parameters: _Parameters | None = None

    def __post_init__(self) -> None:
        check_parameters(self)
        check_texts(self, "name")


class InferenceRequest(_Message, kw_only=True):
    """A request for inference."""

    id: str | None = None
    parameters: _Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None

    def __post_init__(self) -> None:
        check_parameters(self)
        check_texts(self, "id")
        nest(self, "inputs", RequestInput, self.inputs)
        if self.outputs is not None:
            nest(self, "outputs", RequestOutput, self.outputs)

    def _is_whole(self) -> bool:
        return all(one._is_whole() for one in self.inputs)


class InferenceResponse(_Message, kw_only=True):
    """The answer to a request for inference, or one chunk of a stream of answers."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: _Parameters | None = None
    outputs: list[ResponseOutput]

    def __post_init__(self) -> None:
        check_parameters(self)
        check_texts(self, "model_name", "model_version", "id")
        nest(self, "outputs", ResponseOutput, self.outputs)

    def _is_whole(self) -> bool:
        return all(one._is_whole() for one in self.outputs)


class MetadataTensor(_Message, kw_only=True):
    """Name, datatype and shape of an input or output; -1 in the shape is any size."""

    name: str
    datatype: _Datatype
    shape: list[int]
    parameters: _Parameters | None = None

    def __post_init__(self) -> None:
        check_parameters(self)
        check_texts(self, "name")
        check_datatype_and_shape(self)


class MetadataServerResponse(Model, kw_only=True):
    """What the server says about itself."""

    name: str
    version: str
    extensions: list[str]

    def __post_init__(self) -> None:
        check_texts(self, "name", "version")


class MetadataModelResponse(_Message, kw_only=True):
    """What the server says about a model."""

    name: str
    versions: list[str] | None = None
    platform: str
    inputs: list[MetadataTensor] | None = None
    outputs: list[MetadataTensor] | None = None
    parameters: _Parameters | None = None

    def __post_init__(self) -> None:
        check_parameters(self)
        check_texts(self, "name", "platform")
        if self.inputs is not None:
            nest(self, "inputs", MetadataTensor, self.inputs)
        if self.outputs is not None:
            nest(self, "outputs", MetadataTensor, self.outputs)


class State(str, Enum):
    """The state of a model in the repository index."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)


class RepositoryIndexRequest(Model, kw_only=True):
    """Asks for the models in the repository, all of them or those that are ready."""

    ready: bool | None = None


class RepositoryIndexResponseItem(Model, kw_only=True):
    """One model, or one version of it, in the repository."""

    name: str
    version: str | None = None
    state: State
    reason: str

    def __post_init__(self) -> None:
        check_texts(self, "name", "version", "reason")
        if self.state.__class__ is not State:
            try:
                self.state = State(self.state)
            except ValueError:
                expected = f"Input should be one of {', '.join(State)}"
                raise fault(self, "state", expected, self.state, "enum") from None


class RepositoryIndexResponse(list[RepositoryIndexResponseItem], InPydantic):
    """The repository index: a bare list on the wire; `root` is that list."""

    _root: ClassVar[Field] = Field(__name__, list[RepositoryIndexResponseItem], "root", ())

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls._root = declared_in(vars(cls), sys._getframe(1).f_locals).get("root", cls._root)

    def __init__(self, root: Any = ()) -> None:
        try:
            super().__init__(self._root.validated(root, {}))
        except ValidationError as error:
            raise error.below(type(self).__name__) from None

    @property
    def root(self) -> list[RepositoryIndexResponseItem]:
        """The items."""
        return self

    def model_dump(self, *, mode: str = "python", include: Any = None, exclude: Any = None, **_: Any) -> list[Any]:
        """A list of plain dicts."""
        plain: list[Any] = dump(self, include, exclude, json=mode == "json")
        return plain

    def model_dump_json(self, *, include: Any = None, exclude: Any = None, indent: int | None = None, **_: Any) -> str:
        """The same as JSON text."""
        return dump_json(self, include, exclude, indent=indent)

    @classmethod
    def model_validate(cls, obj: Any, **_: Any) -> RepositoryIndexResponse:
        """From a list of items or dicts."""
        return obj if isinstance(obj, cls) else cls(obj)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes, **_: Any) -> RepositoryIndexResponse:
        """From JSON text."""
        try:
            return cls(msgspec.json.decode(json_data))
        except msgspec.DecodeError as error:
            raise from_msgspec(cls.__name__, error, json_data) from None

    @classmethod
    def model_json_schema(cls, **_: Any) -> dict[str, Any]:
        """The JSON schema of the list."""
        return schema_of_hint(cls._root.known_hint())

    def _narrowed(self, cls: Any) -> RepositoryIndexResponse:
        return RepositoryIndexResponse(narrowed(list(self), RepositoryIndexResponseItem))

    def model_copy(self, *, deep: bool = False, **_: Any) -> RepositoryIndexResponse:
        """A copy of the list, deep or not (then the items are shared)."""
        return copy.deepcopy(self) if deep else RepositoryIndexResponse(self)

    if not TYPE_CHECKING:
        dict = model_dump
        json = model_dump_json
        parse_obj = model_validate
        parse_raw = model_validate_json
        copy = model_copy


class _ErrorResponse(Model, kw_only=True):
    """The body of an error."""

    error: str | None = None


class InferenceErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of an inference call."""


class MetadataServerErrorResponse(Model, kw_only=True):
    """The body of an error of the server's metadata."""

    error: str


class MetadataModelErrorResponse(Model, kw_only=True):
    """The body of an error of a model's metadata."""

    error: str


class RepositoryLoadErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of a load."""


class RepositoryUnloadErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of an unload."""


def check_parameters(model: Any) -> None:
    """Makes the parameters of a model that is being made Parameters."""
    parameters = model.parameters
    if parameters is not None and parameters.__class__ is not Parameters:
        _set(model, "parameters", _parameters(model, parameters))


def check_datatype_and_shape(model: Any) -> None:
    """Makes the datatype a Datatype and the shape a list of ints, or raises a ValidationError."""
    if model.datatype.__class__ is not Datatype:
        _set(model, "datatype", _datatype(model, model.datatype))
    shape = model.shape
    if shape.__class__ is list:
        for size in shape:
            if size.__class__ is not int:
                break
        else:
            _set(model, "shape", shape.copy())
            return
    _set(model, "shape", _shape(model, shape))


def nest(model: Model, name: str, kind: Any, values: Any) -> None:
    """Makes the items of a field objects of their type."""
    if values.__class__ is list:
        for one in values:
            if one.__class__ is not kind:
                break
        else:
            _set(model, name, values.copy())  # what the caller does to its own list later is not seen
            return
    _set(model, name, nested_list(model, name, kind, values))


def _parameters(model: Model, value: Any) -> Parameters:
    if isinstance(value, Mapping):
        return value if isinstance(value, Parameters) else Parameters(value)
    raise fault(model, "parameters", "Input should be a valid dictionary", value, "dict_type")


def _datatype(model: Model, value: Any) -> Any:
    found = DATATYPES.get(value) if isinstance(value, str) else None
    if found is None:
        if "datatype" in model._declared:
            return value
        raise fault(model, "datatype", f"Input should be one of {', '.join(DATATYPES)}", value, "enum")
    return found


def _shape(model: Model, value: Any) -> list[int]:
    """A list of whole numbers, from any sequence of what says whole numbers (numpy's, "2", 2.0)."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise fault(model, "shape", "Input should be a valid list", value, "list_type")
    sizes = []
    for at, size in enumerate(value):
        try:
            whole = int(size)
            if not isinstance(size, str) and whole != size:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            place = (type(model).__name__, ("shape", at))
            raise ValidationError.one(*place, "Input should be a valid integer", size, "int_type") from None
        sizes.append(whole)
    return sizes
