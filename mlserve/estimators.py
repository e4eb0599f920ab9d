"""The parts of an estimator: whatever it holds that can answer, as pipelines, searches and ensembles do.

For runtimes whose models may be scikit-learn's, or hold such; imports no framework.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any

__all__ = ["all_parts", "bound_jobs", "parts"]

_logger = logging.getLogger("mlserve.model")
_ANSWERS = ("predict", "predict_proba", "transform", "get_params")  # a part has one of these
_CONTAINERS = (list, tuple, dict)
_MOST_IN_ONE = 10_000  # a longer container holds data
_MOST = 1_000_000  # values that are looked at, within a second


def parts(part: Any) -> Iterator[Any]:
    """What among an object's attributes can answer, also in lists, as wrappers hold what they have fitted."""
    return _walk(_attributes(part), set(), further=False)


def all_parts(estimator: Any) -> Iterator[Any]:
    """An estimator, and every part of it and of its parts, once each: fitted ones, and those that were to be fitted."""
    yield estimator
    yield from _walk(_attributes(estimator), {id(estimator)}, further=True)


def bound_jobs(estimator: Any, count: int, name: str) -> None:
    """Bounds the `n_jobs` that an estimator and its parts were saved with, above all the fitted ones.

    What cannot be bounded stays as it is, and is told with the model's name: it costs time, and not the model.
    """
    try:
        for part in all_parts(estimator):
            _bound(part, count, name)
    except Exception as error:  # containers may be anybody's code
        words = "model '%s': not all that it holds was looked through for n_jobs (%s), so threads=%d may not hold there"
        _logger.warning(words, name, _told(error), count)


def _bound(part: Any, count: int, name: str) -> None:
    jobs = getattr(part, "__dict__", {}).get("n_jobs")
    if not isinstance(jobs, Integral) or 0 <= int(jobs) <= count:  # None is one; negative ones count from all cores
        return
    if not hasattr(part, "get_params"):
        return  # no estimator: whatever it counts is its own
    try:
        if "n_jobs" not in part.get_params(deep=False):
            raise AttributeError("it is none of its parameters")
        part.set_params(n_jobs=count)  # some libraries note it elsewhere too
    except Exception as error:
        words = "model '%s': n_jobs=%d of a %s stays, threads=%d does not hold for it (%s); save it with a lower n_jobs"
        _logger.warning(words, name, jobs, type(part).__name__, count, _told(error))


def _walk(values: Iterable[Any], seen: set[int], further: bool) -> Iterator[Any]:
    """The parts among values and within containers, `further`: and within parts, once each.

    No recursion: what is nested may be deeper than Python's stack. ValueError after a great many values.
    """
    waiting = [*values][::-1]
    are_parts: dict[type, bool] = {}
    for _ in range(_MOST):
        if not waiting:
            return
        value = waiting.pop()
        kind = type(value)
        if issubclass(kind, _CONTAINERS):
            inside = value.values() if isinstance(value, dict) else value
            if len(value) < _MOST_IN_ONE and id(value) not in seen:
                seen.add(id(value))  # it may hold itself
                waiting += [*inside][::-1]
            continue
        if kind not in are_parts:
            are_parts[kind] = not issubclass(kind, type) and any(hasattr(kind, method) for method in _ANSWERS)
        if are_parts[kind] and id(value) not in seen:
            seen.add(id(value))
            yield value
            waiting += [*_attributes(value)][::-1] if further else ()
    raise ValueError(f"there are more than {_MOST} values in it")


def _attributes(part: Any) -> Iterable[Any]:
    return vars(part).values() if hasattr(part, "__dict__") else ()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
