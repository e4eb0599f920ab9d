"""Which content type applies, and decoded forms beside their sources."""

# mypy: disable-error-code="arg-type, assignment, union-attr"
# The types take plain lists and dicts where they declare TensorData and Parameters, and tests make use of that.

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import numpy as np
import pytest

from mlserve import codecs
from mlserve.codecs import registry, utils
from mlserve.codecs.errors import CodecError
from mlserve.errors import MLServeError
from mlserve.types import InferenceRequest, MetadataTensor, Parameters, RequestInput
from tests.forms import made

METADATA = {
    "x": MetadataTensor(name="x", datatype="BYTES", shape=[-1], parameters={"content_type": "str"}),
    "bare": MetadataTensor(name="bare", datatype="BYTES", shape=[-1]),
}


def test_an_inputs_content_type_is_its_own_or_its_metadatas() -> None:
    assert codecs.decode_request_input(made(["YQ=="], "BYTES", content_type="base64"), METADATA) == [b"a"]
    assert codecs.decode_request_input(made(["a"], "BYTES"), METADATA) == ["a"]
    assert codecs.decode_request_input(made(["a"], "BYTES")) is None
    assert codecs.decode_request_input(made(["a"], "BYTES", content_type="unheard-of"), METADATA) is None


def test_decoded_forms_are_offered_before_anyone_asks_and_made_when_asked_for() -> None:
    calls = []

    class Counting(codecs.StringCodec):
        @classmethod
        def decode_input(cls, request_input: RequestInput) -> Any:
            calls.append(request_input.name)
            return super().decode_input(request_input)

    registry._input_codecs["counting"] = Counting
    try:
        request = InferenceRequest(inputs=[made(["ab"], "BYTES", content_type="counting"), made([1.5])])
        codecs.offer_decoded(request)
        first, second = request.inputs
        assert codecs.has_decoded(first)
        assert not codecs.has_decoded(second)
        assert calls == []
        assert getattr(first.parameters, codecs.DecodedParameterName) == ["ab"]
        assert codecs.get_decoded(first) is codecs.get_decoded_or_raw(first)
        assert calls == ["x"], "made once for all who look there"
        again = codecs.decode_request_input(first)
        assert calls == ["x", "x"], "decoded anew for who may write into it"
        assert codecs.get_decoded(first) is again
        assert codecs.get_decoded(second) is None
        assert codecs.get_decoded_or_raw(second) == [1.5]
        assert codecs.get_decoded_or_raw(request) is request
    finally:
        del registry._input_codecs["counting"]


def test_decoded_forms_follow_metadata_and_never_travel() -> None:
    request = InferenceRequest(inputs=[made(["a"], "BYTES")])
    codecs.offer_decoded(request, None, METADATA)
    assert codecs.get_decoded(request.inputs[0]) == ["a"]
    assert json.loads(request.model_dump_json())["inputs"][0].get("parameters", {}) == {}


def test_a_request_offers_its_decoded_form_by_its_content_type() -> None:
    request = InferenceRequest(parameters={"content_type": "pd"}, inputs=[made([1, 2])])
    codecs.offer_decoded(request)
    frame = getattr(request.parameters, codecs.DecodedParameterName)
    assert frame["x"].tolist() == [1.0, 2.0]
    again = codecs.decode_inference_request(request)
    assert again is not frame
    assert codecs.get_decoded(request) is again


def test_wrong_data_is_told_when_the_decoded_form_is_read() -> None:
    request = InferenceRequest(inputs=[made([1], "FP32", [7], "np")])
    codecs.offer_decoded(request)
    with pytest.raises(CodecError, match="shape"):
        codecs.get_decoded(request.inputs[0])


def test_offering_decoded_forms_makes_no_reference_cycle() -> None:
    """A request's memory is freed when its last user lets go: shared-memory slots depend on it."""
    gc.disable()
    try:
        request = InferenceRequest(parameters={"content_type": "pd"}, inputs=[made([1, 2], content_type="np")])
        codecs.offer_decoded(request, None, METADATA)
        data = weakref.ref(request.inputs[0].data)
        codecs.decode_request_input(request.inputs[0])
        del request
        assert data() is None
    finally:
        gc.enable()


def test_decoded_forms_can_be_saved_by_hand() -> None:
    tensor = made([1.5])
    assert utils.save_decoded(tensor, "anything") == "anything"
    assert utils.has_decoded(tensor)
    assert utils.get_decoded(tensor) == "anything"


def test_responses_are_encoded_by_value_only() -> None:
    from mlserve.settings import ModelSettings

    model = ModelSettings(name="m", parameters={"version": "v1"})
    response = codecs.encode_inference_response(np.array([1]), model)
    assert response is not None
    assert (response.model_name, response.model_version) == ("m", "v1")
    assert codecs.encode_inference_response({"x": 1}, model) is None


def test_outputs_are_encoded_by_the_type_asked_for_then_metadata_then_value() -> None:
    from mlserve.types import RequestOutput

    asked = RequestOutput(name="x", parameters=Parameters(content_type="base64"))
    assert codecs.encode_response_output([b"a"], asked, METADATA).parameters.content_type == "base64"
    assert codecs.encode_response_output(["a"], RequestOutput(name="x"), METADATA).parameters.content_type == "str"
    assert codecs.encode_response_output([b"a"], RequestOutput(name="bare"), METADATA).data == [b"YQ=="]
    assert codecs.encode_response_output(5, RequestOutput(name="bare"), METADATA) is None


def test_the_public_names_are_sorted_and_there() -> None:
    for module in (codecs, utils, registry):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
    assert issubclass(codecs.CodecError, MLServeError)
    assert utils.inject_batch_dimension([3]) == [3, 1]
    assert utils.inject_batch_dimension([3, 2]) == [3, 2]
