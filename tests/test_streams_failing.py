"""Streams that fail in odd ways, each alone: those beside them in the same worker go on."""

from __future__ import annotations

import pytest

from tests.engine import load, request, running_pool, write_models

pytestmark = pytest.mark.anyio

MODELS = """
import asyncio
from mlserve import MLModel
from mlserve.types import InferenceResponse

KINDS = {kind.__name__: kind for kind in (GeneratorExit, KeyboardInterrupt, SystemExit, BaseException)}
KINDS["CancelledError"] = asyncio.CancelledError


class Base(MLModel):
    def chunk(self):
        return InferenceResponse(model_name=self.name, outputs=[])


class Plain(Base):
    def predict_stream(self, requests):
        for request in requests:
            yield self.chunk()
            raise KINDS[request.id]("by the model")


class Asynchronous(Base):
    async def predict_stream(self, requests):
        async for request in requests:
            yield self.chunk()
            raise KINDS[request.id]("by the model")


class Beside(Base):
    async def predict_stream(self, requests):
        async for request in requests:
            for _ in range(100):
                await asyncio.sleep(0)
                yield self.chunk()


class PlainBeside(Base):
    def predict_stream(self, requests):
        for request in requests:
            for _ in range(100):
                yield self.chunk()
"""


async def one(request_id):
    yield request([1.0], id=request_id)


@pytest.mark.parametrize(
    "kind", ["GeneratorExit", "KeyboardInterrupt", "SystemExit", "BaseException", "CancelledError"]
)
@pytest.mark.parametrize("name", ["Plain", "Asynchronous"])
async def test_what_is_no_exception_fails_its_stream_alone(tmp_path, name, kind):
    folder = write_models(tmp_path, MODELS)
    async with running_pool() as (workers, _):
        for number, model in enumerate([name, "Beside", "PlainBeside"], start=1):
            await load(workers, number, model, folder)
        beside = [workers.stream(number, one("beside"), "raw") for number in (2, 3)]
        seen = [len(await anext(chunks)) for chunks in beside]
        failing = workers.stream(1, one(kind), "raw")
        assert len(await anext(failing)) == 1
        with pytest.raises(Exception, match=kind):
            await anext(failing)
        for place, chunks in enumerate(beside):
            async for more in chunks:
                seen[place] += len(more)
        assert seen == [100, 100]
        with pytest.raises(Exception, match=kind):  # the worker is the same, and takes the next
            [_ async for _ in workers.stream(1, one(kind), "raw")]
