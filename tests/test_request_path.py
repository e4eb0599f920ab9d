"""The way of one call: which files it visits, in which order, and how many of our functions it takes."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import anyio
import httpx
import pytest

from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings
from tests.engine import MODELS
from tests.serving import write_model

PACKAGE = Path(__file__).resolve().parent.parent / "mlserve"
BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}

# The line that a call follows, from the socket to the model and back: first visits, in this order.
WAY_IN = [
    "rest/app",
    "wire/v2json",
    "dataplane",
    "pool",
    "batching",
    "link",
    "layout",
    "worker",
    "running",
    "models.py of the model",
]
WAY_OUT = ["execute", "layout", "outbox", "link", "dataplane", "rest/infer", "wire/v2json"]
CALLS = 335  # Python calls (and resumptions) of our own for one request, HTTP parsing and worker included
FILES = 49


class Trace:
    """Notes every call into a file of ours, in all threads."""

    def __init__(self) -> None:
        self.on = False
        self.calls: list[str] = []

    def __call__(self, frame, event, argument) -> None:
        if self.on and event == "call":
            path = frame.f_code.co_filename
            if path.startswith(str(PACKAGE)):
                self.calls.append(path[len(str(PACKAGE)) + 1 :].removesuffix(".py"))
            elif path.endswith("/models.py"):
                self.calls.append("models.py of the model")


def _in_order(visits: list[str], expected: list[str]) -> bool:
    """Whether the expected files come in this order, whatever stands between them."""
    rest = iter(visits)
    return all(any(visit == one for visit in rest) for one in expected)


@pytest.fixture
def trace():
    made = Trace()
    threading.setprofile(made)
    sys.setprofile(made)
    yield made
    sys.setprofile(None)
    threading.setprofile(None)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_unary_request_goes_straight_through_the_rooms(tmp_path, trace, anyio_backend):
    write_model(tmp_path, "double", "models.Double")
    (tmp_path / "double" / "models.py").write_text(MODELS)
    settings = Settings(parallel_workers=0, host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None)
    async with anyio.create_task_group() as tasks:
        server = await tasks.start(Server(settings, ModelRepository(tmp_path)).run)
        host, port = server.addresses["http"]
        async with httpx.AsyncClient() as client:
            url = f"http://{host}:{port}/v2/models/double/infer"
            for _ in range(5):
                await client.post(url, json=BODY)
            answer, calls = None, None
            for _ in range(50):  # the fewest: the server's timers may come between, on a busy machine again and again
                trace.calls = []
                trace.on = True
                answer = await client.post(url, json=BODY)
                trace.on = False
                calls = trace.calls if calls is None or len(trace.calls) < len(calls) else calls
                if len(calls) <= CALLS and len(set(calls)) <= FILES:
                    break
        server.stop()
    assert answer.json()["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]

    print(f"{len(calls)} calls in {len(set(calls))} files: {list(dict.fromkeys(calls))}")
    assert _in_order(calls, WAY_IN)
    assert _in_order(calls[calls.index("models.py of the model") :], WAY_OUT)
    assert len(calls) <= CALLS
    assert len(set(calls)) <= FILES
