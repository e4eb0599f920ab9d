"""Helpers for tests of the engine: small models in files of their own, pools that run them, requests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import msgspec

from mlserve import frames
from mlserve.arena import Arena
from mlserve.bounds import Bounds
from mlserve.launch import ProcessLauncher, ThreadLauncher
from mlserve.model_values import ModelValues
from mlserve.pool import Pool
from mlserve.recycling import NO_WEAR, Wear
from mlserve.settings import ModelSettings, Settings
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, RequestInput

MODELS = '''
import asyncio, os, time
from pathlib import Path
from mlserve import MLModel
from mlserve.errors import MLServeError
from mlserve.types import InferenceResponse, ResponseOutput


def answer(model, request, factor=1):
    return InferenceResponse(
        model_name=model.name,
        outputs=[
            ResponseOutput(
                name=one.name,
                shape=one.shape,
                datatype=one.datatype,
                data=one.data.to_numpy(one.datatype, one.shape) * factor,
            )
            for one in request.inputs
        ],
    )


class Double(MLModel):
    def predict(self, request):
        return answer(self, request, 2)

    async def predict_stream(self, requests):
        async for request in requests:
            for factor in range(int(request.parameters.chunks)):
                yield answer(self, request, factor)


class AsyncDouble(MLModel):
    async def predict(self, request):
        return answer(self, request, 2)


class Sleeper(MLModel):
    """Awaits as many seconds as the first value says; leaves notes of what becomes of it."""

    async def predict(self, request):
        notes = Path(__file__).with_name("notes.txt")
        try:
            await asyncio.sleep(float(request.inputs[0].data[0]))
        except asyncio.CancelledError:
            notes.write_text("cancelled")
            raise
        return answer(self, request)


class Occupied(MLModel):
    """Computes in a thread, and takes nothing else on meanwhile."""

    busy_while_awaiting = True

    async def predict(self, request):
        Path(__file__).with_name(f"begun-{request.id}").touch()
        gate = Path(__file__).with_name("gate")
        while gate.exists():
            await asyncio.sleep(0.002)
        return answer(self, request)


class Blocker(MLModel):
    """Blocks its worker while a file is there."""

    def predict(self, request):
        Path(__file__).with_name(f"begun-{request.id}").touch()
        gate = Path(__file__).with_name("gate")
        end = time.monotonic() + 80  # longer than a test waits
        while gate.exists() and time.monotonic() < end:
            time.sleep(0.002)
        return answer(self, request)


class Keeper(MLModel):
    """Keeps every input that it gets."""

    async def load(self):
        self.kept = []

    def predict(self, request):
        array = request.inputs[0].data.to_numpy("FP32", request.inputs[0].shape)
        self.kept.append((array, float(array[0])))
        assert all(one[0] == first for one, first in self.kept), "an input changed under its owner"
        return answer(self, request)


class Failing(MLModel):
    def predict(self, request):
        raise ValueError("golden value")


class Odd(MLModel):
    """Returns what no answer should be, as the request's id says."""

    def predict(self, request):
        response = answer(self, request)
        kind = request.id
        if kind == "id":
            response.id = 5
        elif kind == "name":
            response.outputs[0].name = None
        elif kind == "shape":
            response.outputs[0].shape = [1.5]
        elif kind == "datatype":
            response.outputs[0].datatype = "FOO"
        elif kind == "key":
            response.parameters = {1: 2}
        elif kind == "error":
            raise MLServeError(5, 400)
        elif kind == "surrogate":
            raise ValueError(chr(0xD800))
        elif kind == "interrupt":
            raise KeyboardInterrupt
        elif kind == "cancelled":
            raise asyncio.CancelledError
        elif kind.startswith("deep"):
            nested = []
            for _ in range(int(kind[5:])):
                nested = [nested]
            response.parameters = {"nested": nested}
        return response


class Orphan(MLModel):
    """Awaits a task that somebody cancelled: an ordinary mistake."""

    async def predict(self, request):
        task = asyncio.get_running_loop().create_task(asyncio.sleep(5))
        await asyncio.sleep(0.001)
        task.cancel()
        await task


class Exiting(MLModel):
    def predict(self, request):
        raise SystemExit(3)


class Dying(MLModel):
    def predict(self, request):
        os._exit(7)


class Refusing(MLModel):
    async def load(self):
        return False


class Broken(MLModel):
    async def load(self):
        raise RuntimeError("no such artifact")
'''


class Observed:
    """Takes what models report."""

    def __init__(self) -> None:
        self.registered: list[tuple[str, str]] = []
        self.values: list[tuple[str, str, dict[str, float]]] = []
        self.restarts: list[tuple[str, str]] = []
        self.model_values = ModelValues()

    def register_custom(self, name: str, description: str) -> None:
        self.registered.append((name, description))

    def observe_custom(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        self.values.append((model_name, model_version, values))

    def worker_restarted(self, pool: str, reason: str) -> None:
        self.restarts.append((pool, reason))


def write_models(folder: Path, text: str = MODELS) -> Path:
    (folder / "models.py").write_text(dedent(text))
    return folder


def request(values: list[float], **more: Any) -> InferenceRequest:
    """A request with one FP32 tensor, as REST would make it."""
    data = TensorData.from_json(msgspec.json.encode(values))
    return InferenceRequest(inputs=[RequestInput(name="x", shape=[len(values)], datatype="FP32", data=data)], **more)


def values(response: Any) -> list[float]:
    one = response.outputs[0]
    found: list[float] = one.data.to_numpy(one.datatype, one.shape).tolist()
    return found


async def load(pool: Pool, number: int, class_name: str, folder: Path, bounds: Bounds | None = None) -> frames.Loaded:
    settings = ModelSettings(name=class_name.lower(), implementation=f"models.{class_name}")
    return await pool.load(frames.Load(number, settings.model_dump_json().encode(), str(folder)), None, bounds)


@asynccontextmanager
async def running_pool(
    workers: int = 0, stop_seconds: float = 3.0, wear: Wear = NO_WEAR, devices: tuple[int | str, ...] = ()
):
    """A pool with worker processes, or with one thread for 0; yields it with its arena."""
    arena = Arena(1 << 30)
    settings = Settings().model_dump_json().encode()
    launcher = ProcessLauncher(settings, None, devices, workers) if workers else ThreadLauncher()
    pool = Pool("test", max(1, workers), launcher, arena, Observed(), wear)
    async with anyio.create_task_group() as tasks:
        await tasks.start(pool.run)
        try:
            yield pool, arena
        finally:
            with anyio.CancelScope(shield=True):
                await pool.stop(stop_seconds)
    arena.close()


async def until(condition, seconds: float = 60.0) -> None:
    """Waits until something observable from outside has happened."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)
