"""Helpers for tests of the gRPC edge: a server in a thread of its own, and a client that speaks in frames."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hpack import Encoder

from mlserve.grpc.server import GrpcServer
from mlserve.intake import PAUSE_SECONDS, Intake
from mlserve.metrics import Metrics
from mlserve.settings import Settings
from mlserve.unsent import Unsent
from tests.fake_dataplane import FakeDataPlane, Predict

SECONDS = 60.0  # more than anything here takes, also on a busy machine, and less than a test may
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
BACKENDS = ["asyncio", "uvloop", pytest.param("trio", marks=pytest.mark.own_process)]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
NAMES = ("DATA", "HEADERS", "PRIORITY", "RST", "SETTINGS", "PUSH", "PING", "GOAWAY", "WINDOW", "CONTINUATION")


class FakePlane(FakeDataPlane):
    """The scripted data plane; like the real one it takes an empty version for none."""

    def _find(self, name: str, version: str | None) -> Predict:
        return super()._find(name, version or None)


@dataclass
class Running:
    """A server that runs."""

    port: int
    plane: FakePlane
    metrics: Metrics
    portal: BlockingPortal
    stop_now: anyio.Event
    ended: threading.Event

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Tells the server to drain; does not wait."""
        self.portal.call(self.stop_now.set)

    def counted(self, name: str, **labels: str) -> float:
        """The sum of a series of the metrics."""
        return sum(
            sample.value
            for family in self.metrics.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextmanager
def serving(
    backend: str = "uvloop",
    plane: FakePlane | None = None,
    grace: float = SECONDS,
    unsent: Unsent | None = None,
    intake: Intake | None = None,
    pause_seconds: float = PAUSE_SECONDS,
    **settings: Any,
) -> Iterator[Running]:
    """Runs a server in a thread; at the end it must have left nothing behind."""
    plane = FakePlane() if plane is None else plane
    metrics = Metrics()
    server = GrpcServer(
        plane,
        metrics,
        Settings(**settings),
        poll_seconds=0.01,
        unsent=unsent,
        intake=intake,
        pause_seconds=pause_seconds,
    )
    ended = threading.Event()
    with start_blocking_portal(*LOOPS[backend]) as portal:
        stop_now = portal.call(anyio.Event)

        async def serve(*, task_status: anyio.abc.TaskStatus[tuple[str, int]]) -> None:
            try:
                await server.serve(
                    port=0, shutdown_trigger=stop_now.wait, graceful_timeout=grace, task_status=task_status
                )
            finally:
                ended.set()

        future, (_, port) = portal.start_task(serve)
        running = Running(port, plane, metrics, portal, stop_now, ended)
        try:
            yield running
        finally:
            running.stop()
            future.result(SECONDS)


def run(backend: str, main: Callable[[], Any]) -> None:
    """Runs an async function."""
    name, options = LOOPS[backend]
    anyio.run(main, backend=name, backend_options=options)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def framed(message: bytes, flag: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


@dataclass
class Heard:
    """What came back on a connection."""

    frames: list[tuple[int, int, int, bytes]]
    closed: bool

    @property
    def kinds(self) -> list[str]:
        return [NAMES[kind] for kind, _, _, _ in self.frames]

    def data(self, stream: int = 1) -> bytes:
        return b"".join(payload for kind, _, at, payload in self.frames if kind == DATA and at == stream)

    def status(self, stream: int = 1) -> str | None:
        """The gRPC status of a stream; our server writes header fields without Huffman code."""
        for kind, _, at, payload in self.frames:
            if kind == HEADERS and at == stream and (found := payload.find(b"grpc-status")) >= 0:
                size = payload[found + 11]
                return payload[found + 12 : found + 12 + size].decode()
        return None

    def http_status(self, stream: int = 1) -> str | None:
        for kind, _, at, payload in self.frames:
            if kind == HEADERS and at == stream:
                return "200" if payload[:1] == b"\x88" else payload[10:13].decode()
        return None

    def resets(self) -> list[int]:
        return [int.from_bytes(payload, "big") for kind, _, _, payload in self.frames if kind == RST]

    def goaway(self) -> int | None:
        """The error code of a GOAWAY."""
        for kind, _, _, payload in self.frames:
            if kind == GOAWAY:
                return int.from_bytes(payload[4:8], "big")
        return None


def talk(
    port: int,
    make: Callable[[Encoder], bytes],
    until: Callable[[Heard], bool],
    *,
    preface: bytes = PREFACE + frame(SETTINGS, 0, 0),
    bytewise: bool = False,
) -> Heard:
    """Sends bytes and reads until the answer is as wanted or the server closes. AssertionError if neither comes."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender = threading.Thread(target=_send, args=(sock, preface + make(Encoder()), bytewise))
        sender.start()
        received, heard = bytearray(), Heard([], False)
        while not heard.closed and not until(heard):
            try:
                data = sock.recv(65536)
            except TimeoutError:
                raise AssertionError(f"nothing more came after {heard.kinds}") from None
            except ConnectionError:
                data = b""
            received += data
            heard = Heard(_frames(received), not data)
        sender.join(SECONDS)
        return heard


def _send(sock: socket.socket, data: bytes, bytewise: bool) -> None:
    try:
        for part in [data[at : at + 1] for at in range(len(data))] if bytewise else [data]:
            sock.sendall(part)
    except OSError:
        pass  # The server has heard enough.


def _frames(data: bytearray) -> list[tuple[int, int, int, bytes]]:
    frames, at = [], 0
    while at + 9 <= len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        if end > len(data):
            break
        frames.append(
            (data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), bytes(data[at + 9 : end]))
        )
        at = end
    return frames


def wait_for(event: threading.Event) -> None:
    """Waits for something that must happen."""
    assert event.wait(SECONDS), "it did not happen"


__all__ = [
    "ACK", "BACKENDS", "CONTINUATION", "DATA", "END_HEADERS", "END_STREAM", "GOAWAY", "HEADERS", "PADDED", "PING",
    "PREFACE", "PRIORITIZED", "PRIORITY", "PUSH", "RST", "SECONDS", "SETTINGS", "WINDOW", "FakePlane", "Heard", "Running", "frame",
    "framed", "run", "serving", "talk", "wait_for",
]  # fmt: skip
