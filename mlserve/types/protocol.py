"""The messages of the Open Inference Protocol: inference, metadata, repository, errors."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mlserve.datatypes import DTYPES, Datatype
from mlserve.tensors import TensorData
from mlserve.types.dumping import dump, dump_json
from mlserve.types.model import Model, fault, nested_list
from mlserve.types.parameters import Parameters
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

_Dict = dict[str, Any]
_Raw = msgspec.Raw
_set = msgspec.structs.force_setattr
_ABSENT = msgspec.Raw(b"")  # `data` of a tensor that has none: its bytes follow in the binary part.

# What a field holds once the object is made, and what msgspec reads it from. The decoder leaves `data` as text and
# gives `parameters` as a plain dict; __post_init__ makes the rest.
if TYPE_CHECKING:
    _Data = TensorData
    _Parameters = Parameters
    _Datatype = str
else:
    _Data = msgspec.Raw
    _Parameters = dict[str, Any]
    _Datatype = Datatype


class _Message(Model, kw_only=True):
    """A model with parameters: a dict becomes Parameters, also when it is assigned later."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "parameters" and value.__class__ is not Parameters and value is not None:
            value = _parameters(self, value)
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        parameters = getattr(self, "parameters", None)
        if parameters is not None and parameters.__class__ is not Parameters:
            _set(self, "parameters", _parameters(self, parameters))
        super().__post_init__()


class _Tensor(_Message, kw_only=True):
    """A named tensor with its values; `data` is always a TensorData, also when something else is assigned."""

    name: str
    shape: list[int]
    datatype: _Datatype
    parameters: _Parameters | None = None
    data: _Data = msgspec.field(default_factory=lambda: _ABSENT)  # type: ignore[assignment,return-value]  # Replaced.

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data" and value.__class__ is not TensorData:
            value = TensorData(value)
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        data: Any = self.data
        parameters = self.parameters
        if parameters is not None and parameters.__class__ is not Parameters:
            _set(self, "parameters", _parameters(self, parameters))
        if data.__class__ is _Raw and data is not _ABSENT:  # From the decoder, which has checked the rest.
            _set(self, "data", TensorData.from_json(data))
            return
        if data.__class__ is not TensorData:
            _set(self, "data", TensorData(None if data is _ABSENT else data))
        if self.name.__class__ is not str and not isinstance(self.name, str):
            raise fault(self, "name", "Input should be a valid string", self.name, "string_type")
        if self.datatype.__class__ is not Datatype:
            _set(self, "datatype", _datatype(self, self.datatype))
        if self.shape.__class__ is not list or not all(size.__class__ is int for size in self.shape):
            _set(self, "shape", _shape(self, self.shape))


class RequestInput(_Tensor, kw_only=True):
    """One input tensor of a request."""


class ResponseOutput(_Tensor, kw_only=True):
    """One output tensor of a response."""


class RequestOutput(_Message, kw_only=True):
    """An output that the client asks for."""

    _texts: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    parameters: _Parameters | None = None


class InferenceRequest(_Message, kw_only=True):
    """A request for inference."""

    id: str | None = None
    parameters: _Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None

    def __post_init__(self) -> None:
        if self.id is not None and not isinstance(self.id, str):
            raise fault(self, "id", "Input should be a valid string", self.id, "string_type")
        parameters = self.parameters
        if parameters is not None and parameters.__class__ is not Parameters:
            _set(self, "parameters", _parameters(self, parameters))
        _set(self, "inputs", nested_list(self, "inputs", RequestInput, self.inputs))
        if self.outputs is not None:
            _set(self, "outputs", nested_list(self, "outputs", RequestOutput, self.outputs))


class InferenceResponse(_Message, kw_only=True):
    """The answer to a request for inference, or one chunk of a stream of answers."""

    _texts: ClassVar[tuple[str, ...]] = ("model_name", "model_version", "id")
    _nested: ClassVar[_Dict] = {"outputs": ResponseOutput}

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: _Parameters | None = None
    outputs: list[ResponseOutput]


class MetadataTensor(_Message, kw_only=True):
    """Name, datatype and shape of an input or output; -1 in the shape is any size."""

    _texts: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    datatype: _Datatype
    shape: list[int]
    parameters: _Parameters | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.datatype.__class__ is not Datatype:
            _set(self, "datatype", _datatype(self, self.datatype))
        if self.shape.__class__ is not list or not all(size.__class__ is int for size in self.shape):
            _set(self, "shape", _shape(self, self.shape))


class MetadataServerResponse(Model, kw_only=True):
    """What the server says about itself."""

    _texts: ClassVar[tuple[str, ...]] = ("name", "version")

    name: str
    version: str
    extensions: list[str]


class MetadataModelResponse(_Message, kw_only=True):
    """What the server says about a model."""

    _texts: ClassVar[tuple[str, ...]] = ("name", "platform")
    _nested: ClassVar[_Dict] = {"inputs": MetadataTensor, "outputs": MetadataTensor}

    name: str
    versions: list[str] | None = None
    platform: str
    inputs: list[MetadataTensor] | None = None
    outputs: list[MetadataTensor] | None = None
    parameters: _Parameters | None = None


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

    _texts: ClassVar[tuple[str, ...]] = ("name", "version", "reason")

    name: str
    version: str | None = None
    state: State
    reason: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state.__class__ is not State:
            try:
                self.state = State(self.state)
            except ValueError:
                expected = f"Input should be one of {', '.join(State)}"
                raise fault(self, "state", expected, self.state, "enum") from None


class RepositoryIndexResponse(list[RepositoryIndexResponseItem]):
    """The repository index: a bare list on the wire; `root` is that list."""

    def __init__(self, root: Any = ()) -> None:
        made = []
        for at, one in enumerate(root):
            try:
                made.append(RepositoryIndexResponseItem.model_validate(one))
            except ValidationError as error:
                raise error.below("RepositoryIndexResponse", at) from None
        super().__init__(made)

    @property
    def root(self) -> list[RepositoryIndexResponseItem]:
        """The items."""
        return self

    def model_dump(self, *, include: Any = None, exclude: Any = None, **_: Any) -> list[Any]:
        """A list of plain dicts."""
        plain: list[Any] = dump(self, include, exclude)
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
            return cls(msgspec.json.decode(json_data, type=list[RepositoryIndexResponseItem]))
        except msgspec.DecodeError as error:
            raise from_msgspec(cls.__name__, error, json_data) from None

    @classmethod
    def model_json_schema(cls, **_: Any) -> dict[str, Any]:
        """The JSON schema of the list."""
        return msgspec.json.schema(list[RepositoryIndexResponseItem])

    if not TYPE_CHECKING:
        dict = model_dump
        json = model_dump_json
        parse_obj = model_validate
        parse_raw = model_validate_json


class _ErrorResponse(Model, kw_only=True):
    """The body of an error."""

    error: str | None = None


class InferenceErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of an inference call."""


class MetadataServerErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of the server's metadata."""


class MetadataModelErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of a model's metadata."""


class RepositoryLoadErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of a load."""


class RepositoryUnloadErrorResponse(_ErrorResponse, kw_only=True):
    """The body of an error of an unload."""


def _parameters(model: Model, value: Any) -> Parameters:
    if isinstance(value, Parameters):
        return value
    if isinstance(value, Mapping):
        return Parameters(value)
    raise fault(model, "parameters", "Input should be a valid dictionary", value, "dict_type")


def _datatype(model: Model, value: Any) -> Datatype:
    try:
        return Datatype(value)
    except ValueError:
        raise fault(model, "datatype", f"Input should be one of {', '.join(DTYPES)}", value, "enum") from None


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
