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


def test_models_that_run_side_by_side_do_not_mix_their_labels() -> None:
    sink = Sink()
    turn = threading.Barrier(2, timeout=10)

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
