"""Auto batching of models that await: whether their batches take turns or run side by side is found out, and used."""

from __future__ import annotations

import random

import pytest

from mlserve.batching import Line, Rule
from mlserve.side_by_side import Flight, Turns
from tests.queueing import COSTS, arrivals, burst, simulate, simulate_awaiting

TARGET = 0.5
AUTO = Rule(1 << 30, target_seconds=TARGET, model="m")
ANY_NUMBER = 1 << 30


def _quadratic(rows):
    """Best at ten rows, with 500 per second; 100 together make 99."""
    return 0.01 + 1e-4 * rows * rows


def _scattered(seed, sigma=0.7):
    chance = random.Random(seed)
    return lambda rows: 0.1 * chance.lognormvariate(0, sigma)


def _per_second(outcome, seconds):
    """Answers per second, after a third of the time."""
    return sum(1 for at in outcome.arrived if at > seconds / 3) / (seconds * 2 / 3)


# -- one thread, one lock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [10, 80, 150])
def test_a_model_that_takes_turns_is_batched_as_well_as_one_that_blocks(clients):
    line = Line(AUTO)
    outcome = simulate_awaiting(line, burst(0.0, clients), _quadratic, again_until=6.0)
    late = sorted(outcome.seconds)[int(0.99 * len(outcome.seconds))]
    assert _per_second(outcome, 6.0) > (350 if clients == 10 else 450)
    assert max(outcome.batches) < 25
    assert late < TARGET
    assert line.auto.turns.share > 0.7


@pytest.mark.parametrize("cost", COSTS)
def test_over_changing_load_it_is_as_good_as_for_a_model_that_blocks(cost):
    rule = Rule(1 << 30, target_seconds=0.1, model="m")
    coming = arrivals(lambda now: (20, 400, 900, 100)[int(now / 1.5) % 4], 6)
    awaits, blocks = simulate_awaiting(rule, coming, COSTS[cost]), simulate(rule, coming, COSTS[cost])
    assert awaits.late(0.1) <= 0.01
    assert awaits.quantile(0.99) <= 1.3 * blocks.quantile(0.99) + 0.005


def test_times_that_scatter_do_not_look_like_batches_side_by_side():
    outcome = simulate_awaiting(Rule(1 << 30, target_seconds=2.0), burst(0.0, 20), _scattered(3), again_until=30.0)
    fixed = simulate_awaiting(Rule(10, 0.05), burst(0.0, 20), _scattered(3), again_until=30.0)
    assert _per_second(outcome, 30.0) > 0.7 * _per_second(fixed, 30.0)


# -- side by side --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [lambda rows: 0.2, _scattered(1), _scattered(2, 1.2)])
@pytest.mark.parametrize("clients", [3, 20])
def test_calls_that_need_not_wait_for_others_do_not(cost, clients):
    rule = Rule(1 << 30, target_seconds=2.0, model="m")
    auto = simulate_awaiting(rule, burst(0.0, clients), cost, ANY_NUMBER, again_until=30.0)
    alone = simulate_awaiting(Rule(), burst(0.0, clients), cost, ANY_NUMBER, again_until=30.0)
    assert _per_second(auto, 30.0) > 0.75 * _per_second(alone, 30.0)


def test_as_many_run_at_once_as_can_and_the_others_gather():
    line = Line(Rule(1 << 30, target_seconds=0.1, model="m"))
    outcome = simulate_awaiting(line, burst(0.0, 80), COSTS["constant"], 4, again_until=3.0)
    assert _per_second(outcome, 3.0) > 3500, "one by one it were 400; ten in each of four, 4000"
    assert 0.05 < line.auto.turns.share < 0.25


def test_a_model_that_begins_to_take_turns_is_noticed():
    line = Line(AUTO)
    simulate_awaiting(line, burst(0.0, 20), lambda rows: 0.02, ANY_NUMBER, again_until=5.0)
    assert line.auto.turns.share < 0.1
    simulate_awaiting(line, burst(6.0, 20), lambda rows: 0.02, 1, again_until=12.0)
    assert line.auto.turns.share > 0.5


# -- the parts -----------------------------------------------------------------------------------------------------------


def test_a_flight_knows_how_long_it_takes_yet():
    flight = Flight()
    assert flight.rest(0.0) == 0.0
    flight.sent("a", 1.0, 2.0)
    flight.sent("b", 2.0, 3.0)
    assert flight.rest(2.0) == 4.0
    assert flight.rest(9.0) == 3.0, "the first is late, and the second has not begun"
    assert flight.ended("a", 9.0) == 0.0
    assert flight.rest(10.0) == 2.0
    flight.drop("b")
    assert not flight and flight.rest(10.0) == 0.0


def test_a_batch_that_others_pass_holds_up_nobody():
    flight, turns = Flight(), Turns()
    flight.sent("long", 0.0, 0.2)
    flight.sent("short", 0.1, 0.2)
    assert flight.ended("short", 0.3) == 0.2
    assert not flight and turns.next_at(0.3, flight, 1.0) == 0.3
    flight.sent("next", 0.4, 0.2)
    flight.ended("long", 0.5)
    assert len(flight) == 1, "it was let go of before"


def test_until_something_is_seen_batches_take_turns_and_each_that_is_stuck_makes_more_patient():
    flight, turns = Flight(), Turns()
    turns.ran_alone(0.0, 0.2, 0.2)
    flight.sent("a", 0.0, 0.2)
    assert turns.share == 1.0 and turns.next_at(0.0, flight, 1.0) == 0.2
    flight.sent("b", 0.2, 0.2)
    assert turns.next_at(0.2, flight, 1.0) == pytest.approx(0.6)
    assert turns.next_at(0.2, flight, 0.1) == pytest.approx(0.4), "no more than that for each"


def test_one_that_passed_all_others_did_not_wait_however_long_it_took():
    turns = Turns()
    for n in range(5):
        turns.ran_alone(float(n), 0.1, 0.1)
    for _ in range(20):
        turns.ran_beside(5.0, 0.1, 0.1, passed_seconds=0.1)
    assert turns.share < 0.5


def test_nothing_is_believed_before_some_have_run_alone():
    """The first may have been a slow one: all after it would look as if they waited for nothing."""
    turns = Turns()
    turns.ran_alone(0.0, 0.5, 0.5)
    for _ in range(20):
        turns.ran_beside(0.2, 0.5, 0.5)
    assert turns.share == 1.0
    for n in range(4):
        turns.ran_alone(1.0 + n, 0.5, 0.5)
    assert turns.share < 0.1


def test_a_batch_behind_one_that_should_be_over_says_nothing():
    turns = Turns()
    for n in range(5):
        turns.ran_alone(float(n), 0.1, 0.1)
    for _ in range(20):
        turns.ran_beside(0.2, 0.1, 0.1)
    for _ in range(100):
        turns.ran_beside(0.05, 0.1, 0.0)
    assert turns.share > 0.9


def test_where_what_batches_take_alone_was_long_not_seen_one_is_let_run_alone():
    flight, turns = Flight(), Turns()
    for n in range(5):
        turns.ran_alone(0.1 * n, 0.1, 0.1)
    for _ in range(20):
        turns.ran_beside(0.1, 0.1, 1.0)
    flight.sent("a", 1.0, 0.1)
    assert turns.next_at(1.0, flight, 9.0) == 1.0
    flight.sent("b", 60.0, 0.1)
    assert turns.next_at(60.0, flight, 9.0) > 60.0
