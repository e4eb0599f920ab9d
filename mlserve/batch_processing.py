"""Sends a file of requests, one JSON document a line, and writes a file of answers: what `mlserve infer` does.

Lines are read as there is room to send them, so that files may be larger than memory, and in a thread: a pipe may be
silent for long, and whoever ends the run does not wait for it. Answers are written as they come
and none waits in a buffer, so that whatever ends the program loses none that has come. Each is a line with
`batch_index` (the number of its request's line, from 0) and `inference_id` in its parameters; what could not be read or
answered is a line with `error`. Blank lines are passed over; every other line has its answer.
"""

from __future__ import annotations

import codecs
import logging
import random
import ssl
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from io import FileIO
from typing import Any, NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from mlserve.batch_files import lines_of, refuse_same_file, target_of
from mlserve.client import AsyncClient
from mlserve.client.bodies import encode_json
from mlserve.errors import MLServeError
from mlserve.merging import merge, rows_of, split
from mlserve.plain_streams import in_thread
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, ValidationError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Outcome", "process_batch"]

_logger = logging.getLogger("mlserve.infer")


class Outcome(NamedTuple):
    """How many requests have an answer, and how many an error in its place."""

    answered: int
    failed: int


class _Item(NamedTuple):
    """One request and the number of its line, from 0."""

    line: int
    request: InferenceRequest


async def process_batch(
    model_name: str,
    url: str,
    workers: int,
    retries: int,
    batch_size: int,
    input_data_path: str,
    output_data_path: str,
    binary_data: bool = False,
    transport: str = "rest",
    request_headers: Sequence[str] = (),
    timeout: float | None = 60.0,
    batch_interval: float = 0.0,
    batch_jitter: float = 0.0,
    use_ssl: bool = False,
    insecure: bool = False,
    verbose: bool = False,
    extra_verbose: bool = False,
) -> Outcome:
    """Sends the requests of a file to a model at `url` (HOST:PORT), `workers` at a time. `-` is stdin, and stdout.

    With a `batch_size`, so many requests that fit together travel as one. `retries` is how often one is sent again
    where that is safe, `timeout` the seconds for each, all tries together; each worker pauses `batch_interval` seconds
    and a random part of `batch_jitter` between requests. `verbose` or `extra_verbose` has the logger `mlserve.infer`
    tell each request. OSError if a file cannot be opened, read or written, ValueError if both are the same file,
    ValueError or MLServeError for a wrong URL or header.
    """
    if verbose or extra_verbose:
        _logger.setLevel(logging.DEBUG)
    client = AsyncClient(
        _address(url, transport, use_ssl),
        binary=binary_data,
        timeout_seconds=timeout,
        retries=retries,
        headers=dict(map(_header, request_headers)),
        ssl_context=_without_checks() if use_ssl and insecure else None,
        max_connections=workers,
    )
    refuse_same_file(input_data_path, output_data_path)
    async with aclosing(in_thread(lines_of(input_data_path), abandon=True)) as lines:
        await anext(lines)  # opens the file, or says why not, before the other is emptied
        with target_of(output_data_path) as target:
            run = _Run(client, model_name, target, output_data_path, (batch_interval, batch_jitter))
            try:
                async with client:
                    await run.send_all(lines, batch_size, workers)
            except BaseExceptionGroup as group:
                raise _of_files(group) from None
    return Outcome(run.answered, run.failed)


def _of_files(error: BaseException) -> BaseException:
    """What happened to a file, without the groups of task groups around it; the error as it is if that is no matter."""
    found = error.subgroup(OSError) if isinstance(error, BaseExceptionGroup) else None
    return error if found is None else _innermost(found)


def _innermost(error: BaseException) -> BaseException:
    return _innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


class _Run:
    """One file on its way: counts, and writes the lines of its answers."""

    def __init__(self, client: AsyncClient, model: str, target: FileIO, path: str, pauses: tuple[float, float]) -> None:
        self._client = client
        self._model = model
        self._target = target
        self._path = path
        self._pauses = pauses
        self.answered = 0
        self.failed = 0

    async def send_all(self, lines: AsyncIterator[bytes], batch_size: int, workers: int) -> None:
        """Sends the requests of the lines, so many at once. The failures of its tasks come as a group."""
        send, receive = anyio.create_memory_object_stream[list[_Item]]()
        async with receive, anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(self.work, receive)
            async with send, aclosing(self.read(lines)) as items, aclosing(_chunks(items, batch_size)) as chunks:
                async for chunk in chunks:
                    await send.send(chunk)

    async def read(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[_Item, None]:
        """The requests of the lines. A line that is none is answered with an error at once."""
        index = -1
        async for line in lines:
            index += 1
            text = line.removeprefix(codecs.BOM_UTF8) if index == 0 else line
            if not text.strip():
                continue
            try:
                yield _Item(index, InferenceRequest.model_validate_json(text.decode()))
            except (ValidationError, ValueError) as error:
                self._fail(index, "preprocessing error", str(error))

    async def work(self, chunks: MemoryObjectReceiveStream[list[_Item]]) -> None:
        """Sends what comes until nothing more does."""
        interval, jitter = self._pauses
        first = True
        async for chunk in chunks:
            if not first and interval + jitter > 0:
                await anyio.sleep(interval + random.uniform(0, jitter))
            first = False
            if len(chunk) == 1 or not await self._send_together(chunk):
                for item in chunk:
                    await self._send(item)

    async def _send(self, item: _Item) -> None:
        try:
            answer = await self._client.infer(self._model, item.request)
            self._write(item.line, answer.response, answer.id)
        except MLServeError as error:
            self._fail(item.line, "inference error", str(error))

    async def _send_together(self, chunk: list[_Item]) -> bool:
        """Sends several requests as one; False if they have to go one by one: an error may be the matter of one."""
        requests = [item.request for item in chunk]
        try:
            merged = merge(requests)
            merged.id = str(uuid.uuid4())
            answer = await self._client.infer(self._model, merged)
            parts = split(answer.response, [rows_of(one) for one in requests])
        except MLServeError as error:
            _logger.debug("lines %s go one by one: %s", [item.line + 1 for item in chunk], error)
            return False
        for item, part in zip(chunk, parts, strict=True):
            part.id = item.request.id or str(uuid.uuid4())
            self._write(item.line, part, answer.id)
        return True

    def _write(self, index: int, response: InferenceResponse, inference_id: str | None) -> None:
        response.parameters = Parameters(
            {**(response.parameters or {}), "batch_index": index, "inference_id": inference_id}
        )
        self._put(response.model_dump_json().encode())
        self.answered += 1
        _logger.debug("line %d: answered", index + 1)

    def _fail(self, index: int, status: str, message: str) -> None:
        told = {"parameters": {"batch_index": index}, "error": {"status": status, "msg": message}}
        self._put(encode_json(told))
        self.failed += 1
        _logger.warning("line %d: %s: %s", index + 1, status, message)

    def _put(self, line: bytes) -> None:
        """Writes a line through to the file. OSError, which names the file, if that cannot be."""
        left = memoryview(line + b"\n")
        try:
            while left:
                left = left[self._target.write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from None


async def _chunks(items: AsyncIterator[_Item], size: int) -> AsyncGenerator[list[_Item], None]:
    """Neighbours that can travel together, at most so many at once."""
    chunk: list[_Item] = []
    kind: Any = None
    async for item in items:
        before, kind = kind, _likeness(item)
        if chunk and kind != before:
            yield chunk
            chunk = []
        chunk.append(item)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _likeness(item: _Item) -> Any:
    """The same for requests whose rows can be laid side by side; an object of its own for those with no rows."""
    request = item.request
    if not request.inputs or not all(one.shape and one.shape[0] == rows_of(request) for one in request.inputs):
        return object()
    inputs = [(one.name, one.datatype, one.shape[1:], _content_type(one.parameters)) for one in request.inputs]
    outputs = None if request.outputs is None else [one.name for one in request.outputs]
    return inputs, outputs, _content_type(request.parameters)


def _content_type(parameters: Parameters | None) -> str | None:
    return None if parameters is None else parameters.content_type


def _address(url: str, transport: str, use_ssl: bool) -> str:
    if transport not in ("rest", "grpc"):
        raise ValueError(f"transport {transport!r}: expected rest or grpc")
    if "://" in url:
        return url
    return {"rest": "http", "grpc": "grpc"}[transport] + ("s" if use_ssl else "") + f"://{url}"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"header {text!r}: expected 'Name: value'")
    return name.strip(), value.strip()


def _without_checks() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
