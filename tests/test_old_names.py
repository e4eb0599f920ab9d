"""What MLServer keeps elsewhere than mlserve does, and the manners that its users rely on, do what they did."""

from __future__ import annotations

import contextvars
import importlib
import importlib.util
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import click
import httpx
import numpy as np
import pandas as pd
import pydantic
import pytest
from click.testing import CliRunner

import mlserve
import mlserve.codecs
import mlserve.types
from mlserve import compat
from mlserve.custom_metrics import bind_sink
from mlserve.settings import ModelSettings, Settings


@pytest.fixture
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


# -- what old places do -------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_get_model_uri_finds_the_artifact_beside_the_settings(alias: None, tmp_path: Path) -> None:
    get_model_uri = importlib.import_module("mlserver.utils").get_model_uri
    (tmp_path / "model.json").write_text("{}")
    settings = ModelSettings(name="m", implementation="m.M", parameters={"uri": "./model.json"})
    settings.source_dir = tmp_path
    assert Path(await get_model_uri(settings)) == tmp_path / "model.json"
    settings.parameters.uri = "."
    assert Path(await get_model_uri(settings, wellknown_filenames=["model.bin", "model.json"])).name == "model.json"


@pytest.mark.anyio
@pytest.mark.parametrize("parameters", [None, {}, {"uri": ""}, {"uri": None}])
@pytest.mark.parametrize("names", [[], ["model.json"]])
async def test_without_a_uri_there_is_a_default_to_be_taken(
    alias: None, tmp_path: Path, parameters: Any, names: list[str]
) -> None:
    """As on MLServer: also where the model's folder has a file of a well-known name."""
    utils = importlib.import_module("mlserver.utils")
    (tmp_path / "model.json").write_text("{}")
    settings = ModelSettings(name="m", implementation="m.M", parameters=parameters)
    settings.source_dir = tmp_path
    with pytest.raises(importlib.import_module("mlserver.errors").InvalidModelURI, match="model m"):
        await utils.get_model_uri(settings, wellknown_filenames=names)


def test_the_logger_is_the_one_that_is_configured_for_old_runtimes(alias: None) -> None:
    assert importlib.import_module("mlserver.logging").logger is logging.getLogger("mlserver")


def test_the_command_line_is_a_command_of_click(alias: None, tmp_path: Path) -> None:
    root = importlib.import_module("mlserver.cli.main").root
    assert isinstance(root, click.Group) and {"start", "infer"} <= set(root.commands)
    mine = click.Group("mine", commands={"serving": root})

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(mine, ["serving", *words])
        return result.exit_code, result.output

    assert run("--version") == (0, f"mlserve, version {mlserve.__version__}\n")
    code, text = run("start", "--help")
    assert code == 0 and "--http-port" in text
    code, text = run("start", str(tmp_path / "nothing"), "--http-port", "0")
    assert (code, text) == (1, f"mlserve: error: there is no folder or file {tmp_path / 'nothing'}\n")
    code, text = run("start", "--no-such-option")
    assert code == 2 and "--no-such-option" in text


def test_without_click_the_command_line_is_typers(alias: None, monkeypatch: pytest.MonkeyPatch) -> None:
    main = importlib.import_module("mlserver.cli.main")
    monkeypatch.setitem(sys.modules, "click", None)
    assert main._for_click() is importlib.import_module("mlserve.cli.main").root


def test_helpers_that_runtimes_of_other_people_use(alias: None, tmp_path: Path) -> None:
    utils, types = importlib.import_module("mlserver.utils"), importlib.import_module("mlserver.types")
    settings = ModelSettings(name="m", implementation="m.M")
    assert utils.to_absolute_path(settings, "a/b") == "a/b"
    settings.source_dir = tmp_path
    assert utils.to_absolute_path(settings, "./a/../b") == str(tmp_path / "b")
    assert utils.to_absolute_path(settings, "/b") == "/b"
    request = types.InferenceRequest(inputs=[])
    assert utils.insert_headers(request, {"a": "b"}) is request and request.parameters.headers == {"a": "b"}
    response = types.InferenceResponse(model_name="m", outputs=[], parameters=types.Parameters(headers={"a": "b"}))
    assert utils.extract_headers(response) == {"a": "b"} and response.parameters.headers is None
    assert utils.extract_headers(types.InferenceResponse(model_name="m", outputs=[])) is None
    assert len(utils.generate_uuid()) == 36


def test_metrics_logged_in_a_models_context_have_its_labels(alias: None) -> None:
    seen: list[Any] = []

    class Sink:
        def register(self, name: str, description: str) -> None: ...

        def observe(self, *observed: Any) -> None:
            seen.append(observed)

    def work() -> None:
        bind_sink(Sink())
        with importlib.import_module("mlserver.context").model_context(
            ModelSettings(name="m", implementation="m.M", parameters={"version": "v1"})
        ):
            importlib.import_module("mlserver").log(rows=1)

    contextvars.copy_context().run(work)
    assert seen == [("m", "v1", {"rows": 1.0})]


@pytest.mark.anyio
async def test_the_metrics_server_shows_what_was_logged_until_it_is_stopped(alias: None, anyio_backend: str) -> None:
    name = f"rows_on_{anyio_backend}"  # the page is one for the whole process
    metrics = importlib.import_module("mlserver.metrics")
    settings = Settings(host="127.0.0.1", metrics_port=0)

    def count() -> None:
        metrics.configure_metrics(settings)
        metrics.register(name, "Rows seen").observe(3)
        metrics.log(**{name: 4})

    contextvars.copy_context().run(count)
    server = metrics.MetricsServer(settings)
    await server.stop()  # before it began: nothing happens
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.start)
        host, port = server.address
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"http://{host}:{port}/metrics")).text
        await server.on_worker_stop(None)
        await server.stop(signal.SIGTERM)
    assert f'{name}_sum{{model_name="",model_version=""}} 7.0' in page
    assert "Rows seen" in page


@pytest.mark.slow
def test_a_server_in_a_program_of_ones_own_serves_given_models_until_stopped(alias: None, tmp_path: Path) -> None:
    (tmp_path / "doubling.py").write_text(
        "from mlserver import MLModel\nfrom mlserver.codecs import decode_args\nimport numpy as np\n\n"
        "class Doubling(MLModel):\n"
        "    @decode_args\n    async def predict(self, x: np.ndarray) -> np.ndarray:\n        return x * 2\n"
    )
    mlserver = importlib.import_module("mlserver")

    async def main() -> Any:
        ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
        server = mlserver.MLServer(mlserver.Settings(host="127.0.0.1", **ports))
        model = mlserver.ModelSettings(name="doubling", implementation="doubling.Doubling")
        model.source_dir = tmp_path
        async with anyio.create_task_group() as tasks:
            running = await tasks.start(server.start, [model])
            host, port = running.addresses["http"]
            body = {"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}
            async with httpx.AsyncClient(timeout=60) as client:
                reply = await client.post(f"http://{host}:{port}/v2/models/doubling/infer", json=body)
            await server.stop()
        return reply.json()

    assert anyio.run(main)["outputs"][0]["data"] == [2, 4]


SCRIPT = """
import anyio
import httpx
from mlserve import compat

compat.install()
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceResponse


class Mine(MLModel):
    async def predict(self, payload):
        return InferenceResponse(model_name=self.name, outputs=[])


async def main():
    server = MLServer(Settings(host="127.0.0.1", http_port=0, grpc_port=0, metrics_port=0, parallel_workers=WORKERS))
    async with anyio.create_task_group() as tasks:
        running = await tasks.start(server.start, [ModelSettings(name="mine", implementation=Mine)])
        host, port = running.addresses["http"]
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]}
        async with httpx.AsyncClient(timeout=60) as client:
            print((await client.post(f"http://{host}:{port}/v2/models/mine/infer", json=body)).status_code)
        await server.stop()


if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_script_serves_a_model_that_it_defines_itself(tmp_path: Path, workers: int) -> None:
    (tmp_path / "serve-mine.py").write_text(SCRIPT.replace("WORKERS", str(workers)))
    done = subprocess.run([sys.executable, str(tmp_path / "serve-mine.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr


@pytest.mark.slow
def test_a_script_is_not_run_again_for_a_model_in_a_thread(tmp_path: Path) -> None:
    """It has no `if __name__` guard. Models that are given are loaded, whatever the settings say of a repository's."""
    script = SCRIPT.replace("WORKERS", "0, load_models_at_startup=False")
    body, _, _ = script.partition("if __name__")
    (tmp_path / "serve-mine.py").write_text(f"print('begun')\n{body}anyio.run(main)\n")
    done = subprocess.run([sys.executable, str(tmp_path / "serve-mine.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "begun\n200\n"), done.stderr


# -- manners of the types that the document relies on -------------------------------------------------------------


def test_settings_take_an_env_file_and_variables_in_lower_case(
    alias: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = importlib.import_module("mlserver.settings")
    (tmp_path / "my.env").write_text("mlserver_http_port=9001\n")
    assert settings.Settings(_env_file=tmp_path / "my.env").http_port == 9001
    monkeypatch.setenv("mlserver_grpc_port", "9002")
    assert settings.Settings(_env_file=None).grpc_port == 9002
    assert settings.Settings(cors_settings={"allow_origins": ["*"]}).cors_settings.allow_origins == ["*"]
    assert settings.CORSSettings(allow_origins=["a"]).allow_origins == ["a"]


def test_model_settings_have_the_implementation_under_both_names(alias: None) -> None:
    settings = importlib.import_module("mlserver").ModelSettings(name="m", implementation_="somewhere.Some")
    assert settings.implementation == settings.implementation_ == "somewhere.Some"
    assert json.loads(settings.model_dump_json(by_alias=True))["implementation"] == "somewhere.Some"


def test_a_model_has_its_settings_under_the_private_name_too(alias: None) -> None:
    mlserver = importlib.import_module("mlserver")
    settings = mlserver.ModelSettings(name="m", implementation="a.B")
    model = mlserver.MLModel(settings)
    assert model._settings is model.settings is settings


def test_types_answer_as_pydantics_models_do(alias: None) -> None:
    types = importlib.import_module("mlserver.types")
    request = types.InferenceRequest(inputs=[{"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]}])
    assert "properties" in types.InferenceRequest.model_json_schema()
    assert set(dict(request)) >= {"inputs"}
    assert request.inputs[0].data == types.TensorData(root=[1, 2])
    assert request.inputs[0].data.root == [1, 2]
    assert types.InferenceRequest(**request.model_dump()) == request
    assert types.InferenceRequest.parse_raw(request.json()) == request
    with pytest.raises(types.ValidationError) as caught:
        types.InferenceRequest(inputs=[{"name": "x"}])
    assert {one["loc"] for one in caught.value.errors()} >= {("inputs", 0, "shape"), ("inputs", 0, "datatype")}


def test_a_validation_error_is_a_value_error_as_pydantics_is(alias: None) -> None:
    types = importlib.import_module("mlserver.types")
    with pytest.raises(ValueError):
        types.InferenceRequest()


def test_dumps_leave_out_what_the_document_excludes(alias: None) -> None:
    types, codecs = importlib.import_module("mlserver.types"), importlib.import_module("mlserver.codecs")
    parameters = types.Parameters(content_type="np", headers={"a": "b"})
    one = types.RequestInput(name="x", shape=[1], datatype="INT32", data=[1], parameters=parameters)
    unwanted = {codecs.DecodedParameterName, "headers"}
    request = types.InferenceRequest(inputs=[one], parameters=parameters)
    dumped = request.dict(exclude={"parameters": unwanted, "inputs": {"__all__": {"parameters": unwanted}}})
    assert dumped["parameters"] == {"content_type": "np"}
    assert dumped["inputs"][0]["parameters"] == {"content_type": "np"}
    assert json.dumps(dumped)


def test_data_is_text_to_who_asks_for_text(alias: None) -> None:
    types = importlib.import_module("mlserver.types")
    text = types.RequestInput(name="x", shape=[1], datatype="BYTES", data="hello")
    assert isinstance(text.data, str)
    assert (text.data.root, text.data.encode(), text.data == "hello") == ("hello", b"hello", True)


def test_codecs_have_their_old_names_with_a_warning(alias: None) -> None:
    codecs = importlib.import_module("mlserver.codecs")
    tensor = codecs.NumpyCodec.encode_input("x", np.array([1, 2]))
    with pytest.warns(DeprecationWarning):
        decoded = codecs.NumpyCodec.decode(tensor)
    assert decoded.tolist() == [[1], [2]]


def test_frames_have_what_the_document_names(alias: None) -> None:
    pandas = importlib.import_module("mlserver.codecs").PandasCodec
    outputs = pandas.encode_outputs(pd.DataFrame({"a": [1], "b": ["x"]}))
    assert [one.name for one in outputs] == ["a", "b"]
    assert pandas.JsonContentType == "pd_json"


def test_bare_values_are_encoded_as_one_element(alias: None) -> None:
    import datetime

    codecs = importlib.import_module("mlserver.codecs")
    moment = codecs.DatetimeCodec.encode_input("x", datetime.datetime(2022, 1, 11, 11), use_bytes=False)
    assert moment.data == ["2022-01-11T11:00:00"]
    assert codecs.Base64Codec.encode_input("x", b"Python is fun", use_bytes=False).data == ["UHl0aG9uIGlzIGZ1bg=="]
    scalar = codecs.NumpyCodec.encode_output("x", np.array(0.5))
    assert (scalar.shape, scalar.datatype) == ([1], "FP64")


@pytest.mark.parametrize("use_raw", [False, True])
def test_converters_give_messages_of_protobuf(alias: None, use_raw: bool) -> None:
    types, converters = (importlib.import_module(f"mlserver.{one}") for one in ("types", "grpc.converters"))
    one = types.RequestInput(name="x", shape=[2], datatype="INT32", data=[1, 2])
    request = types.InferenceRequest(inputs=[one])
    convert = converters.ModelInferRequestConverter
    message = convert.from_types(request, model_name="m", model_version=None, use_raw=use_raw)
    assert type(message) is importlib.import_module("mlserver.grpc.dataplane_pb2").ModelInferRequest
    assert (message.model_name, bool(message.raw_input_contents)) == ("m", use_raw)
    assert convert.to_types(message).inputs[0].data.root == [1, 2]


def test_custom_handlers_are_marked_by_the_decorator(alias: None) -> None:
    handlers = importlib.import_module("mlserver.handlers")

    class Model(mlserve.MLModel):
        @handlers.custom_handler(rest_path="/mine")
        async def mine(self) -> str:
            return "mine"

    found = handlers.get_custom_handlers(Model(ModelSettings(name="m", implementation="a.B")))
    assert [one[0].rest_path for one in found] == ["/mine"]


def test_types_are_fields_of_pydantics_models(alias: None) -> None:
    types = importlib.import_module("mlserver.types")
    mine = pydantic.create_model(
        "Mine", inputs=(list[types.MetadataTensor], []), request=(types.InferenceRequest | None, None)
    )
    tensor = {"name": "a", "datatype": "BYTES", "shape": [1]}
    made = mine(inputs=[tensor], request={"inputs": [{**tensor, "data": [b"x"]}]})
    assert made.inputs[0] == types.MetadataTensor(**tensor)
    assert made.model_dump()["request"]["inputs"][0]["data"] == [b"x"]
    assert mine.model_validate_json(made.model_dump_json()).request.inputs[0].data == ["x"]
    schema = mine.model_json_schema()["properties"]["inputs"]["items"]
    assert (schema["title"], schema["required"]) == ("MetadataTensor", ["name", "datatype", "shape"])
    with pytest.raises(pydantic.ValidationError, match="shape"):
        mine(inputs=[{"name": "a", "datatype": "BYTES"}])
