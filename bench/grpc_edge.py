"""Processor time of the gRPC edge for each call, against grpclib as it comes, in one run.

    python bench/grpc_edge.py            small calls at 1 and 16 in flight, a 4 MB raw echo
    python bench/grpc_edge.py --seconds 2 --rounds 5

Both servers echo from memory: no data plane, no worker. grpcio's client runs in this process, each server in one of
its own; what counts is the server's own processor time (user and system, from /proc), as the median of the rounds.
Both run on uvloop, with malloc tuned alike.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TICKS = os.sysconf("SC_CLK_TCK")
LARGEST = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def main() -> None:
    """Parses the command line and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=sorted(SERVERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        from mlserve import malloc

        malloc.tune()
        import uvloop

        uvloop.run(SERVERS[args.serve]())
    else:
        asyncio.run(compare(args.seconds, args.rounds))


async def compare(seconds: float, rounds: int) -> None:
    """Measures the servers in turns, so that a busy machine is unfair to both."""
    names = sorted(SERVERS)
    processes = {name: start(name) for name in names}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        for _ in range(rounds):
            for label, body, in_flight in workloads():
                for name in names:
                    process, port = processes[name]
                    result = await measure(process.pid, port, body, in_flight, seconds)
                    found.setdefault((label, name), []).append(result)
    finally:
        for process, _ in processes.values():
            process.terminate()
            process.wait()
    print(f"{'':24}" + "".join(f"{name:>24}" for name in names) + f"{'ratio':>8}")
    for label, _, _ in workloads():
        cells, cpu = "", []
        for name in names:
            rate = statistics.median(one[0] for one in found[label, name])
            cpu.append(statistics.median(one[1] for one in found[label, name]))
            cells += f"{rate:9.0f}/s {cpu[-1] * 1000:8.3f} ms"
        print(f"{label:24}{cells}{cpu[0] / cpu[1]:8.2f}")


def start(name: str) -> tuple[subprocess.Popen[str], int]:
    """A server process, and its port."""
    command = [sys.executable, __file__, "--serve", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def workloads() -> list[tuple[str, bytes, int]]:
    """Label, message, and how many calls are in flight."""
    from mlserve.types import InferenceRequest, RequestInput, TensorData
    from mlserve.wire.v2proto import encode_request

    def message(values: int, *, raw: bool) -> bytes:
        import numpy as np

        data = TensorData.from_numpy(np.linspace(0, 1, values, dtype="f4"))
        tensor = RequestInput(name="x", shape=[1, values], datatype="FP32", data=data)
        return b"".join(encode_request(InferenceRequest(id="bench", inputs=[tensor]), "echo", raw=raw))

    small, large = message(4, raw=False), message(1_000_000, raw=True)
    return [("small, 1 in flight", small, 1), ("small, 16 in flight", small, 16), ("4 MB raw, 1 in flight", large, 1)]


async def measure(pid: int, port: int, body: bytes, in_flight: int, seconds: float) -> tuple[float, float]:
    """Calls in a second, and the server's processor seconds for each."""
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LARGEST) as channel:
        call = channel.unary_unary(METHOD)
        await together(lambda: call(body), in_flight, seconds / 5)
        before, began = cpu_seconds(pid), time.perf_counter()
        calls = await together(lambda: call(body), in_flight, seconds)
        taken = time.perf_counter() - began
        return calls / taken, (cpu_seconds(pid) - before) / calls


async def together(call: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> int:
    """How many calls were answered."""
    end = time.perf_counter() + seconds
    calls = 0

    async def repeat() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            await call()
            calls += 1

    await asyncio.gather(*(repeat() for _ in range(in_flight)))
    return calls


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def serve_ours() -> None:
    """Our edge, with a data plane that echoes."""
    import anyio

    from mlserve.grpc.server import GrpcServer
    from mlserve.metrics import Metrics
    from mlserve.settings import Settings
    from mlserve.types import InferenceResponse, ResponseOutput

    class Echo:
        """As much of a data plane as ModelInfer needs."""

        async def infer(self, request: Any, name: str, version: str | None = None, **_: Any) -> InferenceResponse:
            outputs = [
                ResponseOutput(name=one.name, shape=one.shape, datatype=one.datatype, data=one.data)
                for one in request.inputs
            ]
            return InferenceResponse(model_name=name, id=request.id, outputs=outputs)

        def __getattr__(self, name: str) -> Any:
            return None

    async with anyio.create_task_group() as tasks:
        plane: Any = Echo()
        _, port = await tasks.start(GrpcServer(plane, Metrics(), Settings()).serve)
        print(port, flush=True)


async def serve_stock() -> None:
    """grpclib's server and codec, with protobuf's own messages."""
    from grpclib.const import Cardinality, Handler
    from grpclib.server import Server

    from mlserve.wire.schema import schema_class

    request_type, response_type = (
        schema_class("inference.ModelInferRequest"),
        schema_class("inference.ModelInferResponse"),
    )

    class Echo:
        """ModelInfer, with as little Python as protobuf allows."""

        async def infer(self, stream: Any) -> None:
            request = await stream.recv_message()
            response = response_type(model_name=request.model_name, id=request.id)
            for one in request.inputs:
                response.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape, contents=one.contents)
            response.raw_output_contents.extend(request.raw_input_contents)
            await stream.send_message(response)

        def __mapping__(self) -> dict[str, Handler]:
            return {METHOD: Handler(self.infer, Cardinality.UNARY_UNARY, request_type, response_type)}

    server = Server([Echo()])
    await server.start("127.0.0.1", 0)
    assert server._server is not None
    print(server._server.sockets[0].getsockname()[1], flush=True)
    await server.wait_closed()


SERVERS = {"ours": serve_ours, "stock": serve_stock}

if __name__ == "__main__":
    main()
