"""What the tests of the MLflow runtime share: models are saved without looking for requirements, which takes long."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

with warnings.catch_warnings():  # of MLflow's own modules, and of pydantic's in them
    warnings.simplefilter("ignore")
    import mlflow.pyfunc

from mlserve import ModelSettings
from mlserve_mlflow import MLflowRuntime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """MLflow and the frameworks warn about their own ways; that is theirs, also where a fixture saves models."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves a PythonModel, or the file of one, into a folder of its own."""

    def saved(python_model: Any, signature: Any = None, name: str = "model", **more: Any) -> Path:
        folder = tmp_path / name
        mlflow.pyfunc.save_model(folder, python_model=python_model, signature=signature, pip_requirements=[], **more)
        return folder

    return saved


def settings_of(folder: Path, name: str = "m", **parameters: Any) -> ModelSettings:
    return ModelSettings(name=name, implementation=MLflowRuntime, parameters={"uri": str(folder), **parameters})


@pytest.fixture
def settings() -> Callable[..., ModelSettings]:
    """The settings of a model in a folder."""
    return settings_of


@pytest.fixture
def load() -> Callable[..., MLflowRuntime]:
    """Loads the model in a folder."""

    def loaded(folder: Path, **parameters: Any) -> MLflowRuntime:
        model = MLflowRuntime(settings_of(folder, **parameters))
        assert anyio.run(model.load)
        return model

    return loaded
