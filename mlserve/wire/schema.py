"""The protobuf classes of protos/, in descriptor pools of our own.

Registering package `inference` in protobuf's default pool would make `import tritonclient.grpc` in the same process
fail, and generated Python code would tie us to one release of protobuf. So the descriptors are committed as bytes,
and the classes are made when asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from mlserve.wire._proto import descriptors

__all__ = ["hot_class", "method_classes", "schema_class", "schema_pool"]


def hot_class(name: str) -> Any:
    """A message class of package `inference` whose tensors have their `contents` as unparsed bytes."""
    return GetMessageClass(_hot_pool().FindMessageTypeByName(f"inference.{name}"))


def schema_class(name: str) -> Any:
    """A message class by its full name, exactly as protos/ declare it."""
    return GetMessageClass(schema_pool().FindMessageTypeByName(name))


def method_classes(service: str, method: str) -> tuple[Any, Any]:
    """The classes of a method's requests and answers."""
    found = schema_pool().FindServiceByName(service).methods_by_name[method]
    return GetMessageClass(found.input_type), GetMessageClass(found.output_type)


@cache
def schema_pool() -> Any:
    """The pool with all of protos/, for reflection and for clients."""
    return _pool(descriptors.SCHEMA)


@cache
def _hot_pool() -> Any:
    return _pool(descriptors.HOT)


def _pool(serialized: bytes) -> Any:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(serialized).file:
        pool.Add(file)
    return pool
