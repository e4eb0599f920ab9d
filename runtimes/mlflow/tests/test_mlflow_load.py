"""Folders that can and cannot be served: where they are looked for, what an error says, metadata and settings."""

from __future__ import annotations

import importlib.metadata
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import mlflow.pyfunc
import mlflow.pyfunc.loaders
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema, TensorSpec
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import GridSearchCV

from mlserve import ModelSettings
from mlserve.codecs import PandasCodec, StringCodec
from mlserve.errors import InvalidModelURI, MLServeError, ModelLoadError
from mlserve.loader import import_implementation
from mlserve_mlflow import MLflowRuntime
from mlserve_mlflow.artifact import SavedModel
from tests.old_runtimes import check_old_names

OF_PYFUNC = list(pkgutil.iter_modules(mlflow.pyfunc.loaders.__path__, "mlflow.pyfunc.loaders."))
assert OF_PYFUNC
TABLE = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})


class Configured(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [context.model_config["word"]]


class Holding(mlflow.pyfunc.PythonModel):
    """Code of one's own around an estimator."""

    def __init__(self, estimator: Any) -> None:
        self.estimators = {"forest": estimator}

    def predict(self, context, model_input, params=None):
        return self.estimators["forest"].predict(model_input)


@dataclass(frozen=True)
class Planned:
    """Answers, and counts jobs of its own."""

    n_jobs: int = 40

    def predict(self, x: Any) -> Any:
        return x


class Odd(Holding):
    """Holds what is nested deeper than Python's stack, too."""

    def load_context(self, context):
        for _ in range(1200):
            self.estimators = {**self.estimators, "trie": self.estimators}


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    model = RandomForestRegressor(n_estimators=3, n_jobs=-1, random_state=0).fit(TABLE, [1.0, 2.0, 3.0])
    signature = infer_signature(TABLE, pd.DataFrame({"quality": [1.0]}))
    mlflow.sklearn.save_model(
        model, tmp_path / "forest", signature=signature, pip_requirements=[], serialization_format="cloudpickle"
    )
    return tmp_path / "forest"


def refusal(load: Any, folder: Path, **parameters: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder, **parameters)
    return str(caught.value)


# -- where the folder is ----------------------------------------------------------------------------------------------


def test_the_folder_is_the_models_own_or_what_uri_names(forest: Path, load: Any) -> None:
    settings = ModelSettings(name="m", implementation="mlflow")
    settings.source_dir = forest
    model = MLflowRuntime(settings)
    assert anyio.run(model.load)
    assert [one.name for one in load(forest / "MLmodel").inputs] == ["a", "b"]


def test_a_folder_that_is_none_is_told_with_what_was_looked_for(tmp_path: Path, forest: Path, load: Any) -> None:
    with pytest.raises(InvalidModelURI, match="does not exist"):
        load(tmp_path / "gone")
    assert "has no file MLmodel, so MLflow did not save a model there" in refusal(load, tmp_path)
    assert f"set parameters.uri to one of {forest}" in refusal(load, tmp_path)
    (tmp_path / "model.pkl").write_bytes(b"")
    assert "is a file; name the folder that MLflow saved" in refusal(load, tmp_path / "model.pkl")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tracking server's files, in which the model `wine` has one version."""
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        with mlflow.start_run():
            mlflow.pyfunc.log_model(
                name="model",
                python_model=Configured(),
                model_config={"word": "bye"},
                pip_requirements=[],
                registered_model_name="wine",
            )
        yield
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_a_model_of_a_registry_is_fetched_and_dropped_when_it_is_unloaded(registry: None, load: Any) -> None:
    model = load("models:/wine/1", extra={"model_config": {"word": "hello"}})
    fetched = Path(model._place)
    assert list(fetched.rglob("MLmodel"))
    request = PandasCodec.encode_request(TABLE[:1])
    assert StringCodec.decode_output(model.predict(request).outputs[0]) == ["hello"]
    anyio.run(model.unload)
    assert not fetched.exists()
    assert "MLflow cannot fetch models:/gone/1" in refusal(load, "models:/gone/1")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/model", "no-such-scheme://bucket/model"])
def test_an_address_that_cannot_be_fetched_is_told(load: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert f"model 'm': MLflow cannot fetch {uri}" in refusal(load, uri)


# -- what is in it ----------------------------------------------------------------------------------------------------


def changed(folder: Path, **fields: Any) -> Path:
    file = folder / "MLmodel"
    described = yaml.safe_load(file.read_text())
    described["flavors"]["python_function"].update(fields.pop("pyfunc", {}))
    described.update(fields)
    file.write_text(yaml.safe_dump(described))
    return folder


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no flavors"),
        (b"[1, 2]", "names no flavors"),
        (b"a: [1", "is no YAML"),
        (b"\xff\xfe", "is no YAML"),
        (b"flavors: {spark: {}, onnx: {}}", "has no flavor 'python_function', which is the one that can be served"),
    ],
)
def test_an_mlmodel_that_is_none_is_told(tmp_path: Path, load: Any, content: bytes, words: str) -> None:
    (tmp_path / "MLmodel").write_bytes(content)
    told = refusal(load, tmp_path)
    assert words in told and "model 'm'" in told and str(tmp_path) in told


@pytest.mark.parametrize(
    ("fields", "is_code"),
    [
        *(({"loader_module": one.name}, True) for one in OF_PYFUNC),
        ({"loader_module": "mlflow.pyfunc.model"}, True),
        ({"loader_module": "house.loader"}, True),  # a module of one's own
        ({"loader_module": "mlflow.langchain", "model_code_path": "chain.py"}, True),
        ({"loader_module": "mlflow.sklearn"}, False),
        ({"loader_module": "mlflow.pytorch"}, False),
    ],
    ids=lambda one: one["loader_module"] if isinstance(one, dict) else "",
)
def test_loaders_of_somebodys_own_code_are_known(forest: Path, fields: dict[str, str], is_code: bool) -> None:
    assert SavedModel(str(changed(forest, pyfunc=fields)), "m").is_code == is_code


def test_a_framework_that_is_not_installed_is_named(forest: Path, load: Any) -> None:
    """Statsmodels has a flavour of its own in MLflow, and is in no environment of these tests."""
    told = refusal(load, changed(forest, pyfunc={"loader_module": "mlflow.statsmodels"}))
    assert "it needs the Python package 'statsmodels', which is not installed: pip install statsmodels" in told
    assert f"pip install -r {forest / 'requirements.txt'}" in told


def test_a_file_that_is_gone_or_broken_is_told_with_the_versions(forest: Path, load: Any) -> None:
    changed(forest, mlflow_version="9.9", pyfunc={"python_version": "3.8.1"})
    (forest / "model.pkl").write_bytes(b"no pickle")
    told = refusal(load, forest)
    assert "MLflow cannot load it" in told
    assert f"saved with MLflow 9.9 (here: {mlflow.__version__}) and Python 3.8.1" in told
    (forest / "model.pkl").unlink()
    assert "No such file" in refusal(load, forest)


# -- metadata ---------------------------------------------------------------------------------------------------------


def described(model: MLflowRuntime) -> Any:
    found = anyio.run(model.metadata)

    def plain(tensors: Any) -> list[Any]:
        return [(one.name, one.datatype, one.shape, one.parameters.content_type) for one in tensors]

    return plain(found.inputs), plain(found.outputs), found.parameters.content_type


def test_the_signature_becomes_metadata(save: Any, load: Any) -> None:
    kinds = ["boolean", "integer", "long", "float", "double", "string", "binary", "datetime"]
    signature = ModelSignature(
        inputs=Schema([ColSpec(kind, kind) for kind in kinds]), outputs=Schema([ColSpec("double")])
    )
    inputs, outputs, content_type = described(load(save(mlflow.pyfunc.PythonModel(), signature)))
    assert content_type == "pd"
    assert inputs == [
        ("boolean", "BOOL", [-1, 1], "np"),
        ("integer", "INT32", [-1, 1], "np"),
        ("long", "INT64", [-1, 1], "np"),
        ("float", "FP32", [-1, 1], "np"),
        ("double", "FP64", [-1, 1], "np"),
        ("string", "BYTES", [-1, 1], "str"),
        ("binary", "BYTES", [-1, 1], "base64"),
        ("datetime", "BYTES", [-1, 1], "datetime"),
    ]
    assert outputs == [("output-1", "FP64", [-1, 1], "np")]


def test_tensors_keep_their_shapes(save: Any, load: Any) -> None:
    def spec(*name: str) -> Any:
        return TensorSpec(np.dtype("float32"), (-1, 28, 28), *name)

    one = ModelSignature(inputs=Schema([spec()]), outputs=Schema([TensorSpec(np.dtype("str"), (-1,))]))
    assert described(load(save(mlflow.pyfunc.PythonModel(), one))) == (
        [("input-0", "FP32", [-1, 28, 28], "np")],
        [("output-1", "BYTES", [-1, 1], "np")],  # as it is answered
        "np",
    )
    named = ModelSignature(inputs=Schema([spec("x"), TensorSpec(np.dtype("uint8"), (-1,), "y")]))
    inputs, outputs, content_type = described(load(save(mlflow.pyfunc.PythonModel(), named, "named")))
    assert [one[0] for one in inputs] == ["x", "y"] and outputs == [] and content_type == "dict"


def test_without_a_signature_and_with_settings_of_its_own(save: Any, load: Any, settings: Any) -> None:
    folder = save(mlflow.pyfunc.PythonModel())
    assert described(load(folder)) == ([], [], None)
    own = settings(folder, content_type="pd")
    own.inputs = [{"name": "mine", "datatype": "FP64", "shape": [-1, 1], "parameters": {"content_type": "np"}}]
    model = MLflowRuntime(own)
    anyio.run(model.load)
    assert described(model) == ([("mine", "FP64", [-1, 1], "np")], [], "pd")


# -- settings of the runtime ------------------------------------------------------------------------------------------


def test_model_config_reaches_the_model(save: Any, load: Any) -> None:
    folder = save(Configured(), model_config={"word": "saved"})
    for extra, word in (({}, "saved"), ({"model_config": {"word": "given"}}, "given")):
        answer = load(folder, extra=extra).predict(PandasCodec.encode_request(TABLE))
        assert StringCodec.decode_output(answer.outputs[0]) == [word]
    assert "model_config: expected an object" in refusal(load, folder, extra={"model_config": "x"})
    assert "invocations: expected true or false" in refusal(load, folder, extra={"invocations": "yes"})
    assert load(folder, extra={"invocations": None})


def test_threads_bound_a_call(forest: Path, load: Any) -> None:
    model = load(forest, extra={"threads": 1})
    assert model._model.get_raw_model().n_jobs == 1
    wanted = load(forest)._model.predict(TABLE)
    answer = model.predict(PandasCodec.encode_request(TABLE))
    assert np.array_equal(answer.outputs[0].data.to_numpy("FP64", [3, 1]).ravel(), wanted)
    for wrong in (0, "many", -1, True):
        assert "threads: expected a whole number >= 1" in refusal(load, forest, extra={"threads": wrong})


@pytest.mark.parametrize("kind", ["searched", "held"])
def test_threads_bound_the_jobs_of_what_was_fitted_inside(tmp_path: Path, save: Any, load: Any, kind: str) -> None:
    forest = RandomForestRegressor(4, n_jobs=8, random_state=0)
    if kind == "searched":
        searched = GridSearchCV(forest, {"max_depth": [2]}, cv=2).fit(TABLE, [1.0, 2.0, 3.0])
        mlflow.sklearn.save_model(searched, tmp_path / "model", serialization_format="cloudpickle", pip_requirements=[])
        model = load(tmp_path / "model", extra={"threads": 1})
        inside = model._model.get_raw_model().best_estimator_
    else:
        model = load(save(Holding(forest.fit(TABLE, [1.0, 2.0, 3.0]))), extra={"threads": 1})
        inside = model._model.unwrap_python_model().estimators["forest"]
    assert inside.n_jobs == 1
    answer = model.predict(PandasCodec.encode_request(TABLE))
    assert np.array_equal(answer.outputs[0].data.to_numpy("FP64", [3, 1]).ravel(), inside.predict(TABLE))


def test_threads_cost_no_model_that_holds_odd_things(save: Any, load: Any) -> None:
    model = load(save(Odd(Planned())), extra={"threads": 1})
    assert model._model.unwrap_python_model().estimators["forest"].n_jobs == 40


def test_what_needs_no_java_needs_no_folder_for_temporary_files(
    tmp_path: Path, forest: Path, save: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may have none that can be written."""
    folders = [forest, save(Holding(None))]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.delenv("SPARK_SUBMIT_OPTS", raising=False)
    for folder in folders:
        assert load(folder)
        assert "SPARK_SUBMIT_OPTS" not in os.environ
    of_spark = changed(forest, pyfunc={"loader_module": "mlflow.spark"})
    assert "no folder for temporary files can be made" in refusal(load, of_spark)


def test_a_lone_output_can_be_asked_for_by_the_signatures_name(forest: Path, load: Any) -> None:
    request = PandasCodec.encode_request(TABLE)
    request.outputs = [{"name": "quality"}]  # type: ignore[list-item]
    request = type(request).model_validate(request.model_dump())
    answer = load(forest).predict(request)
    assert [one.name for one in answer.outputs] == ["quality"]


def test_unload_drops_the_model_and_names_lead_to_the_class(forest: Path, load: Any) -> None:
    model = load(forest)
    assert anyio.run(model.unload) and model._model is None
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="mlflow")
    assert entry.load() is MLflowRuntime
    settings = ModelSettings(name="m")
    for name in ("mlflow", "mlserver_mlflow.MLflowRuntime", "mlserve_mlflow.MLflowRuntime"):
        assert import_implementation(name, settings, None) is MLflowRuntime


def test_a_bad_request_of_a_library_is_the_clients_fault(forest: Path, load: Any) -> None:
    """Without a signature it is the framework itself that says what does not fit."""
    shutil.copytree(forest, forest.parent / "bare")
    model = load(changed(forest.parent / "bare", signature=None))
    with pytest.raises(MLServeError) as caught:
        model.predict(PandasCodec.encode_request(TABLE[["a"]]))
    assert caught.value.http_status == 400 and "cannot use this input: ValueError" in str(caught.value)


def test_its_modules_have_mlservers_names() -> None:
    check_old_names("mlserver_mlflow")
