"""MLflow's scoring protocol: a body as MLflow's own server takes it, answered as that server answers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any

import mlflow
from mlflow.exceptions import HTTP_STATUS_TO_ERROR_CODE, MlflowException
from mlflow.pyfunc import scoring_server
from starlette.responses import Response

from mlserve.errors import MLServeError
from mlserve_mlflow.errors import reason_of

__all__ = ["ERROR_CODES", "Watched", "invoke", "ping", "version"]

_logger = logging.getLogger("mlserve_mlflow")
ERROR_CODES: dict[int, str] = (
    HTTP_STATUS_TO_ERROR_CODE  # for what the server, or a model's own error, says on these paths
)

_SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"


class Watched:
    """A model that notes how far a call has come, so that it is known whose fault an error is. For one request."""

    def __init__(
        self, predict: Callable[..., Any], metadata: Any, limit: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._predict = predict
        self._limit = limit  # the context to predict in
        self.metadata = metadata
        self.predicted = False
        self.failed = False  # by something that MLflow does not know
        self.told: MLServeError | None = None  # what the model tells its client

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            with self._limit():
                prediction = self._predict(data, params=params)
        except MLServeError as error:  # its words and status are meant for clients
            self.told = error
            raise MlflowException(error.message) from error  # which MLflow lets pass
        except Exception as error:
            self.failed = not isinstance(error, MlflowException)
            raise
        self.predicted = True
        return prediction


def invoke(model: Watched, body: bytes, content_type: str) -> Response:
    """The answer to one request: MLflow's own, or what is wrong, as 400 or 415; 500 if it is the model's fault.

    MLServeError: what the model itself tells its client.
    """
    mime_type = content_type.partition(";")[0].strip()
    if mime_type == scoring_server.CONTENT_TYPE_PARQUET and not _reads_parquet():
        return _refusal("no package here reads Parquet: pip install 'mlserve-mlflow[parquet]' beside the server", 415)
    try:
        data: Any = (
            body.decode() if mime_type == scoring_server.CONTENT_TYPE_CSV else body
        )  # JSON says its own encoding
    except UnicodeDecodeError as error:
        return _refusal(f"the body is no UTF-8: {error}")
    try:
        with _serving():
            result = scoring_server.invocations(data, content_type, model, model.metadata.get_input_schema())
    except MlflowException as error:
        if model.told is not None:
            raise model.told from None  # the server answers it, with its status and the code for that
        if model.failed:
            _logger.error("a model failed on an invocation", exc_info=error)
        return _refusal(reason_of(error), error.get_http_status_code(), error.error_code)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        if model.predicted:
            _logger.error("what a model predicted cannot be sent", exc_info=error)
            return _refusal(f"what the model predicted cannot be sent: {told}", 500, "INTERNAL_ERROR")
        return _refusal(f"the body cannot be read as {content_type}: {told}")
    if result.status != 200:
        return _refusal(result.response, result.status)
    return Response(result.response, media_type=result.mimetype)


@contextmanager
def _serving() -> Iterator[None]:
    """What MLflow's server sets for itself: texts become the dates and bytes that a model's type hints say."""
    before = os.environ.get(_SERVING)
    os.environ[_SERVING] = "true"
    try:
        yield
    finally:
        os.environ.pop(_SERVING)
        if before is not None:
            os.environ[_SERVING] = before


def _reads_parquet() -> bool:
    return any(find_spec(package) is not None for package in ("pyarrow", "fastparquet"))


def ping() -> Response:
    """What MLflow's server says while it is well."""
    return Response("\n", media_type="application/json")


def version() -> Response:
    """The version of MLflow."""
    return Response(mlflow.__version__, media_type="application/json")


def _refusal(message: str, status: int = 400, code: str = "BAD_REQUEST") -> Response:
    """An error as MLflow's clients read it, and as ours do."""
    body = {"error_code": code, "message": message, "error": message}
    return Response(json.dumps(body), status_code=status, media_type="application/json")
