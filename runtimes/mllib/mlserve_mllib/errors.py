"""Errors of Spark in few words: the reason at their root, without the Java stack."""

from __future__ import annotations

from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException

__all__ = ["SPARK_ERRORS", "reason_of"]

SPARK_ERRORS = (PySparkException, Py4JError, ConnectionError)  # the last where the Java process is gone
_LONGEST = 400
_DEEPEST = 10


def reason_of(error: BaseException) -> str:
    """What is wrong."""
    if isinstance(error, Py4JJavaError):
        text = _root_of(error.java_exception)
    elif isinstance(error, PySparkException):
        text = str(error).partition("\nJVM stacktrace")[0]
        cause: Any = error.__cause__
        if isinstance(cause, Py4JJavaError):
            text = _root_of(cause.java_exception)
    else:
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _root_of(java: Any) -> str:
    """The message of the innermost Java exception that has one."""
    text = str(java.toString())
    for _ in range(_DEEPEST):
        java = java.getCause()
        if java is None:
            break
        text = str(java.getMessage() or text)
    return text.partition("\n\tat ")[0]
