"""Metrics of the model's own: `register` and `log`, which work the same in a worker and in the server process.

Where values go is the matter of whoever runs the models: it binds a sink, and for each call the labels of the model
that runs. Elsewhere, as in a script or a test, values are dropped. Both are context variables, so that calls of several
models can run side by side; threads that a model starts itself do not have them (`asyncio.to_thread` hands them on,
and `contextvars.copy_context().run`): what they log is dropped with a warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Protocol

__all__ = ["CustomMetric", "MetricsSink", "bind_model", "bind_sink", "log", "register"]

_logger = logging.getLogger("mlserve.metrics")


class MetricsSink(Protocol):
    """Takes custom metrics; they are histograms with the labels model_name and model_version."""

    def register(self, name: str, description: str) -> None:
        """Makes a metric known. Again with the same name: nothing new."""

    def observe(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        """Takes one value for each named metric; unknown names are registered."""


class CustomMetric:
    """A registered metric, with the manners of a histogram of prometheus_client."""

    def __init__(self, name: str, description: str) -> None:
        self.name = name
        self.description = description

    def observe(self, value: float) -> None:
        """The same as `log(name=value)`."""
        log(**{self.name: value})

    def labels(self, *values: Any, **named: Any) -> CustomMetric:
        """The same metric: its labels are always those of the model that runs."""
        return self

    @contextmanager
    def time(self) -> Iterator[None]:
        """Observes the seconds that the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - started)

    def __repr__(self) -> str:
        return f"<CustomMetric {self.name}>"


_sink: ContextVar[MetricsSink | None] = ContextVar("mlserve_metrics_sink", default=None)
_model: ContextVar[tuple[str, str]] = ContextVar("mlserve_metrics_model", default=("", ""))
_has_models = False  # whether models have been run in this process
_told: set[str] = set()  # names of metrics that were lost, and said to be


def bind_sink(sink: MetricsSink | None) -> Token[MetricsSink | None]:
    """From here on, in this context and in tasks started from it, values go to this sink."""
    global _has_models
    _has_models = _has_models or sink is not None
    return _sink.set(sink)


def bind_model(model_name: str, model_version: str | None = None) -> None:
    """From here on, in this context, values carry the labels of this model. Bound anew before each call."""
    _model.set((model_name, model_version or ""))


def register(name: str, description: str, unit: str = "") -> CustomMetric:
    """Makes a metric known, so that it shows before its first value. Safe to call again. TypeError for no text."""
    for what, text in (("name", name), ("description", description)):
        if not isinstance(text, str):
            raise TypeError(f"register({name!r:.40}, ...): a text is wanted as the {what}, got {text!r:.40}")
    sink = _sink.get()
    if sink is None:
        _tell_lost([name])
    else:
        sink.register(name, f"{description} ({unit})" if unit else description)
    return CustomMetric(name, description)


def log(**metrics: Any) -> None:
    """Adds a value to each named metric, labelled with the model that is running. TypeError for what is no number."""
    values: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"log({name}=...): a number is wanted, got {value!r:.40}") from None
    sink = _sink.get()
    if sink is None:
        _tell_lost(values)
        return
    sink.observe(*_model.get(), values)


def _tell_lost(names: Iterable[str]) -> None:
    """Says once of each metric that it is lost, where models run: elsewhere that is as it should be."""
    new = [name for name in names if name not in _told] if _has_models else []
    if new:
        _told.update(new)
        _logger.warning(
            "custom metric %s is lost: it was logged in a thread that knows of no model; start that thread's work with "
            "asyncio.to_thread(...) or contextvars.copy_context().run(...)",
            ", ".join(map(repr, new)),
        )
