"""Where what models and workers report goes."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Takes it; the metrics of the server do."""

    def register_custom(self, name: str, description: str) -> None: ...

    def observe_custom(self, model_name: str, model_version: str, values: dict[str, float]) -> None: ...

    def worker_restarted(self, pool: str, reason: str) -> None: ...


class Deaf:
    """For a link whose process is only tried: what its model counts is counted where it serves."""

    def register_custom(self, name: str, description: str) -> None:
        pass

    def observe_custom(self, model_name: str, model_version: str, values: dict[str, float]) -> None:
        pass

    def worker_restarted(self, pool: str, reason: str) -> None:
        pass
