"""SKLearnModel: answers requests with the methods of a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from mlserve import MLModel
from mlserve.artifacts import get_model_uri
from mlserve.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec
from mlserve.errors import InferenceError, ModelLoadError
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestOutput, ResponseOutput
from mlserve_sklearn.artifact import load_estimator
from mlserve_sklearn.inputs import InputCheck, is_about_input
from mlserve_sklearn.signature import signature
from mlserve_sklearn.threads import Threads

__all__ = ["SKLearnModel"]

WELLKNOWN_MODEL_FILENAMES = ("model.joblib", "model.pickle", "model.pkl", "model.skops")

# The methods that a client may ask for, by an output of the same name. The first that the estimator has is called
# when the client names none.
OUTPUTS = ("predict", "transform", "predict_proba", "decision_function", "predict_log_proba", "score_samples")


class SKLearnModel(MLModel):
    """A scikit-learn estimator or pipeline from joblib, pickle or skops.

    Input is one tensor as a numpy array, unless a content type says otherwise: `pd` gives the estimator a DataFrame.
    `parameters.extra` may hold `predict_fn` (the method to call when no output is named), `threads` (see
    threads.py), `signature` (true: inputs and outputs that the settings leave empty are described from the estimator)
    and `trusted` (types that a skops file may hold).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._model: Any = None
        self._check: Callable[[Any], Any] = _as_it_is
        self._threads = Threads(None)
        self._default: list[RequestOutput] = []

    async def load(self) -> bool:
        """Reads the artifact. InvalidModelURI if there is none, ModelLoadError if it is no estimator."""
        path = await get_model_uri(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)
        extra = self._extra()
        self._model = load_estimator(path, self._settings, extra.get("trusted") or ())
        self._default = [RequestOutput(name=self._default_method(extra.get("predict_fn")))]
        self._check = InputCheck(self._model)
        self._threads = Threads(extra.get("threads"))
        self._threads.apply(self._model)
        if extra.get("signature"):
            inputs, outputs = signature(self._model, self._default[0].name)
            self.inputs = self.inputs or inputs
            self.outputs = self.outputs or outputs
        return True

    async def unload(self) -> bool:
        """Drops the estimator."""
        self._model = None
        return True

    def predict(self, payload: InferenceRequest) -> Answer:  # type: ignore[override]  # plain: it never waits
        """One output for each method that the request names, in its order; InferenceError where there is none."""
        asked = payload.outputs or self._default
        methods = [self._method(one.name) for one in asked]
        data = self._check(self.decode_request(payload, NumpyRequestCodec))
        outputs: list[ResponseOutput] = []
        with self._threads:
            for one, method in zip(asked, methods, strict=True):
                outputs += self._encode(self._call(method, data), one)
        return Answer(model_name=self.name, model_version=self.version, outputs=outputs)

    def _extra(self) -> dict[str, Any]:
        parameters = self._settings.parameters
        return parameters.extra if parameters is not None else {}

    def _default_method(self, wanted: Any) -> str:
        """The method for requests that name no output."""
        if wanted is None:
            return next(name for name in OUTPUTS if hasattr(self._model, name))
        if not isinstance(wanted, str) or wanted.startswith("_") or not callable(getattr(self._model, wanted, None)):
            raise ModelLoadError(
                f"model '{self.name}': parameters.extra.predict_fn is {wanted!r}, but {_names_of(self._model)}"
            )
        return wanted

    def _method(self, name: str) -> Callable[[Any], Any]:
        """The estimator's method behind an output. InferenceError if it has none of that name."""
        method: Callable[[Any], Any] | None = getattr(self._model, name, None) if self._is_served(name) else None
        if method is None:
            raise InferenceError(f"model '{self.name}' has no output '{name}': {_names_of(self._model)}")
        return method

    def _is_served(self, name: str) -> bool:
        return name in OUTPUTS or name == self._default[0].name

    def _call(self, method: Callable[[Any], Any], data: Any) -> Any:
        try:
            return method(data)
        except (ValueError, TypeError, KeyError) as error:
            if is_about_input(error):
                raise InferenceError(f"model '{self.name}' cannot use this input: {_first_lines(error)}") from error
            raise

    def _encode(self, answer: Any, asked: RequestOutput) -> list[ResponseOutput]:
        """One output, or several where a method gives several: the columns of a frame, the targets of a list."""
        if answer.__class__ is np.ndarray:
            return [self._encode_one(answer, asked)]
        if hasattr(answer, "toarray"):  # a sparse matrix
            answer = answer.toarray()
        if PandasCodec.can_encode(answer):
            return PandasCodec.encode_outputs(answer)
        if isinstance(answer, list | tuple) and all(isinstance(part, np.ndarray) for part in answer):
            parts = enumerate(answer)
            return [self._encode_one(part, RequestOutput(name=f"{asked.name}_{at}")) for at, part in parts]
        return [self._encode_one(np.asarray(answer), asked)]

    def _encode_one(self, answer: Any, asked: RequestOutput) -> ResponseOutput:
        if asked.parameters is None and not self._settings.outputs:  # nobody names a content type
            return NumpyCodec.encode_output(asked.name, answer)
        return self.encode(answer, asked, default_codec=NumpyCodec)


class Answer(InferenceResponse):
    """An answer that can be awaited too: MLServer's `predict` is a coroutine, and code that extends it awaits it."""

    def __await__(self) -> Generator[None, None, Answer]:
        yield from ()
        return self


def _names_of(estimator: Any) -> str:
    """What an estimator can be asked for, in words."""
    names = [name for name in OUTPUTS if hasattr(estimator, name)]
    return f"{type(estimator).__name__} has {', '.join(sorted(names))}"


def _first_lines(error: BaseException) -> str:
    """An estimator's complaint without the advice for people who hold it in their hands."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).strip().splitlines()[:2])


def _as_it_is(data: Any) -> Any:
    return data
