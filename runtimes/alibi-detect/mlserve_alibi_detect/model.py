"""AlibiDetectRuntime: answers requests with a detector of alibi-detect."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlserve import MLModel
from mlserve.artifacts import local_artifact
from mlserve.codecs import NumpyCodec, NumpyRequestCodec
from mlserve.datatypes import datatype_of
from mlserve.errors import InferenceError, ModelLoadError
from mlserve.extra import Extra
from mlserve.merging import may_merge
from mlserve.settings import ModelSettings
from mlserve.thread_limits import ThreadLimit
from mlserve.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters, RequestOutput, ResponseOutput
from mlserve_alibi_detect.artifact import load_detector
from mlserve_alibi_detect.collecting import Collector
from mlserve_alibi_detect.judging import Judge
from mlserve_alibi_detect.online import OnlineDetectors, save_state, stamp_of
from mlserve_alibi_detect.traits import reference, takes_rows
from mlserve_alibi_detect.undoing import undone_on_failure

__all__ = ["AlibiDetectRuntime"]

_STATE_SAVE_FREQ = 100  # predictions, as MLServer has it
# What a detector raises for data that it cannot take; torch's own shape errors are RuntimeErrors.
_INPUT_ERRORS = (ValueError, TypeError, IndexError, KeyError, RuntimeError, ArithmeticError)
_online = OnlineDetectors()


class AlibiDetectRuntime(MLModel):
    """A drift or outlier detector: what its `predict` gives as `data` are the outputs, its `meta` the parameters.

    `parameters.extra` may hold `predict_parameters` (arguments of the detector's predict), `batch_size` (so many
    requests are collected before the detector looks at them; those before get an answer without outputs),
    `max_rows` (of one test), `state_save_freq` (after so many rows an online detector's state is saved), `threads` and
    `signature`.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        extra = Extra(settings)
        self._predict_parameters = extra.mapping("predict_parameters")
        self._batch_size = extra.count("batch_size")
        self._max_rows = extra.count("max_rows")
        self._state_save_freq = extra.count("state_save_freq") or _STATE_SAVE_FREQ
        self._threads = ThreadLimit(extra.threads())
        self._signature = extra.flag("signature")
        self._detector: Any = None
        self._collector: Collector | None = None
        self._unsaved_rows = 0

    async def load(self) -> bool:
        """Reads the detector. InvalidModelURI if there is none, ModelLoadError if it cannot be served."""
        if may_merge(self._settings):
            raise ModelLoadError(
                f"model '{self.name}': a detector's answer is one entry for all rows of a request, which cannot be "
                f"dealt out to several, so requests cannot be merged: leave max_batch_size and max_batch_time out; "
                f"parameters.extra.batch_size collects requests for one test"
            )
        self._folder = Path(local_artifact(self._settings))
        self._stamp = stamp_of(self._folder)
        key = (self.name, self.version, self._folder, self._stamp)
        self._detector = _online.get(key) or load_detector(self._folder, self.name, self._threads)
        self._takes_rows = takes_rows(self._detector)
        self._check_parameters()
        together = 1 if self._takes_rows else self._batch_size or 1
        self._judge = Judge(self.name, self._detector, together, self._max_rows)
        if self._signature:
            self.inputs = self.inputs or _signature(self._detector)
        if self._takes_rows:
            _online.hold(self, key, self._detector)
        elif self._batch_size is not None:
            self._collector = Collector(self.name, self._batch_size)
        return True

    async def unload(self) -> bool:
        """Saves the state of an online detector, and drops it."""
        if self._unsaved_rows:
            self._save_state()
        _online.let_go(self)
        self._detector = None
        return True

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain: it never waits
        """What the detector finds in the rows of the request. InferenceError for data that it cannot take."""
        asked = payload.outputs or ()
        self._judge.check_outputs(asked)
        data = self._judge.rows(self.decode_request(payload, NumpyRequestCodec))
        return self._answer(data, asked) if self._collector is None else self._collect(self._collector, data, asked)

    def _collect(self, collector: Collector, data: Any, asked: Sequence[RequestOutput]) -> InferenceResponse:
        if not collector.add(data, self._judge.form(data)):
            return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[])
        try:
            return self._answer_collected(collector, asked)
        except BaseException:
            if self._judge.unknown(asked):  # as the test has just shown: the others can still be tested
                collector.take_back()
            else:
                collector.drop()
            raise

    def _answer_collected(self, collector: Collector, asked: Sequence[RequestOutput]) -> InferenceResponse:
        refused: InferenceError | None = None
        for batch in collector.batches():
            try:
                response = self._answer(batch, asked)
            except InferenceError as error:
                refused = refused or error
                if self._judge.unknown(asked):
                    break
            else:
                collector.answered(batch)
                return response
        assert refused is not None
        raise refused

    def _answer(self, data: Any, asked: Sequence[RequestOutput]) -> InferenceResponse:
        with undone_on_failure(self._detector):
            found = self._detect(data)
            self._judge.learn(found)
            self._judge.check_outputs(asked)
            outputs = [_output(name, found[name]) for name in [one.name for one in asked] or found]
        if self._takes_rows:
            self._count(len(data))
        meta = Parameters({key: _plain(value) for key, value in self._detector.meta.items() if _is_plain(value)})
        return InferenceResponse(model_name=self.name, model_version=self.version, parameters=meta, outputs=outputs)

    def _detect(self, data: Any) -> Mapping[str, Any]:
        try:
            with self._threads.held():
                if self._takes_rows:
                    return self._detect_each(np.asarray(data))
                answer = self._detector.predict(data, **self._predict_parameters)
        except _INPUT_ERRORS as error:
            raise InferenceError(f"model '{self.name}' cannot use this input: {_complaint(error)}") from error
        return {name: [value] for name, value in answer["data"].items() if _is_data(value)}

    def _detect_each(self, rows: Any) -> Mapping[str, Any]:
        """An online detector takes one row after the other."""
        found: dict[str, list[Any]] = {}
        for row in rows:
            answer = self._detector.predict(row, **self._predict_parameters)
            for name, value in answer["data"].items():
                found.setdefault(name, []).append(value)
        return found

    def _count(self, rows: int) -> None:
        self._unsaved_rows += rows
        if self._unsaved_rows >= self._state_save_freq:
            self._save_state()

    def _save_state(self) -> None:
        self._unsaved_rows = 0
        save_state(self._detector, self.name, self._folder, self._stamp)

    def _check_parameters(self) -> None:
        """ModelLoadError for an argument that the detector's predict does not have, and for one that it needs."""
        known = inspect.signature(self._detector.predict).parameters
        unknown = [name for name in self._predict_parameters if name not in known]
        if unknown:
            names = ", ".join(name for name in list(known)[1:]) or "none"
            raise ModelLoadError(
                f"model '{self.name}': parameters.extra.predict_parameters: predict of {type(self._detector).__name__} "
                f"has no argument '{unknown[0]}'; it has {names}"
            )
        needed = [
            name
            for name, one in list(known.items())[1:]
            if one.default is one.empty
            and one.kind is one.POSITIONAL_OR_KEYWORD
            and name not in self._predict_parameters
        ]
        if needed:
            raise ModelLoadError(
                f"model '{self.name}': predict of {type(self._detector).__name__} needs '{needed[0]}' beside the "
                f"data for each test, which a request cannot give; give one for all in "
                f"parameters.extra.predict_parameters, or choose another detector"
            )


def _output(name: str, values: Iterable[Any]) -> ResponseOutput:
    """The values as one tensor; None, which a detector gives for what it does not compute, is NaN."""
    array = np.array([np.nan if value is None else np.asarray(value) for value in values])
    return NumpyCodec.encode_output(name, array)


def _is_data(value: Any) -> bool:
    """Whether it can be sent: detectors that learn give their model or kernel too."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind != "O")
    return isinstance(value, (list, tuple)) or _is_plain(value)


def _complaint(error: Exception) -> str:
    """What an error says. Of traces of PyTorch's interpreter, which name files of this machine, only the end."""
    text = str(error).strip()
    return text.splitlines()[-1] if "Traceback" in text else text or type(error).__name__


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int, float, np.generic))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _signature(detector: Any) -> list[MetadataTensor]:
    """The input, as far as the detector's reference data tells; empty otherwise."""
    known = reference(detector)
    if known is None:
        return []
    return [MetadataTensor(name="x", datatype=datatype_of(known.dtype), shape=[-1, *known.shape[1:]])]
