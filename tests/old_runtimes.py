"""Which names MLServer's runtimes have in modules of their own, and a check that the alias has them."""

from __future__ import annotations

import importlib
import warnings

from mlserve import compat

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


def check_old_names(package: str) -> None:
    """AssertionError unless the alias has each module of one of MLServer's runtimes, with all its names."""
    modules = [name for name in MODULES if name.partition(".")[0] == package]
    assert modules, f"no module of {package} is listed"
    compat.install()
    try:
        with warnings.catch_warnings():  # of the frameworks, when they are imported
            warnings.simplefilter("ignore")
            for name in modules:
                module = importlib.import_module(name)
                missing = [one for one in MODULES[name].split() if not hasattr(module, one)]
                assert not missing, f"{name} has no {', '.join(missing)}"
    finally:
        compat.uninstall()
