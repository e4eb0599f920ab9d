"""The load generator of bench/: it times right answers, and a run with wrong ones fails loudly."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from load import Load, LoadError, Outcome, Plan  # bench/ is a folder of scripts
from oip import Call, grpc_contents, grpc_raw, rest_binary, rest_json

grpc = pytest.importorskip("grpc")

SMALL = np.array([[1.5, 2.5]], np.float32)
LARGE = np.arange(200_000, dtype=np.float32)


def run(call: Call, port: int, **plan: Any) -> Outcome:
    """A short round, of one call at least."""
    with Load(Plan(call, port, seconds=0.1, warm_seconds=0.05, **{"least_calls": 1, **plan})) as load:
        return load.go()


@contextmanager
def http_server(answer: bytes, head: bytes = b"", status: int = 200, last: int = 10**9) -> Iterator[int]:
    """Answers every POST alike, and the `last` one and those after it with status 503."""
    calls = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            given = status if next(calls) < last else 503
            self.wfile.write(b"HTTP/1.1 %d Fine\r\n%scontent-length: %d\r\n\r\n" % (given, head, len(answer)) + answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def grpc_echo(code: Any = None) -> Iterator[int]:
    """Gives each ModelInferRequest back as the answer: raw contents have different numbers in the two messages."""
    from mlserve.wire.schema import schema_class

    def echo(body: bytes, context: Any) -> bytes:
        if code is not None:
            context.abort(code, "no luck")
        request = schema_class("inference.ModelInferRequest").FromString(body)
        answer = schema_class("inference.ModelInferResponse")(raw_output_contents=request.raw_input_contents)
        for tensor in request.inputs:
            answer.outputs.add().MergeFromString(tensor.SerializeToString())
        return bytes(answer.SerializeToString())

    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo)}
    )
    server = grpc.server(ThreadPoolExecutor(4), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


def json_answer(values: np.ndarray[Any, Any]) -> bytes:
    """What a server would say."""
    return b'{"outputs": [{"datatype": "FP32", "data": %s}]}' % str(values.tolist()).encode()


@pytest.mark.parametrize("values", [SMALL, LARGE], ids=["small", "large"])
def test_right_json_answers_are_counted_and_timed(values: np.ndarray[Any, Any]) -> None:
    with http_server(json_answer(values)) as port:
        outcome = run(rest_json("m", values, values), port, connections=3, least_calls=6)
    assert outcome.calls >= 6
    assert 0 < outcome.p50_ms <= outcome.p99_ms
    assert outcome.elapsed_seconds >= 0.1


def test_a_binary_answer_is_read_past_its_json() -> None:
    answer = b'{"outputs": [{"datatype": "FP32"}]}'
    with http_server(answer + SMALL.tobytes(), b"Inference-Header-Content-Length: %d\r\n" % len(answer)) as port:
        assert run(rest_binary("m", SMALL, SMALL), port).calls > 0


def test_wrong_values_fail_the_run() -> None:
    with http_server(json_answer(SMALL + 1)) as port, pytest.raises(LoadError, match="wrong values"):
        run(rest_json("m", SMALL, SMALL), port)


def test_one_late_error_fails_the_run() -> None:
    with http_server(json_answer(SMALL), last=20) as port, pytest.raises(LoadError, match="status 503"):
        run(rest_json("m", SMALL, SMALL), port, least_calls=30)


@pytest.mark.parametrize("make", [grpc_contents, grpc_raw])
@pytest.mark.parametrize(("values", "streams"), [(SMALL, 1), (SMALL, 5), (LARGE, 3)], ids=["small", "shared", "large"])
def test_right_grpc_answers_are_counted(make: Any, values: np.ndarray[Any, Any], streams: int) -> None:
    """Also several at a time on one connection, and messages longer than frames and windows."""
    with grpc_echo() as port:
        assert run(make("m", values, values), port, connections=2, streams=streams, least_calls=20).calls >= 20


def test_a_grpc_status_fails_the_run() -> None:
    with grpc_echo(grpc.StatusCode.UNAVAILABLE) as port, pytest.raises(LoadError, match="grpc-status b'14': no luck"):
        run(grpc_raw("m", SMALL, SMALL), port)


def test_wrong_grpc_values_fail_the_run() -> None:
    with grpc_echo() as port, pytest.raises(LoadError, match="wrong values"):
        run(grpc_raw("m", SMALL, SMALL + 1), port)
