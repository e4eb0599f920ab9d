"""`mlserver.context`: the labels under which custom metrics go, for tests that call a model by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlserve.custom_metrics import bind_model
from mlserve.settings import ModelSettings

__all__ = ["model_context"]


@contextmanager
def model_context(model_settings: ModelSettings) -> Iterator[None]:
    """In this block, what `register` and `log` take belongs to this model."""
    bind_model(model_settings.name, model_settings.version)
    try:
        yield
    finally:
        bind_model("")
