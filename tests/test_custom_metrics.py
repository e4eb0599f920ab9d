"""Custom metrics go to the sink that is bound, with the labels of the model that runs."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest

from mlserve.custom_metrics import bind_model, bind_sink, log, register


class Sink:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.registered: list[tuple[str, str]] = []
        self.observed: list[tuple[str, str, dict[str, float]]] = []

    def register(self, name: str, description: str) -> None:
        self.registered.append((name, description))

    def observe(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        self.observed.append((model_name, model_version, values))


def in_context(work: Any) -> None:
    """Runs with context variables of its own, so that tests leave nothing bound."""
    contextvars.copy_context().run(work)


def test_values_reach_the_sink_with_the_models_labels() -> None:
    def work() -> None:
        sink = Sink()
        bind_sink(sink)
        bind_model("m", "v1")
        metric = register("rows", "rows seen", unit="rows")
        log(rows=3, more=True)
        metric.observe(2.5)
        bind_model("other")
        log(rows="4")
        assert sink.registered == [("rows", "rows seen (rows)")]
        assert sink.observed == [
            ("m", "v1", {"rows": 3.0, "more": 1.0}),
            ("m", "v1", {"rows": 2.5}),
            ("other", "", {"rows": 4.0}),
        ]

    in_context(work)


def test_without_a_sink_nothing_happens() -> None:
    assert register("rows", "rows seen").name == "rows"
    log(rows=3)


def test_what_is_no_number_is_refused_with_its_name() -> None:
    with pytest.raises(TypeError, match=r"log\(rows=\.\.\.\): a number is wanted, got 'many'"):
        log(rows="many")


def test_a_number_that_is_too_large_is_refused() -> None:
    with pytest.raises(TypeError, match=r"log\(rows=\.\.\.\): a number is wanted, got 1000"):
        log(rows=10**400)


def test_a_metric_is_used_as_a_histogram_is() -> None:
    def work() -> None:
        sink = Sink()
        bind_sink(sink)
        bind_model("m", "v1")
        with pytest.raises(KeyError), register("seconds", "spent").labels("m", model_version="v1").time():
            raise KeyError("and yet it is observed")
        ((name, version, values),) = sink.observed
        assert (name, version) == ("m", "v1") and 0 <= values["seconds"] < 10

    in_context(work)


def test_what_a_thread_logs_that_knows_of_no_model_is_lost_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()

    def work() -> None:
        bind_sink(sink)
        bind_model("m")
        known = contextvars.copy_context()
        for target in (
            lambda: log(in_thread=1),
            lambda: log(in_thread=2, other=3),
            lambda: known.run(log, in_thread=4),
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    in_context(work)
    assert sink.observed == [("m", "", {"in_thread": 4.0})]
    assert [one.getMessage().partition(" is lost")[0] for one in caplog.records] == [
        "custom metric 'in_thread'",
        "custom metric 'other'",
    ]


def test_models_that_run_side_by_side_do_not_mix_their_labels() -> None:
    sink = Sink()
    turn = threading.Barrier(2, timeout=60)

    def work(name: str) -> None:
        bind_sink(sink)
        bind_model(name)
        turn.wait()
        log(value=1)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one[0] for one in sink.observed) == ["a", "b"]
