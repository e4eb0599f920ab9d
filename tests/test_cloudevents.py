"""Headers of requests and responses, with those of the CloudEvents, over REST, gRPC and streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from mlserve.cloudevents import CloudEvents
from mlserve.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserve.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserve.model import MLModel
from mlserve.settings import ModelSettings
from mlserve.testing import RunningServer, running_server
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

SOURCE = "io.seldon.serving.deployment.mlserve"
EVENT = {
    "ce-specversion": "0.3",
    "ce-source": SOURCE,
    "ce-type": "io.seldon.serving.inference.response",
    "ce-modelid": "told",
    "ce-inferenceservicename": "mlserve",
    "ce-endpoint": "told",
    "ce-id": "my-id",
    "ce-requestid": "my-id",
}


class Told(MLModel):
    """Answers with what it saw in `parameters.headers`, and with the headers and the id that it is told."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        told = json.loads(payload.inputs[0].data[0])
        seen = payload.parameters.headers if payload.parameters else None
        output = ResponseOutput(name="seen", shape=[1], datatype="BYTES", data=[json.dumps(seen, default=repr)])
        parameters = Parameters(headers=told["headers"]) if "headers" in told else None
        return InferenceResponse(model_name=self.name, id=told.get("id"), outputs=[output], parameters=parameters)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(ModelSettings(name="told", implementation=Told)) as running:
        yield running


def request_of(told: dict[str, Any], **more: Any) -> InferenceRequest:
    one = RequestInput(name="x", shape=[1], datatype="BYTES", data=[json.dumps(told)])
    return InferenceRequest(**{"id": "my-id", "inputs": [one], **more})


def rest(server: RunningServer, told: dict[str, Any], headers: Any = None, **more: Any) -> tuple[Any, Any, Any]:
    """What the model saw, the headers of the answer, and its id."""
    body = request_of(told, **more).model_dump_json()
    reply = httpx.post(f"{server.rest}/v2/models/told/infer", content=body, headers=headers or {})
    assert reply.status_code == 200, reply.text
    return json.loads(reply.json()["outputs"][0]["data"][0]), reply.headers, reply.json()["id"]


def over_grpc(server: RunningServer, told: dict[str, Any], metadata: Any = (), **more: Any) -> tuple[Any, Any, Any]:
    message = ModelInferRequestConverter.from_types(request_of(told, **more), model_name="told")
    with grpc.insecure_channel(server.grpc) as channel:
        reply, call = GRPCInferenceServiceStub(channel).ModelInfer.with_call(message, metadata=metadata, timeout=60)
    answer = ModelInferResponseConverter.to_types(reply)
    return json.loads(answer.outputs[0].data[0]), dict(call.trailing_metadata()), answer.id


@pytest.mark.parametrize("ask", [rest, over_grpc])
def test_a_response_carries_the_event_of_its_request(server: RunningServer, ask: Any) -> None:
    seen, headers, _ = ask(server, {})
    assert {name: headers[name] for name in EVENT} == EVENT
    assert seen["Ce-Type"] == "io.seldon.serving.inference.request"
    assert (seen["Ce-Id"], seen["Ce-Requestid"], seen["Ce-Source"]) == ("my-id", "my-id", SOURCE)


@pytest.mark.parametrize("ask", [rest, over_grpc])
def test_a_model_sees_real_headers_and_none_that_the_body_claims(server: RunningServer, ask: Any) -> None:
    claimed = Parameters(headers={"x-real": "no", "x-made-up": "1"}) if ask is rest else None
    seen, _, _ = ask(server, {}, [("x-real", "yes"), ("x-twice", "a"), ("x-twice", "b")], parameters=claimed)
    assert (seen["x-real"], seen["x-twice"].replace(" ", "")) == ("yes", "a,b")
    assert "x-made-up" not in seen


@pytest.mark.parametrize("ask", [rest, over_grpc])
def test_headers_of_a_client_that_look_like_an_event_stand_beside_ours(server: RunningServer, ask: Any) -> None:
    seen, headers, _ = ask(server, {}, [("ce-id", "theirs"), ("ce-custom", "c")])
    assert (seen["ce-id"], seen["Ce-Id"], seen["ce-custom"]) == ("theirs", "my-id", "c")
    assert headers["ce-id"] == "my-id"


@pytest.mark.parametrize("ask", [rest, over_grpc])
def test_what_a_model_wants_to_say_goes_out(server: RunningServer, ask: Any) -> None:
    given = {"X-Out": "1", "x-number": 5, "x-none": None, "x-lines": "a\r\nb", "x-far": "€", "ce-custom": "c"}
    _, headers, _ = ask(server, {"headers": given})
    assert (headers["x-out"], headers["x-number"], headers["ce-custom"]) == ("1", "5", "c")
    assert (headers["x-lines"], headers["x-far"]) == ("a%0D%0Ab", "%E2%82%AC")
    assert "x-none" not in headers


@pytest.mark.parametrize("ask", [rest, over_grpc])
def test_a_model_cannot_set_what_is_the_servers(server: RunningServer, ask: Any) -> None:
    given = {"Ce-Id": "mine", "ce-source": "me", "CE-TYPE": "other", "content-length": "3", "content-type": "text/html"}
    _, headers, _ = ask(server, {"headers": given})
    assert {name: headers[name] for name in EVENT} == EVENT
    assert "text/html" not in str(headers.get("content-type", ""))
    if ask is rest:
        assert headers.get_list("ce-source") == [SOURCE]


def test_binary_metadata_is_bytes_to_the_model_and_base64_text_may_come_back(server: RunningServer) -> None:
    told = {"headers": {"x-out-bin": "AAH/"}}
    seen, headers, _ = over_grpc(server, told, [("x-in-bin", b"\x00\x01\xff")])
    assert seen["x-in-bin"] == repr(b"\x00\x01\xff")
    assert headers["x-out-bin"] == b"\x00\x01\xff"


@pytest.mark.parametrize("ask", [rest, over_grpc])
def test_the_id_of_an_answer_is_its_requests(server: RunningServer, ask: Any) -> None:
    _, headers, answered = ask(server, {"id": "the-models"})
    assert (answered, headers["ce-id"]) == ("my-id", "my-id")
    seen, headers, answered = ask(server, {"id": "the-models"}, id=None)
    assert answered == headers["ce-id"] == seen["Ce-Id"] != "the-models"


def test_events_of_a_stream_stand_in_its_chunks(server: RunningServer) -> None:
    body = request_of({"headers": {"X-Out": "1"}}).model_dump_json()
    reply = httpx.post(f"{server.rest}/v2/models/told/infer_stream", content=body)
    (line,) = [one for one in reply.text.splitlines() if one.startswith("data: ")]
    headers = json.loads(line.removeprefix("data: "))["parameters"]["headers"]
    assert {name.lower(): value for name, value in headers.items()} == {"x-out": "1", **EVENT}


def test_an_id_that_no_client_would_take_in_a_header_is_left_out() -> None:
    events = CloudEvents("s")
    assert {"Ce-Id", "Ce-Requestid"} <= set(events.response_headers("m", "x" * 1024))
    assert not {"Ce-Id", "Ce-Requestid"} & set(events.response_headers("m", "x" * 1025))
    assert not {"Ce-Id", "Ce-Requestid"} & set(events.request_headers("m", None))
