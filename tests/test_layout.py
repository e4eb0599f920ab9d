"""The forms in which outputs leave the worker, and what becomes of those that have no binary form."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest

from mlserve.client import Client
from mlserve.errors import CodecError
from mlserve.frames import Message
from mlserve.layout import output_forms, pack_response
from mlserve.repository import ModelRepository
from mlserve.server import Server
from mlserve.settings import Settings
from mlserve.tensors import TensorData
from mlserve.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from tests.serving import write_model

MODEL = '''
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput


class Texts(MLModel):
    """Texts of which one is missing, between numbers and whole texts."""

    async def predict(self, request):
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(name="before", shape=[2], datatype="FP32", data=[1.0, 2.0]),
                ResponseOutput(name="gappy", shape=[3], datatype="BYTES", data=["a", None, "ü"]),
                ResponseOutput(name="whole", shape=[2], datatype="BYTES", data=["x", "y"]),
            ],
        )
'''


def _packed(datatype: str, data: Any, shape: list[int], form: str = "json") -> Message:
    request = InferenceRequest(inputs=[], parameters=Parameters(binary_data_output=True))
    output = ResponseOutput(name="y", shape=shape, datatype=datatype, data=TensorData(data))
    response = InferenceResponse(model_name="m", outputs=[output])
    return pack_response(response, output_forms(request, response, form), lambda size: None)


@pytest.mark.parametrize(
    ("data", "form", "payload"),
    [
        (["a", "b"], "raw", b"\x01\0\0\0a\x01\0\0\0b"),
        (["a", None], "json", b'["a",null]'),
        ([None], "json", b"[null]"),
        ([], "raw", b""),
    ],
)
def test_texts_of_which_one_is_missing_stay_json(data: list[Any], form: str, payload: bytes) -> None:
    (part,) = _packed("BYTES", data, [len(data)]).parts
    assert (part.form, part.data) == (form, payload)


def test_integers_of_which_one_is_missing_stay_json() -> None:
    (part,) = _packed("INT64", [1, None], [2]).parts
    assert (part.form, part.data) == ("json", b"[1,null]")
    with pytest.raises(CodecError, match=r"data\[1\]: null is no INT64"):
        _packed("INT64", [1, None], [2], form="raw")


def test_numbers_stay_binary_and_what_is_wrong_with_them_is_told() -> None:
    assert _packed("FP32", [1.0, None], [2]).parts[0].form == "raw"
    with pytest.raises(CodecError, match=r"data\[1\]: 300 is no UINT8"):
        _packed("UINT8", [1, 300], [2])
    with pytest.raises(CodecError, match="needs 12 bytes"):
        _packed("FP32", [1.0, 2.0], [3])


def test_raw_grpc_answers_have_no_json_to_fall_back_to() -> None:
    with pytest.raises(CodecError, match=r"data\[1\]: null has no binary form"):
        _packed("BYTES", ["a", None], [2], form="raw")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_gets_both_kinds_in_one_answer(tmp_path: Any, anyio_backend: str) -> None:
    (write_model(tmp_path, "texts", "models.Texts") / "models.py").write_text(MODEL)
    settings = Settings(parallel_workers=0, host="127.0.0.1", http_port=0, grpc_port=0, metrics_endpoint=None)
    async with anyio.create_task_group() as tasks:
        server = await tasks.start(Server(settings, ModelRepository(tmp_path)).run)
        host, port = server.addresses["http"]

        def infer() -> dict[str, Any]:
            with Client(f"http://{host}:{port}", binary=True) as client:
                return dict(client.infer("texts", {"x": [1.0]}).outputs)

        answer = await anyio.to_thread.run_sync(infer)
        server.stop()
    assert {name: list(one) for name, one in answer.items()} == {
        "before": [1.0, 2.0],
        "gappy": ["a", None, "ü"],
        "whole": ["x", "y"],
    }
