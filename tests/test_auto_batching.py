"""Size and wait found by measuring: on a simulated timeline, for several costs and loads."""

from __future__ import annotations

import random
from math import exp

import pytest

from mlserve.auto_batching import Auto, Cost
from mlserve.batching import Line, Rule
from tests.queueing import COSTS, arrivals, burst, simulate

TARGET = 0.1
AUTO = Rule(1 << 30, target_seconds=TARGET, model="m")
PATIENT = Rule(1 << 30, target_seconds=TARGET, eager=False, model="m")
LOADS = {
    "low": lambda now: 20,
    "high": lambda now: 700,
    "steps": lambda now: (20, 400, 900, 100)[int(now / 1.5) % 4],
    "ramp": lambda now: 20 + 120 * now,
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("cost", COSTS)
def test_the_target_is_held_as_well_as_by_a_size_that_fits(cost, load, workers):
    coming = arrivals(LOADS[load], 6)
    auto = simulate(AUTO, coming, COSTS[cost], workers)
    fitting = simulate(Rule(64, 0.01), coming, COSTS[cost], workers)
    assert auto.late(TARGET) <= 0.01
    assert auto.quantile(0.99) <= 1.25 * fitting.quantile(0.99) + 0.001


def test_no_fixed_size_holds_the_target_everywhere():
    """Or the search would not be worth its while."""
    many = arrivals(lambda now: 7000, 1), COSTS["constant"]
    knee = arrivals(lambda now: 1200, 3) + burst(1.0, 100), COSTS["knee"]
    for size in (1, 8, 64, 1024):
        assert max(simulate(Rule(size, 0.01), *case).late(TARGET) for case in (many, knee)) > 0.5, size
    assert simulate(AUTO, *many).late(TARGET) <= 0.01
    assert simulate(AUTO, *knee).late(TARGET) < 0.1


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("cost", COSTS)
def test_a_patient_one_uses_the_time_that_the_target_leaves(cost, load):
    coming = arrivals(LOADS[load], 6)
    eager, patient = simulate(AUTO, coming, COSTS[cost]), simulate(PATIENT, coming, COSTS[cost])
    assert patient.late(TARGET) <= (0.06 if cost == "knee" else 0.01), "a first try of a bad size costs its calls"
    assert patient.busy_seconds <= 1.02 * eager.busy_seconds
    if cost == "constant" and load != "low":
        assert patient.busy_seconds < 0.4 * eager.busy_seconds


def test_the_first_call_runs_at_once_and_alone_and_steps_are_no_larger_than_twice_what_is_known():
    outcome = simulate(AUTO, burst(0.0, 100), COSTS["constant"])
    assert outcome.batches == [1, 2, 4, 8, 16, 32, 37]


def test_after_a_rest_a_lone_call_does_not_wait():
    line = Line(PATIENT)
    simulate(line, arrivals(lambda now: 500, 5), COSTS["constant"])
    assert line.auto.wait_seconds > 0.02
    outcome = simulate(line, [(60.0, 1), (70.0, 1)], COSTS["constant"])
    assert max(outcome.seconds) < 0.02


def test_a_burst_is_answered_in_batches_that_keep_the_target_for_the_first_ones():
    line = Line(AUTO)
    simulate(line, arrivals(LOADS["high"], 5), COSTS["affine"])
    outcome = simulate(line, burst(10.0, 150), COSTS["affine"])
    assert sum(1 for one in outcome.seconds if one <= TARGET) >= 100
    assert max(outcome.seconds) < 0.15


def test_pauses_of_the_machine_do_not_make_it_small():
    quiet, shaken = Line(AUTO), Line(AUTO)
    coming = arrivals(LOADS["high"], 8)
    simulate(quiet, coming, COSTS["affine"])
    simulate(shaken, coming, COSTS["affine"], pauses=0.02)
    assert shaken.auto.rows >= 0.5 * quiet.auto.rows


@pytest.mark.parametrize("cost", COSTS)
def test_on_a_noisy_machine_it_is_no_worse_than_a_large_fixed_size(cost):
    """A tenth of the batches takes 60 ms longer, all of them up to twice as long: margins must not make it small."""
    chance = random.Random(5)

    def noisy(rows):
        return 4 * COSTS[cost](rows) * exp(abs(chance.gauss(0, 0.3))) + 0.06 * (chance.random() < 0.1)

    coming = arrivals(lambda now: 15 + 10 * now, 12) + burst(6.0, 60)
    auto = simulate(Rule(1 << 30, target_seconds=0.25, model="m"), coming, noisy)
    fixed = simulate(Rule(64, 0.1), coming, noisy)
    assert auto.late(0.25) <= fixed.late(0.25) + 0.05


def test_one_pause_at_the_first_try_of_a_size_is_not_held_against_it():
    cost = Cost()
    cost.learn(0.0, 1, 0.01)
    cost.learn(0.1, 2, 1.0)
    for n in range(5):
        cost.learn(0.2 + n, 2, 0.01)
    assert cost.seconds(2) < 0.015


def test_a_model_that_becomes_slower_or_faster_is_followed():
    line = Line(AUTO)
    simulate(line, arrivals(LOADS["high"], 5), COSTS["affine"])
    before = line.auto.rows
    at_100 = [(10 + at, 1) for at, _ in arrivals(lambda now: 100, 10)]
    slow = simulate(line, at_100, lambda rows: 4 * COSTS["affine"](rows))
    assert 0.02 < line.auto.cost.seconds(2) < 0.03
    assert slow.quantile(0.99, since=300) <= TARGET
    simulate(line, [(100 + at, 1) for at, _ in arrivals(LOADS["high"], 5)], COSTS["affine"])
    assert line.auto.rows >= 0.6 * before


def test_a_target_out_of_reach_is_told_and_latency_is_as_low_as_can_be(caplog):
    coming = arrivals(lambda now: 1900, 12)  # each row takes 0.5 ms: 95 % of one worker go there
    line = Line(Rule(1 << 30, target_seconds=0.02, model="m"))
    auto, all_at_once = simulate(line, coming, COSTS["affine"]), simulate(Rule(1024, 0.01), coming, COSTS["affine"])
    assert not line.auto.is_held
    assert len(caplog.records) == 1
    assert auto.quantile(0.5) <= 2 * all_at_once.quantile(0.5)
    simulate(line, [(60 + at, 1) for at, _ in arrivals(lambda now: 50, 12)], COSTS["affine"])
    assert line.auto.is_held, "and told again when it is held"


def test_a_size_that_slows_everything_down_is_left_however_long_the_line():
    outcome = simulate(AUTO, arrivals(lambda now: 2100, 10), COSTS["knee"])
    late = outcome.batches[len(outcome.batches) // 2 :]
    assert max(late) < 64, "the most rows per second are at about 32"


def test_calls_of_many_rows_count_as_such():
    coming = [(0.02 * n, (1, 1, 2, 8, 40)[n % 5]) for n in range(500)]
    assert simulate(AUTO, coming, COSTS["affine"]).late(TARGET) <= 0.01


def test_size_and_rows_bound_it_from_above():
    coming = burst(0.0, 200)
    assert max(simulate(Rule(8, target_seconds=TARGET), coming, COSTS["constant"]).batches) == 8
    assert max(simulate(Rule(99, rows=20, target_seconds=TARGET), coming, COSTS["constant"]).batches) == 20


def test_whoever_looks_sees_what_it_thinks():
    auto = Auto(TARGET)
    auto.arrived(0.0, 3)
    auto.served(0.1, 3, 0.02, 0.001)
    assert repr(auto) == "<Auto 0.1 s held: up to 6 rows, wait 0.0000 s>"
    assert auto.rate(0.0) == 3.0
    assert auto.rate(10.0) < 0.001


def test_an_answer_that_seems_to_come_before_it_was_asked_for_does_no_harm():
    """The worker's clock and ours are two, and the machine may stop us in between."""
    auto = Auto(TARGET)
    for n, overhead in enumerate([-0.011, -0.5, *[0.001] * 100]):
        auto.served(0.02 * n, 1, 0.016, overhead)
    rows, _ = auto.decide(3.0, 3.0, 1)
    assert rows == 1
    assert 0.0 < auto._overhead < 0.002


@pytest.mark.parametrize("rows", [1 << 10, 1 << 15, 1 << 28, 1 << 62])
def test_sizes_that_are_nearly_the_same_say_nothing_about_larger_ones(rows):
    rng = random.Random(rows)
    for _ in range(50):
        auto = Auto(TARGET)
        for step in range(40):
            auto.served(float(step), rows + step % 2, 0.01 * rng.uniform(0.3, 3), 0.0)
            assert auto.cost.seconds(2 * rows) < 0.01 * 3 * 4 * 2
            assert auto.decide(step + 0.5, float(step), 4 * rows)[0] >= 1


@pytest.mark.parametrize(("slow", "fast", "calls", "first", "then"), [(0.5, 0.01, 8, 1, 1), (1.0, 0.02, 10, 1, 64)])
def test_a_slow_beginning_is_forgotten_also_of_sizes_that_do_not_run_again(slow, fast, calls, first, then):
    auto, now = Auto(0.5), 0.0
    for number in range(calls + 200):
        seconds, waiting = (slow, first) if number < calls else (fast, then)
        now += seconds
        auto.served(now, max(1, min(auto.rows, waiting)), seconds, 0.0005)
        assert auto.cost.pause_seconds >= 0.0 and auto.rows >= 1
    for rows in (first, then):
        assert auto.cost.seconds(rows) == pytest.approx(fast, rel=0.2)
