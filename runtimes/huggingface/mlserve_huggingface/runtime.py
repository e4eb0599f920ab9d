"""HuggingFaceRuntime: answers requests with a transformers pipeline, and streams what it generates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from mlserve import MLModel
from mlserve.batching import rule_of
from mlserve.codecs import StringCodec
from mlserve.errors import InferenceError
from mlserve.merging import members_of, rows_of
from mlserve.settings import ModelSettings
from mlserve.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    RequestOutput,
    ResponseOutput,
)
from mlserve_huggingface.codecs import HuggingfaceListJSONCodec
from mlserve_huggingface.guard import guard
from mlserve_huggingface.inputs import Reader
from mlserve_huggingface.limits import Limits
from mlserve_huggingface.loading import find_model, make_pipeline
from mlserve_huggingface.metadata import described
from mlserve_huggingface.pipelines import Caller
from mlserve_huggingface.scaling import Scaling, most_pixels
from mlserve_huggingface.settings import settings_of
from mlserve_huggingface.sound import Sounds
from mlserve_huggingface.streaming import pieces
from mlserve_huggingface.tasks import Interface
from mlserve_huggingface.work import Job, Work

__all__ = ["HuggingFaceRuntime"]

OUTPUT = "output"
_NAMES = (OUTPUT, "outputs")  # MLServer's metadata has it as `outputs`, so clients may ask for that


class HuggingFaceRuntime(MLModel):
    """A pipeline of a local folder or of the hub, for any task that the installed transformers knows.

    `predict` computes in a thread of the model's own, one call at a time; `predict_stream` gives the text of
    text-generation piece by piece, and one answer a request for other tasks.
    """

    busy_while_awaiting = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._chosen = settings_of(settings)
        self._by_rows = rule_of(settings).calls > 1
        self._work: Work | None = None
        self._caller: Caller
        self._reader: Reader
        self._described: tuple[list[MetadataTensor], list[MetadataTensor]] = ([], [])

    async def load(self) -> bool:
        """Makes the pipeline. InvalidModelURI if its folder is missing, ModelLoadError if it cannot be made."""
        model = find_model(self._settings, self._chosen)
        task, pipeline = make_pipeline(self._settings, self._chosen, model)
        interface = Interface(task, pipeline)
        batch_size = self._chosen.batch_size or max(1, self._settings.max_batch_size)
        limits = Limits(task, pipeline, interface.media is None, self._chosen.max_generation_tokens)
        guard(pipeline, limits)
        self._caller = Caller(self.name, task, pipeline, batch_size, self._chosen.max_answer_numbers, limits)
        self._reader = Reader(
            interface,
            limits,
            dict(self.declared("inputs") or {}),
            self._chosen.allow_urls,
            self._chosen.max_pixels or most_pixels(task, pipeline),
            Scaling(pipeline),
            Sounds(pipeline, self._chosen.max_sound_seconds),
        )
        self._described = described(interface)
        self._work = Work(self.name)
        return True

    async def unload(self) -> bool:
        """Drops the pipeline and ends its threads."""
        if self._work is not None:
            self._work.close()
            self._work = None
            del self._caller
        return True

    async def metadata(self) -> MetadataModelResponse:
        """What the settings say; where they say nothing of inputs or outputs, those of the task."""
        told = await super().metadata()
        inputs, outputs = self._described
        told.inputs, told.outputs = told.inputs or inputs, told.outputs or outputs
        return told

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The pipeline's results as the output `output`, one a row.

        With batching on there is one result for each row of the request; else the elements of the list that the
        pipeline gives. InferenceError or CodecError for a request that it cannot use.
        """
        asked = self._asked(payload)
        output = await self._running().run(partial(self._answer, payload, asked))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncGenerator[InferenceResponse, None]:
        """The text that follows each prompt, piece by piece; for tasks that do not generate text, each answer."""
        async for payload in payloads:
            if not self._caller.streams:
                yield await self.predict(payload)
                continue
            self._asked(payload)
            generate = partial(self._generate, payload)
            async with aclosing(pieces(self._running(), generate)) as texts:
                async for text in texts:
                    output = StringCodec.encode_output(OUTPUT, [text])
                    yield InferenceResponse(
                        model_name=self.name, model_version=self.version, id=payload.id, outputs=[output]
                    )

    def _generate(self, payload: InferenceRequest, job: Job, send: Any) -> None:
        """In a thread: reads the request, for which it may need the tokenizer, and sends the text piece by piece."""
        self._caller.stream(job, send, self._reader(payload))

    def _answer(self, payload: InferenceRequest, asked: RequestOutput, job: Job) -> ResponseOutput:
        """In a thread: reads the request, calls the pipeline, and encodes what it gives."""
        members = members_of(payload)
        requests = [self._reader(one) for one in members]
        if not self._by_rows:
            return self._encoded(self._caller.one(job, requests[0]), asked)
        if len(members) > 1 and [one.rows for one in requests] != [rows_of(one) for one in members]:
            raise InferenceError("these requests cannot run as one, but each alone")  # a chat's messages are one row
        found = self._caller.rows(job, requests)
        return self._encoded([row for one in found for row in one], asked)

    def _encoded(self, results: list[Any], asked: RequestOutput) -> ResponseOutput:
        if asked.parameters is None or asked.parameters.content_type is None:
            return HuggingfaceListJSONCodec.encode_output(OUTPUT, results)
        return self.encode(results, RequestOutput(name=OUTPUT, parameters=asked.parameters))

    def _asked(self, payload: InferenceRequest) -> RequestOutput:
        """The output that a request asks for. InferenceError for one that there is not."""
        for one in payload.outputs or ():
            if one.name not in _NAMES:
                raise InferenceError(f"model '{self.name}' has no output '{one.name}': it has '{OUTPUT}'")
        return payload.outputs[0] if payload.outputs else RequestOutput(name=OUTPUT)

    def _running(self) -> Work:
        if self._work is None:
            raise InferenceError(f"model '{self.name}' is not loaded")
        return self._work
