"""What odd, broken and hostile HTTP/2 does to the gRPC edge, frame by frame; the server keeps serving after each."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hpack import Encoder

from mlserve.http2 import HEADER_BYTES, ServerConnection, StatelessEncoder
from mlserve.types import InferenceRequest
from mlserve.wire.v2proto import decode_response, encode_request
from tests.grpc_edge import (
    ACK,
    BACKENDS,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PUSH,
    RST,
    SECONDS,
    SETTINGS,
    WINDOW,
    Heard,
    Running,
    frame,
    framed,
    serving,
    talk,
)

PATH = "/inference.GRPCInferenceService/ModelInfer"
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "a"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 1, 3, 5, 6, 11


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as running:
        yield running


def message(request_id: str = "abc") -> bytes:
    return framed(b"".join(encode_request(InferenceRequest(id=request_id, inputs=[]), "echo")))


def headers(encoder: Encoder, stream: int = 1, flags: int = END_HEADERS, **changed: str | None) -> bytes:
    """The headers of a call; `te=None` leaves a field out, `_method="GET"` changes a pseudo-header."""
    names = {(":" + name[1:] if name[0] == "_" else name.replace("_", "-")): value for name, value in changed.items()}
    fields = [(name, names.pop(name, value)) for name, value in FIELDS] + list(names.items())
    return frame(HEADERS, flags, stream, encoder.encode([one for one in fields if one[1] is not None]))


def padded(data: bytes, padding: int) -> bytes:
    return bytes((padding,)) + data + bytes(padding)


def answered(heard: Heard) -> bool:
    return heard.status() is not None or heard.http_status() not in (None, "200")


def still_serves(server: Running) -> None:
    """A new connection gets its answer."""
    heard = talk(server.port, lambda e: headers(e) + frame(DATA, END_STREAM, 1, message("still")), answered)
    assert heard.status() == "0" and decode_response(heard.data()[5:]).id == "still"


def in_parts(encoder: Encoder) -> bytes:
    """Headers with padding and priority, over three frames."""
    block = encoder.encode(FIELDS)
    first = b"\x03" + bytes(5) + block[:10] + bytes(3)
    return (
        frame(HEADERS, PADDED | PRIORITIZED, 1, first)
        + frame(CONTINUATION, 0, 1, block[10:20])
        + frame(CONTINUATION, END_HEADERS, 1, block[20:])
        + frame(DATA, END_STREAM, 1, message())
    )


ANSWERED: dict[str, Callable[[Encoder], bytes]] = {
    "plain": lambda e: headers(e) + frame(DATA, END_STREAM, 1, message()),
    "padded data": lambda e: headers(e) + frame(DATA, END_STREAM | PADDED, 1, padded(message(), 20)),
    "padding in two frames": lambda e: (
        headers(e)
        + frame(DATA, PADDED, 1, padded(message()[:4], 9))
        + frame(DATA, END_STREAM | PADDED, 1, padded(message()[4:], 0))
    ),
    "only padding at the end": lambda e: (
        headers(e) + frame(DATA, 0, 1, message()) + frame(DATA, END_STREAM | PADDED, 1, padded(b"", 7))
    ),
    "an empty last frame": lambda e: headers(e) + frame(DATA, 0, 1, message()) + frame(DATA, END_STREAM, 1),
    "empty frames between": lambda e: (
        headers(e)
        + frame(DATA, 0, 1)
        + frame(DATA, 0, 1, message()[:7])
        + frame(DATA, 0, 1)
        + frame(DATA, END_STREAM, 1, message()[7:])
    ),
    "padding, priority and continuation": in_parts,
    "trailers in the request": lambda e: (
        headers(e) + frame(DATA, 0, 1, message()) + frame(HEADERS, END_HEADERS | END_STREAM, 1, e.encode([("x", "y")]))
    ),
    "an unknown frame before it": lambda e: (
        frame(0x77, 0, 0, b"zz") + headers(e) + frame(DATA, END_STREAM, 1, message())
    ),
    "two messages for a unary call": lambda e: headers(e) + frame(DATA, END_STREAM, 1, message() + message("d")),
    "a value that is no ASCII": lambda e: (
        frame(HEADERS, END_HEADERS, 1, e.encode([*FIELDS, ("x-odd", b"\xff\xfe")]))
        + frame(DATA, END_STREAM, 1, message())
    ),
    "a client that leaves in peace": lambda e: (
        headers(e) + frame(GOAWAY, 0, 0, bytes(8)) + frame(DATA, END_STREAM, 1, message())
    ),
    "a content type with a subtype": lambda e: (
        headers(e, content_type="application/grpc+proto") + frame(DATA, END_STREAM, 1, message())
    ),
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("case", ANSWERED)
def test_these_are_answered(server: Running, case: str, bytewise: bool) -> None:
    """However the bytes are cut."""
    heard = talk(server.port, ANSWERED[case], answered, bytewise=bytewise)
    assert heard.status() == "0" and not heard.closed
    assert decode_response(heard.data()[5:]).id == "abc"


FAILED: dict[str, tuple[Callable[[Encoder], bytes], str, str]] = {
    "no message": (lambda e: headers(e, flags=END_HEADERS | END_STREAM), "200", "3"),
    "a message that is cut": (lambda e: headers(e) + frame(DATA, END_STREAM, 1, message()[:-1]), "200", "3"),
    "a prefix that is cut": (lambda e: headers(e) + frame(DATA, END_STREAM, 1, message()[:3]), "200", "3"),
    "a message that never comes": (lambda e: headers(e) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\5"), "200", "3"),
    "a message of 4 GB": (lambda e: headers(e) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xffabc"), "200", "8"),
    "a wrong flag": (lambda e: headers(e) + frame(DATA, END_STREAM, 1, b"\2" + message()[1:]), "200", "3"),
    "packed without an encoding": (
        lambda e: headers(e) + frame(DATA, END_STREAM, 1, b"\1" + message()[1:]),
        "200",
        "3",
    ),
    "an encoding nobody knows": (
        lambda e: headers(e, grpc_encoding="zstd") + frame(DATA, END_STREAM, 1, b"\1" + message()[1:]),
        "200",
        "12",
    ),
    "no gzip": (
        lambda e: headers(e, grpc_encoding="gzip") + frame(DATA, END_STREAM, 1, b"\1" + message()[1:]),
        "200",
        "3",
    ),
    "text that is no UTF-8": (
        lambda e: headers(e) + frame(DATA, END_STREAM, 1, framed(b"\x0a\x02\xff\xfe")),
        "200",
        "3",
    ),
    "no protobuf": (lambda e: headers(e) + frame(DATA, END_STREAM, 1, framed(b"\xff\xff\xff\xff")), "200", "3"),
    "a timeout that is none": (
        lambda e: headers(e, grpc_timeout="soon") + frame(DATA, END_STREAM, 1, message()),
        "200",
        "3",
    ),
    "a method that is none": (
        lambda e: headers(e, _path="/a.B/C") + frame(DATA, END_STREAM, 1, message()),
        "200",
        "12",
    ),
    "no path": (lambda e: headers(e, _path=None), "200", "12"),
    "GET": (lambda e: headers(e, flags=END_HEADERS | END_STREAM, _method="GET"), "405", ""),
    "no te": (lambda e: headers(e, te=None), "400", "3"),
    "no content type": (lambda e: headers(e, content_type=None), "415", "3"),
    "JSON": (lambda e: headers(e, content_type="application/json"), "415", "3"),
}


@pytest.mark.parametrize("case", FAILED)
def test_these_calls_fail_and_their_connection_lives(server: Running, case: str) -> None:
    """With a status that says what the client did wrong; the next call on the connection is answered."""
    make, http_status, status = FAILED[case]

    def two_calls(encoder: Encoder) -> bytes:
        return make(encoder) + headers(encoder, 3) + frame(DATA, END_STREAM, 3, message())

    heard = talk(server.port, two_calls, lambda heard: heard.status(3) is not None)
    assert (heard.http_status(), heard.status() or "") == (http_status, status)
    assert heard.status(3) == "0" and not heard.closed


CLOSED: dict[str, tuple[Callable[[Encoder], bytes], int]] = {
    "padding longer than the frame": (
        lambda e: headers(e) + frame(DATA, END_STREAM | PADDED, 1, b"\x09abc"),
        PROTOCOL_ERROR,
    ),
    "a frame among continuations": (
        lambda e: frame(HEADERS, 0, 1, e.encode(FIELDS)) + frame(PING, 0, 0, bytes(8)),
        PROTOCOL_ERROR,
    ),
    "an even stream": (lambda e: headers(e, 2), PROTOCOL_ERROR),
    "a stream below the last": (
        lambda e: headers(e, 5) + frame(DATA, END_STREAM, 5, message()) + headers(e, 3),
        PROTOCOL_ERROR,
    ),
    "data on the connection": (lambda e: frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "data on an idle stream": (lambda e: frame(DATA, 0, 9, b"x"), PROTOCOL_ERROR),
    "a window increment of 0": (lambda e: frame(WINDOW, 0, 0, bytes(4)), PROTOCOL_ERROR),
    "a window that overflows": (lambda e: frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
    "a setting out of its range": (lambda e: frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"), PROTOCOL_ERROR),
    "headers that are no HPACK": (lambda e: frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), PROTOCOL_ERROR),
    "a push from a client": (lambda e: frame(PUSH, END_HEADERS, 1, bytes(4) + e.encode(FIELDS)), PROTOCOL_ERROR),
    "a frame of 8 MB": (lambda e: b"\x7f\xff\xff\x00\0\0\0\0\1", FRAME_SIZE_ERROR),
    "headers of 1 MB": (lambda e: b"\x0f\xff\xff\x01\x04\0\0\0\1", ENHANCE_YOUR_CALM),
    "a flood of continuations": (
        lambda e: frame(HEADERS, 0, 1, b"\0\1a\1b" * 10) + frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 3000) * 10,
        ENHANCE_YOUR_CALM,
    ),
    "a flood of empty continuations": (
        lambda e: frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 100,
        PROTOCOL_ERROR,
    ),
    "a bomb of headers": (
        lambda e: frame(HEADERS, END_HEADERS, 1, b"\x40\x01a\x7f\x81\x1e" + b"b" * 4000 + b"\xbe" * 3000),
        ENHANCE_YOUR_CALM,
    ),
    "rapid reset": (
        lambda e: b"".join(headers(e, at) + frame(RST, 0, at, bytes(4)) for at in range(1, 10001, 2)),
        ENHANCE_YOUR_CALM,
    ),
    "a flood of settings": (lambda e: frame(SETTINGS, 0, 0) * 5000, ENHANCE_YOUR_CALM),
    "a flood of pings": (lambda e: frame(PING, 0, 0, bytes(8)) * 5000, ENHANCE_YOUR_CALM),
    "a flood of empty data": (lambda e: headers(e) + frame(DATA, 0, 1) * 5000, ENHANCE_YOUR_CALM),
    "a flood of windows": (lambda e: headers(e) + frame(WINDOW, 0, 1, b"\0\0\0\1") * 5000, ENHANCE_YOUR_CALM),
    "a flood of what nobody knows": (lambda e: frame(0x40, 0, 0) * 5000, ENHANCE_YOUR_CALM),
    "too many headers": (lambda e: frame(HEADERS, END_HEADERS, 1, e.encode(FIELDS) + b"\x95" * 300), ENHANCE_YOUR_CALM),
    "a client that reports an error": (
        lambda e: headers(e) + frame(GOAWAY, 0, 0, bytes(7) + b"\2") + frame(DATA, END_STREAM, 1, message()),
        PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("case", CLOSED)
def test_these_close_their_connection_and_no_other(server: Running, case: str) -> None:
    """With a GOAWAY that says why."""
    make, code = CLOSED[case]
    heard = talk(server.port, make, lambda heard: False)
    assert heard.closed
    assert heard.goaway() == code
    still_serves(server)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00" * 10, b"PRI * HTTP/2.1\r\n\r\n"]
)
def test_other_protocols_are_hung_up_on(server: Running, said: bytes) -> None:
    """HTTP/1.1, TLS, and something like HTTP/2."""
    assert talk(server.port, lambda e: said, lambda heard: False, preface=b"").closed
    still_serves(server)


def test_a_ping_is_answered(server: Running) -> None:
    """With its own words."""
    heard = talk(server.port, lambda e: frame(PING, 0, 0, b"12345678"), lambda heard: "PING" in heard.kinds)
    assert (PING, 1, 0, b"12345678") in heard.frames


def test_data_after_the_end_of_a_stream_resets_the_stream(server: Running) -> None:
    """The connection lives."""

    def two_calls(encoder: Encoder) -> bytes:
        ended = frame(DATA, END_STREAM, 1, message())
        return headers(encoder) + ended * 2 + headers(encoder, 3) + frame(DATA, END_STREAM, 3, message())

    heard = talk(server.port, two_calls, lambda heard: heard.status(3) is not None)
    assert heard.resets() == [STREAM_CLOSED] and heard.status(3) == "0"


def test_the_deadline_is_kept_whatever_the_call_waits_for(server: Running) -> None:
    """Here for a message that the client does not send."""
    heard = talk(server.port, lambda e: headers(e, grpc_timeout="10m"), answered)
    assert heard.status() == "4"


def test_a_client_that_resets_many_calls_but_finishes_as_many_is_welcome(server: Running) -> None:
    """Hedged requests look like that."""

    def mixed(encoder: Encoder) -> bytes:
        calls = b""
        for at in range(1, 400, 4):
            calls += headers(encoder, at) + frame(RST, 0, at, bytes(4))
            calls += headers(encoder, at + 2) + frame(DATA, END_STREAM, at + 2, message())
        return calls

    heard = talk(server.port, mixed, lambda heard: sum(kind == "DATA" for kind in heard.kinds) == 100)
    assert heard.goaway() is None


def test_calls_that_are_reset_pay_for_no_others(server: Running) -> None:
    """Although each is over before the next ones come."""
    encoder = Encoder()
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as sock:
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
        stream, received = 1, bytearray()
        for pongs in range(1, 100):
            resets = b"".join(
                headers(encoder, at) + frame(RST, 0, at, bytes(4)) for at in range(stream, stream + 100, 2)
            )
            stream += 100
            sock.sendall(resets + frame(PING, 0, 0, bytes(8)))
            while received.count(frame(PING, ACK, 0, bytes(8))) < pongs:
                data = sock.recv(65536)
                received += data
                if not data:
                    assert frame_code(received) == ENHANCE_YOUR_CALM
                    return
    raise AssertionError(f"{stream // 2} calls were reset, and the connection is still open")


def frame_code(received: bytearray) -> int:
    """Of the GOAWAY at the end."""
    return int.from_bytes(received[-4:], "big")


def test_a_message_in_tiny_frames_is_read(server: Running) -> None:
    """More of them than are kept while they wait for their turn."""
    data = message("x" * 30_000)

    def tiny(encoder: Encoder) -> bytes:
        frames = [frame(DATA, 0, 1, data[at : at + 1]) for at in range(len(data))]
        return headers(encoder) + b"".join(frames) + frame(DATA, END_STREAM, 1)

    heard = talk(server.port, tiny, answered)
    assert heard.status() == "0"
    assert decode_response(heard.data()[5:]).id == "x" * 30_000


def test_a_client_that_measures_its_line_with_pings_is_welcome(server: Running) -> None:
    """grpc-go sends one for each DATA that comes while none is on its way: thousands in a stream of small chunks."""
    from h2.connection import H2Connection
    from h2.events import DataReceived, PingAckReceived

    path = PATH.removesuffix("ModelInfer") + "ModelStreamInfer"
    fields = [(name, path if name == ":path" else value) for name, value in FIELDS]
    client = H2Connection()
    client.initiate_connection()
    client.send_headers(1, fields)
    measured = 0
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while measured < 2500:
            client.send_data(1, message())
            sock.sendall(client.data_to_send())
            awaited = {DataReceived, PingAckReceived}
            while awaited:
                data = sock.recv(1 << 16)
                assert data, f"closed after {measured} pings"
                for event in client.receive_data(data):
                    awaited.discard(type(event))
                    if isinstance(event, DataReceived):
                        client.acknowledge_received_data(event.flow_controlled_length, 1)
                        client.ping(bytes(8))
                sock.sendall(client.data_to_send())
            measured += 1


@pytest.mark.parametrize("size", [10, 200, 20_000])
def test_headers_of_answers_are_read_by_any_decoder(size: int) -> None:
    """Also after the client has changed the table's size, and over several frames."""
    from hpack import Decoder

    decoder, encoder = Decoder(), StatelessEncoder()
    for table_size in (4096, 100, 8192):
        encoder.header_table_size = table_size
        decoder.max_allowed_table_size = table_size
        fields = [(":status", "200"), ("x-long", "v" * size), (":status", "404"), ("grpc-status", "0")]
        assert [tuple(one) for one in decoder.decode(encoder.encode(fields))] == fields


def test_a_block_of_headers_is_remembered_only_while_it_means_the_same() -> None:
    """Indexed fields depend on the table, which other blocks change."""
    encoder, connection = Encoder(), ServerConnection(max_streams=100, checks_headers=False)
    decode: Any = connection.decoder.decode
    for fields in ([("a", "1"), ("b", "2")], [("a", "1"), ("b", "2")], [("c", "3")], [("a", "1"), ("b", "2")]) * 3:
        assert [tuple(one) for one in decode(encoder.encode(fields), raw=False)] == fields
    for at in range(200):  # Push everything out of the table.
        decode(encoder.encode([(f"name-{at}", "v" * 100)]))
    assert [tuple(one) for one in decode(encoder.encode([("a", "1"), ("b", "2")]))] == [("a", "1"), ("b", "2")]


def test_large_trailers_go_over_several_frames() -> None:
    """A client takes 16 KiB in a frame, unless it says otherwise."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import TrailersReceived

    server, client = (
        ServerConnection(max_streams=100, checks_headers=False),
        H2Connection(H2Configuration(client_side=True, header_encoding="utf-8")),
    )
    server.initiate_connection()
    client.initiate_connection()
    client.send_headers(1, FIELDS, end_stream=True)
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    client.receive_data(server.headers_frame(1, [(":status", "200")], False))
    fields = [("grpc-status", "0"), ("x-long", "v" * (HEADER_BYTES - 4000))]
    events = client.receive_data(server.headers_frame(1, fields, True))
    assert [tuple(one) for event in events if isinstance(event, TrailersReceived) for one in event.headers] == fields
