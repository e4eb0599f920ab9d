"""Custom handlers: marked by a decorator, found on a model."""

from __future__ import annotations

from typing import Any

from mlserve.handlers import CustomHandler, custom_handler, get_custom_handlers
from mlserve.model import MLModel
from mlserve.settings import ModelSettings


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
