"""Unary calls in a worker, each alone or several of them as one batch."""

from __future__ import annotations

import time
from typing import Any

from mlserve import frames
from mlserve.layout import unpack_request
from mlserve.merging import merge, rows_of, split
from mlserve.types import InferenceRequest
from mlserve.worker_calls import CANCELLED_STATUS, Calls, LoadedModel
from mlserve.worker_stream import Cancelled

__all__ = ["infer", "infer_batch"]


async def infer(calls: Calls, frame: frames.Infer, loaded: LoadedModel) -> None:
    """Runs one call."""
    if not calls.progress.begin(frame.call):
        calls.skip(frame)
        return
    started = time.perf_counter()
    request: InferenceRequest | None = None
    response: Any = None
    try:
        request = unpack_request(frame.request, calls.find)
        response = await calls.predict(loaded, request, [frame.call])
        response.id = request.id  # whatever the model made of it: callers match answers by it
        calls.reply(frame.call, frame.form, request, response, started)
    except BaseException as error:
        if calls.is_ending(error):
            raise
        calls.failed(frame.call, loaded.model, frame.request.id, error, time.perf_counter() - started)
    del request, response


async def infer_batch(calls: Calls, frame: frames.Batch, loaded: LoadedModel, dropped: set[int]) -> list[frames.Infer]:
    """Runs several calls as one. Gives back those that have to run one by one, none of them answered yet: one bad
    request does not fail the others.
    """
    members = [one for one in frame.calls if one.call not in dropped]
    for one in frame.calls:
        if one.call in dropped:
            calls.drop(one.request)
            calls.refuse(one.call, "the call was cancelled", CANCELLED_STATUS, "CANCELLED")
    if len(members) <= 1:
        return members
    if not calls.progress.begin(members[-1].call):
        for one in members:
            calls.skip(one)
        return []
    if await _try_as_one(calls, members, loaded):
        return []
    calls.outbox.put(frames.Apart(members[0].call))
    return members


async def _try_as_one(calls: Calls, members: list[frames.Infer], loaded: LoadedModel) -> bool:
    """Runs calls as one; False, with nothing answered, if they have to run one by one."""
    started = time.perf_counter()
    holds: dict[int, Any] = {}

    def find(number: int) -> Any:
        hold = holds[number] = calls.find(number)
        return hold

    try:
        requests = [unpack_request(one.request, find) for one in members]
        merged = merge(requests)
    except Exception:  # whatever it is: who is to blame shows when each runs alone
        _detach(members, holds)
        return False
    rows = [rows_of(one) for one in requests]
    try:
        response = await calls.predict(loaded, merged, [one.call for one in members])
    except Cancelled as error:
        _fail_all(calls, members, loaded, error, started)
        return True
    except BaseException as error:
        if calls.is_ending(error):
            raise
        _detach(members, holds)
        return False  # each runs alone now, and the one that failed fails again
    try:
        answers = split(response, rows)
    except (Exception, SystemExit) as error:
        _fail_all(calls, members, loaded, error, started)
        return True
    for one, request, answer in zip(members, requests, answers):
        answer.id = request.id
        try:
            calls.reply(one.call, one.form, request, answer, started)
        except Exception as error:
            calls.failed(one.call, loaded.model, request.id, error, 0.0)
    return True


def _fail_all(
    calls: Calls, members: list[frames.Infer], loaded: LoadedModel, error: BaseException, started: float
) -> None:
    ids = ",".join(one.request.id or "" for one in members)
    known = calls.known(loaded.model, ids, error)
    for one in members:
        calls.fail(one.call, known, time.perf_counter() - started)


def _detach(members: list[frames.Infer], holds: dict[int, Any]) -> None:
    """Copies the tensors of calls that run later out of their slots, which go back with the views of the batch."""
    for one in members:
        message = one.request
        if message.slot is None or message.slot.number not in holds:
            continue
        hold = holds[message.slot.number]
        for part in message.parts:
            if part.data is None:
                part.data = bytes(hold.view(part.offset, part.length))
        message.slot = None
