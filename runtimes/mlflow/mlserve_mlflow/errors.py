"""MLflow's errors in few words: it likes to quote all of the data in them."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from mlserve import spark_process
from mlserve.errors import InferenceError, MLServeError, ModelError

__all__ = ["from_mlflow", "is_about_input", "reason_of", "words_of"]

_LONGEST = 600
_PLAIN = (ValueError, TypeError, KeyError)
# The frameworks whose own classes of errors tell of data that does not fit, where they are raised by a prediction.
_FRAMEWORKS = frozenset({"_catboost", "lightgbm", "onnxruntime", "py4j", "pyspark", "tensorflow", "xgboost"})
_OF_TORCH = frozenset({"mlflow.pytorch", "mlflow.transformers"})  # PyTorch has no class of its own for them
_OURS = ("allocate memory", "out of memory", "CUDA error", "bad_alloc")  # in errors that are no client's fault
_STACKS = ("JVM stacktrace", "Stack trace:")


def from_mlflow(error: MlflowException) -> MLServeError:
    """The error that the caller sees: the client's fault (400) or not, as MLflow has it."""
    kind = InferenceError if error.get_http_status_code() < 500 else ModelError
    return kind(reason_of(error))


def is_about_input(error: Exception, loader: str) -> bool:
    """Whether a framework's error, in a model that MLflow's module `loader` has loaded, tells of the data."""
    package = type(error).__module__.partition(".")[0]
    if any(words in str(error) for words in _OURS):
        return False
    if package in ("py4j", "pyspark"):
        return spark_process.answers()
    if loader in _OF_TORCH and isinstance(error, RuntimeError | IndexError):
        return True
    return isinstance(error, _PLAIN) or package in _FRAMEWORKS


def words_of(error: Exception) -> str:
    """What a framework says, without its stack."""
    text = str(error)
    for stack in _STACKS:
        text = text.partition(stack)[0]
    return _short(f"{type(error).__name__}: {text}")


def reason_of(error: MlflowException) -> str:
    """What is wrong, without the data that MLflow quotes before; with the error behind it where that says more."""
    text = str(error.message)
    for start in ("Failed to predict data", "Failed to enforce schema of data"):
        if text.startswith(start):
            text = text.rpartition("Error: ")[2]
    cause = error.__cause__ or error.__context__
    if cause is not None and not isinstance(cause, MlflowException) and str(cause) not in text:
        text = f"{text} ({type(cause).__name__}: {cause})"
    return _short(text)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
