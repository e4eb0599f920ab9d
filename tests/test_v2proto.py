"""ModelInferRequest and ModelInferResponse as bytes, to and from types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as triton

from mlserve.errors import InvalidRequest
from mlserve.grpc import dataplane_pb2 as pb
from mlserve.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    TensorData,
)
from mlserve.wire.protowire import field, read_varint, split_fields
from mlserve.wire.v2proto import decode_request, decode_response, encode_request, encode_response, stream_answer

VALUES: dict[str, Any] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 4294967295],
    "UINT64": [0, 18446744073709551615],
    "INT8": [-128, 127],
    "INT16": [-32768, 32767],
    "INT32": [-2147483648, 2147483647],
    "INT64": [-9223372036854775808, 9223372036854775807],
    "FP16": [0.5, -65504.0],
    "FP32": [0.5, -1.5],
    "FP64": [0.1, -1.7e308],
    "BYTES": [b"a", "é".encode()],
}


def request_of(*tensors: RequestInput, **more: Any) -> InferenceRequest:
    return InferenceRequest(inputs=list(tensors), **more)


def tensor(values: Any, datatype: str = "FP32", shape: list[int] | None = None, name: str = "x") -> RequestInput:
    return RequestInput(name=name, shape=[len(values)] if shape is None else shape, datatype=datatype, data=values)


def encoded(request: InferenceRequest, *, raw: bool = False) -> bytes:
    return b"".join(encode_request(request, "m", "v1", raw=raw))


def wire(**inputs: Any) -> bytes:
    """A request with one input, written by Triton's own code."""
    raw = inputs.pop("raw", [])
    contents = triton.InferTensorContents(**inputs.pop("contents", {}))
    one = triton.ModelInferRequest.InferInputTensor(name="x", **inputs)
    if contents.ByteSize():
        one.contents.CopyFrom(contents)
    return triton.ModelInferRequest(model_name="m", inputs=[one], raw_input_contents=raw).SerializeToString()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("datatype", sorted(VALUES))
def test_every_datatype_travels_both_ways_in_both_forms(datatype: str, raw: bool) -> None:
    """FP16 has no typed form, so it goes raw whatever is asked for."""
    sent = request_of(tensor(VALUES[datatype], datatype, [2, 1]))
    found = decode_request(encoded(sent, raw=raw))
    (one,) = found.request.inputs
    assert found.form == ("raw" if raw or datatype == "FP16" else "contents")
    assert one.data.form == found.form
    assert (one.name, one.shape, one.datatype) == ("x", [2, 1], datatype)
    assert one.data.tolist() == VALUES[datatype]

    output = ResponseOutput(name="x", shape=[2, 1], datatype=datatype, data=VALUES[datatype])
    response = InferenceResponse(model_name="m", outputs=[output])
    message = b"".join(encode_response(response, found.form))
    assert decode_response(message).outputs[0].data.tolist() == VALUES[datatype]
    parsed = triton.ModelInferResponse.FromString(message)
    assert len(parsed.raw_output_contents) == (found.form == "raw")


def test_what_triton_writes_is_read_as_meant() -> None:
    """Names, version, id, parameters of all kinds, and outputs that are asked for."""
    message = triton.ModelInferRequest(model_name="m", model_version="v2", id="7")
    message.parameters["flag"].bool_param = False
    message.parameters["count"].int64_param = -(1 << 63)
    message.parameters["text"].string_param = "é"
    message.parameters["share"].double_param = 0.25
    message.parameters["large"].uint64_param = (1 << 64) - 1
    message.parameters["empty"].SetInParent()
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    request, name, version, form = decode_request(message.SerializeToString(), {"a": "b"})
    assert (name, version, form, request.id) == ("m", "v2", "raw", "7")
    assert request.parameters == {
        "flag": False,
        "count": -(1 << 63),
        "text": "é",
        "share": 0.25,
        "large": (1 << 64) - 1,
        "headers": {"a": "b"},
    }
    assert request.outputs == [RequestOutput(name="y", parameters=Parameters(classification=3))]


def test_an_empty_request_is_a_request_for_no_model() -> None:
    """Absent text is None where the types have None."""
    request, name, version, form = decode_request(b"")
    assert (name, version, form) == ("", "", "raw")
    assert (request.id, request.parameters, request.inputs, request.outputs) == (None, None, [], None)


def test_parameters_without_a_form_on_the_wire_are_left_out() -> None:
    """None, lists, objects and headers; numbers beyond 64 bits become text."""
    parameters = Parameters(
        content_type="np",
        headers={"x": "y"},
        nested={"a": 1},
        several=[1, 2],
        flag=True,
        count=np.int64(3),
        share=1.5,
        large=1 << 63,
        huge=1 << 70,
        octets=b"ab",
    )
    message = pb.ModelInferResponse.FromString(
        b"".join(encode_response(InferenceResponse(model_name="m", outputs=[], parameters=parameters)))
    )
    found = {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in message.parameters.items()}
    assert found == {
        "content_type": "np",
        "flag": True,
        "count": 3,
        "share": 1.5,
        "large": 1 << 63,
        "huge": str(1 << 70),
        "octets": "ab",
    }
    assert message.parameters["flag"].WhichOneof("parameter_choice") == "bool_param"


def test_inputs_with_contents_and_inputs_without_can_be_mixed() -> None:
    """As MLServer takes it: the raw tensors belong to those inputs that have no contents, in order."""
    message = triton.ModelInferRequest(raw_input_contents=[np.float32(2.5).tobytes()])
    message.inputs.add(name="x", shape=[1], datatype="FP32").contents.fp32_contents.append(1.5)
    message.inputs.add(name="y", shape=[1], datatype="FP32")
    found = decode_request(message.SerializeToString())
    assert [one.data.tolist() for one in found.request.inputs] == [[1.5], [2.5]]
    assert found.form == "raw"


def test_empty_tensors_have_no_data_in_either_form() -> None:
    """A size of 0 needs nothing, and an empty raw tensor is one too."""
    for message in (wire(shape=[0], datatype="FP32"), wire(shape=[0, 4], datatype="FP32", raw=[b""])):
        assert decode_request(message).request.inputs[0].data.tolist() == []


def test_typed_text_is_not_held_against_its_shape() -> None:
    """MLServer's documentation sends one text in a shape that is its length."""
    found = decode_request(wire(shape=[5], datatype="BYTES", contents={"bytes_contents": [b"hello"]}))
    assert found.request.inputs[0].data.tolist() == [b"hello"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\xff\xff\xff\xff", "the message is no ModelInferRequest"),
        (b"\x0a\x02\xff\xfe", "the message is no ModelInferRequest"),
        (wire(shape=[7], datatype="FP32", contents={"fp32_contents": [1]}), "needs 7 values, got 1"),
        (wire(shape=[1], datatype="FP32"), "needs 1 value, got 0"),
        (wire(shape=[2], datatype="BYTES"), "inputs[0] 'x'"),
        (wire(shape=[1], datatype="FP32", contents={"fp32_contents": [1], "int_contents": [5]}), "int_contents"),
        (wire(shape=[1], datatype="FP16", contents={"fp32_contents": [1]}), "raw"),
        (wire(shape=[1], datatype="FOO", contents={"fp32_contents": [1]}), "FOO"),
        (wire(shape=[1], datatype="", contents={"fp32_contents": [1]}), "datatype"),
        (wire(shape=[-3], datatype="FP32", contents={"fp32_contents": [1]}), "negative"),
        (wire(shape=[-3], datatype="BYTES", contents={"bytes_contents": [b"a"]}), "negative"),
        (wire(shape=[1], datatype="FP32", raw=[b"abcd", b"abcd"]), "2 tensors, but 1"),
        (wire(shape=[1], datatype="FP32", contents={"fp32_contents": [1]}, raw=[b"abcd"]), "1 tensors, but 0"),
        (wire(shape=[1], datatype="FOO", raw=[b"abcd"]), "FOO"),
        (wire(shape=[2], datatype="FP32", raw=[b"abcd"]), "needs 2 values, got 1"),
        (wire(shape=[1 << 40, 1 << 40], datatype="FP32", raw=[b"abcd"]), "needs"),
        (wire(shape=[3], datatype="BYTES", raw=[b"\1\0\0\0a"]), "needs 3 values, got 1"),
        (wire(shape=[1], datatype="BYTES", raw=[b"\5\0\0\0a"]), "BYTES"),
    ],
)
def test_what_does_not_fit_is_refused_and_says_why(message: bytes, words: str) -> None:
    """Every message names the input, where there is one."""
    with pytest.raises(InvalidRequest) as caught:
        decode_request(message)
    assert words in str(caught.value)


@pytest.mark.parametrize("raw", [False, True])
def test_large_tensors_are_views_of_the_message(raw: bool) -> None:
    """Several of them, between small ones."""
    large = np.arange(40_000, dtype="f4")
    inputs = [tensor([1.0]), tensor(large, name="y"), tensor([2.0], name="z"), tensor(large + 1, name="w")]
    message = encoded(request_of(*inputs, id="i", outputs=[RequestOutput(name="o")]), raw=raw)
    request = decode_request(message).request
    assert request.id == "i" and request.outputs == [RequestOutput(name="o")]
    assert [one.name for one in request.inputs] == ["x", "y", "z", "w"]
    assert [one.data.tolist()[-1] for one in request.inputs] == [1.0, 39999.0, 2.0, 40000.0]
    for one in (request.inputs[1], request.inputs[3]):
        assert isinstance(one.data.payload, memoryview) and one.data.payload.obj is message


def test_large_outputs_are_not_joined() -> None:
    """The array's own memory is among the chunks."""
    array = np.zeros(100_000, "f4")
    output = ResponseOutput(name="x", shape=[100_000], datatype="FP32", data=TensorData.from_numpy(array))
    chunks = encode_response(InferenceResponse(model_name="m", outputs=[output]), "raw")
    assert any(np.shares_memory(np.frombuffer(chunk, "u1"), array) for chunk in chunks if len(chunk) > 1000)


def test_a_large_message_of_small_fields_goes_to_protobuf() -> None:
    """A loop over them in Python would hold up the event loop."""
    message = triton.ModelInferRequest(model_name="m", raw_input_contents=[])
    for at in range(6000):
        message.inputs.add(name=str(at), shape=[1], datatype="FP32").contents.fp32_contents.append(at)
    request = decode_request(message.SerializeToString()).request
    assert [request.inputs[at].data.tolist() for at in (0, 5999)] == [[0.0], [5999.0]]


@pytest.mark.parametrize("cut", [1, 100, 90_000])
def test_a_large_message_that_is_cut_is_refused(cut: int) -> None:
    """The short cut past protobuf checks lengths too."""
    message = encoded(request_of(tensor(np.zeros(30_000, "f4"))), raw=True)
    with pytest.raises(InvalidRequest):
        decode_request(message[:-cut])


def test_contents_that_come_in_two_parts_are_protobufs_business() -> None:
    """A submessage may be repeated on the wire; the large ones are then left to upb, which takes the last."""
    part = wire(shape=[20_000], datatype="FP32", contents={"fp32_contents": [1.0] * 20_000})
    (inner,) = split_fields(memoryview(part), 5)[1]  # type: ignore[index]
    twice = bytes(inner) + field(5, 80_000) + bytes(80_000)
    with pytest.raises(InvalidRequest):
        decode_request(field(5, len(twice)) + twice)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(data: bytes) -> None:
    """Whatever comes, it is a request or an InvalidRequest."""
    for message in (data, data + field(7, 40_000) + bytes(40_000)):
        try:
            decode_request(message)
        except InvalidRequest:
            pass


@given(st.lists(st.tuples(st.integers(1, 15), st.binary(max_size=300)), max_size=20), st.integers(1, 15))
def test_fields_are_split_without_loss(fields: list[tuple[int, bytes]], wanted: int) -> None:
    """What is wanted, and the rest, both in order."""
    message = b"".join(field(number, len(data)) + data for number, data in fields)
    split = split_fields(memoryview(message), wanted)
    assert split is not None
    rest, found = split
    assert [bytes(one) for one in found] == [data for number, data in fields if number == wanted]
    assert b"".join(rest) == b"".join(field(n, len(data)) + data for n, data in fields if n != wanted)


@given(st.integers(0, (1 << 63) - 1))
def test_sizes_are_read_as_they_are_written(size: int) -> None:
    """Varints of any length."""
    assert read_varint(memoryview(field(1, size)), 1) == (size, len(field(1, size)))


def test_stream_answers_are_tritons_messages() -> None:
    """With an answer, with an error, and with both."""
    response = encode_response(InferenceResponse(model_name="m", id="1", outputs=[]))
    plain = triton.ModelStreamInferResponse.FromString(b"".join(stream_answer(response)))
    assert (plain.error_message, plain.infer_response.id) == ("", "1")
    failed = triton.ModelStreamInferResponse.FromString(b"".join(stream_answer(response, "no é")))
    assert (failed.error_message, failed.infer_response.id) == ("no é", "1")


def test_converters_take_messages_of_any_generated_code() -> None:
    """MLServer's documentation converts requests and responses so."""
    request = request_of(tensor(["hello"], "BYTES", [1]), id="i", parameters=Parameters(content_type="str"))
    message = ModelInferRequestConverter.from_types(request, model_name="m", model_version=None)
    assert isinstance(message, pb.ModelInferRequest)
    assert list(message.inputs[0].contents.bytes_contents) == [b"hello"] and message.model_version == ""
    raw = ModelInferRequestConverter.from_types(request, model_name="m", model_version="v1", use_raw=True)
    assert list(raw.raw_input_contents) == [b"\5\0\0\0hello"] and not raw.inputs[0].contents.ListFields()
    theirs = triton.ModelInferRequest.FromString(raw.SerializeToString())
    assert ModelInferRequestConverter.to_types(theirs).inputs[0].data.tolist() == [b"hello"]

    response = InferenceResponse(model_name="m", model_version="v1", outputs=[
        ResponseOutput(name="o", shape=[1], datatype="INT64", data=[3])
    ])  # fmt: skip
    for use_raw in (False, True):
        answer = ModelInferResponseConverter.from_types(response, use_raw=use_raw)
        assert ModelInferResponseConverter.to_types(answer).outputs[0].data.tolist() == [3]


@pytest.mark.parametrize("of", ["inputs", "outputs", "parameters", "parameters of an input"])
def test_a_request_with_more_parts_than_can_be_read_in_a_moment_is_refused(of: str) -> None:
    def message(inputs: int, outputs: int, parameters: int, inner: int) -> bytes:
        made = pb.ModelInferRequest(model_name="m")
        for at in range(inputs):
            one = made.inputs.add(name="x", shape=[1], datatype="FP32")
            one.contents.fp32_contents.append(1.0)
            for number in range(inner if at == 0 else 0):
                one.parameters[f"k{number}"].bool_param = True
        for _ in range(outputs):
            made.outputs.add(name="y")
        for number in range(parameters):
            made.parameters[f"k{number}"].bool_param = True
        return made.SerializeToString()

    most = {"inputs": (10_000, 0, 0, 0), "outputs": (1, 9_999, 0, 0), "parameters": (1, 0, 50_000, 0)}
    counts = most.get(of, (1, 0, 1, 49_999))
    assert len(decode_request(message(*counts)).request.inputs) == counts[0]
    at = ("inputs", "outputs", "parameters", "parameters of an input").index(of)
    more = tuple(count + (place == at) for place, count in enumerate(counts))
    with pytest.raises(InvalidRequest, match=r"over gRPC it may have (10000|50000)"):
        decode_request(message(*more))


def test_the_form_of_an_answer_is_that_of_the_inputs_and_raw_without_any() -> None:
    typed = request_of(tensor([0.5]))
    assert [decode_request(encoded(typed, raw=raw)).form for raw in (False, True)] == ["contents", "raw"]
    nothing = triton.ModelInferRequest(model_name="m").SerializeToString()  # what tritonclient sends without inputs
    assert decode_request(nothing).form == "raw"


@pytest.mark.parametrize("owner", ["parameters", "inputs[1].parameters", "outputs[0].parameters"])
@pytest.mark.parametrize(("kind", "value"), [("int64_param", 3), ("bool_param", True), ("double_param", 1.5)])
def test_a_content_type_is_text_as_over_rest(owner: str, kind: str, value: Any) -> None:
    message = pb.ModelInferRequest(model_name="m")
    for name in ("a", "b"):
        message.inputs.add(name=name, shape=[1], datatype="INT32").contents.int_contents.append(1)
    message.outputs.add(name="o")
    holder = {"parameters": message, "inputs[1].parameters": message.inputs[1]}.get(owner, message.outputs[0])
    setattr(holder.parameters["content_type"], kind, value)
    with pytest.raises(InvalidRequest) as caught:
        decode_request(message.SerializeToString())
    assert str(caught.value) == f"{owner}.content_type: expected a text, got {value}"
    holder.parameters["content_type"].string_param = "np"
    assert decode_request(message.SerializeToString()).model_name == "m"
