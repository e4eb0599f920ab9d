"""The rule that forms batches: pure, on a clock of the test's own."""

from __future__ import annotations

import pytest

from mlserve.batching import Line, Rule, batch_key, rule_of
from mlserve.calls import Batch, Call
from mlserve.errors import SettingsError
from mlserve.eventloop import FutureWaiter
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest
from tests.engine import request

pytestmark = pytest.mark.anyio


class _Worker:
    """Something to know a worker by."""


_WORKER = _Worker()


@pytest.fixture
def anyio_backend():
    return "asyncio"  # calls need a running loop for their waiters; nothing here waits


def _call(rows: int = 1, width: int = 2, at: float = 0.0, **more) -> Call:
    inputs = [{"name": "x", "shape": [rows, width], "datatype": "FP32", "data": [0.0] * rows * width}]
    call = Call(1, InferenceRequest(**{"inputs": inputs, **more}), "json", FutureWaiter)
    call.arrived_at = at
    return call


def _line(*calls: Call, **rule) -> Line:
    line = Line(Rule(**rule))
    for call in calls:
        line.add(call)
    return line


async def test_without_batching_calls_go_one_by_one_in_order():
    calls = [_call(at=n) for n in range(3)]
    line = _line(*calls)
    assert [line.take(0.0) for _ in calls] == [[call] for call in calls]
    assert line.take(0.0) == []


async def test_an_eager_line_gives_what_waits_up_to_the_size():
    calls = [_call(at=n) for n in range(5)]
    line = _line(*calls, calls=3, wait_seconds=9.0)
    assert line.take(0.0) == calls[:3]
    assert line.take(0.0) == calls[3:]


async def test_a_patient_line_waits_for_company_until_its_time_is_over():
    line = _line(first := _call(at=10.0), calls=3, wait_seconds=0.5, eager=False)
    assert line.take(10.2) == []
    assert line.look_again_at == 10.5
    line.add(second := _call(at=10.3))
    assert line.take(10.5) == [first, second]


async def test_a_patient_line_goes_at_once_when_the_batch_is_full():
    calls = [_call() for _ in range(3)]
    assert _line(*calls, calls=3, wait_seconds=9.0, eager=False).take(0.0) == calls


async def test_beside_calls_that_await_something_an_eager_line_waits_until_it_is_full_or_its_time_is_over():
    line = _line(first := _call(at=10.0), calls=3, wait_seconds=0.5)
    assert line.take(10.2, _WORKER) == []
    assert line.look_again_at == 10.5
    line.add(second := _call(at=10.3))
    line.add(third := _call(at=10.3))
    assert line.take(10.3, _WORKER) == [first, second, third]
    line.add(fourth := _call(at=10.4))
    assert line.take(10.4, _WORKER) == []
    assert line.take(10.4) == [fourth]
    line.add(fifth := _call(at=10.5))
    assert line.take(11.0, _WORKER) == [fifth]


async def test_without_batching_it_does_not_matter_what_others_await():
    line = _line(call := _call())
    assert line.take(0.0, _WORKER) == [call]


def _sent(line: Line, now: float, rows: int = 1) -> Batch:
    """A batch goes to the worker, where it awaits something."""
    call = _call(rows, at=now)
    call.rows, call.waiting = rows, True
    call.batch = Batch([call], now)
    line.sent([call], _WORKER)
    return call.batch


def _answered(line: Line, batch: Batch, now: float) -> None:
    batch.busy_seconds = now - batch.sent_at
    line.ended(batch, now, 1)


async def test_an_auto_line_waits_for_the_end_of_a_batch_that_awaits_something_as_long_as_that_should_take():
    line = _line(calls=100, target_seconds=0.1)
    batch = _sent(line, 1.0)
    line.add(first := _call(at=1.0))
    assert line.take(1.0, _WORKER) == []
    assert line.look_again_at == 1.025, "a quarter of the target: nothing is known of batches"
    _answered(line, batch, 1.01)
    _sent(line, 2.0)
    assert line.take(2.009, _WORKER) == []
    assert line.look_again_at == pytest.approx(2.01)
    assert line.take(2.01, _WORKER) == [first], "what is ahead may not be what others wait for"


async def test_batches_beside_others_are_no_larger_than_those_that_run_alone_and_teach_nothing_of_the_cost():
    line = _line(*(_call(at=1.0) for _ in range(50)), calls=100, target_seconds=0.1)
    for n in range(5):
        _answered(line, _sent(line, 1.0 + n), 1.01 + n)
    ahead, beside = _sent(line, 9.0), _sent(line, 9.0)
    _answered(line, ahead, 9.01)
    _answered(line, beside, 9.08)
    assert line.auto.cost.seconds(1) == pytest.approx(0.01)
    _sent(line, 10.0)
    assert len(line.take(11.0, _WORKER)) == 2, "twice what was tried"


async def test_an_auto_line_gives_what_cannot_be_merged_beside_others():
    line = _line(calls=100, target_seconds=0.1)
    line.add(scalar := Call(1, InferenceRequest(inputs=[]), "json", FutureWaiter))
    assert line.take(0.0, _WORKER) == [scalar], "with nothing to merge there is nothing to wait for"


async def test_only_compatible_calls_come_together():
    narrow, wide = [_call(width=2, at=0), _call(width=2, at=2)], [_call(width=3, at=1)]
    line = _line(narrow[0], wide[0], narrow[1], calls=8, wait_seconds=1.0)
    assert line.take(0.0) == narrow
    assert line.take(0.0) == wide


async def test_the_row_limit_cuts_a_batch_and_a_larger_call_goes_alone():
    calls = [_call(rows=3), _call(rows=3), _call(rows=3), _call(rows=50)]
    line = _line(*calls, calls=8, wait_seconds=9.0, rows=6, eager=False)
    assert line.take(0.0) == calls[:2]
    assert line.take(0.0) == calls[2:3], "cut off by the next call, which would not fit"
    assert line.take(9.0) == calls[3:]


async def test_a_batch_that_fits_the_row_limit_exactly_is_full():
    calls = [_call(rows=2), _call(rows=4)]
    assert _line(*calls, calls=8, wait_seconds=9.0, rows=6, eager=False).take(0.0) == calls


async def test_what_is_left_of_a_full_group_waits_again():
    calls = [_call(at=n) for n in range(5)]
    line = _line(*calls, calls=2, wait_seconds=9.0, eager=False)
    assert [line.take(4.0), line.take(4.0), line.take(4.0)] == [calls[:2], calls[2:4], []]
    assert line.look_again_at == 13.0
    assert line.take(13.0) == calls[4:]


async def test_a_full_group_does_not_wait_for_an_older_one_that_is_not():
    old, full = _call(width=3, at=0.0), [_call(at=1.0), _call(at=1.0)]
    line = _line(old, *full, calls=2, wait_seconds=5.0, eager=False)
    assert line.take(1.0) == full
    assert line.take(1.0) == [] and line.look_again_at == 5.0


async def test_a_call_that_runs_alone_does_not_wait_for_company():
    lone, other = _call(width=3, at=0.0), _call(at=1.0)
    lone.alone = True
    line = _line(other, lone, calls=4, wait_seconds=5.0, eager=False)
    assert line.take(1.0) == [lone]
    assert line.take(1.0) == []


async def test_calls_of_many_kinds_leave_in_the_order_in_which_they_came():
    calls = [_call(width=1 + n, at=n) for n in range(300)]
    line = _line(*calls, calls=8, wait_seconds=1.0)
    for call in calls[::3]:
        assert line.remove(call)
    left = [call for place, call in enumerate(calls) if place % 3]
    assert line.oldest_at == left[0].arrived_at
    assert [line.take(0.0) for _ in left] == [[call] for call in left]
    assert len(line) == 0 and line.take(0.0) == []


async def test_an_emptied_line_starts_anew():
    calls = [_call(), _call(width=3)]
    line = _line(*calls, calls=2, wait_seconds=9.0, eager=False)
    assert line.take_all() == calls
    assert len(line) == 0 and line.take(99.0) == []
    line.add(again := _call(at=100.0))
    assert line.take(100.0) == [] and line.take(109.0) == [again]


async def test_a_call_that_left_is_not_taken():
    calls = [_call() for _ in range(3)]
    line = _line(*calls, calls=3, wait_seconds=1.0)
    assert line.remove(calls[1])
    assert not line.remove(calls[1])
    assert line.take(0.0) == [calls[0], calls[2]]
    assert len(line) == 0


async def test_a_call_put_back_is_first_again():
    old, new = _call(at=1.0), _call(at=2.0)
    line = _line(new)
    line.add(old, in_front=True)
    assert line.take(0.0) == [old]


@pytest.mark.parametrize(
    "different",
    [
        {"outputs": [{"name": "y"}]},
        {"outputs": [{"name": "x", "parameters": {"classification": 1}}]},
        {"outputs": [{"name": "x", "parameters": {"classification": [1]}}]},
        {"outputs": [{"name": "x", "parameters": {"binary_data": True}}]},
        {"parameters": {"content_type": "pd"}},
        {"parameters": {"binary_data_output": True}},
        {"inputs": [{"name": "z", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}]},
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [0, 0]}]},
        {
            "inputs": [
                {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0, 0], "parameters": {"content_type": "np"}}
            ]
        },
    ],
)
def test_what_the_model_would_see_differently_separates_groups(different):
    inputs = [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}]
    plain = InferenceRequest(inputs=inputs, outputs=[{"name": "x", "parameters": {"classification": 3}}])
    other = InferenceRequest(**{"inputs": inputs, "outputs": plain.outputs, **different})
    assert batch_key(plain) != batch_key(other)


@pytest.mark.parametrize("parameters", [[None, {}], [{"a": 1, "b": [2]}, {"b": [2], "a": 1}]])
def test_requested_outputs_with_the_same_parameters_come_together(parameters):
    one, other = (
        InferenceRequest(inputs=request([1.0]).inputs, outputs=[{"name": "x", "parameters": given}])
        for given in parameters
    )
    assert batch_key(one) == batch_key(other) and hash(batch_key(one)) == hash(batch_key(other))


def test_other_parameters_and_ids_do_not_separate():
    assert batch_key(request([1.0, 2.0], id="a", parameters={"k": 1})) == batch_key(request([3.0, 4.0], id="b"))


@pytest.mark.parametrize("inputs", [[], [("x", [])], [("x", [0, 2])], [("x", [2, 0])], [("x", [2, 1]), ("y", [3, 1])]])
def test_requests_without_common_rows_run_alone(inputs):
    made = [{"name": name, "shape": shape, "datatype": "FP32", "data": []} for name, shape in inputs]
    assert batch_key(InferenceRequest(inputs=made)) is None


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({}, 1),
        ({"max_batch_size": 8}, 1),
        ({"max_batch_size": 1, "max_batch_time": 1.0}, 1),
        ({"max_batch_size": 8, "max_batch_time": 0.5}, 8),
    ],
)
def test_batching_needs_a_size_and_a_time(settings, calls):
    assert rule_of(ModelSettings(name="m", implementation="x.Y", **settings)).calls == calls


AUTO = {"max_batch_time": "auto", "target_latency_seconds": 0.1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Rule(1 << 30, target_seconds=0.1, model="m")),
        ({"max_batch_size": 8, "max_batch_rows": 99}, Rule(8, rows=99, target_seconds=0.1, model="m")),
        ({"batch_eager": False}, Rule(1 << 30, eager=False, target_seconds=0.1, model="m")),
        ({"max_batch_size": 1}, Rule()),
    ],
)
def test_auto_takes_size_and_rows_as_upper_bounds(settings, expected):
    assert rule_of(ModelSettings(name="m", implementation="x.Y", **AUTO, **settings)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_time": "auto"}, '"auto" needs target_latency_seconds'),
        ({"target_latency_seconds": 0.1}, 'set it to "auto", or leave target_latency_seconds out'),
        ({"target_latency_seconds": 0.1, "max_batch_time": 0.5}, "but max_batch_time is 0.5"),
        ({"target_latency_seconds": 0, "max_batch_time": "auto"}, "expected a number > 0, got 0"),
    ],
)
def test_auto_and_its_target_come_together(settings, message):
    with pytest.raises(SettingsError, match=message):
        ModelSettings(name="m", implementation="x.Y", **settings)


async def test_an_auto_line_tells_what_happens_and_does_as_it_is_told():
    line = Line(Rule(1 << 30, target_seconds=0.1, model="m"))
    size = 1
    for n in range(12):
        calls = [_call(at=float(n)) for _ in range(64)]
        for call in calls:
            line.add(call)
        taken = line.take(float(n))
        assert len(taken) <= 2 * size, "never more than twice what has been tried"
        size = max(size, len(taken))
        line.take_all()
        batch = Batch(taken, sent_at=float(n))
        for _ in taken:
            batch.leaves(0.01, answered=True)
        line.ended(batch, n + 0.011, workers=1)
    assert size == 64, "ten milliseconds however many come: all of them go together"
    assert line.auto.is_held and line.auto.calls > 64


async def test_a_target_that_is_not_held_is_told_once(caplog):
    line = Line(Rule(1 << 30, target_seconds=0.1, model="the one"))
    for n in range(1000):
        batch = Batch([_call(at=float(n))], sent_at=float(n))
        batch.calls[0].rows = batch.rows = 1
        batch.leaves(0.2, answered=True)
        line.ended(batch, n + 0.2, workers=1)
    (record,) = caplog.records
    assert "model 'the one': the target of 0.1 s is not held" in record.message
    assert "one row takes up to 0.2 s" in record.message
    assert not line.auto.is_held


async def test_a_batch_in_which_something_went_wrong_says_nothing_about_the_cost():
    line = Line(Rule(1 << 30, target_seconds=0.1, model="m"))
    call = _call()
    call.rows = 1
    batch = Batch([call], sent_at=0.0)
    batch.leaves(5.0, answered=False)
    line.ended(batch, 5.0, workers=1)
    assert line.auto.cost.tried_rows == 0
    assert (line.auto.calls, line.auto.late_calls) == (1, 1)


async def test_an_auto_line_gives_a_call_without_rows_alone_and_at_once():
    line = Line(Rule(1 << 30, target_seconds=0.1, model="m"))
    line.auto.served(0.0, 4, 0.01, 0.0)
    for shapes in ([[0, 3]], [[]], [[2, 1], [3, 1]]):
        inputs = [{"name": f"x{n}", "shape": shape, "datatype": "FP32", "data": []} for n, shape in enumerate(shapes)]
        line.add(Call(1, InferenceRequest(inputs=inputs), "json", FutureWaiter))
        assert len(line.take(1.0)) == 1 and not line.take(1.0)
