"""Calls that wait for others to run with: never past their deadlines, and not once no others will come."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from mlserve import frames
from mlserve.batching import Line, Rule
from mlserve.calls import Call
from mlserve.types import InferenceRequest
from tests.engine import request
from tests.scripted import loads, scripted_pool

pytestmark = pytest.mark.anyio
PATIENT = Rule(8, 30.0, eager=False)
BESIDE = Rule(8, 30.0)
AUTO = Rule(1 << 30, target_seconds=100.0)


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def _call(at: float = 0.0, *, within: float | None = None, width: int = 2) -> Call:
    inputs = [{"name": "x", "shape": [1, width], "datatype": "FP32", "data": [0.0] * width}]
    call = Call(1, InferenceRequest(inputs=inputs), "json", anyio.Event)
    call.arrived_at = at
    call.deadline = None if within is None else at + within
    return call


def _line(rule: Rule, *calls: Call) -> Line:
    line = Line(rule)
    for call in calls:
        line.add(call)
    return line


# -- a line, on a clock of the test's own --------------------------------------------------------------------------------


async def test_a_call_waits_for_half_of_its_time_at_most():
    line = _line(PATIENT, first := _call(10.0), urgent := _call(11.0, within=4.0))
    assert line.take(12.9) == [] and line.look_again_at == 13.0
    line.add(third := _call(12.9))
    assert line.take(13.0) == [first, urgent, third]


async def test_a_deadline_holds_among_many_that_are_over_and_of_those_nothing_is_kept():
    line = Line(PATIENT)
    for at in range(200):
        line.add(gone := _call(float(at), within=1000.0))
        assert line.remove(gone)
        assert not line._urgency._numbers and not line._urgency._heap, f"call {at} is kept"
        line.add(stays := _call(float(at), within=10.0))
        assert line.take(at + 4.9) == [] and line.look_again_at == at + 5.0
        assert line.take(at + 5.0) == [stays]
    many = [_call(200.0, within=10.0 + n / 10) for n in range(200)]
    for call in many:
        line.add(call)
    for call in many[:-1]:
        line.remove(call)
    assert len(line._urgency._heap) < 100
    assert line.take(200.0) == [] and line.look_again_at == pytest.approx(200.0 + (10.0 + 19.9) / 2)
    line.take_all()
    assert line._urgency._calls == {}


async def test_only_the_calls_that_can_run_with_an_urgent_one_go_with_it():
    line = _line(PATIENT, wide := _call(0.0, width=3), first := _call(1.0), urgent := _call(2.0, within=2.0))
    assert line.take(3.0) == [first, urgent]
    assert line.take(3.0) == [] and line.look_again_at == 30.0
    assert line.take(30.0) == [wide]


async def test_a_call_that_left_or_whose_time_is_over_hurries_nobody():
    line = _line(PATIENT, first := _call(0.0), left := _call(0.0, within=4.0), late := _call(0.0, within=6.0))
    line.remove(left)
    assert line.take(1.0) == [] and line.look_again_at == 3.0
    assert line.take(6.0) == [] and line.look_again_at == 30.0
    assert line.take(30.0) == [first, late]


async def test_where_it_is_known_what_a_batch_takes_a_call_waits_no_longer_than_leaves_it_that():
    line = Line(AUTO)
    for n in range(20):
        line.auto.served(float(n), 1, 3.0, 0.0)
    line.add(_call(100.0, within=4.0))
    assert line._urgency.first(100.0)[0] == pytest.approx(101.0, abs=0.1)
    line.add(_call(100.0, within=2.0))
    assert line._urgency.first(100.0)[0] == 100.0, "too late already: at once"


async def test_calls_with_deadlines_that_never_waited_for_company_are_forgotten():
    line = Line(BESIDE)
    for n in range(1000):
        line.add(call := _call(float(n), within=5.0))
        assert line.take(float(n)) == [call]
    assert len(line._urgency._heap) < 100


# -- in a pool -----------------------------------------------------------------------------------------------------------


async def _sent_at(rule: Rule, timeout: float | None, *, no_more_after: float | None = None) -> list[float]:
    """When calls reach a worker: the first awaits something for ever, and the second comes one second later."""
    sent: list[float] = []

    def script(frame: Any) -> Any:
        if isinstance(frame, frames.Infer):
            sent.append(anyio.current_time())
            return frames.Waiting(frame.call)
        return loads(frame)

    async with scripted_pool(script) as (pool, _), anyio.create_task_group() as tasks:
        await pool.load(frames.Load(1, b"{}", ""), rule)
        started = anyio.current_time()
        if rule.eager:
            tasks.start_soon(pool.infer, 1, request([0.0]), "json")
        await anyio.sleep(1.0)
        tasks.start_soon(pool.infer, 1, request([1.0]), "json", None, timeout)
        if no_more_after is not None:
            await anyio.sleep(no_more_after)
            pool.expect_no_more()
            tasks.start_soon(pool.infer, 1, request([1.0]), "json")
        await anyio.sleep(60.0)
        tasks.cancel_scope.cancel()
    return [round(at - started, 3) for at in sent[-1 if no_more_after is None else -2 :]]


@pytest.mark.parametrize("rule", [PATIENT, BESIDE, AUTO])
async def test_a_batch_forms_before_the_deadline_of_its_calls(rule):
    assert await _sent_at(rule, 5.0) == [3.5]


@pytest.mark.parametrize("rule", [PATIENT, BESIDE, AUTO])
async def test_once_no_others_will_come_calls_do_not_wait_for_them(rule):
    assert await _sent_at(rule, None, no_more_after=2.0) == [3.0, 3.0]
