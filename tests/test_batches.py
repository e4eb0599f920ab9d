"""Batches in a pool: who runs together, who gets what, and what happens when one of them is not as it should be."""

from __future__ import annotations

import anyio
import numpy as np
import pytest

from mlserve import frames
from mlserve.batching import Rule
from mlserve.errors import MLServeError
from mlserve.settings import ModelSettings
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, Parameters, RequestInput, RequestOutput
from tests.engine import request, running_pool, until, values, write_models

pytestmark = pytest.mark.anyio

BATCHED = '''
import asyncio
import time
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Batched(MLModel):
    """Doubles, notes how many rows came together, fails on a negative row, loses one on a 99."""

    def predict(self, request):
        one = request.inputs[0]
        rows = one.data.to_numpy(one.datatype, one.shape)
        with open(Path(__file__).with_name("sizes.txt"), "a") as sizes:
            sizes.write(f"{len(rows)}\\n")
        if (rows < 0).any():
            raise ValueError("a row is below zero")
        time.sleep(0.02)
        if (rows == 99).any():
            rows = rows[1:]
        out = ResponseOutput(name="y", shape=list(rows.shape), datatype="FP32", data=rows * 2, parameters=one.parameters)
        return InferenceResponse(model_name=self.name, outputs=[out])


class Asked(MLModel):
    """Gives what the requested output says it wants."""

    def predict(self, request):
        with open(Path(__file__).with_name("sizes.txt"), "a") as sizes:
            sizes.write(f"{request.inputs[0].shape[0]}\\n")
        wanted = float(request.outputs[0].parameters.classification)
        rows = [wanted] * request.inputs[0].shape[0]
        out = ResponseOutput(name="y", shape=[len(rows)], datatype="FP32", data=rows)
        return InferenceResponse(model_name=self.name, outputs=[out])


class OneAtATime(MLModel):
    """Runs one batch after the other, as a model does that has a lock or one thread; begins when a gate is gone."""

    async def load(self):
        self.lock = asyncio.Lock()

    async def predict(self, request):
        one = request.inputs[0]
        async with self.lock:
            with open(Path(__file__).with_name("sizes.txt"), "a") as sizes:
                sizes.write(f"{one.shape[0]}\\n")
            while Path(__file__).with_name("gate").exists():
                await asyncio.sleep(0.002)
        out = ResponseOutput(name="y", shape=one.shape, datatype="FP32", data=one.data)
        return InferenceResponse(model_name=self.name, outputs=[out], parameters=request.parameters)
'''


async def _batched_pool(pool, folder, kind="Batched", **rule):
    write_models(folder, BATCHED)
    settings = ModelSettings(name="batched", implementation=f"models.{kind}")
    frame = frames.Load(1, settings.model_dump_json().encode(), str(folder))
    await pool.load(frame, Rule(**{"calls": 8, "wait_seconds": 1.0, **rule}))


async def _ask_all(pool, requests):
    found = {}

    async def ask(place, one):
        try:
            found[place] = values(await pool.infer(1, one, "json"))
        except MLServeError as error:
            found[place] = str(error)

    async with anyio.create_task_group() as tasks:
        for place, one in enumerate(requests):
            tasks.start_soon(ask, place, one)
    return [found[place] for place in range(len(requests))]


def _sizes(folder):
    return [int(line) for line in (folder / "sizes.txt").read_text().split()]


async def test_calls_that_wait_for_a_worker_run_as_one(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path)
        answers = await _ask_all(pool, [request([float(n)]) for n in range(9)])
        assert answers == [[2.0 * n] for n in range(9)]
        assert _sizes(tmp_path) == [1, 8], "the first finds an idle worker, the others wait and come together"


async def test_each_gets_what_the_parameters_of_its_requested_outputs_say(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, "Asked", calls=2, wait_seconds=1000.0, eager=False)
        asked = [1, 2, 1, 2]
        requests = [
            request([0.0], outputs=[RequestOutput(name="y", parameters=Parameters(classification=one))])
            for one in asked
        ]
        with anyio.fail_after(60):
            assert await _ask_all(pool, requests) == [[float(one)] for one in asked]
        assert _sizes(tmp_path) == [2, 2]


@pytest.mark.parametrize("rule", [{"wait_seconds": 1000.0}, {"wait_seconds": 0.0, "target_seconds": 1000.0}])
async def test_calls_of_a_model_that_awaits_gather_behind_its_batch(tmp_path, rule):
    gate = tmp_path / "gate"
    gate.touch()
    async with running_pool(1) as (pool, _):
        await _batched_pool(pool, tmp_path, "OneAtATime", **rule)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.infer, 1, request([0.0]), "json")
            await until(lambda: pool.crew.links[0].awaiting.get(1))
            for number in range(1, 6):
                tasks.start_soon(pool.infer, 1, request([float(number)]), "json")
            await until(lambda: pool.waiting_for(1) == 5)
            gate.unlink()
        assert _sizes(tmp_path)[0] == 1 and sum(_sizes(tmp_path)) == 6 and len(_sizes(tmp_path)) < 5
        assert not pool.crew.links[0].awaiting[1]


async def test_full_batches_of_a_model_that_awaits_run_side_by_side(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    async with running_pool(1) as (pool, _):
        await _batched_pool(pool, tmp_path, "OneAtATime", calls=2, wait_seconds=1000.0)
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(pool.infer, 1, request([float(number)]), "json")
            await until(lambda: pool.crew.links[0].awaiting.get(1) == 3)
            gate.unlink()


async def test_a_patient_model_waits_until_its_batch_is_full(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=4, wait_seconds=1000.0, eager=False)
        assert await _ask_all(pool, [request([float(n)]) for n in range(8)]) == [[2.0 * n] for n in range(8)]
        assert _sizes(tmp_path) == [4, 4]


async def test_a_patient_model_takes_what_there_is_when_its_time_is_over(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, wait_seconds=0.1, eager=False)
        assert await _ask_all(pool, [request([float(n)]) for n in range(3)]) == [[0.0], [2.0], [4.0]]
        assert _sizes(tmp_path) == [3]


@pytest.mark.parametrize("header", [5, None, [1], {"a": 1}])
async def test_headers_of_any_kind_in_an_input_end_no_worker(tmp_path, header):
    async with running_pool(1) as (pool, _):
        await _batched_pool(pool, tmp_path, eager=False, calls=2)
        pids = pool.pids
        odd = request([2.0])
        odd.inputs[0].parameters = Parameters(headers={"a": header})
        assert await _ask_all(pool, [request([1.0]), odd]) == [[2.0], [4.0]]
        assert pool.pids == pids


async def test_headers_that_a_model_gives_back_go_to_who_sent_them(tmp_path):
    sent = [
        {"host": "h", "authorization": "Bearer 0", "cookie": "s=0"},
        {"host": "h", "authorization": "Bearer 1"},
        {"host": "h"},
    ]
    async with running_pool(1) as (pool, _):
        await _batched_pool(pool, tmp_path, "OneAtATime", eager=False, calls=3)
        found = {}

        async def ask(place, headers):
            one = request([1.0], parameters=Parameters(headers=headers, n=place))
            found[place] = dict((await pool.infer(1, one, "json")).parameters)

        async with anyio.create_task_group() as tasks:
            for place, headers in enumerate(sent):
                tasks.start_soon(ask, place, headers)
        assert _sizes(tmp_path) == [3]
        assert found == {place: {"headers": headers, "n": place} for place, headers in enumerate(sent)}


async def test_one_bad_request_of_a_batch_fails_alone(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=4, wait_seconds=1000.0, eager=False)
        answers = await _ask_all(pool, [request([float(n)]) for n in (1, -1, 2, 3)])
        assert answers == [[2.0], "ValueError: a row is below zero", [4.0], [6.0]]


async def test_a_model_that_loses_a_row_is_told_both_numbers(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=2, wait_seconds=1000.0, eager=False)
        answers = await _ask_all(pool, [request([1.0]), request([99.0])])
        assert all("has 1 rows, but the batch of 2 requests had 2" in one for one in answers)


async def test_a_caller_that_leaves_does_not_disturb_the_batch(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=3, wait_seconds=1000.0, eager=False)
        answers = []

        async def ask(value):
            answers.append(values(await pool.infer(1, request([value]), "json")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, 1.0)
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(ask, 5.0)
                await until(lambda: pool.waiting_for(1) == 2)
                leaving.cancel_scope.cancel()
            tasks.start_soon(ask, 2.0)
            tasks.start_soon(ask, 3.0)
        assert sorted(answers) == [[2.0], [4.0], [6.0]]
        assert _sizes(tmp_path) == [3]


async def test_a_batch_with_more_slots_than_descriptors_fit_in_a_message_is_answered(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=300, wait_seconds=1000.0, eager=False)
        wide = [
            InferenceRequest(inputs=[{"name": "x", "shape": [1, 20_000], "datatype": "FP32", "data": [1.0] * 20_000}])
            for _ in range(300)
        ]
        with anyio.fail_after(60):
            answers = await _ask_all(pool, wide)
        assert all(answer == [[2.0] * 20_000] for answer in answers)


async def test_one_request_that_cannot_be_sent_does_not_spoil_its_batch(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=3, wait_seconds=1000.0, eager=False)
        bad = request([1.0], parameters={"big": 10**30})
        answers = await _ask_all(pool, [request([1.0]), bad, request([3.0])])
        assert answers[0] == [2.0] and answers[2] == [6.0]
        assert "cannot be passed on" in answers[1]


async def test_a_batch_that_ran_apart_teaches_nothing(tmp_path):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=1 << 30, eager=False, target_seconds=0.5, wait_seconds=0.0)
        line = pool.line_of(1)
        ended = []
        line.ended = lambda batch, now, workers: ended.append((len(batch.calls), batch.is_whole))
        line.auto.rows = 4
        line.auto.decide = lambda now, oldest_at, rows: (4, 0.2)
        answers = await _ask_all(pool, [request([float(n)]) for n in (1, -1, 2)])
        assert answers == [[2.0], "ValueError: a row is below zero", [4.0]]
        assert await _ask_all(pool, [request([1.0]), request([2.0])]) == [[2.0], [4.0]]
        assert ended == [(3, False), (2, True)]


async def test_where_counting_a_batch_fails_its_calls_are_answered_and_the_worker_stays(tmp_path, caplog):
    async with running_pool(1) as (pool, _):
        pids = pool.pids
        await _batched_pool(pool, tmp_path, calls=1 << 30, eager=False, target_seconds=0.5, wait_seconds=0.0)
        pool.line_of(1).ended = lambda batch, now, workers: 1 / 0
        (answer,) = await _ask_all(pool, [request([1.0])])
        assert answer == [2.0]
        assert pool.pids == pids
    assert "ZeroDivisionError" in caplog.text


async def test_a_wrong_number_of_rows_is_in_the_log_once(tmp_path, caplog):
    async with running_pool() as (pool, _):
        await _batched_pool(pool, tmp_path, calls=4, wait_seconds=1000.0, eager=False)
        await _ask_all(pool, [request([99.0], id=str(n)) for n in range(4)])
    records = [one for one in caplog.records if one.name == "mlserve.model"]
    assert len(records) == 1
    assert sorted(records[0].getMessage().rsplit(" ", 1)[1].split(",")) == ["0", "1", "2", "3"]


async def test_calls_of_a_failed_batch_keep_their_own_rows_in_shared_memory(tmp_path):
    """Their slots went back with the batch and may hold other calls' rows by the time they run alone."""
    columns = 20_000
    wrong = []

    async def client(pool, number):
        for turn in range(12):
            value = float(1 + number * 100 + turn) * (-1 if number % 8 == 0 else 1)
            array = np.full((1, columns), value, "<f4")
            one = RequestInput(name="x", shape=[1, columns], datatype="FP32", data=TensorData.from_numpy(array))
            try:
                found = values(await pool.infer(1, InferenceRequest(inputs=[one]), "raw"))[0]
            except MLServeError as error:
                if value > 0 or "below zero" not in str(error):
                    wrong.append((value, str(error)))
                continue
            if value < 0 or set(found) != {2 * value}:
                wrong.append((value, set(found)))

    async with running_pool(2) as (pool, _):
        await _batched_pool(pool, tmp_path, wait_seconds=0.01)
        async with anyio.create_task_group() as tasks:
            for number in range(48):
                tasks.start_soon(client, pool, number)
        assert wrong == []
