"""The parts of whatever was saved: found without recursion, bounded where they are estimators, and otherwise left."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mlserve import estimators
from mlserve.estimators import all_parts, bound_jobs, parts


class Estimator:
    """As scikit-learn's are: what may be set is named by get_params."""

    def __init__(self, n_jobs: Any = -1, **held: Any) -> None:
        self.n_jobs = n_jobs
        self.__dict__.update(held)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"n_jobs": self.n_jobs}

    def set_params(self, **given: Any) -> Estimator:
        self.__dict__.update(given)
        return self


class Strict(Estimator):
    """Its `n_jobs` is none of its parameters."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def set_params(self, **given: Any) -> Estimator:
        raise ValueError("Invalid parameter 'n_jobs'")


class Broken(Estimator):
    """As one that an older version saved, without a parameter of today."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        raise AttributeError("no attribute 'max_leaves'")


@dataclasses.dataclass(frozen=True)
class Frozen:
    n_jobs: int = -1

    def predict(self, x: Any) -> Any:
        return x


class Plan:
    """Answers, and counts jobs of another kind."""

    def __init__(self) -> None:
        self.n_jobs = 40

    def predict(self) -> int:
        return self.n_jobs


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def predict(self) -> Any:
        return self.held


def nested(depth: int, innermost: Any) -> Any:
    for level in range(depth):
        innermost = {"x": innermost} if level % 2 else [innermost]
    return innermost


@pytest.mark.parametrize(("before", "after"), [(-1, 2), (8, 2), (3, 2), (2, 2), (1, 1), (None, None), (np.int64(8), 2)])
def test_jobs_are_bounded_where_there_are_more(before: Any, after: int | None) -> None:
    inner = Estimator(before)
    bound_jobs(Holder({"a": [(inner,)]}), 2, "m")
    assert inner.n_jobs == after


@pytest.mark.parametrize("further", [False, True])
def test_parts_are_found_however_deep_they_are(further: bool) -> None:
    deep = Estimator(first=1)
    root = Holder(nested(5_000, deep))
    assert list(parts(root)) == [deep]
    for _ in range(5_000 if further else 0):
        root = Holder(root)
    bound_jobs(root, 1, "m")
    assert deep.n_jobs == 1


def test_parts_come_once_each_and_in_the_order_in_which_they_are_held() -> None:
    first, second, third = Estimator(), Estimator(), Estimator()
    first.held = [third, first]  # type: ignore[attr-defined]
    held: list[Any] = [[first], {"second": second}, Estimator, "text"]
    held.append(held)
    root = Holder(held)
    assert list(parts(root)) == [first, second]
    assert list(all_parts(root)) == [root, first, third, second]


def test_what_is_no_estimator_keeps_its_jobs(caplog: pytest.LogCaptureFixture) -> None:
    plan, frozen, inner = Plan(), Frozen(), Estimator()
    bound_jobs(Holder([plan, frozen, inner]), 1, "m")
    assert (plan.n_jobs, frozen.n_jobs, inner.n_jobs) == (40, -1, 1) and not caplog.messages


@pytest.mark.parametrize(
    ("kind", "words"), [(Strict, "AttributeError: it is none of its parameters"), (Broken, "no attribute 'max_leaves'")]
)
def test_an_estimator_that_cannot_be_bounded_is_told_and_costs_nothing(
    caplog: pytest.LogCaptureFixture, kind: type[Estimator], words: str
) -> None:
    odd, inner = kind(), Estimator()
    bound_jobs(Holder([odd, inner]), 1, "m")
    assert (odd.n_jobs, inner.n_jobs) == (-1, 1)
    (told,) = caplog.messages
    assert f"model 'm': n_jobs=-1 of a {kind.__name__} stays" in told and words in told


def test_what_is_too_large_to_look_through_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimators, "_MOST", 1000)
    first = Estimator()
    bound_jobs(Holder([first, [[0] * 100 for _ in range(100)]]), 1, "m")
    assert first.n_jobs == 1
    (told,) = caplog.messages
    assert "model 'm': not all that it holds" in told and "more than 1000 values" in told


def test_containers_that_do_not_let_themselves_be_looked_at_are_told(caplog: pytest.LogCaptureFixture) -> None:
    class Lazy(dict[str, Any]):
        def values(self) -> Any:
            raise OSError("no network")

    bound_jobs(Holder(Lazy()), 1, "m")
    (told,) = caplog.messages
    assert "OSError: no network" in told
