"""What MLServer's documentation shows for runtimes and clients, in our own short models, through the real program.

`tests/documented` has one folder for each of its examples, with the imports, calls and settings of the original. The
server finds them by the alias; the clients here take it by `compat.install()`.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mlserve import compat
from tests.serving import Running, serving

pytestmark = pytest.mark.slow

DOCUMENTED = Path(__file__).resolve().parent / "documented"
STREAMING = "text"  # has settings of its own, and so a server


@pytest.fixture(scope="module", autouse=True)
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(DOCUMENTED, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STREAMING, "__pycache__"))
    (folder / "settings.json").write_text('{"debug": "true"}')
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("documented") / STREAMING
    shutil.copytree(DOCUMENTED / STREAMING, folder)
    with serving(folder) as running:
        yield running


def old(module: str) -> Any:
    return importlib.import_module(f"mlserver.{module}")


def post(server: Running, model: str, body: Any, verb: str = "infer", **options: Any) -> httpx.Response:
    reply = httpx.post(f"{server.rest}/v2/models/{model}/{verb}", json=body, timeout=60, **options)
    assert reply.status_code == 200, reply.text
    return reply


def tensor(name: str, data: Any, datatype: str, shape: list[int], **parameters: Any) -> dict[str, Any]:
    one = {"name": name, "data": data, "datatype": datatype, "shape": shape}
    return {**one, "parameters": parameters} if parameters else one


# -- custom runtimes ----------------------------------------------------------------------------------------------


def test_a_runtime_of_ones_own_is_named_by_its_folder_where_its_settings_say_model(server: Running) -> None:
    body = {"inputs": [tensor("x", [1.0, 2.0, 3.0, 4.0], "FP32", [2, 2])]}
    answer = post(server, "sums", body).json()
    assert (answer["model_name"], answer["outputs"][0]["data"]) == ("sums", [4.0, 6.0])


def test_the_simplified_interface_takes_arguments_by_name(server: Running) -> None:
    encode = old("codecs").StringCodec.encode_input
    inputs = [
        encode(name="questions", payload=["why?", "how?"], use_bytes=False),
        encode("context", ["because"], False),
    ]
    answer = post(server, "lengths", {"inputs": [one.model_dump() for one in inputs]}).json()
    output = answer["outputs"][0]
    assert (output["name"], output["data"], output["shape"]) == ("output-0", [4, 4, 7], [3, 1])
    assert output["parameters"] == {"content_type": "np"}


def test_an_artifact_is_found_optional_inputs_may_be_absent_and_a_number_is_an_output(server: Running) -> None:
    types, codecs = old("types"), old("codecs")
    request = types.InferenceRequest(inputs=[codecs.NumpyCodec.encode_input(name="marriage", payload=np.array([28.0]))])
    output = post(server, "means", request.model_dump()).json()["outputs"][0]
    assert output == {**tensor("output-0", [30.0], "FP64", [1]), "parameters": {"content_type": "np"}}


def test_a_file_whose_name_has_a_hyphen_is_imported(server: Running) -> None:
    body = {"inputs": [tensor("payload", [0, 1, 3, 2], "INT64", [2, 2], content_type="np")]}
    assert post(server, "classes", body).json()["outputs"][0]["data"] == [1, 0]


def test_headers_go_in_and_out_on_rest(server: Running) -> None:
    body = {"inputs": [tensor("x", [1], "INT64", [1])]}
    reply = post(server, "headers", body, headers={"X-Question": "six by nine"})
    assert reply.headers["x-answer"] == "forty-two"
    assert reply.json()["outputs"][0]["data"] == ["six by nine"]


def test_headers_go_in_and_out_on_grpc(server: Running) -> None:
    request = old("types").InferenceRequest(inputs=[tensor("x", [1], "INT64", [1])])
    message = old("grpc.converters").ModelInferRequestConverter.from_types(request, model_name="headers")
    with grpc.insecure_channel(server.grpc) as channel:
        stub = old("grpc.dataplane_pb2_grpc").GRPCInferenceServiceStub(channel)
        response, call = stub.ModelInfer.with_call(message, metadata=[("x-question", "six by nine")], timeout=60)
    assert ("x-answer", "forty-two") in {(key, value) for key, value in call.trailing_metadata()}
    answer = old("grpc.converters").ModelInferResponseConverter.to_types(response)
    assert old("codecs").StringCodec.decode_output(answer.outputs[0]) == ["six by nine"]


def test_custom_handlers_answer_where_the_model_lives(server: Running) -> None:
    base = f"{server.rest}/custom-endpoint"
    assert httpx.get(base).json() == {"loaded": "in the model's process"}
    assert httpx.post(f"{base}/upper", content=b"quiet").text == "QUIET"
    assert httpx.post(f"{base}/swap", json={"a": "b"}).json() == {"b": "a"}


def test_a_metric_of_the_models_own_is_on_the_page(server: Running) -> None:
    for _ in range(2):
        post(server, "measured", {"inputs": [tensor("x", [1], "INT64", [1])]})
    page = httpx.get(f"http://{server.addresses['metrics'].removeprefix('http://').split('/')[0]}/metrics").text
    count, total = (
        re.search(rf'^my_custom_metric_{what}{{model_name="measured",model_version=""}} (\S+)$', page, re.MULTILINE)
        for what in ("count", "sum")
    )
    assert count and total and float(total[1]) == 34 * float(count[1]) > 0
    assert "# HELP my_custom_metric How much was measured" in page


# -- JSON ---------------------------------------------------------------------------------------------------------

PERSON = {"name": "Foo Bar", "message": "Hello from the client"}
ANSWER = {"request": {"echo_request": PERSON}, "said": "hello"}


def test_json_documents_travel_as_text_on_rest(server: Running) -> None:
    text = json.dumps(PERSON)
    reply = post(server, "json-hello", {"inputs": [tensor("echo_request", [text], "BYTES", [len(text)])]})
    response = old("types").InferenceResponse.parse_raw(reply.text)
    decoded = old("codecs.string").StringRequestCodec.decode_response(response)
    assert json.loads(decoded[0]) == ANSWER


def test_json_documents_travel_as_text_on_grpc(server: Running) -> None:
    types, converters = old("types"), old("grpc.converters")
    data = json.dumps(PERSON).encode("UTF-8")
    one = types.RequestInput(
        name="echo_request",
        shape=[len(data)],
        datatype="BYTES",
        data=[data],
        parameters=types.Parameters(content_type="str"),
    )
    message = converters.ModelInferRequestConverter.from_types(
        types.InferenceRequest(inputs=[one]), model_name="json-hello", model_version=None
    )
    with grpc.insecure_channel(server.grpc) as channel:
        response = old("grpc.dataplane_pb2_grpc").GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
    decoded = old("codecs.string").StringRequestCodec.decode_response(
        converters.ModelInferResponseConverter.to_types(response)
    )
    assert json.loads(decoded[0]) == ANSWER


# -- content types ------------------------------------------------------------------------------------------------


def seen(reply: httpx.Response) -> list[str]:
    """What the echo model saw: the request as it came, and each input decoded."""
    values: list[str] = json.loads(reply.json()["parameters"]["seen"])
    return values


@pytest.mark.parametrize("declared", ["parameters", "metadata"])
def test_inputs_are_decoded_by_their_own_content_type_or_that_of_the_metadata(server: Running, declared: str) -> None:
    given = declared == "parameters"
    array = tensor(f"{declared}-np", [1, 2, 3, 4], "INT32", [2, 2], **({"content_type": "np"} if given else {}))
    text = tensor(f"{declared}-str", "hello world 😁", "BYTES", [11], **({"content_type": "str"} if given else {}))
    reply = post(server, "echo", {"inputs": [array, text]})
    came, first, second = seen(reply)
    assert first.replace("\n", "") == repr(np.array([[1, 2], [3, 4]], "int32")).replace("\n", "")
    assert second == "['hello world 😁']"
    assert [{"parameters": {}, **array}, {"parameters": {}, **text}] == json.loads(came)["inputs"]
    assert [one["name"] for one in reply.json()["outputs"]] == [array["name"], text["name"]]


def test_inputs_made_by_codecs_come_back_through_codecs(server: Running) -> None:
    types, codecs = old("types"), old("codecs")
    array = np.array([[1, 2], [3, 4]])
    request = types.InferenceRequest(
        inputs=[
            codecs.NumpyCodec.encode_input("parameters-np", array),
            codecs.StringCodec.encode_input("parameters-str", ["hello world 😁"], use_bytes=False),
        ]
    )
    response = types.InferenceResponse.parse_raw(post(server, "echo", request.model_dump()).text)
    assert codecs.NumpyCodec.decode_output(response.outputs[0]).tolist() == array.tolist()
    assert codecs.StringCodec.decode_output(response.outputs[1]) == ["hello world 😁"]


@pytest.mark.parametrize("use_bytes", [False, True])
def test_every_documented_codec_makes_a_request_that_is_decoded_again(server: Running, use_bytes: bool) -> None:
    types, codecs = old("types"), old("codecs")
    moment = datetime.datetime(2022, 1, 11, 11, 0, 0)
    request = types.InferenceRequest(
        inputs=[
            codecs.StringCodec.encode_input("s", ["bar", "bar2"], use_bytes=use_bytes),
            codecs.Base64Codec.encode_input("b", b"Python is fun", use_bytes=use_bytes),
            codecs.DatetimeCodec.encode_input("d", moment, use_bytes=use_bytes),
            codecs.NumpyCodec.encode_input("n", np.array([[1.2, 2.3], [np.nan, 4.5]])),
        ]
    )
    _, text, blob, date, array = seen(post(server, "echo", json.loads(request.model_dump_json())))
    assert (text, blob, date) == ("['bar', 'bar2']", "[b'Python is fun']", repr([moment]))
    assert re.sub(r"\s", "", array) == "array([[1.2,2.3],[nan,4.5]])"


@pytest.mark.parametrize(
    ("codec", "value", "shape"),
    [
        ("NumpyRequestCodec", np.array([[1, 2], [3, 4]]), [2, 2]),
        ("StringRequestCodec", ["bar", "bar2"], [2, 1]),
    ],
)
def test_a_whole_request_is_made_by_a_request_codec(server: Running, codec: str, value: Any, shape: list[int]) -> None:
    options = {"use_bytes": False} if codec == "StringRequestCodec" else {}
    request = getattr(old("codecs"), codec).encode_request(value, **options)
    assert request.inputs[0].shape == shape
    reply = post(server, "echo", request.model_dump())
    assert reply.json()["outputs"][0]["data"] == np.ravel(value).tolist()


def test_a_frame_becomes_a_request_and_the_answers_json_a_response(server: Running) -> None:
    codecs, types = old("codecs"), old("types")
    frame = pd.DataFrame({"First Name": ["Joanne", "Michael"], "Age": [34, 22]})
    reply = post(server, "frame-echo", codecs.PandasCodec.encode_request(frame, use_bytes=False).dict())
    response = types.InferenceResponse(**reply.json())
    assert codecs.StringCodec.decode_output(response.outputs[-1]) == ["DataFrame: ['First Name', 'Age']"]
    assert [one.name for one in response.outputs[:2]] == ["First Name", "Age"]


def test_a_request_is_decoded_before_predict_by_its_content_type(server: Running) -> None:
    array = tensor("parameters-np", [1, 2, 3, 4], "INT32", [2, 2], content_type="np")
    text = tensor("parameters-str", ["hello world 😁", "bye bye 😁"], "BYTES", [2, 11], content_type="str")
    answer = post(server, "frame-echo", {"inputs": [array, text], "parameters": {"content_type": "pd"}}).json()
    assert answer["outputs"][-1]["data"] == ["DataFrame: ['parameters-np', 'parameters-str']"]
    assert answer["outputs"][1]["data"] == text["data"]


def test_a_content_type_of_ones_own_takes_arrays_and_text(server: Running) -> None:
    array = tensor("array", [1, 0] * 32, "INT32", [8, 8], content_type="img")
    text = tensor("text", "10" * 32, "BYTES", [8, 8], content_type="img")
    outputs = {one["name"]: one for one in post(server, "pictures", {"inputs": [array, text]}).json()["outputs"]}
    assert outputs["array-seen"]["data"] == ["Picture 32"]
    assert outputs["text-seen"]["data"] == [f"Picture {32 * ord('0') + 32 * ord('1')}"]
    assert outputs["array"]["data"] == array["data"]
    assert (outputs["text-again"]["shape"], outputs["text-again"]["data"]) == ([8, 8], "10" * 32)


# -- streams ------------------------------------------------------------------------------------------------------

PROMPT = "What is the capital of France?"


def test_a_stream_comes_as_events_on_rest(streaming: Running) -> None:
    types, codecs = old("types"), old("codecs")
    request = types.InferenceRequest.parse_file(DOCUMENTED / STREAMING / "generate-request.json")
    words = []
    url = f"{streaming.rest}/v2/models/text-model/generate_stream"
    with httpx.stream("POST", url, json=request.dict(), timeout=60) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith("data: "):
                response = types.InferenceResponse.parse_raw(line.removeprefix("data: "))
                words += codecs.StringCodec.decode_output(response.outputs[0])
    assert (len(words), "".join(words)) == (6, PROMPT)


def test_a_stream_comes_on_grpc(streaming: Running) -> None:
    types, codecs, converters = old("types"), old("codecs"), old("grpc.converters")
    request = types.InferenceRequest.parse_file(str(DOCUMENTED / STREAMING / "generate-request.json"))
    request.inputs[0] = codecs.StringCodec.encode_input("prompt", request.inputs[0].data.root)
    message = converters.ModelInferRequestConverter.from_types(request, model_name="text-model", model_version=None)

    async def requests() -> Any:
        yield message

    async def main() -> list[str]:
        words: list[str] = []
        async with grpc.aio.insecure_channel(streaming.grpc) as channel:
            stub = old("grpc.dataplane_pb2_grpc").GRPCInferenceServiceStub(channel)
            async for response in stub.ModelStreamInfer(requests(), timeout=60):
                outputs = converters.ModelInferResponseConverter.to_types(response).outputs
                words += codecs.StringCodec.decode_output(outputs[0])
        return words

    words = asyncio.run(main())
    assert (len(words), "".join(words)) == (6, PROMPT)


def test_metadata_is_what_the_settings_say(streaming: Running) -> None:
    found = httpx.get(f"{streaming.rest}/v2/models/text-model").json()
    assert (found["platform"], found["versions"]) == ("mlserver", ["text-model/v1.2.3"])
    assert [one["name"] for one in found["inputs"] + found["outputs"]] == ["prompt", "output"]


# -- the repository and files of requests -------------------------------------------------------------------------


def test_models_are_listed_unloaded_and_loaded_again(server: Running) -> None:
    base = f"{server.rest}/v2/repository"

    def states() -> dict[str, str]:
        found = httpx.post(f"{base}/index", json={}).json()
        return {one["name"]: one["state"] for one in found}

    assert states()["lengths"] == "READY"
    assert httpx.post(f"{base}/models/lengths/unload").status_code == 200
    assert states()["lengths"] == "UNAVAILABLE"
    assert httpx.post(f"{base}/models/lengths/load").status_code == 200
    assert states()["lengths"] == "READY"


def test_a_file_of_requests_is_answered_by_the_command_line(server: Running, tmp_path: Path) -> None:
    texts = [["why?"], ["how?", "when?"]]
    lines = [
        json.dumps(
            {
                "id": f"id-{number}",
                "inputs": [tensor(name, text, "BYTES", [len(text)]) for name in ("questions", "context")],
            }
        )
        for number, text in enumerate(texts)
    ]
    (tmp_path / "requests.txt").write_text("\n".join(lines))
    words = f"infer -u {server.rest.removeprefix('http://')} -m lengths -i {tmp_path}/requests.txt -o {tmp_path}/answers.txt"
    done = CliRunner().invoke(old("cli.main").root, words.split())
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in (tmp_path / "answers.txt").read_text().splitlines()]
    answers.sort(key=lambda one: one["parameters"]["batch_index"])
    assert [one["id"] for one in answers] == ["id-0", "id-1"]
    assert [one["outputs"][0]["data"] for one in answers] == [[4, 4], [4, 5, 4, 5]]


# -- batches ------------------------------------------------------------------------------------------------------


def test_parameters_of_batched_requests_are_lists_in_the_model_and_single_in_the_answers(server: Running) -> None:
    def ask(value: str) -> Any:
        one = tensor("parameters-np", [1, 2, 3], "INT32", [1, 3], **{"custom-param": value})
        return post(server, "batched", {"inputs": [one]}).json()["outputs"][0]["parameters"]

    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(ask, ["value-1", "value-2"]))
    assert [one["given"] for one in answers] == ["value-1", "value-2"]
    assert [one["together"] for one in answers] == ["2", "2"]
