"""Bounds the threads of numerical libraries while a model computes. For authors of runtimes; imports no framework."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ThreadLimit", "threads_of_process"]

_logger = logging.getLogger("mlserve.model")


def threads_of_process() -> int | None:
    """How many threads this worker's libraries use where its model does not say: what OMP_NUM_THREADS says.

    For frameworks that do not look at that variable themselves. None: as many as they like.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": of nested regions
    return int(first) if first.isdecimal() and int(first) > 0 else None


class ThreadLimit:
    """A call may use so many threads of BLAS, OpenMP, PyTorch and TensorFlow at most; None: as many as they like.

    PyTorch's and TensorFlow's number is one for the whole process; the others' counts for this model only.
    """

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._controller: Any = None

    def prepare(self) -> None:
        """Finds the libraries and tells them. Call it when they have been imported, before the model is loaded."""
        if self._count is None:
            return
        from threadpoolctl import ThreadpoolController

        self._controller = ThreadpoolController()
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(self._count)
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is not None:
            self._limit_tensorflow(tensorflow.config.threading)

    def _limit_tensorflow(self, threading: Any) -> None:
        if threading.get_intra_op_parallelism_threads() == self._count:
            return
        try:
            threading.set_intra_op_parallelism_threads(self._count)
            threading.set_inter_op_parallelism_threads(self._count)
        except RuntimeError:
            _logger.warning(
                "TensorFlow computes already, and keeps its number of threads: parameters.extra.threads = %d counts "
                "for the other libraries only. Give all models of this process the same number",
                self._count,
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """In this block, in this thread, the bound holds."""
        if self._controller is None:
            yield
        else:
            with self._controller.limit(limits=self._count):
                yield
