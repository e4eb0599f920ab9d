"""One knob for the threads of a model: `parameters.extra.threads`.

BLAS and OpenMP libraries start as many threads as there are cores, in each worker; with several workers they get in
each other's way. Without the knob everything stays as the libraries and the estimator have it.
"""

from __future__ import annotations

from typing import Any

from mlserve.estimators import bound_jobs

__all__ = ["Threads"]


class Threads:
    """A context in which numerical libraries use so many threads at most; None: as many as they like."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._controller: Any = None
        self._limit: Any = None

    def apply(self, estimator: Any, name: str) -> None:
        """Also bounds the `n_jobs` that a model and its parts were saved with, above all the fitted ones."""
        if self._count is None:
            return
        from threadpoolctl import ThreadpoolController  # looks for the libraries that are loaded by now

        self._controller = ThreadpoolController()
        bound_jobs(estimator, self._count, name)

    def __enter__(self) -> None:
        if self._controller is not None:
            self._limit = self._controller.limit(limits=self._count)
            self._limit.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._limit is not None:
            self._limit.__exit__(*error)
            self._limit = None
