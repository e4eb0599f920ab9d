"""The model that a black-box explainer asks: a predictor that calls it over the protocol, on this server or another."""

from __future__ import annotations

import re
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from msgspec.structs import replace

from mlserve.client import AsyncClient
from mlserve.codecs import NumpyCodec, StringCodec
from mlserve.errors import DeadlineExceeded, InferenceError, MLServeError, ModelLoadError
from mlserve.types import InferenceRequest, Parameters, RequestInput, RequestOutput
from mlserve_alibi_explain.turns import ask

__all__ = ["RemoteModel"]

_PATH = re.compile(r"(?P<prefix>.*)/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(/infer)?/?")
_INPUT = "predict"  # what MLServer calls the tensor


class RemoteModel:
    """Called by alibi with a batch, in the thread of a turn; the call itself runs in the event loop.

    What went wrong with the last call is in `failure`: alibi puts exceptions of its own in the place of ours.
    """

    def __init__(
        self,
        name: str,
        uri: str,
        output: str | None,
        timeout_seconds: float,
        certificates: str | None,
        takes_texts: bool = False,
        hands_on: bool = False,
    ) -> None:
        self.uri = uri
        self._takes_texts = takes_texts  # as answers: classes by name
        self._hands_on = hands_on  # rows as the client sent them: no explainer has looked whether they have its shape
        self.failure: MLServeError | None = None
        self._name = name
        self._output = output
        address, self._model, self._version = _parsed(name, uri)
        self._client = _client(name, address, timeout_seconds, certificates)

    def __call__(self, batch: Any) -> Any:
        try:
            return ask(self._infer, batch)
        except MLServeError as error:
            self.failure = error
            raise

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _infer(self, batch: Any) -> Any:
        request = _request(batch)
        if self._output is not None:
            request.outputs = [RequestOutput(name=self._output)]
        try:
            result = await self._client.infer(self._model, request, version=self._version)
        except MLServeError as error:
            if await self._refuses(request, error):
                raise InferenceError(
                    f"model '{self._name}': the model at {self.uri} does not take these instances: {error}"
                ) from None
            raise self._failed(error) from None
        outputs = {one.name: one for one in result.response.outputs}
        wanted = self._output or next(iter(outputs), None)
        if wanted is None or wanted not in outputs:
            missing = f"output '{wanted}'; it gave {', '.join(outputs)}" if outputs else "output at all"
            raise MLServeError(f"model '{self._name}': the model at {self.uri} gave no {missing}", 502)
        values = self._checked(np.asarray(NumpyCodec.decode_output(outputs[wanted])), len(batch), wanted)
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values  # [n, 1] is how [n] is sent

    async def _refuses(self, request: InferenceRequest, error: MLServeError) -> bool:
        """Whether it is the rows that the model finds fault with, and not the output that the settings name."""
        if not self._hands_on or error.http_status != 400:
            return False
        if not request.outputs:
            return True
        try:
            await self._client.infer(self._model, replace(request, outputs=None), version=self._version)
        except MLServeError as again:
            return again.http_status == 400
        return False

    def _checked(self, values: Any, rows: int, output: str) -> Any:
        """The values, if an explainer can use them: each has its own words for what it cannot, about other things."""
        is_text = values.dtype.kind not in "biuf"
        if values.ndim in (1, 2) and len(values) == rows and (self._takes_texts or not is_text):
            return values
        expected = f"{'' if self._takes_texts else 'numbers, '}[{rows}] or [{rows}, classes]"
        raise MLServeError(
            f"model '{self._name}': the model at {self.uri} gave output '{output}' with the shape {list(values.shape)}"
            f"{' and texts in it' if is_text else ''} for {rows} instances: expected {expected}",
            502,
        )

    def _failed(self, error: MLServeError) -> MLServeError:
        """Whatever went wrong there is not the fault of who asks here, but an upstream's."""
        status = error.http_status if error.http_status in (503, 504) else 502
        what = "gave no answer in time" if isinstance(error, DeadlineExceeded) else "could not be asked"
        return MLServeError(f"model '{self._name}': the model at {self.uri} {what}: {error}", status)


def _request(batch: Any) -> InferenceRequest:
    parameters = Parameters(content_type="np")
    if isinstance(batch, list) or (isinstance(batch, np.ndarray) and batch.dtype.kind in "US"):
        parameters = Parameters(content_type="str")
        tensor: RequestInput = StringCodec.encode_input(_INPUT, [str(one) for one in batch])
    else:
        batch = np.asarray(batch)
        tensor = NumpyCodec.encode_input(_INPUT, batch)
        tensor.shape = list(batch.shape)
    return InferenceRequest(parameters=parameters, inputs=[tensor])


def _parsed(name: str, uri: str) -> tuple[str, str, str | None]:
    """Address, model and version. ModelLoadError if it names no model of a server."""
    parts = urlsplit(uri)
    path = parts.path
    if parts.scheme.startswith("grpc") and "/v2/models/" not in path:
        path = f"/v2/models{path}"
    match = _PATH.fullmatch(path)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.netloc or match is None:
        raise ModelLoadError(
            f"model '{name}': parameters.extra.infer_uri: expected the address of the model that is to be explained, "
            f"http://HOST:PORT/v2/models/MODEL/infer or grpc://HOST:PORT/MODEL, got {uri!r}"
        )
    version = match["version"]
    address = f"{parts.scheme}://{parts.netloc}{match['prefix']}"
    return address, unquote(match["model"]), unquote(version) if version is not None else None


def _client(name: str, address: str, timeout_seconds: float, certificates: str | None) -> AsyncClient:
    try:
        context = ssl.create_default_context(cafile=certificates) if certificates is not None else None
        if context is not None and address.startswith("grpc"):
            context.set_alpn_protocols(["h2"])
        return AsyncClient(address, timeout_seconds=timeout_seconds, ssl_context=context)
    except ValueError as error:
        raise ModelLoadError(f"model '{name}': parameters.extra.infer_uri: {error}") from None
    except OSError as error:
        raise ModelLoadError(
            f"model '{name}': parameters.extra.ssl_verify_path: {certificates} is no file of certificates: {error}"
        ) from None
