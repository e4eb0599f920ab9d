"""Folders that are no model of Spark: each is told before a Java process is started, with what was found and helps."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlserve_mllib import MLlibModel, session

from mlserve import ModelSettings, spark_process
from mlserve.errors import InvalidModelURI, ModelLoadError
from mlserve.loader import import_implementation
from tests.old_runtimes import check_old_names


def refusal(folder: Path, **extra: Any) -> ModelLoadError:
    settings = ModelSettings(
        name="m", implementation=MLlibModel, parameters={"uri": str(folder), "extra": extra or None}
    )
    with pytest.raises(ModelLoadError) as caught:
        anyio.run(MLlibModel(settings).load)
    return caught.value


def write_metadata(folder: Path, text: str, name: str = "part-00000-1b2c-c000.txt") -> Path:
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata" / name).write_text(text)
    return folder


def test_a_folder_without_metadata_is_told_with_the_models_below_it(tmp_path: Path) -> None:
    assert "does not exist" in str(refusal(tmp_path / "gone"))
    (tmp_path / "file").write_text("")
    assert "is a file; name the folder that Spark saved" in str(refusal(tmp_path / "file"))
    told = refusal(tmp_path)
    assert isinstance(told, InvalidModelURI)
    assert "has no metadata/part-…, so Spark did not save a model there" in str(told)
    write_metadata(tmp_path / "inner", "{}")
    assert f"set parameters.uri to one of {tmp_path / 'inner'}" in str(refusal(tmp_path))


def test_a_folder_of_mlflow_is_sent_to_its_runtime(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}")
    assert "was saved by MLflow: its runtime is 'mlflow'" in str(refusal(tmp_path))


@pytest.mark.parametrize("text", ["no json", "[1]", '{"sparkVersion": "4.0"}'])
@pytest.mark.parametrize("name", ["part-00000", "part-00000-1b2c-c000.txt"])
def test_metadata_that_is_none_is_told(tmp_path: Path, text: str, name: str) -> None:
    assert "is no metadata of Spark" in str(refusal(write_metadata(tmp_path, text, name)))


def test_an_estimator_that_is_not_trained_is_told(tmp_path: Path) -> None:
    write_metadata(tmp_path, json.dumps({"class": "org.apache.spark.ml.Pipeline", "sparkVersion": "4.0.0"}))
    told = str(refusal(tmp_path))
    assert "holds a Pipeline that is not trained; save what its fit() gave, a PipelineModel" in told


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"threads": 0}, "threads: expected a whole number >= 1, got 0"),
        ({"threads": True}, "threads: expected a whole number >= 1, got True"),
        ({"memory": 512}, "memory: expected a text, got 512"),
        ({"spark_conf": ["a"]}, "spark_conf: expected an object"),
    ],
)
def test_settings_that_are_none_are_told(tmp_path: Path, extra: dict[str, Any], words: str) -> None:
    write_metadata(tmp_path, json.dumps({"class": "org.apache.spark.ml.PipelineModel"}))
    assert words in str(refusal(tmp_path, **extra))


def test_without_java_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_metadata(tmp_path, json.dumps({"class": "org.apache.spark.ml.PipelineModel"}))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert "Spark needs Java 17 or later, and there is none: install one" in str(refusal(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert f"JAVA_HOME is {tmp_path / 'jdk'}, which has no bin/java" in str(refusal(tmp_path))


def test_a_java_that_ends_at_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that is too old, or gets no memory."""
    write_metadata(tmp_path, json.dumps({"class": "org.apache.spark.ml.PipelineModel"}))
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    told = str(refusal(tmp_path))
    assert "Spark does not start: its Java process ended at once" in told and "Java has to be 17 or later" in told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyspark leaves a pipe to that process to the collector
        gc.collect()


@pytest.mark.slow
def test_spark_starts_where_the_folder_for_temporary_files_has_blanks_and_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / 'a b "c" d'
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    wanted = session.Wanted(ModelSettings(name="tests"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        java = session.session_of(wanted)._jvm
        folder = Path(spark_process.folder())
        assert folder.parent == place and java.System.getProperty("java.io.tmpdir") == str(folder)
        assert str(java.org.apache.logging.log4j.LogManager.getRootLogger().getLevel()) == "ERROR"
        session.stop_using(wanted)


def test_names_lead_to_the_class() -> None:
    (entry,) = importlib.metadata.entry_points(group="mlserve.runtimes", name="mllib")
    assert entry.load() is MLlibModel
    for name in ("mllib", "mlserver_mllib.MLlibModel", "mlserve_mllib.MLlibModel"):
        assert import_implementation(name, ModelSettings(name="m"), None) is MLlibModel


def test_its_modules_have_mlservers_names() -> None:
    check_old_names("mlserver_mllib")
