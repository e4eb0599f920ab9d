"""What lies in a folder that Spark saved, told from its metadata without starting Spark; and the model in it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyspark
from pyspark.ml import PipelineModel

from mlserve.errors import InvalidModelURI, ModelLoadError
from mlserve_mllib.errors import SPARK_ERRORS, reason_of

__all__ = ["Saved", "load_saved", "read_metadata"]

_PIPELINE = "org.apache.spark.ml.PipelineModel"
_ML, _RDD = "org.apache.spark.ml.", "org.apache.spark.mllib."
_ESTIMATORS = ("Pipeline", "CrossValidator", "TrainValidationSplit")


class Saved(NamedTuple):
    """One folder's metadata."""

    folder: Path
    class_name: str  # Java's, or Python's for stages that are somebody's own
    spark_version: str | None

    @property
    def of_rdds(self) -> bool:
        """Whether it is a model of the older RDD-based library."""
        return self.class_name.startswith(_RDD)


def read_metadata(path: str, name: str) -> Saved:
    """What the folder holds. InvalidModelURI where Spark did not save a model, ModelLoadError where it is none."""
    folder = Path(path)
    if not folder.is_dir():
        raise InvalidModelURI(name, f"{folder} is a file; name the folder that Spark saved")
    if (folder / "MLmodel").is_file():
        raise InvalidModelURI(name, f"{folder} was saved by MLflow: its runtime is 'mlflow'")
    parts = sorted((folder / "metadata").glob("part-*"))  # Spark 4 adds an id to the name
    text = "".join(part.read_text("utf-8", "replace") for part in parts).strip()
    if not text:
        raise InvalidModelURI(
            name, f"{folder} has no metadata/part-…, so Spark did not save a model there{_models_below(folder)}"
        )
    try:
        found = json.loads(text.splitlines()[0])
        saved = Saved(folder, str(found["class"]), found.get("sparkVersion"))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"model '{name}': {parts[0]} is no metadata of Spark: {text[:60]!r}") from error
    short = saved.class_name.rpartition(".")[2]
    if saved.class_name.startswith(_ML) and short in _ESTIMATORS:
        raise ModelLoadError(
            f"model '{name}': {folder} holds a {short} that is not trained; save what its fit() gave, a {short}Model"
        )
    return saved


def _models_below(folder: Path) -> str:
    below = sorted(str(one.parent) for one in folder.glob("*/metadata") if one.is_dir())
    return f"; set parameters.uri to one of {', '.join(below[:5])}" if below else ""


def load_saved(saved: Saved, session: Any, name: str) -> Any:
    """The model. ModelLoadError if Spark cannot read it."""
    try:
        if saved.class_name == _PIPELINE:
            return PipelineModel.load(str(saved.folder))
        reader = _class_of(saved)
        if saved.of_rdds and not hasattr(reader, "predict"):
            raise ModelLoadError(
                f"model '{name}': {saved.folder} holds a {saved.class_name}, which predicts nothing, so that it cannot "
                f"be served"
            )
        if saved.of_rdds:
            return reader.load(session.sparkContext, str(saved.folder))
        return reader.load(str(saved.folder))
    except (*SPARK_ERRORS, ImportError, AttributeError, KeyError, TypeError) as error:
        told = f"{reason_of(error)}{_other_version(saved)}"
        raise ModelLoadError(
            f"model '{name}': Spark cannot read {saved.folder}, a {saved.class_name}: {told}"
        ) from error


def _class_of(saved: Saved) -> Any:
    """The Python class that stands for a Java class; `…mllib.tree.model.X` is `pyspark.mllib.tree.X`."""
    module_name, _, class_name = saved.class_name.rpartition(".")
    module_name = module_name.replace("org.apache.spark", "pyspark").removesuffix(".model")
    return getattr(importlib.import_module(module_name), class_name)


def _other_version(saved: Saved) -> str:
    if saved.spark_version in (None, pyspark.__version__):
        return ""
    return f"; it was saved by Spark {saved.spark_version} (here: {pyspark.__version__})"
