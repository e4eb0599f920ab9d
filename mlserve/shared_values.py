"""In a worker: the values of prometheus_client's metrics lie in memory that the server reads, whatever the worker does.

A model's code uses prometheus_client as anywhere. prometheus_client makes each value by `values.ValueClass`, which is
ours in a worker process: a value is a cell of shared memory, and one frame says what it counts. So nothing is sent when
something is counted, and what a killed worker has counted is not lost. In both kinds of workers its registry takes a
name again, as models are loaded again: the new metric goes on counting where the old one is.

All that happens when prometheus_client is imported, if it ever is.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from mlserve.counted import Series

__all__ = ["count_in", "take_names_again"]

_logger = logging.getLogger("mlserve.metrics")
_LIBRARY = "prometheus_client"
_STATE = ("_lock", "_metrics", "_value", "_count", "_sum", "_buckets", "_created")  # what a metric has counted
_SHAPE = ("_name", "_labelnames", "_upper_bounds", "_multiprocess_mode", "_states")

Tell = Callable[[int, Series], None]


def count_in(memory: Any, tell: Tell) -> None:
    """Metrics made from now on keep their values in this memory; `tell` says which cell holds which, from any thread.

    Before the first import of prometheus_client in this process.
    """
    make = _Values(memoryview(memory).cast("B").cast("d"), tell)

    def prepare() -> None:
        from prometheus_client import values

        values.ValueClass = make  # it is called, nothing else
        _take_names_again()

    _on_import(prepare)


def take_names_again() -> None:
    """Lets metrics be registered again under their names, in this process."""
    _on_import(_take_names_again)


# -- when prometheus_client is imported --------------------------------------------------------------------------------


def _on_import(prepare: Callable[[], None]) -> None:
    if f"{_LIBRARY}.metrics" in sys.modules:
        prepare()
    else:
        sys.meta_path.insert(0, _Watch(prepare))


class _Watch(MetaPathFinder):
    """Finds nothing, but knows when prometheus_client imports the module in which metrics are."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if fullname == f"{_LIBRARY}.metrics" and self in sys.meta_path:
            sys.meta_path.remove(self)
            try:
                self._prepare()
            except Exception:
                _logger.exception("metrics of prometheus_client are not shown: it is of a kind that is not known here")


# -- names -------------------------------------------------------------------------------------------------------------


def _take_names_again() -> None:
    from prometheus_client.registry import REGISTRY

    if "register" in vars(REGISTRY):
        return
    register, unregister = REGISTRY.register, REGISTRY.unregister

    def register_again(collector: Any) -> None:
        for name in REGISTRY._get_names(collector):  # type: ignore[no-untyped-call]
            old = REGISTRY._names_to_collectors.get(name)
            if old is not None:
                unregister(old)
                _go_on(old, collector)
        register(collector)

    def unregister_once(collector: Any) -> None:
        if collector in REGISTRY._collector_to_names:  # else another one has its name by now
            unregister(collector)

    REGISTRY.register = register_again  # type: ignore[method-assign]
    REGISTRY.unregister = unregister_once  # type: ignore[method-assign]


def _go_on(old: Any, new: Any) -> None:
    """Both count the same from now on, if they are of the same shape."""
    was, is_now = vars(old), vars(new)
    if type(old) is type(new) and all(was.get(name) == is_now.get(name) for name in _SHAPE):
        is_now.update((name, was[name]) for name in _STATE if name in was)


# -- values ------------------------------------------------------------------------------------------------------------


class _Values:
    """Makes the values of this process, one for each thing that is counted. Called in place of a class of values."""

    def __init__(self, cells: memoryview[float], tell: Tell) -> None:
        self._cells = cells
        self._tell = tell
        self._used = 0
        self._is_full = False
        self._made: dict[tuple[Any, ...], _Value] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __call__(
        self,
        kind: str,
        family: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str = "",
        multiprocess_mode: str = "",
        **more: Any,
    ) -> _Value:
        key = (kind, name, tuple(labelnames), tuple(labelvalues), multiprocess_mode)
        with self._lock:
            value = self._made.get(key)
            if value is None:
                labels = dict(zip(labelnames, labelvalues))
                value = self._make(Series(kind, family, name, labels, str(help_text), multiprocess_mode), key)
        return value

    def _make(self, series: Series, key: tuple[Any, ...]) -> _Value:
        cell, width = self._used, 1 + series.is_timed
        if os.getpid() != self._pid:  # a process that the model has forked: it may use the cells that it knows
            return _Value(memoryview(bytearray(16)).cast("d"), 0, series.is_timed)
        if cell + width > len(self._cells):
            self._tell_full(series)
            return _Value(memoryview(bytearray(16)).cast("d"), 0, series.is_timed)
        self._used += width
        value = self._made[key] = _Value(self._cells, cell, series.is_timed)
        self._tell(cell, series)
        return value

    def _tell_full(self, series: Series) -> None:
        if not self._is_full:
            self._is_full = True
            _logger.warning(
                "metric %s%s is not shown, nor are others that come now: this worker has %d values of "
                "prometheus_client; give its metrics fewer labels, or labels with fewer values",
                series.name,
                series.labels,
                len(self._cells),
            )


class _Value:
    """One number, with the methods that prometheus_client wants."""

    __slots__ = ("_cell", "_cells", "_is_timed", "_lock")

    def __init__(self, cells: memoryview[float], cell: int, is_timed: bool) -> None:
        self._cells = cells
        self._cell = cell
        self._is_timed = is_timed
        self._lock = threading.Lock()

    def inc(self, amount: float) -> None:
        with self._lock:
            self._cells[self._cell] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        with self._lock:
            self._cells[self._cell] = value
            if self._is_timed:
                self._cells[self._cell + 1] = timestamp or 0.0

    def get(self) -> float:
        value: float = self._cells[self._cell]
        return value

    def set_exemplar(self, exemplar: Any) -> None:
        """Exemplars are not kept, as nowhere in prometheus_client's own ways of several processes."""

    def get_exemplar(self) -> None:
        return None
