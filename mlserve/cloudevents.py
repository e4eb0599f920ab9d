"""CloudEvents headers on requests and responses, as people's logging pipelines around MLServer expect them.

Source: CloudEvents specification 0.3, HTTP binding; names as Seldon's payload loggers use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SPEC_VERSION = "0.3"
_LONGEST_ID = 1024  # characters; clients refuse headers of more than a few kilobytes


class CloudEvents:
    """Makes the headers for one server."""

    def __init__(self, server_name: str) -> None:
        self._name = server_name
        self._source = f"io.seldon.serving.deployment.{server_name}"

    def request_headers(self, model: str, request_id: str | None) -> dict[str, str]:
        """What a runtime sees in `parameters.headers` beside the client's own headers."""
        return {
            "Ce-Specversion": _SPEC_VERSION,
            "Ce-Source": self._source,
            "Ce-Type": "io.seldon.serving.inference.request",
            "Ce-Modelid": model,
            "Ce-Inferenceservicename": self._name,
            "Ce-Endpoint": model,
            **event_ids(request_id),
        }

    def response_headers(
        self, model: str, request_id: str | None, given: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What goes out with the response: what the model gave, and the event's own, which cannot be set by a model.

        A header that the model gave as None is none.
        """
        event = self._response_event(model, request_id)
        if not given:
            return event
        own = {name.lower() for name in event}
        kept = {name: value for name, value in given.items() if value is not None and str(name).lower() not in own}
        return {**kept, **event}

    def _response_event(self, model: str, request_id: str | None) -> dict[str, Any]:
        return {
            "Ce-Specversion": _SPEC_VERSION,
            "Ce-Source": self._source,
            "Ce-Type": "io.seldon.serving.inference.response",
            "Ce-Modelid": model,
            "Ce-Inferenceservicename": self._name,
            "Ce-Endpoint": model,
            **event_ids(request_id),
        }


def event_ids(request_id: str | None) -> dict[str, str]:
    """The headers that name the request; none for one that has no id, or a very long one."""
    if not request_id or len(request_id) > _LONGEST_ID:
        return {}
    return {"Ce-Id": request_id, "Ce-Requestid": request_id}
