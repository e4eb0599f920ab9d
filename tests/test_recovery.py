"""The rules that follow from a worker's death: blame, strikes, refused contents. No process, no clock."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlserve import recovery
from mlserve.calls import Batch, Call
from mlserve.recovery import (
    Blame,
    GivenUp,
    Offences,
    Strikes,
    blame_for,
    digest_of,
    pause_before_start,
    running_calls,
)
from mlserve.types import InferenceRequest, Parameters, RequestInput
from tests.engine import request


class _NoWaiter:
    def set(self) -> None: ...

    def wait(self) -> None: ...


def _call(model: int = 1, value: float = 1.0) -> Call:
    return Call(model, request([value]), "json", _NoWaiter)


def _numbered(*calls: Call) -> dict[int, Call]:
    for number, call in enumerate(calls, 1):
        call.number = number
    return {call.number: call for call in calls}


def _batch(*calls: Call) -> Batch:
    batch = Batch(list(calls), 0.0)
    for call in calls:
        call.batch = batch
    return batch


def test_the_call_that_a_worker_runs_is_the_one_that_it_names():
    first, second = _call(), _call()
    calls = _numbered(first, second)
    assert [running_calls(calls, number) for number in (0, 1, 2, 3)] == [[], [first], [second], []]


def test_a_batch_runs_as_one_until_it_is_taken_apart():
    members = [_call(1, n) for n in range(3)]
    calls, batch = _numbered(*members), _batch(*members)
    assert running_calls(calls, 3) == members
    del calls[1]  # it was cancelled before
    assert running_calls(calls, 3) == members[1:]
    batch.is_whole = False
    assert running_calls(calls, 3) == members[2:]


def test_the_model_that_was_being_loaded_is_to_blame_unless_a_call_ran():
    waits, runs = _call(1), _call(2)
    assert blame_for([7], [], [waits]) == Blame(7, loading=True)
    assert blame_for([7, 8], [], []) == Blame(None, loading=True)
    assert blame_for([7], [runs], [waits, runs]) == Blame(2, culprit=runs)


def test_the_call_that_ran_is_to_blame_not_those_that_await_something():
    runs = _call(2)
    found = blame_for([], [runs], [_call(1), runs, _call(3)])
    assert (found.model, found.culprit) == (2, runs)


def test_of_a_batch_all_members_are_suspects_and_none_is_the_culprit():
    members = [_call(1, n) for n in range(3)]
    _batch(*members)
    for running, begun in ((members, [*members, _call(2)]), ([], members)):
        found = blame_for([], running, begun)
        assert (found.model, found.culprit, list(found.suspects)) == (1, None, members)


def test_where_it_could_be_several_models_nobody_is_to_blame():
    assert blame_for([], [], [_call(1), _call(2)]) == Blame()
    assert blame_for([], [], []) == Blame()


def test_calls_of_one_model_that_all_await_something_blame_it_and_no_request():
    found = blame_for([], [], [_call(1), _call(1, 2.0)])
    assert (found.model, found.culprit, list(found.suspects)) == (1, None, [])
    alone = _call(1)
    assert blame_for([], [], [alone]) == Blame(1, culprit=alone)


def test_a_worker_is_stuck_when_it_was_silent_for_as_long_as_a_call_may_go_on_that_was_given_up():
    given_up, told = GivenUp(), []
    given_up.on_add = told.append
    assert given_up.stuck_at(50.0) == math.inf
    given_up.add(1, 100.0, 60.0)
    given_up.add(2, 110.0, 10.0)
    given_up.add(3, 110.0, 0.0)  # it may go on for ever
    assert told == [160.0, 120.0]
    assert given_up.stuck_at(50.0) == 120.0
    assert given_up.stuck_at(115.0) == 125.0, "it has said something since"
    given_up.discard(2)
    given_up.discard(2)
    assert given_up.stuck_at(115.0) == 175.0


def test_the_pause_before_a_start_grows_and_stays_bounded():
    pauses = [pause_before_start(deaths) for deaths in range(20)]
    assert pauses[0] == 0.0 and pauses == sorted(pauses) and pauses[-1] == 30.0


def test_a_third_death_within_a_minute_sets_a_model_aside_and_later_ones_for_twice_as_long():
    strikes = Strikes()
    assert [strikes.strike(1, now) for now in (0.0, 10.0, 20.0)] == [0.0, 0.0, 10.0]
    assert [strikes.strike(1, now) for now in (40.0, 100.0, 200.0)] == [20.0, 40.0, 80.0]
    assert strikes.strike(1, 1000.0) == 0.0, "a long time without a death counts"


def test_deaths_that_are_far_apart_set_nothing_aside():
    strikes = Strikes()
    assert not any(strikes.strike(1, now) for now in range(0, 590, 31))
    assert not any(strikes.strike(model, 0.0) for model in range(2, 20)), "each model counts for itself"


def test_a_model_is_never_aside_for_longer_than_ten_minutes():
    strikes = Strikes()
    assert max(strikes.strike(1, float(now), at_once=True) for now in range(5000)) == 600.0


def test_a_content_is_known_after_a_death_and_cleared_by_an_answer():
    offences, call = Offences(), _call(1, -1.0)
    digest = digest_of(call.request)
    assert not offences and not offences.knows(1)
    offences.note(Blame(1, culprit=call), 0.0)
    offences.note(Blame(1, culprit=_call(1, -1.0)), 1.0)
    assert offences.knows(1) and offences.deaths_of(1, digest, 2.0) == 2
    assert offences.deaths_of(1, digest_of(request([2.0])), 2.0) is None
    offences.clear(1, digest)
    assert not offences.knows(1)


def test_a_member_of_a_batch_is_a_suspect_without_a_death():
    offences = Offences()
    calls = [_call(1, 1.0), _call(1, 2.0)]
    assert not offences.note(Blame(1, suspects=calls), 0.0)
    assert [offences.deaths_of(1, digest_of(call.request), 1.0) for call in calls] == [0, 0]


def test_contents_are_forgotten_in_time_in_number_and_with_their_model(monkeypatch):
    monkeypatch.setattr(recovery, "REMEMBERED_REQUESTS", 3)
    offences = Offences()
    for value in range(5):
        offences.note(Blame(1, culprit=_call(1, float(value))), 0.0)
    assert len(offences) == 3
    assert offences.deaths_of(1, digest_of(request([4.0])), 601.0) is None
    offences.forget(1)
    assert len(offences) == 0 and not offences.knows(1)


@pytest.mark.parametrize("size", [1, 1000, 2_000_000])
def test_the_fingerprint_tells_contents_apart_and_not_ids(size):
    one, same, other = request([1.0] * size, id="a"), request([1.0] * size, id="b"), request([2.0] * size)
    assert digest_of(one) == digest_of(same) != digest_of(other)


def test_the_fingerprint_sees_every_byte_of_large_data():
    size = 8 << 20
    contents = [bytearray(size) for _ in range(200)]
    for place, one in enumerate(contents):
        one[place * (size // 200)] = 1
    digests = set()
    for one in contents:
        tensor = RequestInput(name="x", shape=[size], datatype="UINT8", data=np.frombuffer(one, np.uint8))
        digests.add(digest_of(InferenceRequest(inputs=[tensor])))
    assert len(digests) == 200


def test_the_fingerprint_sees_parameters_and_no_headers():
    def one(**parameters):
        found = request([1.0], parameters=Parameters(parameters))
        found.inputs[0].parameters = Parameters(parameters)
        return digest_of(found)

    assert one(n=1, headers={"a": "1"}) == one(headers={"a": "2"}, n=1)
    assert len({one(), one(n=1), one(n=10**9), one(m=1)}) == 4


def test_the_fingerprint_sees_shapes_and_requested_outputs():
    plain = request([1.0, 2.0])
    shaped, asked = request([1.0, 2.0]), request([1.0, 2.0], outputs=[{"name": "y"}])
    shaped.inputs[0].shape = [2, 1]
    assert len({digest_of(one) for one in (plain, shaped, asked)}) == 3
