"""The runtimes' own modules by MLServer's names: what code that extends a runtime imports from them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import httpx
import joblib
import pytest
from sklearn.linear_model import LinearRegression

from mlserve import compat
from tests.clean_place import write
from tests.serving import serving

MODULES = {
    "mlserver_sklearn.sklearn": "SKLearnModel WELLKNOWN_MODEL_FILENAMES PREDICT_OUTPUT PREDICT_PROBA_OUTPUT "
    "PREDICT_TRANSFORM PREDICT_FN_KEY VALID_OUTPUTS",
    "mlserver_xgboost.xgboost": "XGBoostModel WELLKNOWN_MODEL_FILENAMES PREDICT_OUTPUT PREDICT_PROBA_OUTPUT "
    "VALID_OUTPUTS",
    "mlserver_lightgbm.lightgbm": "LightGBMModel WELLKNOWN_MODEL_FILENAMES",
    "mlserver_catboost.catboost": "CatboostModel WELLKNOWN_MODEL_FILENAMES",
    "mlserver_mllib.mllib": "MLlibModel",
    "mlserver_mlflow.codecs": "TensorDictCodec TensorDict",
    "mlserver_mlflow.runtime": "MLflowRuntime",
    "mlserver_huggingface.runtime": "HuggingFaceRuntime",
    "mlserver_huggingface.common": "load_pipeline_from_settings",
    "mlserver_huggingface.settings": "HuggingFaceSettings get_huggingface_settings",
    "mlserver_huggingface.codecs": "PILImageCodec NumpyListCodec RawCodec HuggingfaceRequestCodec "
    "HuggingfaceConversationCodec HuggingfaceListJSONCodec HuggingfaceSingleJSONCodec MultiInputRequestCodec",
    "mlserver_huggingface.codecs.base": "HuggingfaceRequestCodec MultiInputRequestCodec",
    "mlserver_huggingface.codecs.conversation": "HuggingfaceConversationCodec",
    "mlserver_huggingface.codecs.image": "PILImageCodec",
    "mlserver_huggingface.codecs.json": "HuggingfaceSingleJSONCodec",
    "mlserver_huggingface.codecs.jsonlist": "HuggingfaceListJSONCodec",
    "mlserver_huggingface.codecs.numpylist": "NumpyListCodec",
    "mlserver_huggingface.codecs.raw": "RawCodec",
    "mlserver_alibi_detect.runtime": "AlibiDetectRuntime",
    "mlserver_alibi_explain.runtime": "AlibiExplainRuntime",
}


def _installed(module: str) -> bool:
    """Whether the environment has the runtime and the framework under it; each has some of them: see scripts/suites."""
    runtime = module.partition(".")[0].removeprefix("mlserver_")
    frameworks = {"huggingface": "transformers", "mllib": "pyspark", "alibi_explain": "alibi"}
    needed = (f"mlserve_{runtime}", frameworks.get(runtime, runtime))
    return all(importlib.util.find_spec(name) is not None for name in needed)


HERE = [module for module in MODULES if _installed(module)]


@pytest.fixture
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


@pytest.mark.filterwarnings("ignore")  # of the frameworks, when they are imported
@pytest.mark.parametrize("name", HERE)
def test_a_runtimes_module_has_mlservers_names(alias: None, name: str) -> None:
    module = importlib.import_module(name)
    assert [one for one in MODULES[name].split() if not hasattr(module, one)] == []


def test_scikit_learns_runtime_is_here() -> None:
    assert "mlserver_sklearn.sklearn" in HERE


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
    write(folder / "model-settings.json", {"implementation": "mine.Mine"})
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [3.0]}]}
    with serving(tmp_path) as running:
        reply = httpx.post(f"{running.rest}/v2/models/mine/infer", json=body, timeout=60)
    assert (reply.status_code, reply.json()["outputs"][0]["data"]) == (200, pytest.approx([6.0]))
