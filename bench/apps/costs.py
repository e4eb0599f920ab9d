"""A model that takes as long as a formula says for so many rows, as an accelerator would: it sleeps. Doubles its input.

`parameters.extra.cost` names the formula. The time it was busy goes to the custom metric `bench_busy_seconds`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import mlserve
from mlserve import MLModel
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

COSTS = {
    "constant": lambda rows: 0.1,
    "linear": lambda rows: 0.0025 * rows,
    "square root": lambda rows: 0.015 * rows**0.5,
    "knee": lambda rows: 0.015 + 0.001 * rows + 0.0003 * max(0, rows - 32) ** 2,
}


class Costs(MLModel):
    """See above."""

    async def load(self) -> bool:
        self._lock = asyncio.Lock()
        extra: Any = self.settings.parameters.extra if self.settings.parameters else {}
        self._cost = COSTS[extra["cost"]]
        return True

    def predict(self, request: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # not async: it blocks
        started = time.perf_counter()
        one = request.inputs[0]
        rows = one.data.to_numpy(one.datatype, one.shape)
        time.sleep(self._cost(len(rows)))
        return self._answer(one, rows, started)

    def _answer(self, one: RequestInput, rows: Any, started: float) -> InferenceResponse:
        mlserve.log(bench_busy_seconds=time.perf_counter() - started)
        output = ResponseOutput(name="y", shape=one.shape, datatype=one.datatype, data=rows * 2)
        return InferenceResponse(model_name=self.name, outputs=[output])


class Awaiting(Costs):
    """The same, awaited: one batch at a time, as with a model that has one thread or one device."""

    async def predict(self, request: InferenceRequest) -> InferenceResponse:  # type: ignore[override]
        one = request.inputs[0]
        rows = one.data.to_numpy(one.datatype, one.shape)
        async with self._lock:
            started = time.perf_counter()
            await asyncio.sleep(self._cost(len(rows)))
            return self._answer(one, rows, started)
