"""The id of a request: the client's own comes back as it is, and a request without one gets one."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import running_server
from mlserve.types import InferenceRequest, InferenceResponse


class Silent(MLModel):
    """Answers without an id and without outputs."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[])


@pytest.fixture(scope="module")
def address() -> Any:
    with running_server([ModelSettings(name="silent", implementation=Silent)]) as server:
        yield f"{server.rest}/v2/models/silent/infer"


@pytest.mark.parametrize("request_id", ["one", "", "é/ 1"])
def test_an_id_comes_back_as_it_was_sent(address: str, request_id: str) -> None:
    answer = httpx.post(address, json={"id": request_id, "inputs": []})
    assert answer.json()["id"] == request_id
    assert ("ce-id" in answer.headers) == bool(request_id)


def test_a_request_without_an_id_gets_one_that_is_also_the_events(address: str) -> None:
    for body in ({"inputs": []}, {"id": None, "inputs": []}):
        answer = httpx.post(address, json=body)
        assert uuid.UUID(answer.json()["id"])
        assert answer.headers["ce-id"] == answer.headers["ce-requestid"] == answer.json()["id"]
