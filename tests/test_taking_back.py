"""Calls that were sent ahead to a worker whose running call takes long: another worker gets them, and each runs once."""

from __future__ import annotations

from collections import Counter

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mlserve import frames
from mlserve.batching import Rule
from mlserve.settings import ModelSettings
from tests.engine import request, running_pool, until, values, write_models

pytestmark = pytest.mark.anyio

NOTING = '''
import time
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Noting(MLModel):
    """Notes every value that it sees; blocks its worker for those below zero while a file is there."""

    def predict(self, request):
        place = Path(__file__).parent
        one = request.inputs[0]
        data = one.data.to_numpy(one.datatype, one.shape)
        with (place / "runs").open("a") as runs:
            runs.writelines(f"{value:g}\\n" for value in data)
        end = time.monotonic() + 60
        while data.min() < 0 and (place / "gate").exists() and time.monotonic() < end:
            time.sleep(0.002)
        output = ResponseOutput(name="x", shape=one.shape, datatype="FP32", data=data * 2)
        return InferenceResponse(model_name=self.name, outputs=[output])
'''


@pytest.mark.parametrize("rule", [Rule(), Rule(calls=4)])
async def test_short_calls_behind_a_long_one_are_answered_by_the_other_worker_and_run_once(tmp_path, rule):
    folder = write_models(tmp_path, NOTING)
    async with running_pool(2) as (pool, _):
        settings = ModelSettings(name="m", implementation="models.Noting")
        await pool.load(frames.Load(1, settings.model_dump_json().encode(), str(folder)), rule)
        answered = []

        async def ask(value: float) -> None:
            assert values(await pool.infer(1, request([value]), "raw")) == [2 * value]
            answered.append(value)

        async with anyio.create_task_group() as tasks:
            for n in range(1, 201):  # so that workers are known to be fast, and are sent several at once
                tasks.start_soon(ask, float(n))
        (folder / "gate").touch()
        async with anyio.create_task_group() as long:
            long.start_soon(ask, -1.0)
            await until(lambda: "-1\n" in (folder / "runs").read_text(), 60)
            async with anyio.create_task_group() as tasks:
                for n in range(201, 401):
                    tasks.start_soon(ask, float(n))
            assert -1.0 not in answered and pool.running_count == 1, "it is still there, and held nobody up"
            (folder / "gate").unlink()
        assert len(answered) == 401
        runs = Counter(map(float, (folder / "runs").read_text().split()))
        assert set(answered) == runs.keys() and set(runs.values()) == {1}
