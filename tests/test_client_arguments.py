"""What callers give the client: what cannot be sent as it was meant is refused, by an error that says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlserve.client import AsyncClient, Client, ClientError
from mlserve.client.faults import from_event
from mlserve.errors import CodecError, DeadlineExceeded, InvalidRequest, MLServeError, ModelError, Overloaded
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput
from tests.client_edge import KINDS, connected, words
from tests.fake_dataplane import echo
from tests.grpc_edge import FakePlane


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["a", 1], "a list of int and str; one tensor holds one kind: make them all text"),
        ([["a"], [1.5]], "a list of float and str"),
        ([b"a", "b"], "a list of bytes and str"),
        ([True, "b"], "a list of bool and str"),
        (("a", 1), "a list of int and str"),
        ([2**63, -1], "no integer type holds both -1 and 9223372036854775808"),
        ([np.uint64(2**63), np.int64(-1)], "no integer type holds both -1"),
        ([2**53 + 1, 0.5], f"{2**53 + 1} would lose digits"),
        ([[0.5, 1], [2, 2**60 + 1]], f"{2**60 + 1} would lose digits"),
    ],
    ids=repr,
)
def test_lists_that_numpy_would_change_are_refused(values: Any, told: str) -> None:
    with Client("http://127.0.0.1:1") as client:
        for payload in ({"x": values}, values):
            with pytest.raises(CodecError) as caught:
                client.infer("m", payload)
            assert told in str(caught.value)


def test_lists_that_numpy_keeps_are_sent(kind: str) -> None:
    with connected(kind) as client:
        for values in (
            [2**53, 0.5],
            [1, 2.5],
            [2**63, 1],
            [-(2**63), 1],
            [[1], [2]],
            [True, False],
            [["a"], [np.str_("b")]],
        ):
            found = client.infer("echo", {"x": values}).outputs["x"]
            sent = np.asarray(found).astype(str if "a" in str(values) else object).ravel().tolist()
            assert sent == np.asarray(values, dtype=str if "a" in str(values) else object).ravel().tolist()


# -- headers -----------------------------------------------------------------------------------------------------------

HEADERS: list[tuple[Any, str]] = [
    ({"x-user": "日本"}, "has characters that it cannot have"),
    ({"x-user": "a\r\nx-b: 1"}, "line break or another control character"),
    ({"x-user": "a\0b"}, "control character"),
    ({"x-user": 5}, "header 'x-user': expected text, got 5; write '5'"),
    ({"x-user": None}, "expected text, got None"),
    ({"x user": "a"}, "a name has letters, digits and dashes"),
    ({"": "a"}, "a name has letters"),
    ({3: "a"}, "the name of a header: expected text, got 3"),
    ({"Content-Type": "text/plain"}, "the client sets it itself"),
    ({"content-length": "1"}, "the client sets it itself"),
    ({"Transfer-Encoding": "chunked"}, "the client sets it itself"),
    ([("a", "b")], "headers: expected a dict"),
]


@pytest.mark.parametrize(("headers", "told"), HEADERS, ids=repr)
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_headers_that_cannot_be_sent_are_refused(scheme: str, headers: Any, told: str) -> None:
    address = f"{scheme}://127.0.0.1:1"
    with Client(address) as client:
        calls: list[Callable[[], Any]] = [
            lambda: client.infer("m", [1], headers=headers),
            lambda: client.stream("m", [1], headers=headers),
            lambda: AsyncClient(address, headers=headers),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest) as caught:
                call()
            assert told in str(caught.value)


@pytest.mark.parametrize("headers", [3, "x", ["a"], 0, ""], ids=repr)
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_headers_among_parameters_are_a_dict(scheme: str, headers: Any) -> None:
    request = InferenceRequest(inputs=[], parameters={"headers": headers})  # type: ignore[arg-type]  # made Parameters
    with Client(f"{scheme}://127.0.0.1:1") as client:
        calls: list[Callable[[], Any]] = [
            lambda: client.infer("m", request),
            lambda: client.stream("m", request),
            lambda: client.infer("m", [1], parameters={"headers": headers}),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest, match=r"parameters\.headers: expected a dict, got"):
                call()


def test_headers_arrive_as_they_were_given(kind: str) -> None:
    seen: list[dict[str, Any]] = []

    def model(request: InferenceRequest) -> InferenceResponse:
        seen.append(dict(request.parameters.headers or {}) if request.parameters else {})
        return echo(request)

    def client_of(**headers: Any) -> Any:
        return connected(kind, FakePlane(model=model), headers=headers)

    with client_of(Authorization="general", other="x") as client:
        client.infer("model", [1], headers={"authorization": "of this call", "X-Note": "100% ~"})
        assert {"authorization": "of this call", "other": "x", "x-note": "100% ~"}.items() <= seen[-1].items()
        if kind.startswith("grpc"):
            client.infer("model", [1], headers={"x-bin": b"\xff\0"})
            assert seen[-1]["x-bin"] == b"\xff\0"
            with pytest.raises(InvalidRequest, match="ASCII"):
                client.infer("model", [1], headers={"x-user": "é"})
            with pytest.raises(InvalidRequest, match="expected bytes, as the name says"):
                client.infer("model", [1], headers={"x-bin": "text"})
            with pytest.raises(InvalidRequest, match="sets it itself"):
                client.infer("model", [1], headers={"grpc-timeout": "1S"})
        else:
            client.infer("model", [1], headers={"x-user": "é"})
            assert seen[-1]["x-user"] == "é"


# -- everything else ---------------------------------------------------------------------------------------------------

CALLS: list[tuple[Callable[[Client], Any], str]] = [
    (lambda client: client.infer(None, [1]), "model: expected text, got None"),  # type: ignore[arg-type]
    (lambda client: client.infer("echo", [1], version=3), "version: expected text, got 3; write '3'"),  # type: ignore[arg-type]
    (lambda client: client.infer("echo", [1], timeout_seconds=float("nan")), "timeout_seconds: expected a number"),
    (lambda client: client.infer("echo", [1], timeout_seconds=-1), "a number of seconds from 0 on, or None, got -1"),
    (lambda client: client.infer("echo", [1], timeout_seconds=float("-inf")), "from 0 on, or None, got -inf"),
    (lambda client: client.stream("echo", [1], timeout_seconds=-0.5), "from 0 on, or None, got -0.5"),
    (lambda client: Client(client.address, timeout_seconds=-1).server_live(), "from 0 on, or None, got -1"),
    (lambda client: client.infer("echo", [1], timeout_seconds="3"), "timeout_seconds: expected a number"),  # type: ignore[arg-type]
    (lambda client: client.infer("echo", [1], id=7), "id: expected text, got 7; write '7'"),  # type: ignore[arg-type]
    (lambda client: client.infer("echo", [1], outputs="y"), "outputs: expected a list of names"),
    (lambda client: client.infer("echo", [1], outputs=[3]), "outputs: expected text, got 3"),  # type: ignore[list-item]
    (lambda client: client.infer("echo", [1], parameters=[1]), "parameters: expected a dict"),  # type: ignore[arg-type]
    (lambda client: client.infer("echo", [1], parameters={"a": object()}), "object"),
    (lambda client: client.model_ready(None), "model: expected text"),  # type: ignore[arg-type]
    (lambda client: client.model_metadata("echo", version=1), "version: expected text"),  # type: ignore[arg-type]
    (lambda client: client.repository_load(5), "model: expected text"),  # type: ignore[arg-type]
    (lambda client: client.repository_unload("echo", timeout_seconds=float("nan")), "timeout_seconds"),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_arguments_of_the_wrong_kind_are_named(kind: str, number: int) -> None:
    call, told = CALLS[number]
    if told == "object" and kind.startswith("grpc"):
        return  # its parameters are numbers and text: what is neither goes as its text
    with connected(kind) as client, pytest.raises(InvalidRequest) as caught:
        call(client)
    assert told in str(caught.value)


@pytest.mark.parametrize("seconds", [float("nan"), "60", True])
def test_a_client_without_a_sensible_time_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout_seconds: expected a number of seconds"):
        AsyncClient("http://h", timeout_seconds=seconds)


def test_a_host_that_cannot_be_a_name_is_no_connection() -> None:
    with Client(f"http://{'h' * 70}.example", retries=0) as client, pytest.raises(ClientError, match="cannot connect"):
        client.server_live()


def test_a_tensor_whose_data_do_not_fit_is_refused(kind: str) -> None:
    tensor = RequestInput(name="x", shape=[1], datatype="FP32", data=[object()])
    with connected(kind) as client, pytest.raises(InvalidRequest):
        client.infer("echo", tensor)


# -- errors in the middle of a stream ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 501, 503, 504])
def test_an_error_in_mid_stream_has_the_same_class_on_both_transports(status: int) -> None:
    found = []
    for kind in ("json", "grpc"):
        with connected(kind, FakePlane(broken=words(1, MLServeError("quota", status)))) as client:
            answers = client.stream("broken", ["text"])
            next(answers)
            with pytest.raises(MLServeError) as caught:
                next(answers)
        found.append((type(caught.value), caught.value.message))
        assert not caught.value.retryable
    assert found[0] == found[1]
    if status == 429:
        assert found[0][0] is Overloaded


@pytest.mark.parametrize("data", [b'{"error":"x"}', b'{"error":"x","status":"4"}', b'{"error":"x","status":200}', b"["])
def test_an_event_without_a_status_is_an_error_of_the_model(data: bytes) -> None:
    assert type(from_event(data, ("m", None))) is ModelError


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, 10**400, 1e12, 99_999_999.4, 86_400], ids=str)
def test_times_without_end_and_very_long_ones_are_no_trouble(kind: str, seconds: float) -> None:
    plane = FakePlane(words=words(2))
    with connected(kind, plane, timeout_seconds=seconds) as client:
        assert client.infer("echo", [1]).outputs["input-1"].tolist() == [[1]]
        assert client.server_live()
    with connected(kind, plane, timeout_seconds=1e-9) as client:
        with pytest.raises(DeadlineExceeded):
            client.infer("echo", [1])
        assert client.infer("echo", [1], timeout_seconds=seconds).outputs["input-1"].tolist() == [[1]]
        assert len(list(client.stream("words", ["a"], timeout_seconds=seconds))) == 2
