"""AlibiDetectRuntime: answers requests with a detector of alibi-detect."""

from __future__ import annotations

import inspect
import logging
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

__all__ = ["AlibiDetectRuntime"]

_STATE_SAVE_FREQ = 100  # predictions, as MLServer has it
# What a detector raises for data that it cannot take; torch's own shape errors are RuntimeErrors.
_INPUT_ERRORS = (ValueError, TypeError, IndexError, KeyError, RuntimeError, ArithmeticError)

_logger = logging.getLogger("mlserve.model")


class AlibiDetectRuntime(MLModel):
    """A drift or outlier detector: what its `predict` gives as `data` are the outputs, its `meta` the parameters.

    `parameters.extra` may hold `predict_parameters` (arguments of the detector's predict), `batch_size` (so many
    requests are collected before the detector looks at them; those before get an answer without outputs),
    `state_save_freq` (after so many rows an online detector's state is saved), `threads` and `signature`.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        extra = Extra(settings)
        self._predict_parameters = extra.mapping("predict_parameters")
        self._batch_size = extra.count("batch_size")
        self._state_save_freq = extra.count("state_save_freq") or _STATE_SAVE_FREQ
        self._threads = ThreadLimit(extra.threads())
        self._signature = extra.flag("signature")
        self._detector: Any = None
        self._collected: list[Any] = []  # inputs of requests that wait for a whole batch
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
        self._detector = load_detector(self._folder, self.name, self._threads)
        self._takes_rows = _takes_rows(self._detector)
        self._row_shape = _row_shape(self._detector)
        self._takes_arrays = _takes_arrays(self._detector)
        self._check_parameters()
        if self._signature:
            self.inputs = self.inputs or _signature(self._detector)
        return True

    async def unload(self) -> bool:
        """Saves the state of an online detector, and drops it."""
        if self._rows_seen:
            self._save_state()
        self._detector = None
        return True

    def predict(self, payload: InferenceRequest) -> InferenceResponse:  # type: ignore[override]  # plain: it never waits
        """What the detector finds in the rows of the request. InferenceError for data that it cannot take."""
        data = self._checked(self.decode_request(payload, NumpyRequestCodec))
        if self._batch_size is not None and not self._takes_rows:
            self._collected.append(data)
            if len(self._collected) < self._batch_size:
                return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[])
            data, self._collected = _joined(self._collected), []
        found = self._detect(data)
        meta = Parameters({key: _plain(value) for key, value in self._detector.meta.items() if _is_plain(value)})
        asked = [one.name for one in payload.outputs or ()] or list(found)
        unknown = [name for name in asked if name not in found]
        if unknown:
            raise InferenceError(f"model '{self.name}' has no output '{unknown[0]}': it has {', '.join(found)}")
        outputs = [_output(name, found[name]) for name in asked]
        return InferenceResponse(model_name=self.name, model_version=self.version, parameters=meta, outputs=outputs)

    def _checked(self, data: Any) -> Any:
        """The data, if its rows have the shape of the detector's reference data, where that is known."""
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
        save = getattr(self._detector, "save_state", None)
        if save is None:
            return
        try:
            save(str(self._folder / "state"))  # where load_detector looks for it
        except OSError as error:  # no matter of the request that happens to be the hundredth
            _logger.error("model '%s': the detector's state cannot be saved, and ends with it: %s", self.name, error)

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


def _joined(parts: list[Any]) -> Any:
    try:
        return np.concatenate(parts)
    except ValueError as error:
        raise InferenceError(f"the requests of a batch do not fit together: {error}") from None


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


def _row_shape(detector: Any) -> tuple[int, ...] | None:
    """The shape of one row; None if the detector does not say, or changes rows before it compares them."""
    reference = _reference(detector)
    return tuple(reference.shape[1:]) if reference is not None and _takes_arrays(detector) else None


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
