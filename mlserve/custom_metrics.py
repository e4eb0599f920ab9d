"""Metrics of the model's own: `register` and `log`, which work the same in a worker and in the server process.

Where a value goes is the matter of whoever runs the model: it binds a sink and the model's labels for the time that
code of the model runs. Outside of that, as in a script or a test, values are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
import logging
from typing import Any, Protocol

__all__ = ["Binding", "CustomMetric", "MetricsSink", "bind", "bound", "log", "register", "unbind"]

_logger = logging.getLogger("mlserve.metrics")


class MetricsSink(Protocol):
    """Takes custom metrics; they are histograms with the labels model_name and model_version."""

    def register(self, name: str, description: str) -> None:
        """Makes a metric known. Again with the same name: nothing new."""

    def observe(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        """Takes one value for each named metric; unknown names are registered."""


class Binding:
    """A sink together with the labels of one model. Made once for a model, bound for each call."""

    __slots__ = ("model_name", "model_version", "sink")

    def __init__(self, sink: MetricsSink, model_name: str, model_version: str | None = None) -> None:
        self.sink = sink
        self.model_name = model_name
        self.model_version = model_version or ""


class CustomMetric:
    """A registered metric."""

    def __init__(self, name: str, description: str) -> None:
        self.name = name
        self.description = description

    def observe(self, value: float) -> None:
        """The same as `log(name=value)`."""
        log(**{self.name: value})

    def __repr__(self) -> str:
        return f"<CustomMetric {self.name}>"


_current: ContextVar[Binding | None] = ContextVar("mlserve_custom_metrics", default=None)


def bind(binding: Binding) -> Token[Binding | None]:
    """From here on, in this context, values go to this sink; `unbind` with the token ends it."""
    return _current.set(binding)


def unbind(token: Token[Binding | None]) -> None:
    """Puts back what was bound before."""
    _current.reset(token)


@contextmanager
def bound(binding: Binding) -> Iterator[None]:
    """Within this context, values go to this sink."""
    token = _current.set(binding)
    try:
        yield
    finally:
        _current.reset(token)


def register(name: str, description: str, unit: str = "") -> CustomMetric:
    """Makes a metric known, so that it shows before its first value. Safe to call again."""
    binding = _current.get()
    if binding is None:
        _logger.debug("metric '%s' is not registered: no model is running here", name)
    else:
        binding.sink.register(name, f"{description} ({unit})" if unit else description)
    return CustomMetric(name, description)


def log(**metrics: Any) -> None:
    """Adds a value to each named metric, labelled with the model that is running. TypeError for what is no number."""
    values: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"log({name}=...): a number is wanted, got {value!r:.40}") from None
    binding = _current.get()
    if binding is None:
        _logger.debug("metrics %s are dropped: no model is running here", ", ".join(values))
    else:
        binding.sink.observe(binding.model_name, binding.model_version, values)
