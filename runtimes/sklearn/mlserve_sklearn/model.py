"""SKLearnModel: answers requests with the methods of a scikit-learn estimator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn

from mlserve.by_rows import ByRows
from mlserve.codecs import PandasCodec
from mlserve.datatypes import BYTES
from mlserve.errors import CodecError, InferenceError, ModelLoadError
from mlserve.settings import ModelSettings
from mlserve.tabular import Answer, TabularModel
from mlserve.types import InferenceRequest, MetadataTensor, RequestOutput, ResponseOutput
from mlserve.written_out import WrittenOut
from mlserve_sklearn.artifact import load_estimator
from mlserve_sklearn.columns import column_names
from mlserve_sklearn.inputs import InputCheck, is_about_input, is_library_error, is_of_another_version
from mlserve_sklearn.signature import UnansweredError, signature
from mlserve_sklearn.threads import Threads

__all__ = ["SKLearnModel"]

_logger = logging.getLogger("mlserve.sklearn")
_DECLARED = ("predict", "predict_proba", "decision_function", "transform")  # in metadata, beside the default


class SKLearnModel(TabularModel):
    """A scikit-learn estimator or pipeline from joblib, pickle or skops.

    `parameters.extra` may also hold `trusted` (types that a skops file may hold), `max_answer_numbers` of sparse
    answers, and any method of the estimator as `predict_fn`.
    """

    wellknown_filenames = ("model.joblib", "model.pickle", "model.pkl", "model.skops")
    input_errors = (*TabularModel.input_errors, AttributeError)  # numbers have no `lower`
    methods = ("predict", "transform", "predict_proba", "decision_function", "predict_log_proba", "score_samples")

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._threads = Threads(None)
        self._written_out = WrittenOut(settings)
        # A function of somebody's own among the steps may see all rows.
        self._rows = ByRows(self.name, is_extended=type(self).predict is not SKLearnModel.predict)
        self._columns: InputCheck
        self._saved_with: set[str] = set()  # versions of scikit-learn other than the installed one

    async def load(self) -> bool:
        """Reads the artifact, and tries one of another version. ModelLoadError if it can answer nothing."""
        await super().load()
        if self._saved_with:
            self._try_old()
        return True

    def _try_old(self) -> None:
        """ModelLoadError if what the installed version of a library needs is missing from an estimator.

        What it answers with a wrong row or with code of one's own tells nothing: such a model is served.
        """
        try:
            signature(self._model, [self._default[0].name], self.try_out)
        except UnansweredError as error:
            lacking = next((one for one in error.refusals if is_of_another_version(one)), None)
            if lacking is not None:
                raise ModelLoadError(
                    f"model '{self.name}': it was saved with scikit-learn {', '.join(sorted(self._saved_with))}, and "
                    f"cannot answer with {sklearn.__version__} ({lacking}). Save it again with that, or serve it from "
                    f"an environment with the version that saved it (parameters.environment_path)"
                ) from lacking

    def read(self, path: str) -> Any:
        """The fitted estimator in a file."""
        estimator, self._saved_with = load_estimator(path, self._settings, self.extra.listed("trusted"))
        self._threads = Threads(self.extra.threads())
        self._threads.apply(estimator, self.name)
        return estimator

    def predict(self, payload: InferenceRequest) -> Answer:  # type: ignore[override]  # plain: it never waits
        """One output for each method that the request names, in its order; InferenceError where there is none."""
        return self._rows.answer(payload, super().predict)

    def input_check(self) -> InputCheck:
        """What the estimator knows of its columns."""
        self._columns = InputCheck(self._model)
        return self._columns

    def signature(self) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
        """Inputs and outputs that the estimator, asked with a few rows, has shown; none where it answers nothing."""
        names = dict.fromkeys([self._default[0].name, *_DECLARED])
        try:
            return signature(self._model, [name for name in names if hasattr(self._model, name)], self.try_out)
        except UnansweredError as error:
            told = " ".join(str(error).split())
            _logger.warning(
                "model '%s': no signature: it answers none of the rows that it was tried with (%s). Describe its "
                "inputs and outputs in model-settings.json",
                self.name,
                told,
            )
            return [], []

    def call(self, method: Callable[..., Any], data: Any) -> Any:
        """The method within the bounds of `threads`. InferenceError for missing columns, and what libraries refuse."""
        try:
            with self._threads:
                return method(data)
        except Exception as error:
            missing = self._columns.missing(data)
            if missing:
                words = self._columns.lacking(missing)
            elif is_library_error(error) and is_about_input(error):
                words = self.words_of(error)
            else:
                raise
            raise InferenceError(f"model '{self.name}' cannot use this input: {words}") from error

    def is_about_input(self, error: Exception) -> bool:
        """Whether it comes out of a library's code, and not out of a transformer of one's own."""
        return is_about_input(error)

    def words_of(self, error: Exception) -> str:
        """The estimator's complaint; what calls a method of texts on something else says that texts are needed."""
        if isinstance(error, AttributeError) and error.name is not None and hasattr(str, error.name):
            kind = type(error.obj).__name__
            return f"it takes text, not {kind}; send datatype BYTES with the content type 'str'"
        return super().words_of(error)

    def encode_answer(self, answer: Any, asked: RequestOutput) -> list[ResponseOutput]:
        """One output, or several where a method gives several: the columns of a frame, the targets of a list."""
        if answer.__class__ is np.ndarray:
            return self._encode_array(answer, asked)
        if hasattr(answer, "toarray"):  # a sparse matrix
            self._written_out.check(asked.name, *answer.shape)
            answer = answer.toarray()
        if PandasCodec.can_encode(answer):
            return PandasCodec.encode_outputs(answer)
        if isinstance(answer, list | tuple) and all(isinstance(part, np.ndarray) for part in answer):
            outputs: list[ResponseOutput] = []
            for at, part in enumerate(answer):
                outputs += super().encode_answer(part, RequestOutput(name=f"{asked.name}_{at}"))
            return outputs
        return super().encode_answer(answer, asked)

    def _encode_array(self, array: Any, asked: RequestOutput) -> list[ResponseOutput]:
        """One output, or one a column where only JSON has the whole in one: a text and a number in one row."""
        if array.dtype != object or array.ndim != 2:
            return super().encode_answer(array, asked)
        try:
            outputs = super().encode_answer(array, asked)
            if outputs[0].datatype != BYTES or all(isinstance(one, str | bytes | None) for one in array.flat):
                return outputs
        except CodecError:
            pass
        import pandas as pd

        names = column_names(self._model, asked.name, array.shape[1])
        return PandasCodec.encode_outputs(pd.DataFrame(array, columns=names))

    def default_method(self, wanted: Any) -> str:
        """Any public method of the estimator will do."""
        if wanted is None or wanted in self.methods:
            return super().default_method(wanted)
        if not isinstance(wanted, str) or wanted.startswith("_") or not callable(getattr(self._model, wanted, None)):
            raise ModelLoadError(
                f"model '{self.name}': parameters.extra.predict_fn is {wanted!r}, but {self.known_methods()}"
            )
        return wanted
