"""Where what models and workers report goes."""

from __future__ import annotations

from typing import Any, Protocol

from mlserve import frames
from mlserve.model_values import ModelValues


class Observer(Protocol):
    """Takes it; the metrics of the server do."""

    model_values: ModelValues

    def register_custom(self, name: str, description: str) -> None: ...

    def observe_custom(self, model_name: str, model_version: str, values: dict[str, float]) -> None: ...

    def worker_restarted(self, pool: str, reason: str) -> None: ...


class Deaf:
    """For a link whose process is only tried: what its model counts is counted where it serves."""

    def __init__(self) -> None:
        self.model_values = ModelValues()

    def register_custom(self, name: str, description: str) -> None:
        pass

    def observe_custom(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        pass

    def worker_restarted(self, pool: str, reason: str) -> None:
        pass


class Reports:
    """What one worker reports of its models."""

    def __init__(self, observer: Observer, pid: int, memory: Any) -> None:
        self._observer = observer
        self._values = observer.model_values.of_worker(pid, memory)

    def take(self, frame: Any) -> None:
        """Takes a frame, if it is a report."""
        kind = type(frame)
        if kind is frames.Registered:
            self._observer.register_custom(frame.name, frame.description)
        elif kind is frames.Observed:
            self._observer.observe_custom(frame.model_name, frame.model_version, frame.values)
        elif kind is frames.Counted:
            self._values.add(frame.cell, frame.series)

    def close(self) -> None:
        """The worker has ended."""
        self._values.close()
