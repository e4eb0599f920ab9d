"""One knob for the threads of a call: `parameters.extra.threads`, for BLAS, OpenMP and the `n_jobs` of estimators."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import ThreadpoolController

from mlserve.estimators import bound_jobs

__all__ = ["Threads"]


class Threads:
    """How many threads one call may use; None: as many as the libraries like."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._controller: Any = None

    def apply(self, model: Any, name: str) -> None:
        """Takes note of the libraries that are loaded by now, and bounds the `n_jobs` of all estimators inside."""
        if self._count is None:
            return
        self._controller = ThreadpoolController()
        bound_jobs(model, self._count, name)  # MLflow's own objects hold the framework's, or somebody's code with them

    def limit(self) -> AbstractContextManager[Any]:
        """A context in which the bound holds."""
        if self._controller is None:
            return nullcontext()
        bound: AbstractContextManager[Any] = self._controller.limit(limits=self._count)
        return bound
