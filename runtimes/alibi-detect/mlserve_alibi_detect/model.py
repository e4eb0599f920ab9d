"""AlibiDetectRuntime: answers requests with a detector of alibi-detect."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
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
from mlserve.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters, ResponseOutput
from mlserve_alibi_detect.artifact import load_detector
from mlserve_alibi_detect.collecting import Collector
from mlserve_alibi_detect.online import OnlineDetectors, save_state, stamp_of

__all__ = ["AlibiDetectRuntime"]

_STATE_SAVE_FREQ = 100  # predictions, as MLServer has it
_OF_PAIRS = ("MMDDrift", "LearnedKernelDrift")  # compare each row with each other, for each permutation
_MAX_ROWS = 5000  # of one test by them: a minute of one core
# What a detector raises for data that it cannot take; torch's own shape errors are RuntimeErrors.
_INPUT_ERRORS = (ValueError, TypeError, IndexError, KeyError, RuntimeError, ArithmeticError)
_online = OnlineDetectors()


class AlibiDetectRuntime(MLModel):
    """A drift or outlier detector: what its `predict` gives as `data` are the outputs, its `meta` the parameters.

    `parameters.extra` may hold `predict_parameters` (arguments of the detector's predict), `batch_size` (so many
    requests are collected before the detector looks at them; those before get an answer without outputs),
    `max_rows` (of one test by a detector whose cost is the square of them), `state_save_freq` (after so many rows an
    online detector's state is saved), `threads` and `signature`.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        extra = Extra(settings)
        self._predict_parameters = extra.mapping("predict_parameters")
        self._batch_size = extra.count("batch_size")
        self._max_rows = extra.count("max_rows") or _MAX_ROWS
        self._state_save_freq = extra.count("state_save_freq") or _STATE_SAVE_FREQ
        self._threads = ThreadLimit(extra.threads())
        self._signature = extra.flag("signature")
        self._detector: Any = None
        self._collector: Collector | None = None
        self._rows_seen = 0

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
        self._takes_rows = _takes_rows(self._detector)
        like = _rows_like(self._detector)
        self._row_shape = tuple(like.shape[1:]) if like is not None else None
        self._takes_arrays = _takes_arrays(self._detector)
        self._check_parameters()
        if self._signature:
            self.inputs = self.inputs or _signature(self._detector)
        if self._takes_rows:
            _online.hold(self, key, self._detector)
        elif self._batch_size is not None:
            self._collector = Collector(self.name, self._batch_size, like)
        return True

    async def unload(self) -> bool:
        """Saves the state of an online detector, and drops it."""
        if self._rows_seen:
            self._save_state()
        _online.let_go(self)
        self._detector = None
        return True

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain: it never waits
        """What the detector finds in the rows of the request. InferenceError for data that it cannot take."""
        data = self._checked(self.decode_request(payload, NumpyRequestCodec))
        self._check_rows(data)
        if self._collector is not None:
            data = self._collector.add(data)
            if data is None:
                return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[])
        found = self._detect(data)
        if self._collector is not None:
            self._collector.answered()
        meta = Parameters({key: _plain(value) for key, value in self._detector.meta.items() if _is_plain(value)})
        asked = [one.name for one in payload.outputs or ()] or list(found)
        unknown = [name for name in asked if name not in found]
        if unknown:
            raise InferenceError(f"model '{self.name}' has no output '{unknown[0]}': it has {', '.join(found)}")
        outputs = [_output(name, found[name]) for name in asked]
        return InferenceResponse(model_name=self.name, model_version=self.version, parameters=meta, outputs=outputs)

    def _checked(self, data: Any) -> Any:
        """The data, if its rows have the shape that the detector takes, where that is known."""
        if not isinstance(data, np.ndarray):
            if self._takes_arrays:
                raise InferenceError(
                    f"model '{self.name}' takes an array and has no preprocessing step, got {type(data).__name__}: "
                    f"leave the content type out, or give 'np'"
                )
            return data
        shape = self._row_shape
        if shape is not None and (data.ndim == 0 or data.shape[1:] != shape):
            raise InferenceError(f"model '{self.name}' takes an array of shape {[-1, *shape]}, got {list(data.shape)}")
        return data

    def _check_rows(self, data: Any) -> None:
        """InferenceError for more rows than one test may have, where its time and memory are the square of them."""
        kind = type(self._detector).__name__
        most = max(self._max_rows // (self._batch_size or 1), 1)
        if kind in _OF_PAIRS and np.ndim(data) and len(data) > most:
            raise InferenceError(
                f"model '{self.name}' takes {most} rows at most in a request, got {len(data)}: {kind} compares each "
                f"row of a test with each other. The model's settings may allow more (parameters.extra.max_rows)"
            )

    def _detect(self, data: Any) -> Mapping[str, Any]:
        try:
            with self._threads.held():
                if self._takes_rows:
                    return self._detect_each(np.asarray(data))
                answer = self._detector.predict(data, **self._predict_parameters)
        except _INPUT_ERRORS as error:
            raise InferenceError(
                f"model '{self.name}' cannot use this input: {error or type(error).__name__}"
            ) from error
        return {name: [value] for name, value in answer["data"].items()}

    def _detect_each(self, rows: Any) -> Mapping[str, Any]:
        """An online detector takes one row after the other."""
        found: dict[str, list[Any]] = {}
        for row in rows:
            answer = self._detector.predict(row, **self._predict_parameters)
            for name, value in answer["data"].items():
                found.setdefault(name, []).append(value)
            self._rows_seen += 1
            if self._rows_seen % self._state_save_freq == 0:
                self._save_state()
        return found

    def _save_state(self) -> None:
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


def _takes_rows(detector: Any) -> bool:
    """Whether it takes one row after the other, as online drift detectors do. Outlier detectors that call themselves
    online (Mahalanobis, SpectralResidual) learn from what they see too, but take all rows of a request together."""
    return bool(detector.meta.get("online")) and detector.meta.get("detector_type") == "drift"


def _output(name: str, values: Iterable[Any]) -> ResponseOutput:
    """The values as one tensor; None, which a detector gives for what it does not compute, is NaN."""
    array = np.array([np.nan if value is None else np.asarray(value) for value in values])
    return NumpyCodec.encode_output(name, array)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int, float, np.generic))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _signature(detector: Any) -> list[MetadataTensor]:
    """The input, as far as the detector's reference data tells; empty otherwise."""
    reference = _reference(detector)
    if reference is None:
        return []
    return [MetadataTensor(name="x", datatype=datatype_of(reference.dtype), shape=[-1, *reference.shape[1:]])]


def _rows_like(detector: Any) -> np.ndarray[Any, Any] | None:
    """An array without rows, of the kind that it takes; None if the detector does not say, or changes rows before it
    compares them."""
    forest = getattr(detector, "isolationforest", None)
    if forest is not None and hasattr(forest, "n_features_in_"):
        return np.empty((0, forest.n_features_in_))
    reference = _reference(detector)
    return reference[:0] if reference is not None and _takes_arrays(detector) else None


def _takes_arrays(detector: Any) -> bool:
    """Whether it is known to compare arrays with arrays, as they come."""
    inner = getattr(detector, "_detector", detector)
    reference = _reference(detector)
    return reference is not None and reference.dtype != object and getattr(inner, "preprocess_fn", None) is None


def _reference(detector: Any) -> np.ndarray[Any, Any] | None:
    reference: Any = getattr(getattr(detector, "_detector", detector), "x_ref", None)
    if hasattr(reference, "cpu"):  # online detectors have a tensor of their backend
        reference = np.asarray(reference.cpu())
    return reference if isinstance(reference, np.ndarray) else None
