"""Code that was written for MLServer finds mlserve under the old name, and nothing of that stays behind."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import mlserve
import mlserve.codecs
import mlserve.types
from mlserve import compat
from mlserve.runtime_names import RUNTIMES, resolve_implementation
from tests.serving import serving

ROOT = Path(__file__).resolve().parent.parent

# What MLServer's documentation imports, or shows in its reference.
NAMES = {
    "mlserver": "MLModel MLServer ModelParameters ModelSettings Settings __version__ codecs errors log register types",
    "mlserver.cli": "root",
    "mlserver.batch_processing": "process_batch",
    "mlserver.cli.main": "main process_batch root start",
    "mlserver.codecs": (
        "Base64Codec CodecError DatetimeCodec DecodedParameterName InputCodec NumpyCodec NumpyRequestCodec PandasCodec "
        "RequestCodec StringCodec StringRequestCodec decode_args decode_inference_request decode_request_input "
        "encode_inference_response encode_response_output get_decoded get_decoded_or_raw has_decoded "
        "register_input_codec register_request_codec"
    ),
    "mlserver.cli.serve": "DEFAULT_SETTINGS_FILENAME load_settings",
    "mlserver.codecs.base": (
        "InputCodec InputCodecLike RequestCodec RequestCodecLike find_input_codec find_input_codec_by_payload "
        "find_input_codec_by_type_hint find_request_codec find_request_codec_by_payload "
        "find_request_codec_by_type_hint register_input_codec register_request_codec"
    ),
    "mlserver.codecs.base64": "Base64Codec InputCodec is_list_of",
    "mlserver.codecs.datetime": "DatetimeCodec",
    "mlserver.codecs.decorator": "SignatureCodec decode_args",
    "mlserver.codecs.errors": "CodecError CodecNotFound MLServerError",
    "mlserver.codecs.json": (
        "JSONEncoderWithArray decode_from_bytelike_json_to_dict decode_json_input_or_output decode_str encode_to_json "
        "encode_to_json_bytes"
    ),
    "mlserver.codecs.lists": "ListElement as_list is_list_of",
    "mlserver.codecs.numpy": "NumpyCodec NumpyRequestCodec convert_nan inject_batch_dimension to_datatype to_dtype",
    "mlserver.codecs.pandas": "PandasCodec",
    "mlserver.codecs.string": "Parameters StringCodec StringRequestCodec decode_str encode_str",
    "mlserver.codecs.utils": "DecodedParameterName InputOrOutput SingleInputRequestCodec find_input_codec",
    "mlserver.context": "model_context",
    "mlserver.errors": "InferenceError InvalidModelURI MLServerError ModelNotFound ModelNotReady",
    "mlserver.grpc.converters": "ModelInferRequestConverter ModelInferResponseConverter",
    "mlserver.grpc.dataplane_pb2": "InferParameter InferTensorContents ModelInferRequest ModelInferResponse",
    "mlserver.grpc.dataplane_pb2_grpc": "GRPCInferenceServiceStub",
    "mlserver.handlers": "custom_handler",
    "mlserver.handlers.custom": "CustomHandler custom_handler get_custom_handlers register_custom_handler",
    "mlserver.logging": "configure_logger get_logger logger",
    "mlserver.metrics": "MetricsServer configure_metrics log register",
    "mlserver.metrics.context": "log register",
    "mlserver.metrics.server": "MetricsServer",
    "mlserver.model": "MLModel decode_inference_request get_decoded",
    "mlserver.repository": "DEFAULT_MODEL_SETTINGS_FILENAME ModelRepository SchemalessModelRepository",
    "mlserver.repository.load": "load_model_settings",
    "mlserver.repository.repository": "ModelRepository SchemalessModelRepository",
    "mlserver.server": "MLServer",
    "mlserver.settings": "BaseSettings CORSSettings ModelParameters ModelSettings Settings",
    "mlserver.types": (
        "Datatype InferenceErrorResponse InferenceRequest InferenceResponse MetadataModelErrorResponse "
        "MetadataModelResponse MetadataServerErrorResponse MetadataServerResponse MetadataTensor Parameters "
        "RepositoryIndexRequest RepositoryIndexResponse RepositoryIndexResponseItem RepositoryLoadErrorResponse "
        "RepositoryUnloadErrorResponse RequestInput RequestOutput ResponseOutput State TensorData"
    ),
    "mlserver.types.base": "BaseModel",
    "mlserver.types.dataplane": "InferenceRequest InferenceResponse",
    "mlserver.types.model_repository": "RepositoryIndexResponse State",
    "mlserver.utils": (
        "InvalidModelURI extract_headers generate_uuid get_model_uri get_wrapped_method insert_headers "
        "install_uvloop_event_loop to_absolute_path"
    ),
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


def test_modules_are_attributes_after_a_bare_import() -> None:
    """All but those below `mlserver.cli`, whose `main` is the function of that name, as on MLServer."""
    modules = [one for one in NAMES if one != "mlserver" and not one.startswith("mlserver.cli.")]
    reads = "\n".join(f"{module}.{NAMES[module].split()[0]}" for module in reversed(modules))
    assert run(f"from mlserve import compat\ncompat.install()\nimport mlserver\n{reads}") == ""


def test_the_base_of_codecs_is_mlservers_whichever_way_it_is_reached(alias: None) -> None:
    import mlserver

    assert mlserver.codecs.base is importlib.import_module("mlserver.codecs.base")
    assert mlserver.codecs.base.find_input_codec("np") is mlserver.codecs.NumpyCodec


def test_what_neither_has_is_told_with_the_place_to_look(alias: None) -> None:
    for module in ("mlserver.codecs", "mlserver.handlers", "mlserver"):
        with pytest.raises(AttributeError, match=r"no 'nothing_of_the_kind'.*docs/migrating.md"):
            print(importlib.import_module(module).nothing_of_the_kind)
    with pytest.raises(ImportError):
        importlib.import_module("mlserver.parallel.worker")


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
    importlib.import_module("mlserve.handlers")
    names = set(vars(mlserve))
    compat.install()
    for module in NAMES:
        importlib.import_module(module)
    compat.uninstall()
    assert not old_modules()
    assert set(vars(mlserve.types)) == names_of_types
    for module in ("mlserve.codecs", "mlserve.codecs.string", "mlserve.handlers"):
        assert "__getattr__" not in vars(sys.modules[module])
    assert not hasattr(sys.modules["mlserve.handlers"], "__path__")
    assert importlib.import_module("mlserve.codecs").base is sys.modules["mlserve.codecs.base"]
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
        answer = httpx.post(f"{running.rest}/v2/models/lengths/infer", json=body, timeout=60)
    assert answer.json()["outputs"][0]["data"] == [4, 4]


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


def test_the_packages_of_the_extra_are_those_that_the_documentation_names() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r"^compat = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    names = re.findall(r'^ +"([\w-]+(?:\[\w+\])?)', found[1], re.MULTILINE)
    row = next(
        line for line in (ROOT / "docs/migrating.md").read_text().splitlines() if "packages that MLServer" in line
    )
    assert len(names) > 5
    assert [name for name in names if name.lower() not in row.lower()] == []
