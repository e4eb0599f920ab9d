"""The parts of an estimator: whatever it holds that can answer, as pipelines, searches and ensembles do.

For runtimes whose models may be scikit-learn's, or hold such; imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["all_parts", "bound_jobs", "parts"]

_ANSWERS = ("predict", "predict_proba", "transform", "get_params")  # a part has one of these


def parts(part: Any) -> Iterator[Any]:
    """What among an object's attributes can answer, also in lists, as wrappers hold what they have fitted."""
    if hasattr(part, "__dict__"):
        yield from _among(vars(part).values(), set())


def all_parts(estimator: Any) -> Iterator[Any]:
    """An estimator, and every part of it and of its parts, once each: fitted ones, and those that were to be fitted."""
    seen: set[int] = set()
    waiting = [estimator]
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += parts(part)


def bound_jobs(estimator: Any, count: int) -> None:
    """Bounds the `n_jobs` that an estimator and its parts were saved with, above all the fitted ones."""
    for part in all_parts(estimator):
        jobs = getattr(part, "__dict__", {}).get("n_jobs")
        if isinstance(jobs, int) and (jobs < 0 or jobs > count):  # None is one; negative ones count from all cores
            if hasattr(part, "set_params"):
                part.set_params(n_jobs=count)  # some libraries note it elsewhere too
            else:
                part.n_jobs = count


def _among(values: Iterable[Any], seen: set[int]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple | dict):
            if len(value) < 10_000 and id(value) not in seen:
                seen.add(id(value))  # it may hold itself
                yield from _among(value.values() if isinstance(value, dict) else value, seen)
        elif not isinstance(value, type) and any(hasattr(type(value), method) for method in _ANSWERS):
            yield value
