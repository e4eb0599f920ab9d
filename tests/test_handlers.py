"""Custom handlers: marked by a decorator, found on a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mlserve.handlers import CustomHandler, custom_handler, get_custom_handlers
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import running_server


class Handlers(MLModel):
    @custom_handler(rest_path="/ping", rest_method="get")
    async def ping(self) -> dict[str, Any]:
        """Says hello."""
        return {"model": self.name}

    @custom_handler("/swap")
    async def swap(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {value: key for key, value in payload.items()}

    @property
    def heavy(self) -> Any:
        raise RuntimeError("a property was run while handlers were looked for")


class Overriding(Handlers):
    async def ping(self) -> dict[str, Any]:
        return {"model": "another"}

    @custom_handler("/other")
    async def swap(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


def test_a_handler_is_found_with_its_path_method_and_bound_function() -> None:
    model = Handlers(ModelSettings(name="m"))
    found = get_custom_handlers(model)
    assert [handler for handler, _ in found] == [CustomHandler("/ping", "GET"), CustomHandler("/swap", "POST")]
    assert found[0][1] == model.ping
    assert found[0][1].__doc__ == "Says hello."


def test_a_method_that_is_overridden_answers_only_where_it_is_marked_again() -> None:
    model = Overriding(ModelSettings(name="m"))
    ((handler, function),) = get_custom_handlers(model)
    assert handler.rest_path == "/other"
    assert function == model.swap


def test_handlers_of_a_class_are_found_without_a_model() -> None:
    assert [handler.rest_path for handler, _ in get_custom_handlers(Handlers)] == ["/ping", "/swap"]
    assert get_custom_handlers(MLModel) == []


def test_a_path_that_lacks_its_first_slash_gets_it() -> None:
    class Short(MLModel):
        @custom_handler(rest_path="ping")
        async def ping(self) -> str:
            return "pong"

    assert get_custom_handlers(Short)[0][0].rest_path == "/ping"


@pytest.mark.parametrize("method", [["GET", "POST"], ("GET",), [], None, 5, "", "GET,POST", "GET POST"], ids=repr)
def test_a_method_that_is_not_one_is_refused_where_it_is_written(method: Any) -> None:
    with pytest.raises(ValueError, match=r"rest_method is one HTTP method, such as 'GET', got .*a handler for each"):
        custom_handler("/ping", method)
    with pytest.raises(ValueError, match="rest_path is one path"):
        custom_handler(["/a", "/b"])  # type: ignore[arg-type]


# -- decorators beside the mark ----------------------------------------------------------------------------------------


def counted(method: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write them: plain, also around what is async."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **named: Any) -> Any:
        self.counted = getattr(self, "counted", 0) + 1
        return method(self, *args, **named)

    return call


def awaited(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(*args: Any, **named: Any) -> Any:
        return {"awaited": await method(*args, **named)}

    return call


class Decorated(MLModel):
    @counted
    @custom_handler("/over/{row}")
    async def over(self, row: int, payload: dict[str, float]) -> Any:
        return [row, payload, self.counted]

    @custom_handler("/under/{row}", "GET")
    @counted
    def under(self, row: int, digits: int = 3) -> Any:
        return [row, digits, self.counted]

    @counted
    @awaited
    @custom_handler("/both", "GET")
    @counted
    async def both(self, name: str) -> Any:
        return [name, self.counted]

    @custom_handler("/many", "GET")
    async def many(self) -> str:
        return "got"

    @custom_handler("/many", "POST")
    async def many_posted(self) -> str:
        return "posted"


def test_decorators_over_and_under_the_mark_run_and_keep_its_arguments() -> None:
    with running_server([ModelSettings(name="m", implementation=Decorated)]) as server:
        ask = httpx.Client(base_url=server.rest)
        assert ask.post("/over/3", json={"a": "1.5"}).json() == [3, {"a": 1.5}, 1]
        assert ask.post("/over/x", json={}).status_code == 422
        assert ask.get("/under/4?digits=5").json() == [4, 5, 2]
        assert ask.get("/both?name=n").json() == {"awaited": ["n", 4]}
        assert (ask.get("/many").json(), ask.post("/many").json()) == ("got", "posted")
        ask.close()
