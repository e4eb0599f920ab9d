"""MLflow's errors in few words: it likes to quote all of the data in them."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from mlserve.errors import InferenceError, MLServeError, ModelError

__all__ = ["from_mlflow", "reason_of"]

_LONGEST = 600


def from_mlflow(error: MlflowException) -> MLServeError:
    """The error that the caller sees: the client's fault (400) or not, as MLflow has it."""
    kind = InferenceError if error.get_http_status_code() < 500 else ModelError
    return kind(reason_of(error))


def reason_of(error: MlflowException) -> str:
    """What is wrong, without the data that MLflow quotes before; with the error behind it where that says more."""
    text = str(error.message)
    for start in ("Failed to predict data", "Failed to enforce schema of data"):
        if text.startswith(start):
            text = text.rpartition("Error: ")[2]
    cause = error.__cause__ or error.__context__
    if cause is not None and not isinstance(cause, MlflowException) and str(cause) not in text:
        text = f"{text} ({type(cause).__name__}: {cause})"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
