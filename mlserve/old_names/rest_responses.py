"""`mlserver.rest.responses`: the JSON response of custom handlers that import it."""

from __future__ import annotations

from inspect import Parameter
from typing import Any

from starlette.responses import JSONResponse

from mlserve.answering import json_of

__all__ = ["Response"]


class Response(JSONResponse):
    """What a handler that returned the content would answer, with a status and headers of one's own."""

    def render(self, content: Any) -> bytes:
        """The content as JSON: types of the protocol, arrays, dates, and NaN as null."""
        return json_of(content, Parameter.empty)
