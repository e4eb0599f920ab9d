"""How long large and odd JSON bodies hold the server's event loop up: the longest stretch of its own processor time.

A started server in this process, with one worker. A task on the loop looks how much processor time the loop's thread
has used since it looked last, so that neighbours on the machine do not count. `python bench/large_json.py`
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings

MODEL = """
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Small(MLModel):
    def predict(self, request):
        output = ResponseOutput(name="y", shape=[1], datatype="INT64", data=[len(request.inputs)])
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


def numbers(count: int) -> bytes:
    """One tensor."""
    head = b'{"inputs":[{"name":"x","shape":[%d],"datatype":"FP32","data":[' % count
    return head + b",".join([b"0.123456789012345"] * count) + b"]}]}"


def inputs(count: int) -> bytes:
    """Many small tensors."""
    return json.dumps(
        {"inputs": [{"name": f"x{at}", "shape": [1], "datatype": "FP32", "data": [1]} for at in range(count)]}
    ).encode()


def parameters(value: Any) -> bytes:
    """One tensor beside parameters."""
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    return json.dumps({"parameters": value, "inputs": [tensor]}, separators=(",", ":")).encode()


BODIES = {
    "240 MB of numbers": lambda: numbers(13_300_000),
    "4 MB of numbers, the most that is read here": lambda: numbers(230_000),
    "200 000 inputs": lambda: inputs(200_000),
    "3 000 inputs, about the most that are read here": lambda: inputs(3_000),
    "1 000 000 parameters": lambda: parameters({f"k{at}": at for at in range(1_000_000)}),
    "19 000 parameters, about the most that are read here": lambda: parameters({f"k{at}": at for at in range(19_000)}),
    "a list of 2 000 000 numbers in a parameter": lambda: parameters({"k": [1] * 2_000_000}),
    "64 MB of empty lists in a parameter": lambda: parameters({"k": [[]] * 22_000_000}),
}


class Ticks:
    """The longest stretch of processor time between two turns of the loop."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        before = time.thread_time()
        while True:
            await anyio.sleep(0)
            now = time.thread_time()
            self.longest, before = max(self.longest, now - before), now


def main() -> None:
    with tempfile.TemporaryDirectory() as name, start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        folder = Path(name) / "small"
        folder.mkdir()
        (folder / "models.py").write_text(MODEL)
        (folder / "model-settings.json").write_text('{"name": "small", "implementation": "models.Small"}')
        settings = Settings(host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None)
        ended, server = portal.start_task(Server(settings, ModelRepository(Path(name))).run)
        url = "http://{}:{}/v2/models/small/infer".format(*server.addresses["http"])
        for what, make in BODIES.items():
            body = make()
            for turn in ("first", "again"):
                ticks = Ticks()
                ticking, _ = portal.start_task(ticks.run)
                answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=120)
                ticking.cancel()
                print(f"{what} ({len(body) >> 20} MiB), {turn}: {answer.status_code}, {ticks.longest * 1e3:.0f} ms")
        portal.call(server.stop)
        ended.result(60)


if __name__ == "__main__":
    main()
