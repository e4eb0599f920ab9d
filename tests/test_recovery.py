"""The rules that follow from a worker's death: blame, strikes, refused contents. No process, no clock."""

from __future__ import annotations

import numpy as np
import pytest

from mlserve import recovery
from mlserve.calls import Batch, Call
from mlserve.recovery import Blame, Offences, Strikes, blame_for, digest_of, pause_before_start
from mlserve.types import InferenceRequest, Parameters, RequestInput
from tests.engine import request


class _NoWaiter:
    def set(self) -> None: ...

    def wait(self) -> None: ...


def _call(model: int = 1, value: float = 1.0, *, waiting: bool = False, company: int = 1) -> Call:
    call = Call(model, request([value]), "json", _NoWaiter)
    call.waiting = waiting
    call.batch = Batch([call] * company, 0.0) if company > 1 else None
    return call


def test_the_model_that_was_being_loaded_is_to_blame_whatever_else_ran():
    assert blame_for([7], [_call(1, waiting=True)]) == Blame(7, loading=True)


def test_the_call_in_the_foreground_is_to_blame_not_those_that_await_something():
    front = _call(2)
    found = blame_for([], [_call(1, waiting=True), front, _call(3, waiting=True)])
    assert (found.model, found.culprit) == (2, front)


def test_of_a_batch_all_members_are_suspects_and_none_is_the_culprit():
    members = [_call(1, n, waiting=n > 0, company=3) for n in range(3)]
    found = blame_for([], [*members, _call(2, waiting=True)])
    assert (found.model, found.culprit, list(found.suspects)) == (1, None, members)


def test_where_it_could_be_several_models_nobody_is_to_blame():
    assert blame_for([], [_call(1, waiting=True), _call(2, waiting=True)]) == Blame()
    assert blame_for([], []) == Blame()


def test_calls_of_one_model_that_all_await_something_blame_it_and_no_request():
    found = blame_for([], [_call(1, waiting=True), _call(1, 2.0, waiting=True)])
    assert (found.model, found.culprit, list(found.suspects)) == (1, None, [])


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
    calls = [_call(1, 1.0, company=2), _call(1, 2.0, company=2)]
    offences.note(Blame(1, suspects=calls), 0.0)
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
