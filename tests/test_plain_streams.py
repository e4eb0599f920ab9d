"""Plain generators keep to one thread and one context, whoever iterates, leaves or closes them."""

from __future__ import annotations

import decimal
import sqlite3
import threading
from contextlib import aclosing
from contextvars import ContextVar

import anyio
import numpy as np
import pytest

from mlserve.plain_streams import THREAD_NAME, EitherWay, in_thread, noting_steps
from tests.engine import until

pytestmark = pytest.mark.anyio

MANY = 12
BOUND_SECONDS = 60.0  # generous: no test waits for it
span = ContextVar("span", default="outside")
local = threading.local()


def threads():
    return [one for one in threading.enumerate() if one.name == THREAD_NAME]


@pytest.fixture(autouse=True)
async def no_thread_stays():
    yield
    with anyio.fail_after(BOUND_SECONDS):
        await until(lambda: not threads())


async def only(*values):
    for value in values:
        yield value


async def all_of(generator):
    async with aclosing(in_thread(generator)) as steps:
        return [one async for one in steps]


async def side_by_side(make):
    """What each of many streams gives."""
    found = []

    async def run():
        found.append(await all_of(make()))

    async with anyio.create_task_group() as tasks:
        for _ in range(MANY):
            tasks.start_soon(run)
    assert len(found) == MANY
    return found


def of_sqlite():
    connection = sqlite3.connect(":memory:")
    try:
        for number in range(5):
            yield connection.execute("select ?", [number]).fetchone()[0]
    finally:
        connection.close()


def of_numpy():
    with np.errstate(divide="ignore"):
        for _ in range(5):
            yield np.geterr()["divide"]


def of_decimals():
    with decimal.localcontext() as context:
        context.prec = 3
        for _ in range(5):
            yield str(decimal.Decimal(1) / decimal.Decimal(3))


def of_a_context_variable():
    token = span.set("inside")
    try:
        for _ in range(5):
            yield span.get()
    finally:
        span.reset(token)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (of_sqlite, [0, 1, 2, 3, 4]),
        (of_numpy, ["ignore"] * 5),
        (of_decimals, ["0.333"] * 5),
        (of_a_context_variable, ["inside"] * 5),
    ],
)
async def test_what_belongs_to_a_thread_or_a_context_stays_with_its_stream(make, expected):
    assert await side_by_side(make) == [expected] * MANY
    assert span.get() == "outside"


async def test_all_of_a_stream_runs_in_one_thread_that_no_other_stream_has():
    gate = threading.Barrier(MANY)
    closed = []

    def generator():
        gate.wait(BOUND_SECONDS)  # all of them at once
        try:
            for _ in range(5):
                yield threading.get_ident()
        finally:
            closed.append(threading.get_ident())

    found = await side_by_side(generator)
    assert [len(set(one)) for one in found] == [1] * MANY
    assert sorted({one[0] for one in found}) == sorted(closed)


async def test_a_thread_keeps_nothing_of_the_stream_before():
    def generator():
        yield getattr(local, "left", "nothing")
        local.left = "something"

    assert [await all_of(generator()) for _ in range(3)] == [["nothing"]] * 3


async def test_the_context_is_a_copy_of_the_tasks():
    token = span.set("of the task")

    def generator():
        yield span.get()
        span.set("of the stream")

    assert await all_of(generator()) == ["of the task"]
    assert span.get() == "of the task"
    span.reset(token)


async def test_of_generators_that_are_over_nothing_is_kept():
    noted = noting_steps()
    for count in range(3):
        assert [found async for found in in_thread(iter(range(count)))] == list(range(count))
        assert noted == []
    async with aclosing(in_thread(iter(range(3)))) as steps:
        await anext(steps)
        assert len(noted) == 1
    assert noted == []


async def test_a_step_may_run_an_event_loop_of_its_own():
    async def answer():
        await anyio.sleep(0)
        return 42

    def generator():
        yield anyio.run(answer)

    assert await all_of(generator()) == [42]


async def test_a_stream_that_is_left_between_two_steps_is_closed_in_its_thread():
    seen = []

    def generator():
        try:
            seen.append(threading.get_ident())
            while True:
                yield
        finally:
            seen.append(threading.get_ident())

    steps = in_thread(generator())
    await anext(steps)

    async def close():
        await steps.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)  # from another task
    assert seen[0] == seen[1] != threading.get_ident()
    assert len(seen) == 2


async def test_a_stream_that_is_left_in_a_step_is_closed_in_its_thread_after_it():
    begun, gate, seen = threading.Event(), threading.Event(), []

    def generator():
        try:
            begun.set()
            gate.wait(BOUND_SECONDS)
            seen.append(threading.get_ident())
            yield
            seen.append("a step that nobody asked for")
        finally:
            seen.append(threading.get_ident())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(all_of, generator())
        await until(begun.is_set)
        tasks.cancel_scope.cancel()
        gate.set()
    assert seen[0] == seen[1]
    assert len(seen) == 2


@pytest.mark.parametrize("kind", [ValueError, GeneratorExit, KeyboardInterrupt, SystemExit, RecursionError])
async def test_whatever_a_step_raises_reaches_who_iterates(kind):
    closed = []

    def generator():
        try:
            yield 1
            raise kind("of a step")
        finally:
            closed.append(True)

    steps = in_thread(generator())
    assert await anext(steps) == 1
    with pytest.raises(kind, match="of a step"):
        await anext(steps)
    await steps.aclose()
    assert closed == [True]
    with anyio.move_on_after(0.0) as scope:  # the scopes of this task are as they were
        await anyio.sleep(1)
    assert scope.cancelled_caught


@pytest.mark.parametrize("kind", [ValueError, GeneratorExit])
async def test_what_a_step_raises_that_nobody_awaits_reaches_who_left(kind):
    begun, gate = threading.Event(), threading.Event()

    def generator():
        begun.set()
        gate.wait(BOUND_SECONDS)
        raise kind("too late")
        yield

    outcomes = []

    async def run():
        try:
            await all_of(generator())
        except BaseException as error:
            outcomes.append((type(error), str(error)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(begun.is_set)
        tasks.cancel_scope.cancel()
        gate.set()
    assert outcomes == [(kind, "too late")]


async def test_what_the_close_raises_reaches_who_closes():
    def generator():
        try:
            yield 1
        finally:
            raise ValueError("of the close")

    steps = in_thread(generator())
    await anext(steps)
    with pytest.raises(ValueError, match="of the close"):
        await steps.aclose()


async def test_requests_are_awaited_by_the_task_that_iterates():
    tasks = []

    async def requests():
        for number in range(3):
            tasks.append(anyio.get_current_task().id)
            await anyio.sleep(0)
            yield number

    values = EitherWay(requests())
    assert await all_of(number * 2 for number in values) == [0, 2, 4]
    assert set(tasks) == {anyio.get_current_task().id}


async def test_a_step_gets_the_error_of_the_request_that_it_asks_for():
    async def requests():
        yield 1
        raise ValueError("no request")

    def generator():
        try:
            yield from EitherWay(requests())
        except ValueError as error:
            yield str(error)

    assert await all_of(generator()) == [1, "no request"]


async def test_the_requests_of_a_stream_that_is_left_are_at_their_end():
    seen = []
    waits = anyio.Event()

    async def requests():
        yield 1
        waits.set()
        await anyio.sleep_forever()

    def generator():
        values = EitherWay(requests())
        try:
            yield next(values)
            seen.append(list(values))
        finally:
            seen.append(list(values))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(all_of, generator())
        await waits.wait()
        tasks.cancel_scope.cancel()
    assert seen == [[], []]


async def test_other_threads_of_anyio_may_read_the_requests():
    assert await anyio.to_thread.run_sync(list, EitherWay(only(1, 2))) == [1, 2]
