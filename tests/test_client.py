"""The client: what people give and get, health, metadata and the repository, and all of it against the program."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from mlserve import errors
from mlserve.client import Client
from mlserve.client.bodies import encode_request
from mlserve.client.payload import make_request
from mlserve.client.result import InferResult
from mlserve.codecs import NumpyCodec
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    State,
)
from mlserve.wire.v2json import decode_request
from tests.client_edge import KINDS, Scripted, answer, connected
from tests.engine import MODELS
from tests.fake_dataplane import echo
from tests.grpc_edge import FakePlane
from tests.serving import serving, write_model


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- what people give and get -----------------------------------------------------------------------------------------


def test_arrays_text_dates_and_numbers_come_back_as_they_went(kind):
    sent = {
        "matrix": np.arange(6, dtype="int16").reshape(2, 3),
        "text": ["a", "é", ""],
        "dates": [datetime.datetime(2024, 1, 2, 3, 4)],
        "flags": np.array([[True], [False]]),
        "numbers": [1.5, 2.5],
        "one": "text",
        "series": pd.Series([1, 2]),
    }
    with connected(kind) as client:
        result = client.infer("echo", sent)
    assert list(result.outputs) == list(sent)
    assert result.outputs["matrix"].dtype == np.int16
    np.testing.assert_array_equal(result.outputs["matrix"], sent["matrix"])
    assert result.outputs["text"] == sent["text"]
    assert result.outputs["dates"] == sent["dates"]
    np.testing.assert_array_equal(result.outputs["flags"], sent["flags"])
    assert result.outputs["numbers"].tolist() == [[1.5], [2.5]]  # [N] is [N, 1] in the protocol's codecs.
    assert result.outputs["one"] == ["text"]
    assert result.outputs["series"].ravel().tolist() == [1, 2]


def test_a_frame_comes_back_as_a_frame(kind):
    frame = pd.DataFrame(
        {"n": [1, 2], "f": [0.5, -1.0], "s": ["x", "y"], "d": pd.to_datetime(["2024-01-01", "2024-01-02"])}
    )
    with connected(kind) as client:
        back = client.infer("echo", frame).to_pandas()
    pd.testing.assert_frame_equal(back.drop(columns="d"), frame.drop(columns="d"))
    assert [one.isoformat() for one in back["d"]] == ["2024-01-01T00:00:00", "2024-01-02T00:00:00"]


@pytest.mark.parametrize("payload", [np.ones((2, 2)), ["a", "b"], "a", 3, [1, 2], (1.0, 2.0), [b"\xff"]], ids=repr)
def test_a_single_value_is_the_only_input(payload):
    with connected("json") as client:
        result = client.infer("echo", payload)
    assert list(result.outputs) == ["input-1"]


def test_a_request_of_the_protocol_is_sent_as_it_is(kind):
    tensor = RequestInput(name="x", shape=[3], datatype="FP32", data=[1, 2, 3])
    request = InferenceRequest(id="mine", inputs=[tensor], parameters=Parameters(key="value"))
    with connected(kind) as client:
        result = client.infer("echo", request)
        again = client.infer("echo", request, id="other", parameters={"more": 1})
    assert (result.id, result.model_name) == ("mine", "echo")
    assert result.parameters["key"] == "value"
    assert result.outputs["x"].tolist() == [1, 2, 3] and result.outputs["x"].dtype == np.float32
    assert (again.id, again.parameters["key"], again.parameters["more"]) == ("other", "value", 1)
    assert request.parameters == {"key": "value"}  # The caller's request is untouched.


def test_what_has_no_form_in_the_protocol_is_refused_before_anything_is_sent():
    with Scripted() as server, Client(server.address) as client:
        for payload in ({"x": object()}, {"x": 1j}, object(), {"x": [[1], [1, 2]]}):
            with pytest.raises(errors.CodecError):
                client.infer("m", payload)
        with pytest.raises(errors.CodecError):
            client.stream("m", object())
        assert server.connections == 0


def test_json_cannot_carry_infinity_but_bytes_can():
    for kind, expected in (("json", [True, True]), ("binary", [False, True]), ("grpc", [False, True])):
        with connected(kind) as client:
            back = client.infer("echo", np.array([np.inf, np.nan])).outputs["input-1"]
        assert np.isnan(back).ravel().tolist() == expected


def test_null_among_text_stays_json_where_the_rest_is_binary():
    request, _ = make_request({"a": ["x", None], "b": np.ones(2)})
    chunks, header_length = encode_request(request, binary=True)
    assert header_length == len(chunks[0]) and len(chunks) == 2
    read = decode_request(b"".join(map(bytes, chunks)), header_length)
    assert [one.data.form for one in read.inputs] == ["json", "raw"]
    assert list(read.inputs[0].data) == ["x", None]


def test_headers_go_out_and_come_back(kind):
    def headers(request: InferenceRequest) -> InferenceResponse:
        response = echo(request)
        seen = request.parameters.headers
        response.parameters = Parameters(headers={"X-Answer": f"{seen['x-all']} {seen['x-call']} {seen['x-own']}"})
        return response

    with connected(kind, FakePlane(headers=headers), headers={"X-All": "1"}) as client:
        request = InferenceRequest(inputs=[], parameters=Parameters(headers={"X-Own": "3"}))
        result = client.infer("headers", request, headers={"X-Call": "2"})
    assert result.headers["x-answer"] == "1 2 3"
    assert "headers" not in result.parameters


def test_outputs_can_be_chosen_and_versions_named(kind):
    plane = FakePlane()
    plane.versions["echo"] = ("v1", "v2")
    with connected(kind, plane) as client:
        result = client.infer("echo", [1], version="v1", outputs=["a"])
        assert result.model_version == "v1"
        (_, version, request, timeout) = plane.calls[-1]
        assert version == "v1" and [one.name for one in request.outputs] == ["a"]
        assert 0 < timeout <= 60
        with pytest.raises(errors.ModelNotFound):
            client.infer("echo", [1], version="v9")


def test_large_tensors_travel_whole(kind):
    array = np.random.default_rng(1).random((300, 1000))
    with connected(kind) as client:
        np.testing.assert_array_equal(client.infer("echo", {"x": array}).outputs["x"], array)


def test_outputs_without_a_content_type_follow_their_datatype():
    outputs = [
        {"name": "n", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]},
        {"name": "s", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
        {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["aGk="], "parameters": {"content_type": "base64"}},
    ]
    with Scripted(answer({"model_name": "m", "outputs": outputs})) as server, Client(server.address) as client:
        result = client.infer("m", [1])
    assert result.outputs["n"].tolist() == [[1], [2]]
    assert result.outputs["s"] == ["a", "b"]
    assert result.outputs["b"] == [b"hi"]
    assert repr(result) == "<InferResult m: n INT64[2, 1], s BYTES[2], b BYTES[1]>"


def test_two_outputs_of_one_name_are_not_made_one() -> None:
    outputs = [NumpyCodec.encode_output("o", np.array([number])) for number in range(2)]
    other = NumpyCodec.encode_output("other", np.array([5]))
    result = InferResult(InferenceResponse(model_name="m", outputs=[*outputs, other]), {})
    with pytest.raises(errors.CodecError, match=r"output named 'o', .* take them from result\.response\.outputs"):
        _ = result.outputs
    assert [NumpyCodec.decode_output(one).item() for one in result.response.outputs] == [0, 1, 5]


# -- health, metadata, repository -------------------------------------------------------------------------------------


def test_health_metadata_and_the_repository(kind):
    plane = FakePlane()
    tensor = MetadataTensor(name="x", datatype="FP32", shape=[-1, 2], parameters=Parameters(content_type="np"))
    plane.metadata["echo"] = MetadataModelResponse(
        name="echo", versions=["v1"], platform="p", inputs=[tensor], outputs=[], parameters=Parameters(k="v")
    )
    with connected(kind, plane) as client:
        assert client.server_live() and client.server_ready() and client.model_ready("echo")
        assert client.server_metadata().name == "mlserve"
        assert client.model_metadata("echo") == plane.metadata["echo"]
        (item,) = client.repository_index()
        assert (item.name, item.state) == ("echo", State.READY)
        plane.unready.add("echo")
        plane.is_ready = False
        assert not client.server_ready() and not client.model_ready("echo")
        assert [one.state for one in client.repository_index()] == [State.UNAVAILABLE]
        assert client.repository_index(ready=True) == []
        client.repository_load("echo")
        client.repository_unload("echo")
        assert plane.repository == ["load echo", "unload echo"]
        assert client.model_ready("nope") is False and client.model_ready("echo", version="nope") is False
        for call in (client.model_metadata, client.repository_load, client.repository_unload):
            with pytest.raises(errors.ModelNotFound, match="Model nope not found"):
                call("nope")


# -- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_against_the_real_program(tmp_path):
    for name in ("double", "failing", "sleeper"):
        (write_model(tmp_path, name, f"models.{name.capitalize()}") / "models.py").write_text(MODELS)
    array = np.arange(200_000, dtype="float32").reshape(-1, 2)
    with serving(tmp_path) as server:
        for address, binary in ((server.rest, False), (server.rest, True), (f"grpc://{server.grpc}", None)):
            with Client(address, binary=binary) as client:
                assert client.server_live() and client.server_ready() and client.model_ready("double")
                np.testing.assert_array_equal(client.infer("double", {"x": array}).outputs["x"], array * 2)
                chunks = client.stream("double", {"x": array[:3]}, parameters={"chunks": 3})
                assert [one.outputs["x"].sum() for one in chunks] == [0, 15, 30]
                frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
                assert client.infer("double", frame).to_pandas().to_dict("list") == {"a": [2, 4], "b": [1.0, 3.0]}
                with pytest.raises(errors.ModelError, match="golden value"):
                    client.infer("failing", [1.0])
                with pytest.raises(errors.DeadlineExceeded):
                    client.infer("sleeper", np.array([5.0], "float32"), timeout_seconds=0.3)
                assert {one.name for one in client.repository_index(ready=True)} == {"double", "failing", "sleeper"}
                client.repository_unload("double")
                with pytest.raises(errors.ModelNotFound):
                    client.infer("double", [1.0])
                client.repository_load("double")
                assert client.model_ready("double")
        assert server.stop() == 0
