"""XGBoostModel: answers requests with an XGBoost model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xgboost

from mlserve import MLModel
from mlserve.artifacts import get_model_uri
from mlserve.codecs import NumpyCodec, NumpyRequestCodec
from mlserve.errors import InferenceError, ModelLoadError
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestOutput
from mlserve_xgboost.artifact import load_estimator
from mlserve_xgboost.inputs import InputCheck
from mlserve_xgboost.signature import signature

__all__ = ["XGBoostModel"]

WELLKNOWN_MODEL_FILENAMES = ("model.bst", "model.json", "model.ubj", "model.model")

# The methods that a client may ask for, by an output of the same name. The first is the one for requests without any.
OUTPUTS = ("predict", "predict_proba", "apply")


class XGBoostModel(MLModel):
    """A classifier, regressor or ranker of XGBoost, trained through its scikit-learn classes or as a Booster.

    Input is one tensor as a numpy array, unless a content type says otherwise: `pd` gives the model a DataFrame.
    `parameters.extra` may hold `predict_fn` (the method to call when no output is named), `threads` (how many one call
    may use) and `signature` (true: inputs and outputs that the settings leave empty are described from the model).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._model: Any = None
        self._check: Callable[[Any], Any] = _as_it_is
        self._default: list[RequestOutput] = []

    async def load(self) -> bool:
        """Reads the artifact. InvalidModelURI if there is none, ModelLoadError if it is no model."""
        path = await get_model_uri(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)
        extra = self._settings.parameters.extra if self._settings.parameters is not None else {}
        self._model = load_estimator(path, self.name, _threads(extra.get("threads")))
        self._default = [RequestOutput(name=self._default_method(extra.get("predict_fn", "predict")))]
        self._check = check = InputCheck(self._model.get_booster())
        if extra.get("signature"):
            inputs, outputs = signature(self._model, check, self._default[0].name)
            self.inputs = self.inputs or inputs
            self.outputs = self.outputs or outputs
        return True

    async def unload(self) -> bool:
        """Drops the model."""
        self._model = None
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One output for each method that the request names, in its order; InferenceError where there is none."""
        asked = payload.outputs or self._default
        methods = {one.name: self._method(one.name) for one in asked}
        data = self._check(self.decode_request(payload, default_codec=NumpyRequestCodec))
        answers = {name: self._call(method, data) for name, method in methods.items()}
        outputs = [self.encode(answers[one.name], one, default_codec=NumpyCodec) for one in asked]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _default_method(self, wanted: Any) -> str:
        """The method for requests that name no output."""
        if wanted not in OUTPUTS or not hasattr(self._model, wanted):
            raise ModelLoadError(
                f"model '{self.name}': parameters.extra.predict_fn is {wanted!r}, but {_names_of(self._model)}"
            )
        return str(wanted)

    def _method(self, name: str) -> Callable[[Any], Any]:
        """The model's method behind an output. InferenceError if it has none of that name."""
        method: Callable[[Any], Any] | None = getattr(self._model, name, None) if name in OUTPUTS else None
        if method is None:
            raise InferenceError(f"model '{self.name}' has no output '{name}': {_names_of(self._model)}")
        return method

    def _call(self, method: Callable[[Any], Any], data: Any) -> Any:
        try:
            return np.asarray(method(data))
        except (ValueError, TypeError, KeyError, xgboost.core.XGBoostError) as error:
            raise InferenceError(f"model '{self.name}' cannot use this input: {_first_lines(error)}") from error


def _names_of(estimator: Any) -> str:
    """What a model can be asked for, in words."""
    names = [name for name in OUTPUTS if hasattr(estimator, name)]
    return f"{type(estimator).__name__} has {', '.join(sorted(names))}"


def _threads(count: Any) -> int | None:
    """How many threads a call may use; None: as many as there are cores."""
    if count is None:
        return None
    if isinstance(count, bool) or not str(count).isdecimal() or int(count) < 1:
        raise ModelLoadError(f"parameters.extra.threads: expected a whole number >= 1, got {count!r}")
    return int(count)


def _first_lines(error: BaseException) -> str:
    """XGBoost's complaint without its stack trace."""
    return " ".join(str(error).strip().partition("Stack trace:")[0].splitlines()[:2])


def _as_it_is(data: Any) -> Any:
    return data
