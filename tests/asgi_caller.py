"""Calls the REST application as a server would that knows nothing but plain ASGI."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel

from mlserve.asgi_frames import Exchange, receive_of
from mlserve.errors import MLServeError
from mlserve.frames import Handle, Handled
from mlserve.handling import Handler
from mlserve.metrics import Metrics
from mlserve.rest.app import RestApp
from mlserve.settings import Settings
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, ResponseOutput
from tests.fake_dataplane import FakeDataPlane


class Answer:
    """What came back through ASGI's send."""

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages
        self.status: int = messages[0]["status"] if messages else 0
        self.headers = [(k.decode(), v.decode("latin-1")) for k, v in messages[0]["headers"]] if messages else []
        self.body = b"".join(bytes(one["body"]) for one in messages[1:])

    def __getitem__(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    def json(self) -> Any:
        body = gzip.decompress(self.body) if self["content-encoding"] == "gzip" else self.body
        return json.loads(body)

    @property
    def error(self) -> str:
        assert self["content-type"] == "application/json"
        (words,) = self.json().items()
        assert words[0] == "error"
        return str(words[1])

    @property
    def events(self) -> list[tuple[str, Any]]:
        """(event, data) of each."""
        found = []
        for block in self.body.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
        return found


async def run_handler(handler: Handler, frame: Handle) -> Handled:
    """What a custom handler answers, all of it."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await handler(Exchange(frame, receive_of(frame, lambda: False), send, send, []))
    start, *pieces = messages
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    return Handled(frame.call, start["status"], headers, b"".join(one["body"] for one in pieces))


class Caller:
    """Calls an application as a server would that knows nothing but plain ASGI."""

    def __init__(self, dataplane: FakeDataPlane | None = None, **options: Any) -> None:
        self.dataplane = dataplane or FakeDataPlane()
        self.metrics = Metrics()
        self.app: Any = RestApp(self.dataplane, self.metrics, Settings(**options))

    async def __call__(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] = b"",
        extensions: Any = None,
        on_send: Callable[[Any], Any] = lambda message: None,  # may be asynchronous
        **headers: str,
    ) -> Answer:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"host", b"a"), *((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())],
            "server": ("a", 80),
            "extensions": extensions or {},
        }
        pieces = [{"type": "http.request", "body": content, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            if pieces:
                return pieces.pop()
            return await anyio.sleep_forever()

        async def send(message: Any) -> None:
            await anyio.lowlevel.checkpoint()
            waiting = on_send(message)
            sent.append(message)
            if waiting is not None:
                await waiting

        await self.app(scope, receive, send)
        return Answer(sent)

    def counted(self) -> dict[tuple[str, str, str], float]:
        """(method, path, status) of what was counted."""
        return {
            (one.labels["method"], one.labels["path"], one.labels["status_code"]): one.value
            for family in self.metrics.collect()
            if family.name == "rest_server_requests"
            for one in family.samples
        }


def words(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
    """One answer for each word of the input; some words do something instead."""

    async def answers() -> AsyncIterator[InferenceResponse]:
        for word in request.inputs[0].data[0].split():
            if word == "teapot":
                raise MLServeError("short and stout", 418)
            if word == "bug":
                raise KeyError("a secret")
            yield InferenceResponse(
                model_name="", outputs=[ResponseOutput(name="w", shape=[1], datatype="BYTES", data=TensorData([word]))]
            )

    return answers()


def text_request(text: str) -> dict[str, Any]:
    return {"id": "r", "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [text]}]}
