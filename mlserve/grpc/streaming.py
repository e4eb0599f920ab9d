"""ModelStreamInfer in both its forms: MLServer's, one call over many requests; and Triton's, many calls in one stream.

    mlserver  the first request names the model; all requests go into one `infer_stream`; each answer is a
              ModelInferResponse; an error ends the stream with its status
    triton    each request is a call of its own, maybe to another model; each answer is a ModelStreamInferResponse in
              the order of the requests; an error is a message in the stream, which goes on

The call's metadata chooses with `mlserve-stream-response: mlserver` or `triton`, otherwise the setting
`grpc_stream_response` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from mlserve.errors import InvalidRequest, MLServeError
from mlserve.grpc.call import Call
from mlserve.grpc.plane import Plane
from mlserve.types import InferenceRequest, InferenceResponse, Parameters
from mlserve.wire.protowire import Chunk
from mlserve.wire.v2proto import Decoded, decode_request, encode_response, stream_answer

__all__ = ["STREAM_FORM_KEY", "StreamInfer"]

logger = logging.getLogger("mlserve.grpc")

STREAM_FORM_KEY = "mlserve-stream-response"
_FORMS = ("mlserver", "triton")
# In Triton's form: how many calls of one stream run at once, and how many answers of each wait for their turn.
_CALLS_AT_ONCE = 64
_ANSWERS_AHEAD = 8
_READ_GRACE_SECONDS = 0.5  # after a call's time is over, its answers may wait so long to be read
# Triton's names for "tell me when a request has got all its answers".
_WANTS_FINAL, _IS_FINAL = "triton_enable_empty_final_response", "triton_final_response"

_Answers = asyncio.Queue["list[Chunk] | None"]
_Turns = asyncio.Queue["_Answers | None"]


class StreamInfer:
    """The handler of ModelStreamInfer."""

    def __init__(self, plane: Plane, default_form: str) -> None:
        self._plane = plane
        self._default_form = default_form

    async def __call__(self, call: Call) -> None:
        form = call.metadata(STREAM_FORM_KEY) or self._default_form
        if form not in _FORMS:
            raise InvalidRequest(f"{STREAM_FORM_KEY} is {form!r}; expected one of {', '.join(_FORMS)}")
        if form == "triton":
            await _TritonStream(self._plane, call).run()
        else:
            await self._run(call)

    async def _run(self, call: Call) -> None:
        """MLServer's form. A stream without requests has no answers."""
        first = await call.recv_message()
        if first is None:
            return
        decoded = decode_request(first, call.headers)
        call.bound(self._plane.stream_seconds(decoded.model_name, decoded.model_version, None))
        requests = _Requests(call, decoded.request)
        answers = self._plane.infer_stream(
            requests,
            decoded.model_name,
            decoded.model_version,
            form=decoded.form,
            timeout_seconds=call.time_left(),
        )
        try:
            async with aclosing(answers):
                async for chunks in answers:
                    for response in chunks:
                        if response.parameters is not None:
                            call.trailing = response.parameters.headers or {}
                        await call.send_message(encode_response(response, decoded.form))
        except Exception as error:
            if requests.failure is None or isinstance(error, MLServeError):
                raise
            raise requests.failure from None


class _Requests(AsyncIterator[InferenceRequest]):
    """The requests of a stream. What is wrong with one is kept: on its way through the data plane it may get lost."""

    def __init__(self, call: Call, first: InferenceRequest) -> None:
        self._call = call
        self._first: InferenceRequest | None = first
        self.failure: MLServeError | None = None

    async def __anext__(self) -> InferenceRequest:
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            data = await self._call.recv_message()
            if data is None:
                raise StopAsyncIteration
            return decode_request(data, self._call.headers).request
        except MLServeError as error:
            self.failure = error
            raise


class _TritonStream:
    """One stream in Triton's form.

    Its tasks end with `run`. They are the loop's own: anyio's do not run inside trio-asyncio.
    """

    def __init__(self, plane: Plane, call: Call) -> None:
        self._plane = plane
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: _Turns = asyncio.Queue()  # the answers to each request, in order
        self._slots = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._failure: Exception | None = None  # why no more requests can be read
        self._ahead_bytes = 0  # of answers that wait for their turn

    async def run(self) -> None:
        """Reads requests, runs their calls side by side, and sends the answers in the requests' order."""
        self._start(self._read())
        try:
            while (answers := await self._waiting.get()) is not None:
                while (chunks := await answers.get()) is not None:
                    await self._call.send_message(chunks)
                    self._give(sum(map(len, chunks)))
                self._slots.release()
        finally:
            if self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(set(self._tasks))
            self._give(self._ahead_bytes)
        if self._failure is not None:
            raise self._failure

    async def _put(self, answers: _Answers, chunks: list[Chunk]) -> None:
        """Lets an answer wait for its turn; it counts among those that clients have not taken."""
        size = sum(map(len, chunks))
        self._ahead_bytes += size
        self._call.unsent.hold(size)
        await answers.put(chunks)

    def _give(self, size_bytes: int) -> None:
        self._ahead_bytes -= size_bytes
        self._call.unsent.give(size_bytes)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        """Opens a call for each request."""
        try:
            async for data in self._call:
                await self._slots.acquire()
                answers: _Answers = asyncio.Queue(_ANSWERS_AHEAD)
                self._waiting.put_nowait(answers)
                self._start(self._answer(data, answers))
        except Exception as error:
            self._failure = error
        self._waiting.put_nowait(None)

    async def _answer(self, data: bytes, answers: _Answers) -> None:
        """Runs one call; its failure is an answer too."""
        decoded: Decoded | None = None
        try:
            decoded = decode_request(data, self._call.headers)
            limit = self._plane.stream_seconds(decoded.model_name, decoded.model_version, self._call.time_left())
            late = None if limit is None else limit + _READ_GRACE_SECONDS
            await asyncio.wait_for(self._infer(decoded, answers), late)
        except asyncio.TimeoutError:
            await self._put(answers, _failed(decoded, "the client did not read the answers in time"))
        except MLServeError as error:
            await self._put(answers, _failed(decoded, error.message))
        except Exception:
            logger.exception("a call in a gRPC stream failed")
            await self._put(answers, _failed(decoded, "internal error; the server's log says more"))
        await answers.put(None)

    async def _infer(self, decoded: Decoded, answers: _Answers) -> None:
        request, name, version, form = decoded
        wants_final = request.parameters is not None and dict.get(request.parameters, _WANTS_FINAL) is True
        timeout = self._call.time_left()
        responses = self._plane.infer_stream(_One(request), name, version, form=form, timeout_seconds=timeout)
        async with aclosing(responses):
            async for chunks in responses:
                for response in chunks:
                    if wants_final:
                        response.parameters = Parameters() if response.parameters is None else response.parameters
                        response.parameters[_IS_FINAL] = False
                    await self._put(answers, stream_answer(encode_response(response, form)))
        if wants_final:
            await self._put(answers, stream_answer(encode_response(_final(decoded))))


class _One(AsyncIterator[InferenceRequest]):
    """A stream of one request."""

    def __init__(self, request: InferenceRequest) -> None:
        self._request: InferenceRequest | None = request

    async def __anext__(self) -> InferenceRequest:
        request, self._request = self._request, None
        if request is None:
            raise StopAsyncIteration
        return request


def _final(decoded: Decoded) -> InferenceResponse:
    """Triton's empty answer that says there are no more."""
    return InferenceResponse(
        model_name=decoded.model_name,
        model_version=decoded.model_version,
        id=decoded.request.id,
        parameters=Parameters({_IS_FINAL: True}),
        outputs=[],
    )


def _failed(decoded: Decoded | None, message: str) -> list[Chunk]:
    """An error, with what tells its request apart."""
    response = InferenceResponse(model_name="", outputs=[])
    if decoded is not None:
        response.model_name, response.id = decoded.model_name, decoded.request.id
    return stream_answer(encode_response(response), message or "error")
