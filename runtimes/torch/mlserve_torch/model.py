"""TorchModel: answers requests with a PyTorch model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from mlserve import MLModel
from mlserve.artifacts import local_artifact
from mlserve.by_rows import ByRows
from mlserve.codecs import StringCodec
from mlserve.datatypes import BYTES
from mlserve.errors import InferenceError, ModelLoadError
from mlserve.extra import Extra
from mlserve.named_tensors import array_of, fit, inputs_by_name, output_of, outputs_asked
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput
from mlserve_torch.answers import named_arrays
from mlserve_torch.artifact import ExportedProgram, load_artifact
from mlserve_torch.blame import ERRORS, is_about_input, words_of
from mlserve_torch.signature import Signature, of_exported, of_module, of_script
from mlserve_torch.training import steps_in_training

__all__ = ["TorchModel"]

_logger = logging.getLogger("mlserve.torch")

WELLKNOWN_MODEL_FILENAMES = ("model.pt2", "model.pt", "model.pth", "model.ts")

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
_threads = torch.get_num_threads()  # PyTorch's own choice; the number is one for all models of a process


class TorchModel(MLModel):
    """An exported program, a TorchScript module, or a module made of a class and its weights.

    `parameters.extra` may hold `class` and `init`, `allow_pickle`, `device`, `dtype`, `compile` and `threads`;
    docs/runtimes/torch.md. Inputs are copied once, so that a model may write into them; answers are sent from where
    they are.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._call: Callable[..., Any] | None = None
        self._signature = Signature(())
        self._device = torch.device("cpu")
        self._dtype: Any = None  # what floats are turned into; None: they stay
        self._threads = _threads
        self._rows = ByRows(self.name, is_extended=type(self).predict is not TorchModel.predict)

    async def load(self) -> bool:
        """Reads the artifact. InvalidModelURI if there is none, ModelLoadError if it cannot be run."""
        path = local_artifact(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)
        extra = Extra(self._settings)
        self._threads = extra.threads() or _threads
        self._device = self._pick_device(extra)
        wanted = extra.text("dtype", _DTYPES)
        loaded = load_artifact(path, self._settings, self._device)
        if isinstance(loaded, ExportedProgram):
            if wanted is not None:
                raise ModelLoadError(f"model '{self.name}': parameters.extra.dtype: an exported program has its own")
            self._signature = of_exported(loaded, self.name)
            module = loaded.module()
        else:
            module = loaded.eval().to(device=self._device, dtype=_DTYPES.get(wanted or ""))
            is_script = isinstance(module, torch.jit.ScriptModule)
            self._signature = of_script(module, self.name) if is_script else of_module(module, self.name)
            self._dtype = _float_type(module)
        self._warn_of_training(path, steps_in_training(loaded))
        self.inputs = self.inputs or list(self._signature.described.values())
        self.outputs = self.outputs or list(self._signature.outputs)
        self._call = self._compiled(module, extra)
        return True

    async def unload(self) -> bool:
        """Drops the model."""
        self._call = None
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The outputs that the request names, in its order, or all; InferenceError for input that does not fit."""
        return self._rows.answer(payload, self._answer)

    def _answer(self, payload: InferenceRequest) -> InferenceResponse:
        given, more = self._named(payload)
        inputs = [*given.items(), *((one.name, one) for one in more)]
        texts = any(one.datatype == BYTES and name not in self._signature.texts for name, one in inputs)
        answer = self._run(*self._arguments(given, more), texts)
        arrays = named_arrays(answer, [one.name for one in self.outputs], self.name)
        asked = outputs_asked(self, payload, list(arrays))
        outputs = [output_of(self, one, arrays[one.name]) for one in asked]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    # -- loading ------------------------------------------------------------------------------------------------------

    def _warn_of_training(self, path: str, steps: list[str]) -> None:
        if steps:
            _logger.warning(
                "model '%s': %s was exported or traced in training mode (%s), which is part of it: its answers hang on "
                "chance, or on the other rows. Unless that is meant, save it again after model.eval()",
                self.name,
                path,
                ", ".join(steps),
            )

    def _pick_device(self, extra: Extra) -> Any:
        """`extra.device`; else the one that the worker was given by the model's `devices`, or the CPU."""
        wanted = extra.text("device") or ("cuda" if self._settings.devices and torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(wanted)
            torch.empty(1, device=device)  # starts it
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelLoadError(
                f"model '{self.name}': parameters.extra.device: '{wanted}' cannot be used: {told}"
            ) from error
        return device

    def _compiled(self, module: Any, extra: Extra) -> Callable[..., Any]:
        """The module, compiled if `extra.compile` is true or has options for torch.compile."""
        wanted = extra.get("compile", False)
        if wanted is False:
            return module  # type: ignore[no-any-return]  # torch is not typed here
        if wanted is not True and not isinstance(wanted, dict):
            raise extra.refusal("compile", "true, false, or an object of options for torch.compile")
        options = {} if wanted is True else wanted
        try:
            compiled = torch.compile(module, **options)
            if options.get("backend", "inductor") == "inductor" and self._device.type == "cpu":
                _find_compiler()
        except (TypeError, ValueError, RuntimeError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelLoadError(f"model '{self.name}': parameters.extra.compile: {told}") from error
        return compiled  # type: ignore[no-any-return]

    # -- one request --------------------------------------------------------------------------------------------------

    def _named(self, payload: InferenceRequest) -> tuple[dict[str, RequestInput], list[RequestInput]]:
        """Inputs by the model's names, in its order, and those for `*args`."""
        signature, inputs = self._signature, payload.inputs
        names = signature.names
        is_by_name = any(one.name in names for one in inputs)
        if not signature.takes_more:
            if len(inputs) > 1 and not is_by_name:
                return self._by_place(payload), []
            return inputs_by_name(self, payload, names, signature.optional), []
        if not is_by_name:
            given = dict(zip(signature.places, inputs))
            if all(name in given or name in signature.optional for name in names):
                return given, inputs[len(given) :]
        named = [one for one in inputs if one.name in names]
        given = inputs_by_name(self, InferenceRequest(inputs=named), names, signature.optional)
        return given, [one for one in inputs if one.name not in names]

    def _arguments(self, given: dict[str, RequestInput], more: list[RequestInput]) -> tuple[list[Any], dict[str, Any]]:
        signature = self._signature
        values = {name: self._value(name, one) for name, one in given.items()}
        by_keyword = {name: value for name, value in values.items() if name in signature.by_keyword}
        places = list(signature.places)
        while places and not more and places[-1] not in values:
            places.pop()
        args = [values[name] if name in values else signature.defaults[name] for name in places]
        return [*args, *(self._value(one.name, one) for one in more)], by_keyword

    def _by_place(self, payload: InferenceRequest) -> dict[str, RequestInput]:
        """Inputs under names of the client's own, in the order of `forward`."""
        names = self._signature.names
        least = len(names) - len(self._signature.optional)
        if not least <= len(payload.inputs) <= len(names):
            return inputs_by_name(self, payload, names, self._signature.optional)  # which says what is wrong
        return dict(zip(names, payload.inputs))

    def _value(self, name: str, one: RequestInput) -> Any:
        """An input as a tensor on the device; texts as a list."""
        described = self._signature.described.get(name)
        if one.datatype == BYTES:
            if described is not None or name in self._signature.tensors:
                takes = "a tensor" if described is None else described.datatype
                raise InferenceError(f"model '{self.name}': input '{name}' takes {takes}, got text")
            return self.decode(one, StringCodec)
        if name in self._signature.texts:
            raise InferenceError(f"model '{self.name}': input '{name}' takes texts (BYTES), got {one.datatype}")
        if described is None:
            tensor = torch.from_numpy(array_of(self, one, writable=True))
            return self._sent(name, tensor, self._dtype if tensor.is_floating_point() else tensor.dtype)
        array = fit(self, name, array_of(self, one, described.datatype, writable=True), described.shape)
        return self._sent(name, torch.from_numpy(array), self._signature.dtypes[name])

    def _sent(self, name: str, tensor: Any, dtype: Any) -> Any:
        """A tensor on the device, of another type if there is one. InferenceError if a value is beyond its range."""
        if dtype in (None, tensor.dtype) or not (tensor.is_floating_point() and dtype.is_floating_point):
            return tensor.to(self._device, dtype)
        made = tensor.to(dtype)
        if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and bool(made.isinf().any()):
            lost = tensor[made.isinf() & tensor.isfinite()]
            if len(lost):
                raise InferenceError(
                    f"model '{self.name}': input '{name}': {lost[0].item()!r} is beyond {dtype}, in which the model "
                    f"computes"
                )
        return made.to(self._device)

    def _run(self, args: list[Any], keywords: dict[str, Any], texts: bool) -> Any:
        assert self._call is not None  # the worker calls loaded models only
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                return self._call(*args, **keywords)
        except ERRORS as error:
            if not is_about_input(error, texts):
                raise
            raise InferenceError(f"model '{self.name}' cannot use this input: {words_of(error)}") from error


def _find_compiler() -> None:
    """RuntimeError if the machine has no C++ compiler, the lack of which would show in each request."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler  # takes seconds to import
    except ImportError:
        return  # not where it was
    get_cpp_compiler()


def _float_type(module: Any) -> Any:
    """The type of floats that a module computes in; None if it has several, or no weights."""
    types = {one.dtype for one in module.parameters() if one.is_floating_point()}
    return types.pop() if len(types) == 1 else None
