"""Content types `hg_json`, `hg_jsonlist` and `hg_conversation`: JSON text in BYTES elements."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from mlserve.codecs import InputCodec, register_input_codec
from mlserve.codecs.base import InputOrOutput
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.string import text_of
from mlserve.types import RequestInput, ResponseOutput
from mlserve_huggingface.codecs.text import bytes_tensor, json_text

__all__ = ["HuggingfaceConversationCodec", "HuggingfaceListJSONCodec", "HuggingfaceSingleJSONCodec", "check_depth"]

_DEEPEST = 100  # lists and objects in one another: whoever walks through a value goes down with it


class _JSONCodec(InputCodec):
    """BYTES elements that each hold the JSON of one value."""

    TypeHint: ClassVar[Any] = None

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """The values; CodecError for what is no JSON."""
        return cls._gather(_values(request_input, cls.ContentType))

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        """The values of an output."""
        return cls._gather(_values(response_output, cls.ContentType))

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """An output of shape [N, 1] with the JSON of the values."""
        return ResponseOutput(**bytes_tensor(name, _texts(name, cls._elements(payload)), cls.ContentType))

    @classmethod
    def encode_input(cls, name: str, payload: Any, **kwargs: Any) -> RequestInput:
        """An input of shape [N, 1] with the JSON of the values."""
        return RequestInput(**bytes_tensor(name, _texts(name, cls._elements(payload)), cls.ContentType))

    @classmethod
    def _gather(cls, values: list[Any]) -> Any:
        return values

    @classmethod
    def _elements(cls, payload: Any) -> list[Any]:
        return payload if isinstance(payload, list) else [payload]


@register_input_codec
class HuggingfaceSingleJSONCodec(_JSONCodec):
    """One JSON value; several elements are a list of values."""

    ContentType: ClassVar[str] = "hg_json"

    @classmethod
    def _gather(cls, values: list[Any]) -> Any:
        return values[0] if len(values) == 1 else values

    @classmethod
    def _elements(cls, payload: Any) -> list[Any]:
        return [payload]


@register_input_codec
class HuggingfaceListJSONCodec(_JSONCodec):
    """A list with one JSON value an element: what pipelines give."""

    ContentType: ClassVar[str] = "hg_jsonlist"


@register_input_codec
class HuggingfaceConversationCodec(_JSONCodec):
    """Chats, one an element, as lists of `{"role", "content"}`.

    The form of the Conversation class, which transformers dropped, is read too: `past_user_inputs`,
    `generated_responses`, `text`.
    """

    ContentType: ClassVar[str] = "hg_conversation"

    @classmethod
    def _gather(cls, values: list[Any]) -> Any:
        chats = [_messages(one) for one in values]
        return chats[0] if len(chats) == 1 else chats

    @classmethod
    def _elements(cls, payload: Any) -> list[Any]:
        many = isinstance(payload, list) and bool(payload) and all(isinstance(one, list) for one in payload)
        return payload if many else [payload]


def _messages(value: Any) -> list[Any]:
    """The messages of a chat, whichever way it is written."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return list(value["messages"])
    if isinstance(value, dict) and ("text" in value or "past_user_inputs" in value):
        asked, answered = value.get("past_user_inputs") or [], value.get("generated_responses") or []
        said = [one for pair in zip(asked, answered) for one in pair]
        said += [value.get("text") or value.get("new_user_input") or ""]
        return [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(said)]
    raise CodecError('a chat is a list of {"role": "user", "content": "…"}, got ' + json.dumps(value)[:60])


def check_depth(value: Any, what: str) -> None:
    """CodecError for lists and objects that stand in one another too deep."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise CodecError(f"{what}: lists and objects stand in one another {_DEEPEST} times at most")


def _values(tensor: InputOrOutput, content_type: str) -> list[Any]:
    values = []
    for at, text in enumerate(text_of(tensor, content_type)):
        try:
            value = None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise located(CodecError(f"data[{at}]: no JSON ({error}), got {str(text)[:40]!r}"), tensor) from None
        check_depth(value, f"'{tensor.name}': data[{at}]")
        values.append(value)
    return values


def _texts(name: str, values: list[Any]) -> list[bytes]:
    try:
        return [json_text(value).encode() for value in values]
    except (TypeError, ValueError, RecursionError) as error:
        raise unencodable(f"'{name}': {error}") from None
