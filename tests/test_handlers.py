"""Custom handlers: marked by a decorator, found on a model."""

from __future__ import annotations

from typing import Any

import pytest

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


def test_a_handler_is_found_with_its_path_method_and_bound_function() -> None:
    model = Handlers(ModelSettings(name="m"))
    found = get_custom_handlers(model)
    assert [handler for handler, _ in found] == [CustomHandler("/ping", "GET"), CustomHandler("/swap", "POST")]
    assert found[0][1] == model.ping
    assert found[0][1].__doc__ == "Says hello."


def test_an_overridden_handler_keeps_its_path_and_runs_the_new_code() -> None:
    model = Overriding(ModelSettings(name="m"))
    handler, function = get_custom_handlers(model)[0]
    assert handler.rest_path == "/ping"
    assert function == model.ping
    assert getattr(function, "__func__", None) is Overriding.ping


def test_handlers_of_a_class_are_found_without_a_model() -> None:
    assert [handler.rest_path for handler, _ in get_custom_handlers(Handlers)] == ["/ping", "/swap"]
    assert get_custom_handlers(MLModel) == []


def test_a_path_starts_with_a_slash() -> None:
    with pytest.raises(ValueError, match="must start with '/'"):
        custom_handler(rest_path="ping")
