"""Clients of the chaos test: plain HTTP over asyncio's streams, and grpcio; each call gives one outcome."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import numpy as np

from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.chaos_models import Case

LOST_AFTER_SECONDS = 60.0  # an answer that did not come by then is lost
_OF_GRPC = {"UNAVAILABLE": 503, "RESOURCE_EXHAUSTED": 429, "DEADLINE_EXCEEDED": 504, "CANCELLED": 499, "INTERNAL": 500}


class Wrong(AssertionError):
    """An answer that is not what was asked for."""


def check(case: Case, name: str, request_id: str, found: dict[str, list[Any]], answered_id: str | None) -> None:
    expected = case.expected()
    if answered_id != request_id or found != expected:
        raise Wrong(f"{name} {request_id}: got id {answered_id}, {_short(found)}; expected {_short(expected)}")


def _short(values: Any) -> str:
    return repr(values)[:300]


def rest_body(case: Case, request_id: str) -> bytes:
    inputs = []
    for name, (datatype, values) in case.inputs.items():
        shape = [len(values), 1] if isinstance(values, list) else list(values.shape)
        data = values if isinstance(values, list) else values.tolist()
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "data": data})
    body: dict[str, Any] = {"id": request_id, "inputs": inputs}
    if case.wanted is not None:
        body["outputs"] = [{"name": name} for name in case.wanted]
    return json.dumps(body).encode()


class Rest:
    """One keep-alive connection, opened again when it is closed."""

    def __init__(self, address: str) -> None:
        self._host, self._port = address.rsplit(":", 1)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def drop(self) -> None:
        """Goes away without a word."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def post(self, path: str, body: bytes, *headers: str) -> tuple[int, bytes]:
        """Status and body. A call that is cancelled drops the connection."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        reader, writer = self._streams
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
        try:
            writer.write("\r\n".join(head).encode() + body)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            fields = dict(line.split(b": ", 1) for line in lines[1:] if line)
            if b"content-length" in fields:
                answer = await reader.readexactly(int(fields[b"content-length"]))
            else:
                answer = await self._chunks(reader)
        except BaseException:
            self.drop()
            raise
        if fields.get(b"connection") == b"close":
            self.drop()
        return int(lines[0].split()[1]), answer

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(pieces)

    async def infer(self, model: str, case: Case, request_id: str, *headers: str) -> int:
        """The status of a call whose answer, if there is one, is right."""
        status, answer = await self.post(f"/v2/models/{model}/infer", rest_body(case, request_id), *headers)
        if status == 200:
            self._check(model, case, request_id, json.loads(answer))
        elif "error" not in json.loads(answer):
            raise Wrong(f"{model} {request_id}: {status} without a reason")
        return status

    async def stream(self, model: str, case: Case, request_id: str) -> int:
        """The same for a stream of five answers."""
        status, answer = await self.post(f"/v2/models/{model}/infer_stream", rest_body(case, request_id))
        if status != 200:
            return status
        events = answer.decode().strip().split("\n\n")
        if events[-1].startswith("event: error"):
            return 503
        if len(events) != 5:
            raise Wrong(f"{model} {request_id}: {len(events)} chunks instead of 5")
        for event in events:
            self._check(model, case, request_id, json.loads(event.removeprefix("data: ")))
        return 200

    def _check(self, model: str, case: Case, request_id: str, answer: dict[str, Any]) -> None:
        found = {one["name"]: np.array(one["data"]).reshape(-1).tolist() for one in answer["outputs"]}
        check(case, model, request_id, found, answer["id"])


class Grpc:
    """Calls over one channel."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self.never_sent = False  # the last call did not leave this process: there was nobody to send it to

    async def infer(self, model: str, case: Case, request_id: str, timeout: float | None = None) -> int:
        """The status of a call, by its number on REST."""
        message = pb.ModelInferRequest(model_name=model, id=request_id)
        for name, (datatype, values) in case.inputs.items():
            texts = isinstance(values, list)
            shape = [len(values), 1] if texts else list(values.shape)
            message.inputs.add(name=name, datatype=datatype, shape=shape)
            message.raw_input_contents.append(_raw_texts(values) if texts else values.tobytes())
        for name in case.wanted or ():
            message.outputs.add(name=name)
        try:
            answer = await self._stub.ModelInfer(message, timeout=timeout or LOST_AFTER_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code().name not in _OF_GRPC:
                raise Wrong(f"{model} {request_id}: {error.code()}: {error.details()}") from error
            # The second is what grpcio says where the server has closed the connection before the call was written.
            self.never_sent = any(one in (error.details() or "") for one in ("Failed to connect", "sendmsg: "))
            return _OF_GRPC[error.code().name]
        found = {}
        for one, raw in zip(answer.outputs, answer.raw_output_contents):
            if one.datatype == "BYTES":
                found[one.name] = _texts(raw)
            else:
                found[one.name] = np.frombuffer(raw, Case.DATATYPES[one.datatype]).tolist()
        check(case, model, request_id, found, answer.id)
        return 200

    async def close(self) -> None:
        await self._channel.close()


def _raw_texts(rows: list[list[str]]) -> bytes:
    texts = [row[0].encode() for row in rows]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _texts(raw: bytes) -> list[str]:
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return found
