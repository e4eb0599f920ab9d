"""OpenAPI documents of the REST interface, made from the types of the protocol and a table of its operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from mlserve import types
from mlserve.types import MetadataModelResponse, MetadataTensor
from mlserve.version import __version__

__all__ = ["model_document", "repository_document", "server_document"]

Json = dict[str, Any]

_MODEL = "/v2/models/{model_name}"
_VERSION = "/versions/{model_version}"
_EXAMPLE_VALUES = 64  # An example with more values would be no example.

_DATA_PLANE = (
    "InferenceErrorResponse",
    "InferenceRequest",
    "InferenceResponse",
    "MetadataModelErrorResponse",
    "MetadataModelResponse",
    "MetadataServerErrorResponse",
    "MetadataServerResponse",
    "MetadataTensor",
    "Parameters",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "TensorData",
)
_REPOSITORY = (
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryIndexResponseItem",
    "RepositoryLoadErrorResponse",
    "RepositoryUnloadErrorResponse",
)


class _Operation(NamedTuple):
    """One operation: `path` is below the model where `of_model`, else from the root."""

    method: str
    path: str
    summary: str
    answer: str = ""  # the schema of the answer; "" for an empty one
    error: str = ""
    body: str = ""
    of_model: bool = True
    streams: bool = False


_INFER = ("InferenceResponse", "InferenceErrorResponse", "InferenceRequest")
_DATA_PLANE_OPERATIONS = (
    _Operation("get", "/v2/health/live", "Is the server up?", of_model=False),
    _Operation("get", "/v2/health/ready", "Does the server take calls?", of_model=False),
    _Operation(
        "get",
        "/v2",
        "Name, version and extensions of the server",
        "MetadataServerResponse",
        "MetadataServerErrorResponse",
        of_model=False,
    ),
    _Operation("get", "/ready", "Does the model take calls?", "", "InferenceErrorResponse"),
    _Operation("get", "", "Inputs and outputs of the model", "MetadataModelResponse", "MetadataModelErrorResponse"),
    _Operation("post", "/infer", "Run the model", *_INFER),
    _Operation("post", "/infer_stream", "Run the model, answers as they come", *_INFER, streams=True),
    _Operation("post", "/generate", "The same as infer", *_INFER),
    _Operation("post", "/generate_stream", "The same as infer_stream", *_INFER, streams=True),
)
_REPOSITORY_OPERATIONS = (
    _Operation(
        "post",
        "/v2/repository/index",
        "The models in the repository, with their states",
        "RepositoryIndexResponse",
        "",
        "RepositoryIndexRequest",
        of_model=False,
    ),
    _Operation(
        "post",
        "/v2/repository/models/{model_name}/load",
        "Load a model, or load it again",
        "",
        "RepositoryLoadErrorResponse",
        of_model=False,
    ),
    _Operation(
        "post",
        "/v2/repository/models/{model_name}/unload",
        "Unload a model",
        "",
        "RepositoryUnloadErrorResponse",
        of_model=False,
    ),
)

_INFER_HEADERS = (
    (
        "X-Request-Timeout",
        "Seconds that the caller gives; after that the answer is a 504.",
        {"type": "number", "minimum": 0, "exclusiveMinimum": True},
    ),
    (
        "Inference-Header-Content-Length",
        "Length of the JSON part, where inputs with `binary_data_size` have their bytes behind it.",
        {"type": "integer", "minimum": 0},
    ),
)


def server_document(root_path: str = "") -> Json:
    """The data plane of the server, for any model."""
    paths: Json = {}
    for operation in _DATA_PLANE_OPERATIONS:
        prefixes = (_MODEL + _VERSION, _MODEL) if operation.of_model else ("",)
        for prefix in prefixes:
            _add(paths, prefix + operation.path, operation)
    return _document("Data Plane", "The Open Inference Protocol (V2).", paths, _DATA_PLANE, root_path)


def model_document(metadata: MetadataModelResponse, name: str, version: str | None, root_path: str = "") -> Json:
    """The data plane of one model, or of one version of it, with an example made of its metadata."""
    base = f"/v2/models/{name}"
    prefixes = (base + _VERSION, base) if version is None else (f"{base}/versions/{version}",)
    title = f"Data Plane for Model {name}" + (f" ({version})" if version is not None else "")
    paths: Json = {}
    for operation in _DATA_PLANE_OPERATIONS:
        if operation.of_model:
            for prefix in prefixes:
                _add(paths, prefix + operation.path, operation)
    document = _document(title, "The Open Inference Protocol (V2).", paths, _DATA_PLANE, root_path)
    if metadata.inputs:
        document["components"]["schemas"]["InferenceRequest"]["example"] = _example(metadata.inputs)
    return document


def repository_document(root_path: str = "") -> Json:
    """The model repository extension."""
    paths: Json = {}
    for operation in _REPOSITORY_OPERATIONS:
        _add(paths, operation.path, operation)
    return _document(
        "Model Repository API", "Which models there are, loading and unloading.", paths, _REPOSITORY, root_path
    )


def _document(title: str, description: str, paths: Json, schemas: Iterable[str], root_path: str) -> Json:
    document: Json = {
        "openapi": "3.0.3",
        "info": {"title": title, "description": description, "version": __version__},
        "paths": paths,
        "components": {"schemas": {name: _schema_of(name) for name in schemas}},
    }
    if root_path:
        document["servers"] = [{"url": root_path}]
    return document


def _add(paths: Json, path: str, operation: _Operation) -> None:
    names = [name for name in ("model_name", "model_version") if f"{{{name}}}" in path]
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    if operation.body == "InferenceRequest":
        parameters += [
            {"name": name, "in": "header", "description": text, "schema": schema}
            for name, text, schema in _INFER_HEADERS
        ]
    answer: Json = {"description": "OK"}
    if operation.answer:
        kind = "text/event-stream" if operation.streams else "application/json"
        answer["content"] = {kind: {"schema": _reference(operation.answer)}}
    error: Json = {"description": "What was wrong, and what to do about it"}
    if operation.error:
        error["content"] = {"application/json": {"schema": _reference(operation.error)}}
    words: Json = {"summary": operation.summary, "responses": {"200": answer, "default": error}}
    if parameters:
        words["parameters"] = parameters
    if operation.body:
        content = {"application/json": {"schema": _reference(operation.body)}}
        words["requestBody"] = {"required": operation.body == "InferenceRequest", "content": content}
    paths.setdefault(path, {})[operation.method] = words


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


# -- schemas ----------------------------------------------------------------------------------------------------------


def _schema_of(name: str) -> Json:
    if name == "Parameters":
        return {
            "type": "object",
            "description": "What else there is to say; any member is kept.",
            "properties": {"content_type": {"type": "string"}, "headers": {"type": "object"}},
            "additionalProperties": True,
        }
    if name == "TensorData":
        return {
            "description": "The values, as one flat list in row-major order or nested like the shape.",
            "oneOf": [{"type": "array", "items": {}}, {"type": "string"}, {"type": "number"}, {"type": "boolean"}],
        }
    if name == "RepositoryIndexResponse":
        return {"type": "array", "items": _reference("RepositoryIndexResponseItem")}
    struct = getattr(types, name)
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    required = [field.name for field in info.fields if field.required or field.name == "data"]
    schema: Json = {
        "type": "object",
        "description": (struct.__doc__ or "").partition("\n")[0],
        "properties": {field.name: _type(field.type) for field in info.fields},
    }
    if required:
        schema["required"] = required
    return schema


def _type(kind: inspect.Type) -> Json:
    """OpenAPI 3.0's words for a type; members that may be None may be left out, so that they need no null."""
    if isinstance(kind, inspect.UnionType):
        return _type(next(one for one in kind.types if not isinstance(one, inspect.NoneType)))
    if isinstance(kind, inspect.ListType):
        return {"type": "array", "items": _type(kind.item_type)}
    if isinstance(kind, inspect.EnumType):
        return {"type": "string", "enum": [one.value for one in kind.cls]}
    if isinstance(kind, inspect.StructType):
        return _reference(kind.cls.__name__)
    if isinstance(kind, inspect.RawType):
        return _reference("TensorData")
    if isinstance(kind, inspect.DictType):
        return _reference("Parameters")
    for known, word in ((inspect.BoolType, "boolean"), (inspect.IntType, "integer"), (inspect.FloatType, "number")):
        if isinstance(kind, known):
            return {"type": word}
    return {"type": "string"}


def _example(inputs: Sequence[MetadataTensor]) -> Json:
    """A request that fits the inputs: sizes that are open are 1."""
    tensors = []
    for tensor in inputs:
        shape = [1 if size < 0 else size for size in tensor.shape]
        count = 1
        for size in shape:
            count *= size
        value: Any = {"BOOL": False, "BYTES": "text"}.get(tensor.datatype, 0)
        one: Json = {"name": tensor.name, "shape": shape, "datatype": str(tensor.datatype)}
        if tensor.parameters:
            one["parameters"] = msgspec.to_builtins(dict(tensor.parameters))
        tensors.append({**one, "data": [value] * min(count, _EXAMPLE_VALUES)})
    return {"inputs": tensors}
