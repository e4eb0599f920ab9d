"""The runtimes' own modules by MLServer's names: what code that extends a runtime imports from them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import joblib
import pytest
from sklearn.linear_model import LinearRegression

from mlserve import compat
from tests.clean_place import write
from tests.old_runtimes import MODULES, check_old_names
from tests.serving import serving


@pytest.fixture
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


@pytest.mark.parametrize("package", ["mlserver_lightgbm", "mlserver_sklearn", "mlserver_xgboost"])
def test_a_runtimes_modules_have_mlservers_names(package: str) -> None:
    """Other runtimes have this test in their own folders: each environment has some of them."""
    check_old_names(package)


def test_constants_are_those_of_the_runtime(alias: None) -> None:
    module = importlib.import_module("mlserver_sklearn.sklearn")
    assert module.SKLearnModel is importlib.import_module("mlserve_sklearn").SKLearnModel
    assert module.WELLKNOWN_MODEL_FILENAMES[:3] == ["model.joblib", "model.pickle", "model.pkl"]
    assert {module.PREDICT_OUTPUT, module.PREDICT_PROBA_OUTPUT, module.PREDICT_TRANSFORM} <= set(module.VALID_OUTPUTS)
    assert module.MLModel is importlib.import_module("mlserve").MLModel  # which MLServer's module imports


def test_modules_are_attributes_of_their_package(alias: None) -> None:
    package = importlib.import_module("mlserver_sklearn")
    assert package.sklearn is importlib.import_module("mlserver_sklearn.sklearn")
    with pytest.raises(AttributeError, match="'mlserver_sklearn' is mlserve_sklearn here, which has no 'nothing'"):
        package.nothing  # noqa: B018


def test_the_document_names_these_modules() -> None:
    text = (Path(__file__).parent.parent / "docs/migrating.md").read_text()
    assert [name for name in MODULES if name not in text and f"`.{name.partition('.')[2]}`" not in text] == []


@pytest.mark.slow
def test_a_subclass_of_a_runtime_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "from mlserver.utils import get_model_uri\n"
        "from mlserver_sklearn.sklearn import PREDICT_FN_KEY, VALID_OUTPUTS, WELLKNOWN_MODEL_FILENAMES, SKLearnModel\n\n\n"
        "class Mine(SKLearnModel):\n"
        "    async def load(self):\n"
        "        path = await get_model_uri(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)\n"
        "        assert path.endswith('model.joblib') and PREDICT_FN_KEY and 'predict' in VALID_OUTPUTS\n"
        "        return await super().load()\n"
    )
    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), folder / "model.joblib")
    write(folder / "model-settings.json", {"implementation": "mine.Mine", "parameters": {"uri": "."}})
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [3.0]}]}
    with serving(tmp_path) as running:
        reply = httpx.post(f"{running.rest}/v2/models/mine/infer", json=body, timeout=60)
    assert (reply.status_code, reply.json()["outputs"][0]["data"]) == (200, pytest.approx([6.0]))
