"""Content type `pd`: a request or response as a pandas DataFrame, each tensor a column. Imports pandas when used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlserve.codecs.base import InputOrOutput, RequestCodec, typed
from mlserve.codecs.columns import decode_column, encode_column
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.jsontext import JsonContentType
from mlserve.codecs.registry import register_request_codec
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PandasCodec"]


class _FrameHint:
    """`PandasCodec.TypeHint`: pandas' DataFrame class, imported when somebody looks."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        import pandas as pd

        return pd.DataFrame


@register_request_codec
class PandasCodec(RequestCodec):
    """A frame with a column for each tensor, in their order; every column decodes by its own content type.

    Text and dates are BYTES tensors that say so by their content type; columns of lists, dicts or mixed values are
    `pd_json`. The index does not travel.
    """

    ContentType: ClassVar[str] = "pd"
    JsonContentType: ClassVar[str] = JsonContentType
    TypeHint: ClassVar[Any] = _FrameHint()

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """DataFrames."""
        return _is_frame_of(sys.modules.get("pandas"), payload)

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> pd.DataFrame:
        """The request as a frame; CodecError if columns are of unlike lengths or two share a name."""
        return _decode(request.inputs)

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> pd.DataFrame:
        """The response as a frame."""
        return _decode(response.outputs)

    @classmethod
    def encode_request(cls, payload: Any, use_bytes: bool = True, **kwargs: Any) -> InferenceRequest:
        """A request with an input for each column."""
        return InferenceRequest(parameters=typed(cls.ContentType), inputs=cls.encode_inputs(payload, use_bytes))

    @classmethod
    def encode_response(
        cls,
        model_name: str,
        payload: Any,
        model_version: str | None = None,
        use_bytes: bool = True,
        **kwargs: Any,
    ) -> InferenceResponse:
        """A response with an output for each column."""
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            parameters=typed(cls.ContentType),
            outputs=cls.encode_outputs(payload, use_bytes),
        )

    @classmethod
    def encode_inputs(cls, payload: Any, use_bytes: bool = True) -> list[RequestInput]:
        """An input for each column."""
        return [RequestInput(**fields) for fields in _encode(payload, use_bytes)]

    @classmethod
    def encode_outputs(cls, payload: Any, use_bytes: bool = True) -> list[ResponseOutput]:
        """An output for each column."""
        return [ResponseOutput(**fields) for fields in _encode(payload, use_bytes)]

    @classmethod
    def _matches_hint(cls, hint: Any) -> bool:
        pandas = sys.modules.get("pandas")  # a hint that names its class has imported it
        return pandas is not None and hint is getattr(pandas, "DataFrame", None)


def _is_frame_of(pandas: Any, payload: Any) -> bool:
    frame = getattr(pandas, "DataFrame", None)
    return frame is not None and isinstance(payload, frame)


def _encode(frame: Any, use_bytes: bool) -> list[dict[str, Any]]:
    """The fields of a tensor for each column, all of shape [rows, 1]."""
    if not PandasCodec.can_encode(frame):
        raise unencodable(f"content type 'pd' takes a pandas DataFrame, got {type(frame).__name__}")
    tensors = []
    for at, label in enumerate(frame.columns):
        name = str(label)
        datatype, data, content_type = encode_column(name, frame.iloc[:, at], use_bytes)
        shape = [len(frame), 1]
        fields = {"name": name, "shape": shape, "datatype": datatype, "data": data, "parameters": typed(content_type)}
        tensors.append(fields)
    return tensors


def _decode(tensors: Sequence[InputOrOutput]) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.name in columns:
            raise located(CodecError("a second column of this name"), tensor)
        values = decode_column(tensor)
        columns[tensor.name] = values if isinstance(values, np.ndarray) else _series(values, tensor, pd)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise CodecError(f"the columns of a frame need the same number of rows, got {told}")
    return pd.DataFrame(columns)


def _series(values: list[Any], tensor: InputOrOutput, pd: Any) -> Any:
    """The rows with the type that pandas finds for them; objects as they are where it must not look inside."""
    content_type = dict.get(tensor.parameters, "content_type") if tensor.parameters is not None else None
    if content_type == JsonContentType or not values:
        return pd.Series(values, dtype=object)
    try:
        return pd.Series(values)
    except (TypeError, ValueError, OverflowError):  # dates with and without zones, or beyond what pandas counts
        return pd.Series(values, dtype=object)
