"""OnnxModel: answers requests with an ONNX graph through ONNX Runtime."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from mlserve import MLModel
from mlserve.artifacts import local_artifact
from mlserve.by_rows import ByRows
from mlserve.datatypes import BYTES, DTYPES, Array
from mlserve.errors import InferenceError
from mlserve.named_tensors import array_of, fit, inputs_by_name, output_of, outputs_asked
from mlserve.settings import ModelSettings
from mlserve.types import InferenceRequest, InferenceResponse, RequestInput, RequestOutput, ResponseOutput
from mlserve_onnx.graph import Graph, Slot, read_graph
from mlserve_onnx.session import open_session, without_place

__all__ = ["OnnxModel"]

WELLKNOWN_MODEL_FILENAMES = ("model.onnx", "model.ort")

_NODE = re.compile(r"while running (\w+) node.*?Status Message: (.*)", re.DOTALL)
_NO_MEMORY = ("bad_alloc", "Failed to allocate", "out of memory")


class OnnxModel(MLModel):
    """An ONNX graph: named inputs to named outputs, of the datatypes and shapes that the graph declares.

    `parameters.extra` may hold `providers`, `threads`, `inter_threads` and `session_options`; docs/runtimes/onnx.md.
    Neither inputs nor outputs are copied: ONNX Runtime reads the request's memory, and its own results are sent.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._session: Any = None
        self._graph = Graph({}, frozenset(), {})
        self._rows = ByRows(self.name, is_extended=type(self).predict is not OnnxModel.predict)

    async def load(self) -> bool:
        """Opens the file. InvalidModelURI if there is none, ModelLoadError if it cannot be run."""
        path = local_artifact(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)
        self._session = open_session(path, self._settings)
        self._graph = graph = read_graph(self._session, path, self.name)
        self.inputs = self.inputs or [slot.described() for slot in graph.inputs.values()]
        self.outputs = self.outputs or [slot.described() for slot in graph.outputs.values() if slot.form != "list"]
        return True

    async def unload(self) -> bool:
        """Drops the session."""
        self._session = None
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The outputs that the request names, in its order, or all; InferenceError for what the graph does not have."""
        return self._rows.answer(payload, self._answer)

    def _answer(self, payload: InferenceRequest) -> InferenceResponse:
        graph = self._graph
        asked = outputs_asked(self, payload, list(graph.outputs))
        given = inputs_by_name(self, payload, list(graph.inputs), graph.optional)
        feed = {name: self._value(graph.inputs[name], one) for name, one in given.items()}
        names = list(dict.fromkeys(one.name for one in asked))
        answers = dict(zip(names, self._run(names, feed)))
        outputs: list[ResponseOutput] = []
        for one in asked:
            outputs += self._encode(graph.outputs[one.name], answers[one.name], one)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _value(self, slot: Slot, one: RequestInput) -> Array:
        array = array_of(self, one, slot.datatype)
        if slot.datatype == BYTES:
            array = self._texts(slot.name, array)
        return array if slot.shape is None else fit(self, slot.name, array, slot.shape)

    def _texts(self, name: str, array: Array) -> Array:
        """An array of str: ONNX Runtime would take the repr of anything else."""
        flat = array.ravel().tolist()
        for at, one in enumerate(flat):
            if one is None:
                raise InferenceError(f"model '{self.name}': input '{name}': data[{at}] is null, a text is needed")
            if isinstance(one, bytes):
                try:
                    flat[at] = one.decode()
                except UnicodeDecodeError:
                    raise InferenceError(
                        f"model '{self.name}': input '{name}': data[{at}] is no UTF-8, and ONNX has text only"
                    ) from None
        texts = np.empty(len(flat), object)
        texts[:] = flat
        return texts.reshape(array.shape)

    def _run(self, names: list[str], feed: dict[str, Array]) -> list[Any]:
        try:
            answers: list[Any] = self._session.run(names, feed)
        except (
            InvalidArgument,
            Fail,
            RuntimeException,
            ValueError,
        ) as error:  # the last by numpy: no array is so large
            text = str(error)
            if any(words in text for words in _NO_MEMORY):
                raise
            raise InferenceError(f"model '{self.name}' cannot use this input: {_words_of(text)}") from error
        return answers

    def _encode(self, slot: Slot, answer: Any, asked: RequestOutput) -> list[ResponseOutput]:
        if slot.form == "tensor":
            return [output_of(self, asked, np.asarray(answer))]
        if slot.form == "list":
            return [output_of(self, asked, np.asarray(one), f"{asked.name}_{at}") for at, one in enumerate(answer)]
        rows = [answer] if isinstance(answer, dict) else answer
        labels = list(rows[0]) if rows else []
        table = np.array([[row[label] for label in labels] for row in rows], DTYPES[slot.datatype])
        return [output_of(self, asked, table.reshape(len(rows), len(labels)), labels=json.dumps(labels))]


def _words_of(text: str) -> str:
    """ONNX Runtime's complaint, without the place in its source."""
    match = _NODE.search(text)
    if match:
        return f"{match[1]}: {without_place(match[2]).strip().splitlines()[0]}"
    return " ".join(text.rpartition(" : ")[2].split())
