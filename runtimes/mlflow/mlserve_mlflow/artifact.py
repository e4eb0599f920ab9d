"""Finds, fetches and loads a folder that MLflow saved, and says in plain words what stands in the way."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models.model import MODEL_CODE_PATH

from mlserve.errors import InvalidModelURI, ModelLoadError

__all__ = ["SavedModel", "fetch"]

_MLMODEL = "MLmodel"
_SEARCHED_BELOW = 3  # levels of folders that are looked through for a model, to name it in the error
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "PyYAML"}


def fetch(uri: str, into: str, name: str) -> str:
    """The folder of a model that an address such as models:/wine/1 names, fetched by MLflow. ModelLoadError."""
    try:
        return str(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=into))
    except Exception as error:
        text = error.message if isinstance(error, MlflowException) else f"{type(error).__name__}: {error}"
        raise ModelLoadError(f"model '{name}': MLflow cannot fetch {uri} ({' '.join(text.split())})") from error


class SavedModel:
    """The folder that `path` names, or that an MLmodel file is in. InvalidModelURI, ModelLoadError if it is none."""

    def __init__(self, path: str, name: str) -> None:
        self._name = name
        self._folder = _find(Path(path), name)
        self._described = _described(self._folder, name)
        self._pyfunc = self._described["flavors"][pyfunc.FLAVOR_NAME]

    @property
    def loader(self) -> str:
        """The module of MLflow that loads it, which is its flavour."""
        return str(self._pyfunc.get(pyfunc.MAIN, ""))

    @property
    def is_code(self) -> bool:
        """Whether it is somebody's own code, and no framework's model: the loaders of MLflow's Python models (pickled,
        from code, for chats and agents), one that is not of MLflow, and any flavour's that runs a file of code."""
        own = not self.loader.startswith("mlflow.") or self.loader.startswith(f"{pyfunc.__name__}.")
        return own or MODEL_CODE_PATH in self._pyfunc

    def load(self, config: dict[str, Any]) -> Any:
        """The model, as MLflow's PyFuncModel. ModelLoadError if MLflow cannot load it."""
        _forget_java()
        try:
            return pyfunc.load_model(str(self._folder), **({"model_config": config} if config else {}))
        except Exception as error:
            told = _explain(error, self._folder, self._described)
            raise ModelLoadError(f"model '{self._name}': {self._folder}: {told}") from error


def _forget_java() -> None:
    """Drops the one Java object that MLflow keeps beyond its models: the process that it is of may have ended."""
    module = sys.modules.get("mlflow.spark")
    if module is not None:
        module._HadoopFileSystem._filesystem = None


def _find(path: Path, name: str) -> Path:
    if path.name == _MLMODEL and path.is_file():
        return path.parent
    if (path / _MLMODEL).is_file():
        return path
    if not path.is_dir():
        raise InvalidModelURI(name, f"{path} is a file; name the folder that MLflow saved, which has a file {_MLMODEL}")
    below = sorted(found.parent for depth in range(1, _SEARCHED_BELOW) for found in path.glob("*/" * depth + _MLMODEL))
    told = f"; set parameters.uri to one of {', '.join(map(str, below[:5]))}" if below else ""
    raise InvalidModelURI(name, f"{path} has no file {_MLMODEL}, so MLflow did not save a model there{told}")


def _described(folder: Path, name: str) -> dict[str, Any]:
    """What MLmodel says. ModelLoadError if it cannot be read, or lacks the flavor that serves."""
    where = f"model '{name}': {folder / _MLMODEL}"
    try:
        described = yaml.safe_load((folder / _MLMODEL).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    flavors = described.get("flavors") if isinstance(described, dict) else None
    if not isinstance(flavors, dict):
        raise ModelLoadError(f"{where} names no flavors, so it is not what MLflow writes")
    if pyfunc.FLAVOR_NAME not in flavors:
        told = ", ".join(sorted(map(str, flavors))) or "none"
        raise ModelLoadError(
            f"{where} has no flavor '{pyfunc.FLAVOR_NAME}', which is the one that can be served (it has: {told}); "
            f"save the model with a function of MLflow that adds it, such as mlflow.pyfunc.save_model"
        )
    return dict(described)


def _explain(error: Exception, folder: Path, described: dict[str, Any]) -> str:
    """Why MLflow could not load it, and what helps."""
    cause = _missing_module(error)
    if cause is not None:
        top = cause.partition(".")[0]
        return (
            f"it needs the Python package '{top}', which is not installed: pip install "
            f"{_DISTRIBUTIONS.get(top, top)}{_requirements(folder)}"
        )
    text = error.message if isinstance(error, MlflowException) else f"{type(error).__name__}: {error}"
    return f"MLflow cannot load it ({' '.join(text.split())}){_other_versions(described)}{_requirements(folder)}"


def _missing_module(error: BaseException | None) -> str | None:
    """The module that an error, or one behind it, says is not there."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return None


def _requirements(folder: Path) -> str:
    file = folder / "requirements.txt"
    return f"; all that it needs: pip install -r {file}" if file.is_file() else ""


def _other_versions(described: dict[str, Any]) -> str:
    """The versions that the model was saved with, where they are not those that run here."""
    saved_by = described.get("mlflow_version")
    python = described["flavors"][pyfunc.FLAVOR_NAME].get("python_version")
    told = []
    if saved_by and saved_by != mlflow.__version__:
        told.append(f"MLflow {saved_by} (here: {mlflow.__version__})")
    if python and python != platform.python_version():
        told.append(f"Python {python} (here: {platform.python_version()})")
    return f"; it was saved with {' and '.join(told)}" if told else ""
