"""One knob for the threads of a call: `parameters.extra.threads`, for BLAS, OpenMP and the `n_jobs` of estimators."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["Threads"]


class Threads:
    """How many threads one call may use; None: as many as the libraries like."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._controller: Any = None

    def apply(self, model: Any) -> None:
        """Takes note of the libraries that are loaded by now, and bounds the `n_jobs` that a model was saved with."""
        if self._count is None:
            return
        self._controller = ThreadpoolController()
        raw = _raw_of(model)
        parameters = raw.get_params() if hasattr(raw, "get_params") and hasattr(raw, "set_params") else {}
        for name, jobs in parameters.items():
            if name.rpartition("__")[2] == "n_jobs" and isinstance(jobs, int) and (jobs < 0 or jobs > self._count):
                raw.set_params(**{name: self._count})

    def limit(self) -> AbstractContextManager[Any]:
        """A context in which the bound holds."""
        if self._controller is None:
            return nullcontext()
        bound: AbstractContextManager[Any] = self._controller.limit(limits=self._count)
        return bound


def _raw_of(model: Any) -> Any:
    """The framework's own object inside MLflow's, where the flavour gives it."""
    try:
        return model.get_raw_model()
    except NotImplementedError:
        return None
