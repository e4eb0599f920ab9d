"""TabularModel: the base of runtimes whose model is an object with methods over rows, such as scikit-learn's API has.

A runtime names its files and methods, reads the file, and says how the input must be; looking up the artifact,
choosing methods by the outputs asked for, whose fault an error is, and encoding are here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, ClassVar

import numpy as np

from mlserve.artifacts import local_artifact
from mlserve.codecs import NumpyCodec, NumpyRequestCodec
from mlserve.errors import InferenceError, ModelLoadError
from mlserve.extra import Extra
from mlserve.model import MLModel
from mlserve.repeated import check_repeated
from mlserve.settings import ModelSettings
from mlserve.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RequestOutput,
    ResponseOutput,
)

__all__ = ["ColumnCheck", "TabularModel", "column_tensors"]

Array = np.ndarray[Any, Any]


class TabularModel(MLModel):
    """A model that answers with its methods: an output `predict_proba` is what `predict_proba(data)` gives.

    Input is one tensor as a numpy array, unless a content type says otherwise: `pd` gives the model a DataFrame.
    `parameters.extra` may hold `predict_fn` (the method to call when no output is named), `threads` and `signature`
    (true: inputs and outputs that the settings leave empty are described from the model).
    """

    wellknown_filenames: ClassVar[tuple[str, ...]] = ()
    # The methods that a client may ask for by an output of the same name. The first that the model has is called when
    # the client names none.
    methods: ClassVar[tuple[str, ...]] = ("predict",)
    # What the model's methods raise for input that they cannot use.
    input_errors: ClassVar[tuple[type[Exception], ...]] = (ValueError, TypeError, KeyError, OverflowError)

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.extra = Extra(settings)
        self._model: Any = None
        self._check: Callable[[Any], Any] = _as_it_is
        self._default: list[RequestOutput] = []

    async def load(self) -> bool:
        """Reads the artifact. InvalidModelURI if there is none, ModelLoadError if it is no model."""
        path = local_artifact(self._settings, wellknown_filenames=self.wellknown_filenames)
        self._model = self.read(path)
        self._default = [RequestOutput(name=self.default_method(self.extra.get("predict_fn")))]
        self._check = self.input_check()
        if self.extra.flag("signature"):
            inputs, outputs = self.signature()
            self.inputs = self.inputs or inputs
            self.outputs = self.outputs or outputs
        return True

    async def unload(self) -> bool:
        """Drops the model."""
        self._model = None
        return True

    # -- what a runtime adds ------------------------------------------------------------------------------------------

    def read(self, path: str) -> Any:
        """The model in a file. ModelLoadError says what is wrong with one that cannot be served."""
        raise NotImplementedError

    def input_check(self) -> Callable[[Any], Any]:
        """What checks decoded input and brings it to the form of the model; InferenceError says what is wrong."""
        return _as_it_is

    def signature(self) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
        """Inputs and outputs as model metadata, the default output first; empty where the model does not know."""
        return [], []

    def call(self, method: Callable[..., Any], data: Any) -> Any:
        """What a method gives."""
        return method(data)

    def is_about_input(self, error: Exception) -> bool:
        """Whether one of `input_errors` tells of the request's data, and not of the model's own code."""
        return True

    def words_of(self, error: Exception) -> str:
        """The model's complaint, without what is of no use to a client."""
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        return " ".join(str(text).strip().splitlines()[:2]) or type(error).__name__

    def encode_answer(self, answer: Any, asked: RequestOutput) -> list[ResponseOutput]:
        """What a method gave as outputs."""
        if asked.parameters is None and not self._settings.outputs:  # nobody names a content type
            return [NumpyCodec.encode_output(asked.name, np.asanyarray(answer))]
        return [self.encode(np.asanyarray(answer), asked, default_codec=NumpyCodec)]

    def default_method(self, wanted: Any) -> str:
        """The method for requests that name no output; `wanted` is what the settings say, if anything."""
        if wanted is None:
            return next(name for name in self.methods if hasattr(self._model, name))
        if wanted not in self.methods or not hasattr(self._model, wanted):
            raise ModelLoadError(
                f"model '{self.name}': parameters.extra.predict_fn is {wanted!r}, but {self.known_methods()}"
            )
        return str(wanted)

    def try_out(self, name: str, data: Any) -> list[ResponseOutput]:
        """What a request for one method would get, for data as it is after decoding: for signatures."""
        answer = self.call(getattr(self._model, name), self.input_check()(data))
        return self.encode_answer(answer, RequestOutput(name=name))

    # -- one request --------------------------------------------------------------------------------------------------

    def predict(self, payload: InferenceRequest) -> Answer:  # type: ignore[override]  # plain: it never waits
        """One output for each method that the request names, in its order; InferenceError where there is none."""
        outputs = self._get_model_outputs(self._check_request(payload))
        return Answer(model_name=self.name, model_version=self.version, outputs=outputs)

    # These two have MLServer's names, since runtimes that extend MLServer's override them and call them by super().

    def _check_request(self, payload: InferenceRequest) -> InferenceRequest:
        """The request, which names its outputs now; InferenceError for one that the model has not, or too often."""
        if not payload.outputs:
            payload.outputs = list(self._default)
        else:
            check_repeated(payload.outputs)
            for one in payload.outputs:
                self._method(one.name)
        return payload

    def _get_model_outputs(self, payload: InferenceRequest) -> list[ResponseOutput]:
        """What the methods give whose names the request has as outputs; nothing if it has none."""
        asked = payload.outputs or []
        methods = {one.name: self._method(one.name) for one in asked}
        data = self._check(self.decode_request(payload, NumpyRequestCodec)) if asked else None
        answers = {name: self._answer(method, data) for name, method in methods.items()}
        outputs: list[ResponseOutput] = []
        for one in asked:
            outputs += self.encode_answer(answers[one.name], one)
        return outputs

    def _method(self, name: str) -> Callable[..., Any]:
        served = name in self.methods or name == self._default[0].name
        method: Callable[..., Any] | None = getattr(self._model, name, None) if served else None
        if method is None:
            raise InferenceError(f"model '{self.name}' has no output '{name}': {self.known_methods()}")
        return method

    def _answer(self, method: Callable[..., Any], data: Any) -> Any:
        try:
            return self.call(method, data)
        except self.input_errors as error:
            if self.is_about_input(error):
                raise InferenceError(f"model '{self.name}' cannot use this input: {self.words_of(error)}") from error
            raise

    def known_methods(self) -> str:
        """What the model can be asked for, in words."""
        names = [name for name in self.methods if hasattr(self._model, name)]
        return f"{type(self._model).__name__} has {', '.join(sorted(names))}"


class Answer(InferenceResponse):
    """An answer that can be awaited too: MLServer's `predict` is a coroutine, and code that extends it awaits it."""

    def __await__(self) -> Generator[None, None, Answer]:
        yield from ()
        return self


class ColumnCheck:
    """Checks data against the columns that a model was trained on: so many, and those of a frame by name.

    `names` is None for a model that was trained without names; a frame's columns then go by position. `given` are names
    that its framework gave them, if any: a frame that has them all goes by these.
    """

    kinds: str = "fiubO"  # numpy's letters for the arrays that the model takes

    def __init__(self, count: int, names: list[str] | None, given: Sequence[str] = ()) -> None:
        self.count = count
        self.names = names
        self._given = given

    def __call__(self, data: Any) -> Any:
        if isinstance(data, np.ndarray):
            return self.array(data)
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(data, pandas.DataFrame):
            return self.frame(data)
        kind = type(data).__name__
        raise InferenceError(
            f"the model takes a tensor of numbers or a data frame (content types np, pd), got a {kind}"
        )

    def array(self, array: Array) -> Any:
        """An array as the model takes it."""
        if array.ndim != 2 or array.shape[1] != self.count:
            raise InferenceError(f"the model takes an array of shape [rows, {self.count}], got {list(array.shape)}")
        if array.dtype.kind not in self.kinds:
            kind = "text" if array.dtype.kind in "SU" else f"an array of {array.dtype}"
            raise InferenceError(f"the model takes numbers, got {kind}")
        return array

    def frame(self, frame: Any) -> Any:
        """A frame with the model's columns, in the order of training."""
        if self.names is None:
            frame = self._by_given(frame)
            if frame.shape[1] != self.count:
                raise InferenceError(f"the model takes {self.count} columns, got {frame.shape[1]}")
            return self.array(frame.to_numpy())
        return self.categories(frame[self.pick(frame.columns)])

    def _by_given(self, frame: Any) -> Any:
        """A frame that has all the names that the framework gave, in their order; another as it is."""
        known = {str(column): column for column in frame.columns} if self._given else {}
        if known and all(name in known for name in self._given):
            return frame[[known[name] for name in self._given]]
        return frame

    def pick(self, columns: Any) -> list[Any]:
        """The frame's columns that the model was trained on, in that order; InferenceError names those missing."""
        assert self.names is not None  # only asked where there are names
        known = {self.spelled(str(column)): column for column in columns}
        missing = [name for name in self.names if name not in known]
        if missing:
            told = ", ".join(f"'{name}'" for name in missing)
            raise InferenceError(f"columns are missing: {told}; the model was trained on {', '.join(self.names)}")
        return [known[name] for name in self.names]

    def spelled(self, column: str) -> str:
        """A column's name as the model's file has it."""
        return column

    def categories(self, frame: Any) -> Any:
        """The frame with its categories as the framework takes them."""
        return frame


def column_tensors(check: ColumnCheck, datatype: str, text: Collection[str] = ()) -> list[MetadataTensor]:
    """The columns as inputs of a model's metadata: one tensor `x` if they have no names. `text` names those of text."""
    if check.names is None:
        return [MetadataTensor(name="x", datatype=datatype, shape=[-1, check.count])]
    return [_text_tensor(name) if name in text else _column_tensor(name, datatype) for name in check.names]


def _column_tensor(name: str, datatype: str) -> MetadataTensor:
    return MetadataTensor(name=name, datatype=datatype, shape=[-1, 1])


def _text_tensor(name: str) -> MetadataTensor:
    parameters = Parameters(content_type="str")
    return MetadataTensor(name=name, datatype=Datatype.BYTES, shape=[-1, 1], parameters=parameters)


def _as_it_is(data: Any) -> Any:
    return data
