"""Custom handlers: methods of a model that answer REST paths of their own, beside the protocol's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["CustomHandler", "custom_handler", "get_custom_handlers"]

F = TypeVar("F", bound=Callable[..., Any])
_METHOD = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*")
_MARK = "__custom_handler__"


@dataclass(frozen=True)
class CustomHandler:
    """The path and HTTP method that a handler answers.

    Of several models with the same path, the first one answers, unless they have `claimed_by`, the name of a key of
    `parameters.extra`: then the one with true there does, or the only one that does not have false.

    The answer of one that is `fixed` is the same while the model is loaded: the method is called once, after `load()`,
    and the server gives what it said, whatever the worker does; 404 while no worker could run the model.

    The server's own errors on the path have `error_code` and `message` beside `error` where there are `error_codes`, by
    HTTP status; a status that is not among them has the code of 400 or 500.
    """

    rest_path: str
    rest_method: str = "POST"
    claimed_by: str = ""
    fixed: bool = False
    error_codes: Mapping[int, str] = field(default_factory=dict, hash=False)


def custom_handler(
    rest_path: str,
    rest_method: str = "POST",
    claimed_by: str = "",
    fixed: bool = False,
    error_codes: Mapping[int, str] | None = None,
) -> Callable[[F], F]:
    """A decorator: the method answers this path, in the process where the model lives, as CustomHandler has it.

    A path that lacks its first `/` gets it. ValueError for what is no path or no HTTP method.
    """
    if not isinstance(rest_path, str):
        raise ValueError(f"custom_handler: rest_path is one path, such as '/score', got {rest_path!r}")
    if not isinstance(rest_method, str) or not _METHOD.fullmatch(rest_method):
        raise ValueError(
            f"custom_handler: rest_method is one HTTP method, such as 'GET', got {rest_method!r}; a path that answers "
            "several needs a handler for each"
        )
    rest_path = rest_path if rest_path.startswith("/") else f"/{rest_path}"

    def mark(handler: F) -> F:
        setattr(handler, _MARK, CustomHandler(rest_path, rest_method.upper(), claimed_by, fixed, error_codes or {}))
        return handler

    return mark


def get_custom_handlers(model: Any) -> list[tuple[CustomHandler, Callable[..., Any]]]:
    """The handlers of a model with their bound methods, by name. One that a subclass overrides needs a mark again.

    Takes a model object, or its class (then the functions are not bound). Properties are not run.
    """
    owner = model if isinstance(model, type) else type(model)
    found = []
    for name in dir(owner):
        handler = _marked(owner, name)
        if handler is not None:
            found.append((handler, getattr(model, name)))
    return found


def _marked(owner: type[Any], name: str) -> CustomHandler | None:
    value = inspect.getattr_static(owner, name, None)
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    handler = getattr(value, _MARK, None)
    return handler if isinstance(handler, CustomHandler) else None
