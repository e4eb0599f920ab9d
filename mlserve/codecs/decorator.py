"""decode_args: a predict method that takes inputs as arguments and gives plain values, by its type hints.

The signature is read once: when the method is decorated, or at the first call if a hint names something that does not
exist before (a forward reference, a codec registered later). One that cannot be used is told when its model loads.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar, get_type_hints

from mlserve.codecs.decoded import NOTHING, decoded_input, offer_decoded
from mlserve.codecs.errors import CodecError, located, unencodable
from mlserve.codecs.hints import Hint, read_hint, read_result_hints
from mlserve.codecs.registry import (
    find_input_codec_by_payload,
    find_request_codec_by_payload,
)
from mlserve.errors import InvalidRequest, ModelError, ModelLoadError
from mlserve.plain_streams import in_thread
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

__all__ = ["SignatureCodec", "check_signatures", "decode_args"]

_T = TypeVar("_T")
_SIGNATURE = "__decode_args__"  # the attribute of a decorated method that has its SignatureCodec
_ONE_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def decode_args(predict: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for `predict` and `predict_stream`: each argument is the input of its name, decoded by its type hint.

    A hint whose codec is for whole requests (`pd.DataFrame`) takes all inputs that no other argument names. What the
    method gives is encoded by its return hint, or by its value: a single result is `output-0`, a tuple `output-0`,
    `output-1` and so on, a frame has an output a column; an InferenceResponse passes as it is. InvalidRequest (400)
    names an input that is missing or that no argument takes.
    """
    signature = SignatureCodec(predict)

    if inspect.isasyncgenfunction(predict) or inspect.isgeneratorfunction(predict):

        @functools.wraps(predict)
        async def stream(model: Any, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
            async for payload in payloads:
                chunks: Any = predict(model, **signature.decode_request(model, payload))
                async with aclosing(in_thread(chunks) if isinstance(chunks, Iterator) else chunks) as results:
                    async for result in results:
                        yield signature.encode_response(model, result)

        return _marked(stream, signature)

    if inspect.iscoroutinefunction(predict):

        @functools.wraps(predict)
        async def call(model: Any, payload: InferenceRequest) -> InferenceResponse:
            result = await predict(model, **signature.decode_request(model, payload))
            return signature.encode_response(model, result)

        return _marked(call, signature)

    @functools.wraps(predict)
    def call_plainly(model: Any, payload: InferenceRequest) -> InferenceResponse:
        result = predict(model, **signature.decode_request(model, payload))
        return signature.encode_response(model, result)

    return _marked(call_plainly, signature)


def check_signatures(model: Any) -> None:
    """ModelLoadError if a method of the model that has `decode_args` has a signature that no call can be made by."""
    for name in ("predict", "predict_stream"):
        signature = getattr(getattr(model, name, None), _SIGNATURE, None)
        fault = signature.fault() if signature is not None else None
        if fault is not None:
            raise ModelLoadError(f"model '{model.name}': {fault}")


def _marked(method: Callable[..., Any], signature: SignatureCodec) -> Callable[..., Any]:
    setattr(method, _SIGNATURE, signature)
    return method


class _Argument:
    """One argument of a predict method."""

    def __init__(self, name: str, hint: Hint, required: bool) -> None:
        self.name = name
        self.hint = hint
        self.required = required and not hint.optional
        self.passes_none = required and hint.optional  # Optional without a default: an absent input is None

    def decode(self, model: Any, request_input: RequestInput) -> Any:
        hint = self.hint
        if hint.as_it_is:
            return request_input
        if hint.input_codec is None:
            decoded = decoded_input(request_input, _metadata(model, "inputs"))
            return request_input.data.tolist() if decoded is NOTHING else decoded
        return hint.input_codec.decode_input(request_input)


class SignatureCodec:
    """What the signature of a predict method says about requests and responses."""

    def __init__(self, predict: Callable[..., Any]) -> None:
        self._predict = predict
        self._arguments: dict[str, _Argument] | None = None
        try:
            self._read()
        except (NameError, TypeError):  # perhaps not yet; the first call tries again, and says what is wrong
            self._arguments = None

    def fault(self) -> str | None:
        """Why no call can be made by this signature. None also if that cannot be known yet: a name may exist later."""
        try:
            if self._arguments is None:
                self._read()
        except NameError:
            return None
        except TypeError as error:
            return self._unusable(error)
        return None

    def decode_request(self, model: Any, request: InferenceRequest) -> dict[str, Any]:
        """The keyword arguments for a request. InvalidRequest for missing, surplus or repeated inputs."""
        arguments = self._arguments if self._arguments is not None else self._read_at_last()
        values: dict[str, Any] = {}
        left: list[RequestInput] = []
        for one in request.inputs:
            argument = arguments.get(one.name)
            if argument is None or argument.hint.whole:
                left.append(one)
            elif one.name in values:
                raise located(CodecError("a second input of this name"), one)
            else:
                values[one.name] = argument.decode(model, one)
        for name in self._whole:
            values[name] = self._decode_whole(model, arguments[name], request, left)
        if left and not self._whole:
            if self._rest is None:
                self._check_missing(model, arguments, values, request)
                raise InvalidRequest(self._surplus(model, left))
            for one in left:
                values[one.name] = self._rest.decode(model, one)
        if len(values) < len(arguments):
            self._check_missing(model, arguments, values, request)
            for argument in arguments.values():
                if argument.passes_none and argument.name not in values:
                    values[argument.name] = None
        return values

    def encode_response(self, model: Any, result: Any) -> InferenceResponse:
        """The response that holds what the method gave. CodecError (500) if its values have no codec."""
        if isinstance(result, InferenceResponse):
            return result
        parts, hints = self._parts_of(result), self._results
        if not self._gives_tuple:
            hints = hints * len(parts)
        if len(parts) > len(hints):
            raise unencodable(f"model '{model.name}' gave {len(parts)} outputs, its signature says {len(hints)}")
        outputs: list[ResponseOutput] = []
        for part, hint in zip(parts, hints):  # what a tuple leaves out at its end is left out
            _encode_into(outputs, part, hint, model)
        return InferenceResponse(model_name=model.name, model_version=model.version, outputs=outputs)

    def _parts_of(self, result: Any) -> list[Any]:
        """The outputs in a result: those of a tuple, none of None, or the one that it is."""
        if isinstance(result, tuple) and (self._gives_tuple or self._results[0].unsaid or len(result) < 2):
            return list(result)
        return [] if result is None else [result]

    def _read(self) -> None:
        hints = get_type_hints(self._predict, include_extras=True)
        streams = inspect.isasyncgenfunction(self._predict) or inspect.isgeneratorfunction(self._predict)
        self._results, self._gives_tuple = _placed("its result", read_result_hints, hints.get("return", Any), streams)
        arguments: dict[str, _Argument] = {}
        self._rest: _Argument | None = None
        for parameter in list(inspect.signature(self._predict).parameters.values())[1:]:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                continue  # inputs are given by name, so it stays empty, whatever its hint
            hint = _placed(f"argument '{parameter.name}'", read_hint, hints.get(parameter.name, Any))
            argument = _Argument(parameter.name, hint, parameter.default is inspect.Parameter.empty)
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._rest = argument
            elif parameter.kind in _ONE_BY_NAME:
                arguments[parameter.name] = argument
            else:
                raise TypeError(f"{parameter} cannot be given by the name of an input")
        self._whole = [name for name, argument in arguments.items() if argument.hint.whole]
        self._arguments = arguments

    def _read_at_last(self) -> dict[str, _Argument]:
        try:
            self._read()
        except (NameError, TypeError) as error:
            raise ModelError(self._unusable(error)) from error
        assert self._arguments is not None  # _read has set it
        return self._arguments

    def _unusable(self, error: Exception) -> str:
        return f"the signature of {self._predict.__qualname__} cannot be used: {error}"

    def _decode_whole(
        self, model: Any, argument: _Argument, request: InferenceRequest, left: list[RequestInput]
    ) -> Any:
        codec = argument.hint.request_codec
        if codec is None:
            return request
        part = request
        if len(left) < len(request.inputs):
            part = InferenceRequest(parameters=request.parameters, inputs=left)
        metadata = _metadata(model, "inputs")
        if metadata:
            offer_decoded(part, None, metadata)
        return codec.decode_request(part)

    def _check_missing(
        self, model: Any, arguments: dict[str, _Argument], values: dict[str, Any], request: InferenceRequest
    ) -> None:
        """InvalidRequest if a required argument has no input."""
        missing = [one.name for one in arguments.values() if one.required and one.name not in values]
        if missing:
            got = ", ".join(f"'{one.name}'" for one in request.inputs) or "none"
            raise InvalidRequest(f"model '{model.name}' needs {_inputs(missing)}; the request has {got}")

    def _surplus(self, model: Any, left: list[RequestInput]) -> str:
        takes = _inputs(list(self._arguments or ()))
        return f"model '{model.name}' takes {takes}; the request has {_inputs([one.name for one in left])} beside"


def _placed(where: str, read: Callable[..., _T], *hint: Any) -> _T:
    """What a hint says. TypeError with the place of one that says nothing of use."""
    try:
        return read(*hint)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None


def _encode_into(outputs: list[ResponseOutput], value: Any, hint: Hint, model: Any) -> None:
    """Appends the output of a value, or the outputs if its codec makes several."""
    if isinstance(value, ResponseOutput):
        outputs.append(value)
        return
    if value is None and hint.optional:
        return
    codec = hint.input_codec
    request_codec = hint.request_codec
    if codec is None and request_codec is None:
        codec = find_input_codec_by_payload(value)
        request_codec = find_request_codec_by_payload(value) if codec is None else None
    if codec is not None:
        outputs.append(codec.encode_output(f"output-{len(outputs)}", value))
    elif request_codec is not None:
        several = getattr(request_codec, "encode_outputs", None)
        outputs += several(value) if several is not None else request_codec.encode_response(model.name, value).outputs
    else:
        raise unencodable(f"model '{model.name}' gave a value that no codec takes: {type(value).__name__}")


def _metadata(model: Any, which: str) -> Any:
    """The model's declared inputs by name, where it is one of our models."""
    return model.declared(which) if hasattr(model, "declared") else None


def _inputs(names: list[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"input{'s' if len(names) > 1 else ''} {quoted}" if names else "no inputs"
