"""Code that was written for MLServer finds mlserve under the old name, and nothing of that stays behind."""

from __future__ import annotations

import contextvars
import importlib
import importlib.util
import inspect
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pandas as pd
import pytest

import mlserve
import mlserve.codecs
import mlserve.types
from mlserve import compat
from mlserve.custom_metrics import bind_sink
from mlserve.runtime_names import RUNTIMES, resolve_implementation
from mlserve.settings import ModelSettings, Settings
from tests.serving import serving

ROOT = Path(__file__).resolve().parent.parent

# What MLServer's documentation imports, or shows in its reference.
NAMES = {
    "mlserver": "MLModel MLServer ModelParameters ModelSettings Settings __version__ codecs errors log register types",
    "mlserver.cli": "root",
    "mlserver.batch_processing": "process_batch",
    "mlserver.cli.main": "main process_batch root",
    "mlserver.codecs": (
        "Base64Codec CodecError DatetimeCodec DecodedParameterName InputCodec NumpyCodec NumpyRequestCodec PandasCodec "
        "RequestCodec StringCodec StringRequestCodec decode_args decode_inference_request decode_request_input "
        "encode_inference_response encode_response_output get_decoded get_decoded_or_raw has_decoded "
        "register_input_codec register_request_codec"
    ),
    "mlserver.codecs.base": "InputCodec RequestCodec register_input_codec register_request_codec",
    "mlserver.codecs.base64": "Base64Codec",
    "mlserver.codecs.datetime": "DatetimeCodec",
    "mlserver.codecs.numpy": "NumpyCodec NumpyRequestCodec to_datatype",
    "mlserver.codecs.pandas": "PandasCodec",
    "mlserver.codecs.string": "StringCodec StringRequestCodec",
    "mlserver.codecs.utils": "DecodedParameterName InputOrOutput",
    "mlserver.context": "model_context",
    "mlserver.errors": "InferenceError InvalidModelURI MLServerError ModelNotFound ModelNotReady",
    "mlserver.grpc.converters": "ModelInferRequestConverter ModelInferResponseConverter",
    "mlserver.grpc.dataplane_pb2": "InferParameter InferTensorContents ModelInferRequest ModelInferResponse",
    "mlserver.grpc.dataplane_pb2_grpc": "GRPCInferenceServiceStub",
    "mlserver.handlers": "custom_handler",
    "mlserver.logging": "logger",
    "mlserver.metrics": "MetricsServer configure_metrics log register",
    "mlserver.model": "MLModel",
    "mlserver.repository": "ModelRepository",
    "mlserver.server": "MLServer",
    "mlserver.settings": "CORSSettings ModelParameters ModelSettings Settings",
    "mlserver.types": (
        "Datatype InferenceErrorResponse InferenceRequest InferenceResponse MetadataModelErrorResponse "
        "MetadataModelResponse MetadataServerErrorResponse MetadataServerResponse MetadataTensor Parameters "
        "RepositoryIndexRequest RepositoryIndexResponse RepositoryIndexResponseItem RepositoryLoadErrorResponse "
        "RepositoryUnloadErrorResponse RequestInput RequestOutput ResponseOutput State TensorData"
    ),
    "mlserver.types.dataplane": "InferenceRequest InferenceResponse",
    "mlserver.types.model_repository": "RepositoryIndexResponse State",
    "mlserver.utils": "extract_headers generate_uuid get_model_uri insert_headers to_absolute_path",
    "mlserver.version": "__version__",
}


def old_modules() -> dict[str, Any]:
    return {name: one for name, one in sys.modules.items() if name == "mlserver" or name.startswith("mlserver")}


@pytest.fixture
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()
    assert not old_modules()


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package called mlserver, a runtime of its and a package of somebody else's, as if pip had installed them."""
    for package, text in {
        "mlserver": "WHOSE = 'theirs'",
        "mlserver/codecs": "WHOSE = 'theirs'",
        "mlserver/parallel": "WHOSE = 'theirs'",
        "mlserver_sklearn": "WHOSE = 'theirs'",
        "mlserver_of_somebody": "from mlserver import MLModel\n\nclass Their(MLModel):\n    pass",
    }.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    compat.uninstall()
    for name in old_modules():
        del sys.modules[name]


def run(code: str, **env: str) -> str:
    """What a fresh Python prints; AssertionError with its traceback if it fails."""
    path = os.pathsep.join([env.pop("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep)
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": path, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), [(one, name) for one in NAMES for name in NAMES[one].split()])
def test_a_documented_name_is_found(alias: None, module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is not None
    space: dict[str, Any] = {}
    exec(f"from {module} import {name}", space)
    assert space[name] is getattr(importlib.import_module(module), name)


def test_both_names_mean_the_same_module_and_so_the_same_classes(alias: None) -> None:
    codecs = importlib.import_module("mlserver.codecs")
    assert codecs is mlserve.codecs
    assert importlib.import_module("mlserver.types.dataplane").InferenceRequest is mlserve.types.InferenceRequest
    assert importlib.import_module("mlserver").MLModel is mlserve.MLModel
    assert importlib.import_module("mlserver.model").MLModel is mlserve.MLModel


def test_submodules_are_there_without_being_imported_one_by_one(alias: None) -> None:
    mlserver = importlib.import_module("mlserver")
    for name in ("codecs", "errors", "logging", "metrics", "settings", "types", "utils"):
        assert inspect.ismodule(getattr(mlserver, name)), name


def test_a_star_import_brings_the_public_names(alias: None) -> None:
    space: dict[str, Any] = {}
    exec("from mlserver import *", space)
    assert space["MLModel"] is mlserve.MLModel
    assert list(mlserver_all()) == sorted(mlserver_all())
    assert set(dir(importlib.import_module("mlserver"))) == set(mlserver_all())


def mlserver_all() -> list[str]:
    names: list[str] = importlib.import_module("mlserver").__all__
    return names


def test_what_nobody_has_is_missing_in_the_usual_way(alias: None) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"mlserver\.nothing"):
        importlib.import_module("mlserver.nothing")
    with pytest.raises(ImportError, match="nothing"):
        exec("from mlserver import nothing")
    with pytest.raises(AttributeError, match=r"docs/migrating\.md"):
        _ = importlib.import_module("mlserver").nothing
    assert importlib.util.find_spec("mlserver.nothing") is None


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=lambda one: one.short)
def test_the_runtimes_of_mlserver_are_ours_in_settings(runtime: Any) -> None:
    assert resolve_implementation(f"{runtime.old_module}.{runtime.class_name}") == runtime.implementation


def test_an_installed_runtime_of_ours_is_found_by_its_old_name(
    alias: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlserve_fancy").mkdir()
    (tmp_path / "mlserve_fancy/__init__.py").write_text("")
    (tmp_path / "mlserve_fancy/runtime.py").write_text("class FancyModel:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        found = importlib.import_module("mlserver_fancy.runtime").FancyModel
        assert found is importlib.import_module("mlserve_fancy.runtime").FancyModel
        with pytest.raises(ModuleNotFoundError, match="mlserver_absent"):
            importlib.import_module("mlserver_absent.runtime")
    finally:
        for name in [one for one in sys.modules if one.startswith("mlserve_fancy")]:
            del sys.modules[name]


# -- the alias itself ---------------------------------------------------------------------------------------------


def test_importing_it_does_nothing() -> None:
    code = "import sys, mlserve.compat\nassert len([f for f in sys.meta_path if 'mlserve' in repr(f)]) == 0"
    assert run(code) == ""


def test_it_loads_nothing_before_it_is_asked_for() -> None:
    loaded = run("import sys\nfrom mlserve import compat\ncompat.install()\nimport mlserver\nprint(*sys.modules)")
    assert {"mlserver", "mlserve.old_names"} <= set(loaded.split())
    assert not {"numpy", "pandas", "hypercorn", "mlserve.server", "mlserve.metrics"} & set(loaded.split())


def test_metrics_in_a_worker_do_not_load_a_web_server() -> None:
    code = "import sys\nfrom mlserve import compat\ncompat.install()\nfrom mlserver.metrics import log\nprint(*sys.modules)"
    assert not {"hypercorn", "starlette", "mlserve.server"} & set(run(code).split())


def test_installing_twice_is_installing_once() -> None:
    before = list(sys.meta_path)
    compat.install()
    compat.install()
    compat.uninstall()
    assert sys.meta_path == before
    compat.uninstall()
    assert sys.meta_path == before


def test_uninstalling_leaves_nothing() -> None:
    names_of_types = set(vars(mlserve.types))
    names = set(vars(mlserve))
    compat.install()
    for module in NAMES:
        importlib.import_module(module)
    compat.uninstall()
    assert not old_modules()
    assert set(vars(mlserve.types)) == names_of_types
    assert {name for name in vars(mlserve) if name not in names} <= {
        "batch_processing",
        "cli",
        "client",
        "grpc",
        "handlers",
        "old_names",
        "server",
    }
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mlserver")


def test_modules_keep_their_own_names_specs_and_files(alias: None) -> None:
    module = importlib.import_module("mlserver.codecs.string")
    spec = module.__spec__
    assert spec is not None
    assert (module.__name__, spec.name) == ("mlserve.codecs.string", "mlserve.codecs.string")
    assert type(spec.loader).__name__ == "SourceFileLoader"
    assert inspect.getsource(module).startswith('"""')


def test_a_reload_by_the_old_name_reloads_the_module_in_place(alias: None) -> None:
    module = importlib.import_module("mlserver.version")
    assert importlib.reload(module) is module
    assert sys.modules["mlserver.version"] is sys.modules["mlserve.version"] is module


def test_forgetting_a_module_and_importing_it_again_finds_the_same(alias: None) -> None:
    first = importlib.import_module("mlserver.codecs")
    del sys.modules["mlserver.codecs"]
    assert importlib.import_module("mlserver.codecs") is first


def test_pickles_name_our_modules_and_old_names_in_pickles_are_read(alias: None) -> None:
    codec = importlib.import_module("mlserver.codecs").NumpyCodec
    request = importlib.import_module("mlserver.types").InferenceRequest(inputs=[])
    written = pickle.dumps([codec, request])
    assert b"mlserver" not in written
    assert pickle.loads(written) == [mlserve.codecs.NumpyCodec, request]
    assert pickle.loads(b"cmlserver.types.dataplane\nInferenceRequest\n.") is mlserve.types.InferenceRequest


def test_a_failing_module_of_ours_fails_by_either_name_and_leaves_no_trace(
    alias: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlserve_broken.py").write_text("import what_is_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="what_is_not_installed"):
            importlib.import_module("mlserver_broken")
    assert "mlserver_broken" not in sys.modules


# -- beside the real package --------------------------------------------------------------------------------------


def test_the_installed_package_is_not_used(real: Path) -> None:
    compat.install()
    mlserver = importlib.import_module("mlserver")
    assert not hasattr(mlserver, "WHOSE")
    assert importlib.import_module("mlserver.codecs") is mlserve.codecs
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mlserver.parallel")  # half of each would be neither


def test_the_installed_package_steps_aside_when_it_was_imported_before_and_comes_back(real: Path) -> None:
    theirs = importlib.import_module("mlserver.codecs")
    compat.install()
    assert importlib.import_module("mlserver.codecs") is mlserve.codecs
    compat.uninstall()
    assert importlib.import_module("mlserver.codecs") is theirs
    assert importlib.import_module("mlserver").WHOSE == "theirs"


def test_packages_of_other_people_stay_and_run_on_us(real: Path) -> None:
    compat.install()
    theirs = importlib.import_module("mlserver_of_somebody")
    assert issubclass(theirs.Their, mlserve.MLModel)
    compat.uninstall()
    assert sys.modules["mlserver_of_somebody"] is theirs


def test_a_package_of_other_people_that_was_imported_before_stays(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (real / "mlserver_of_somebody/__init__.py").write_text("")
    theirs = importlib.import_module("mlserver_of_somebody")
    compat.install()
    assert importlib.import_module("mlserver_of_somebody") is theirs


def test_a_script_gets_ours_by_asking_for_it(real: Path) -> None:
    code = "from mlserve import compat\ncompat.install()\nfrom mlserver import MLModel\nprint(MLModel.__module__)"
    assert run(code, PYTHONPATH=str(real)).split() == ["mlserve.model"]


@pytest.mark.slow
def test_workers_run_on_us_whatever_else_is_installed(tmp_path: Path) -> None:
    (tmp_path / "installed/mlserver").mkdir(parents=True)
    (tmp_path / "installed/mlserver/__init__.py").write_text("raise ImportError('the real package was imported')\n")
    shutil.copytree(ROOT / "tests/documented/lengths", tmp_path / "models/lengths")
    (tmp_path / "models/settings.json").write_text('{"parallel_workers": 2}')
    path = os.pathsep.join([str(tmp_path / "installed"), *(one for one in sys.path if one)])
    with serving(tmp_path / "models", env={"PYTHONPATH": path}) as running:
        text = {"shape": [1], "datatype": "BYTES", "data": ["why?"]}
        body = {"inputs": [{"name": "questions", **text}, {"name": "context", **text}]}
        answer = httpx.post(f"{running.rest}/v2/models/lengths/infer", json=body, timeout=20)
    assert answer.json()["outputs"][0]["data"] == [4, 4]


# -- what old places do -------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_get_model_uri_finds_the_artifact_beside_the_settings(alias: None, tmp_path: Path) -> None:
    get_model_uri = importlib.import_module("mlserver.utils").get_model_uri
    (tmp_path / "model.json").write_text("{}")
    settings = ModelSettings(name="m", implementation="m.M", parameters={"uri": "./model.json"})
    settings.source_dir = tmp_path
    assert Path(await get_model_uri(settings)) == tmp_path / "model.json"
    settings.parameters = None
    assert Path(await get_model_uri(settings, wellknown_filenames=["model.bin", "model.json"])).name == "model.json"


def test_the_logger_is_the_one_that_is_configured_for_old_runtimes(alias: None) -> None:
    assert importlib.import_module("mlserver.logging").logger is logging.getLogger("mlserver")


def test_the_command_line_is_a_command_of_click(alias: None, tmp_path: Path) -> None:
    click = pytest.importorskip("click")
    testing = importlib.import_module("click.testing")
    root = importlib.import_module("mlserver.cli.main").root
    assert isinstance(root, click.Group) and {"start", "infer"} <= set(root.commands)
    mine = click.Group("mine", commands={"serving": root})

    def run(*words: str) -> tuple[int, str]:
        result = testing.CliRunner().invoke(mine, ["serving", *words])
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
            async with httpx.AsyncClient(timeout=20) as client:
                reply = await client.post(f"http://{host}:{port}/v2/models/doubling/infer", json=body)
            await server.stop()
        return reply.json()

    assert anyio.run(main)["outputs"][0]["data"] == [2, 4]


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


def test_nothing_of_this_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imports = "\n".join(f"from {module} import {', '.join(NAMES[module].split())}" for module in NAMES)
        assert run(f"from mlserve import compat\ncompat.install()\n{imports}") == ""


def test_the_document_for_those_who_come_from_mlserver_knows_every_moved_name() -> None:
    text = (ROOT / "docs/migrating.md").read_text()
    moved = compat._MOVED
    assert [
        name for name in moved if name.count(".") and name not in text and name.rpartition(".")[2] not in text
    ] == []


def test_several_threads_may_import_old_names_at_once(alias: None) -> None:
    names = [*NAMES, *NAMES]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(importlib.import_module, names))
    assert found[: len(NAMES)] == found[len(NAMES) :]
    assert all(one.__spec__.name == one.__name__ for one in found)
