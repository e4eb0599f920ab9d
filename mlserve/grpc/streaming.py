"""ModelStreamInfer in both its forms: MLServer's, one call over many requests; and Triton's, many calls in one stream.

    mlserver  the first request names the model; all requests go into one `infer_stream`; each answer is a
              ModelInferResponse; an error ends the stream with its status
    triton    each request is a call of its own, maybe to another model; each answer is a ModelStreamInferResponse with
              the id of its request; those of models that stream come as they are ready, each request's in order, the
              others in the order of the requests; an error is a message in the stream, which goes on

The call's metadata chooses with `mlserve-stream-response: mlserver` or `triton`, otherwise the setting
`grpc_stream_response` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any

from mlserve.errors import InvalidRequest, MLServeError
from mlserve.grpc.call import Call
from mlserve.grpc.in_turn import Kept, Sizes
from mlserve.grpc.plane import Plane
from mlserve.intake import Share
from mlserve.types import InferenceRequest, InferenceResponse, Parameters
from mlserve.wire.protowire import Chunk
from mlserve.wire.schema import schema_class
from mlserve.wire.v2proto import Decoded, decode_request, encode_response, stream_answer

__all__ = ["STREAM_FORM_KEY", "StreamInfer"]

logger = logging.getLogger("mlserve.grpc")

STREAM_FORM_KEY = "mlserve-stream-response"
_FORMS = ("mlserver", "triton")
# In Triton's form: how many calls of one stream run at once, and how many answers of all of them wait for the client.
_CALLS_AT_ONCE = 64
_ANSWERS_AHEAD = 8
_BODIES_SHARE = 1 / 8  # of the memory for bodies: what the requests of one stream hold before no more are read
_READ_GRACE_SECONDS = 0.5  # after a call's time is over, its answers may wait so long to be read
# Triton's names for "tell me when a request has got all its answers".
_WANTS_FINAL, _IS_FINAL = "triton_enable_empty_final_response", "triton_final_response"

# Takes one answer of a call. Waits while too many wait for the client.
_Put = Callable[["list[Chunk]"], Awaitable[None]]


class StreamInfer:
    """The handler of ModelStreamInfer."""

    def __init__(self, plane: Plane, default_form: str) -> None:
        self._plane = plane
        self._default_form = default_form
        self._sizes = Sizes()

    async def __call__(self, call: Call) -> None:
        form = call.metadata(STREAM_FORM_KEY) or self._default_form
        if form not in _FORMS:
            raise InvalidRequest(f"{STREAM_FORM_KEY} is {form!r}; expected one of {', '.join(_FORMS)}")
        if form == "triton":
            await _TritonStream(self._plane, call, self._sizes).run()
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

    requests ──begun in order──▶ calls ──▶ one queue of answers ──▶ the client

    A model that streams puts its answers there as they come, so that a long one holds up no other. The answer of any
    other model waits until those of its kind before it are there: clients that ask plain models count on the order.
    Where such answers may take too much memory (in_turn.py), no more requests are begun until it is their turn.
    The calls end with `run`. They are the loop's own tasks: anyio's do not run inside trio-asyncio.
    """

    def __init__(self, plane: Plane, call: Call, sizes: Sizes) -> None:
        self._plane = plane
        self._call = call
        self._sizes = sizes
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._bodies_bytes = 0  # of the requests of the calls, as far as they count in the intake
        self._answers: asyncio.Queue[list[Chunk] | None] = asyncio.Queue(_ANSWERS_AHEAD)  # None: there are no more
        self._failure: Exception | None = None  # why no more requests can be read
        self._left = False  # nobody takes answers any more
        self._held_bytes = 0  # of answers that wait for the client
        self._turn_over = asyncio.Event()  # of the last call whose answers keep the order of the requests
        self._turn_over.set()

    async def run(self) -> None:
        """Reads requests, runs their calls side by side, and sends the answers."""
        reader = self._loop.create_task(self._read())
        try:
            while (chunks := await self._answers.get()) is not None:
                self._give(chunks)  # it counts while it is sent
                await self._call.send_message(chunks)
        finally:
            self._left = True
            reader.cancel()
            for task in self._calls:
                task.cancel()
            try:
                await all_over({reader, *self._calls})
            finally:
                self._call.unsent.give(self._held_bytes)
        if self._failure is not None:
            raise self._failure

    async def _read(self) -> None:
        """Opens a call for each request, while not too many run. The answers end when all calls have."""
        try:
            async for data in self._call:
                await self._slots.acquire()
                await self._open(data)
                del data  # it counts until its call has ended, and shall not be there for longer
                while self._bodies_bytes > self._call.intake.limit_bytes * _BODIES_SHARE:
                    await asyncio.wait(set(self._calls), return_when=asyncio.FIRST_COMPLETED)
        except Exception as error:
            self._failure = error
        if self._calls:
            await asyncio.wait(set(self._calls))
        await self._answers.put(None)

    async def _open(self, data: bytes) -> None:
        """Starts the call of one request; waits for its turn if its answer might take too much memory before.

        While it waits, the request counts as the stream's last message, and afterwards until its call has ended.
        """
        work: Coroutine[Any, Any, Any]
        decoded = refusal = ends_turn = None
        try:
            decoded = decode_request(data, self._call.headers)
        except Exception as error:
            refusal = _failed(*_model_and_id(data), error)
        if decoded is not None and self._plane.streams(decoded.model_name, decoded.model_version):
            work = self._answer(decoded, self._put)
        else:
            kept = Kept(self._call.unsent, self._sizes, "" if decoded is None else decoded.model_name)
            if not self._turn_over.is_set() and not kept.may_begin():
                await self._turn_over.wait()
            before, self._turn_over = self._turn_over, asyncio.Event()
            work = self._answer_in_turn(decoded, refusal, kept, before)
            ends_turn = partial(_end_turn, kept, self._turn_over)
        task: asyncio.Task[Any] = self._loop.create_task(work)
        if ends_turn is not None:
            task.add_done_callback(ends_turn)
        self._calls.add(task)
        share = self._call.hand_over()
        self._bodies_bytes += share.held_bytes
        task.add_done_callback(partial(self._closed, share))

    def _closed(self, share: Share, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        self._slots.release()
        self._bodies_bytes -= share.held_bytes
        share.close()

    async def _put(self, chunks: list[Chunk]) -> None:
        """Lets an answer wait for the client; it counts among those that clients have not taken."""
        self._hold(chunks)
        try:
            await self._answers.put(chunks)
        except asyncio.CancelledError:
            self._give(chunks)
            raise

    def _check_wanted(self) -> None:
        if self._left:
            raise asyncio.CancelledError  # again: on trio the first one may be lost where an answer came with it

    def _hold(self, chunks: list[Chunk]) -> None:
        self._check_wanted()
        size = sum(map(len, chunks))
        self._held_bytes += size
        self._call.unsent.hold(size)

    def _give(self, chunks: list[Chunk]) -> None:
        size = sum(map(len, chunks))
        self._held_bytes -= size
        self._call.unsent.give(size)

    async def _answer_in_turn(
        self,
        decoded: Decoded | None,
        refusal: list[Chunk] | None,
        kept: Kept,
        before: asyncio.Event,
    ) -> None:
        """Runs a call of a model that does not stream, if it can be read; its answer waits for those before it."""

        async def keep(chunks: list[Chunk]) -> None:
            self._check_wanted()
            kept.add(chunks)

        if refusal is not None:
            await keep(refusal)
        went_well = decoded is not None and await self._answer(decoded, keep)
        kept.complete(learn=went_well)
        await before.wait()
        for chunks in kept.take():
            await self._put(chunks)

    async def _answer(self, decoded: Decoded, put: _Put) -> bool:
        """Runs one call; its failure is an answer too. Whether it went well."""
        try:
            limit = self._plane.stream_seconds(decoded.model_name, decoded.model_version, self._call.time_left())
            late = None if limit is None else limit + _READ_GRACE_SECONDS
            await asyncio.wait_for(self._infer(decoded, put), late)
        except Exception as error:
            await put(_failed(decoded.model_name, decoded.request.id, error))
            return False
        return True

    async def _infer(self, decoded: Decoded, put: _Put) -> None:
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
                    await put(stream_answer(encode_response(response, form)))
        if wants_final:
            await put(stream_answer(encode_response(_final(decoded))))


def _end_turn(kept: Kept, over: asyncio.Event, _: asyncio.Task[Any]) -> None:
    """Ends the turn of a call, however it ends, also before its first step: those behind it may have missed that they
    are cancelled, and wait for it."""
    kept.take()
    over.set()


async def all_over(tasks: set[asyncio.Task[Any]]) -> None:
    """Waits until all of them have ended, however often this is cancelled meanwhile: a stream is reset, and then its
    connection closes."""
    cancelled: asyncio.CancelledError | None = None
    while pending := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


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


def _failed(model_name: str, request_id: str | None, error: Exception) -> list[Chunk]:
    """An error, with what tells its request apart."""
    if isinstance(error, asyncio.TimeoutError):
        message = "the client did not read the answers in time"
    elif isinstance(error, MLServeError):
        message = error.message or "error"
    else:
        logger.error("a call in a gRPC stream failed", exc_info=error)
        message = "internal error; the server's log says more"
    response = InferenceResponse(model_name=model_name, id=request_id, outputs=[])
    return stream_answer(encode_response(response), message)


def _model_and_id(data: bytes) -> tuple[str, str | None]:
    """What tells a request apart that cannot be used, as far as that can be read."""
    try:
        message = schema_class("inference.ModelInferRequest").FromString(bytes(data))
    except Exception:
        return "", None
    return message.model_name, message.id or None
