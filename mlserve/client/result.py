"""What came back: the outputs as Python objects, and everything else that the answer says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlserve.codecs import CodecError, NumpyCodec, PandasCodec, StringCodec, find_input_codec
from mlserve.datatypes import BYTES
from mlserve.types import InferenceResponse, Parameters, ResponseOutput

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InferResult"]


class InferResult:
    """The answer to one request, or one answer of a stream. Nothing is decoded before it is asked for.

    `response` is the answer as the protocol has it; `headers` are its HTTP headers or its gRPC trailing metadata, with
    names in lower case (of a stream over REST those that the model gave).
    """

    def __init__(self, response: InferenceResponse, headers: Mapping[str, str]) -> None:
        parameters = response.parameters
        own = dict.pop(parameters, "headers", None) if parameters is not None else None
        self.response = response
        self.headers = {**headers, **{str(name).lower(): str(value) for name, value in (own or {}).items()}}

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """The outputs by name: what their content type says; without one numbers as arrays, text as a list.

        CodecError if the data of one is not what the answer says of it, or if two have one name.
        """
        names = [one.name for one in self.response.outputs]
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None:
            raise CodecError(
                f"model '{self.model_name}' gave more than one output named '{twice}', of which a dict holds one: take "
                "them from result.response.outputs, such as NumpyCodec.decode_output(result.response.outputs[0])"
            )
        return {one.name: _decode(one) for one in self.response.outputs}

    def to_pandas(self) -> pd.DataFrame:
        """The outputs as columns. CodecError if they are of unlike lengths or two share a name."""
        return PandasCodec.decode_response(self.response)

    @property
    def id(self) -> str | None:
        """The id of the request, which the server gives if the client did not."""
        return self.response.id

    @property
    def model_name(self) -> str:
        """The model that answered."""
        return self.response.model_name

    @property
    def model_version(self) -> str | None:
        """Its version, if it has one."""
        return self.response.model_version

    @property
    def parameters(self) -> Parameters:
        """The parameters of the answer."""
        return self.response.parameters or Parameters()

    def __repr__(self) -> str:
        told = ", ".join(f"{one.name} {one.datatype}{list(one.shape)}" for one in self.response.outputs)
        return f"<InferResult {self.model_name}: {told or 'no outputs'}>"


def _decode(output: ResponseOutput) -> Any:
    content_type = output.parameters.content_type if output.parameters is not None else None
    codec = find_input_codec(content_type) if content_type else None
    if codec is not None:
        return codec.decode_output(output)
    if output.datatype != BYTES:
        return NumpyCodec.decode_output(output)
    try:
        return StringCodec.decode_output(output)
    except CodecError:  # Bytes that are no text.
        return NumpyCodec.decode_output(output).ravel().tolist()
