"""Calls a pipeline: for one request, for a batch of them, or token by token; the errors are those of mlserve."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
import transformers
from PIL import Image

from mlserve.errors import InferenceError, MLServeError, ModelError
from mlserve_huggingface.codecs.text import numbers_in
from mlserve_huggingface.dense import Segmentation
from mlserve_huggingface.inputs import Arguments, Column, fresh
from mlserve_huggingface.kept import Kept
from mlserve_huggingface.limits import Limits, tokens_of
from mlserve_huggingface.question_answering import QuestionAnswering
from mlserve_huggingface.streaming import Detokenizer, Pieces
from mlserve_huggingface.tasks import GENERATING
from mlserve_huggingface.together import Together, unusual
from mlserve_huggingface.work import Job, Stopped

__all__ = ["Caller"]

_logger = logging.getLogger("mlserve.huggingface")
# What cannot come in pieces: a choice among several texts is made at the end.
_UNSTREAMABLE = {"num_beams": 1, "num_return_sequences": 1, "return_full_text": False, "return_tensors": False}
# Or something else is odd; the last is TensorFlow's.
_TOO_LONG = re.compile(r"size of (?:the )?tensor .*must match|index out of range in self|is not in \[0, \d+\)")
# Of torch, of ONNX, of TensorFlow.
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|bad_alloc|[Ff]ailed to allocate|OOM when allocating")
# What pipelines raise of requests that they cannot use; ImportError where one needs a package, as for resampling sound.
_OF_PIPELINES = (
    ArithmeticError, AttributeError, ImportError, IndexError, KeyError, NameError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
# The same of classes with no base in common: of tokenizers (no Exception, and cannot be imported), of transformers, and
# of jinja2, which tells what a chat template refuses.
_FOREIGN = frozenset({"PanicException", "PipelineException", "TemplateError"})
_FEATURES = frozenset({"feature-extraction", "image-feature-extraction"})  # lists of floats, unless asked for tensors
# Large arrays, or pictures, for each row.
_ARRAYS = _FEATURES | {"depth-estimation", "image-segmentation", "mask-generation", "text-to-audio", "text-to-speech"}
_NEW_TEXT_ALONE = int(transformers.__version__.partition(".")[0]) >= 5  # decodes the new tokens without the prompt's


class _Apart(Exception):
    """Rows have to be computed one by one."""


class Caller:
    """Calls the pipeline of one model."""

    def __init__(self, name: str, task: str, pipeline: Any, batch_size: int, most_numbers: int, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self._is_tensorflow = getattr(pipeline, "framework", "pt") == "tf"
        self._gives_features = task in _FEATURES
        self._gives_arrays = task in _ARRAYS
        self._gives_maps = task == "depth-estimation"
        self._most_numbers = most_numbers
        self._pipeline = pipeline
        self._at_once = Together(task, pipeline, batch_size)
        self._generates = task.partition("_")[0] in GENERATING
        self._kept = Kept(name, pipeline)
        self.streams = task == "text-generation"

    def one(self, job: Job, arguments: Arguments) -> list[Any]:
        """What the pipeline gives for one request: its list, or its only result as a list."""
        self._check_maps(arguments)
        try:
            return self._within_bound(self._together(job, arguments))
        except _Apart:
            pass
        if self._gives_arrays and _are_apart(arguments):
            return self._within_bound(self._each(job, arguments))
        result = self._call(job, arguments)
        self._check_numbers(numbers_in(result))
        return list(result) if isinstance(result, list | tuple) else [result]

    def rows(self, job: Job, requests: list[Arguments]) -> list[list[Any]]:
        """For each of several requests, one result a row of it, as if each had come alone. Those with the same options
        may run as one."""
        groups: dict[Any, list[int]] = {}
        for at, one in enumerate(requests):
            self._check_maps(one)
            groups.setdefault(_kind(one), []).append(at)
        found: list[list[Any]] = [[] for _ in requests]
        for members in groups.values():
            calls = [requests[at] for at in members]
            if not calls[0].rows:
                found[members[0]] = self.one(job, calls[0])
                continue
            results = self._row_results(job, Arguments.joined(calls))
            for at, call in zip(members, calls):
                found[at] = self._within_bound(islice(results, call.rows))
        return found

    def stream(self, job: Job, send: Callable[[Job, str], None], arguments: Arguments) -> None:
        """Generates, and sends the text as it comes."""
        options = arguments.options
        for name, only in _UNSTREAMABLE.items():
            if options.get(name) not in (None, only):
                raise InferenceError(f"a stream cannot have {name}={options[name]!r}; without it, or without a stream")
        if not arguments.positional or any(len(one.rows) != 1 for one in arguments.positional):
            raise InferenceError("a stream generates from one text; send one request for each")
        if arguments.positional[0].listed:
            arguments.positional = [Column(arguments.positional[0].rows)]
        options["return_full_text"] = False
        streamer = Pieces(job, send, partial(self._detokenizer, options))
        # TensorFlow's `generate` tells of no token: the text comes as a whole.
        result = self._call(job, arguments, **{} if self._is_tensorflow else {"streamer": streamer})
        text = result[0]["generated_text"]
        streamer.send(text[streamer.sent :])

    # -- calls --------------------------------------------------------------------------------------------------------

    def _call(self, job: Job, arguments: Arguments, **more: Any) -> Any:
        values = [fresh(one.value) for one in arguments.positional]
        named = {name: fresh(one.value) for name, one in arguments.columns.items()}
        options = fresh(arguments.options)
        if self._generates and self._is_tensorflow:
            more["logits_processor"] = job.processors()
        elif self._generates:
            more["stopping_criteria"] = job.criteria(self._kept)
            if options.get("stop_strings"):
                more["tokenizer"] = self._pipeline.tokenizer  # generate cannot find them without
        if isinstance(self._pipeline, QuestionAnswering):
            more = {"batch_size": self._at_once.rows(arguments), "between": job.give_way} | more
        if isinstance(self._pipeline, Segmentation):
            more["between"] = job.give_way
        as_arrays = self._gives_features and not options.get("return_tensors")
        if as_arrays:
            more["return_tensors"] = True
        try:
            result = self._pipeline(*values, **{**named, **options, **more})
            return _lists_of(result) if as_arrays else result
        except (MLServeError, Stopped):
            raise
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise self._full(error) from error
        except _OF_PIPELINES as error:
            raise self._explained(error, arguments) from error
        except BaseException as error:
            if any(one.__name__ == "OpError" for one in type(error).__mro__):  # TensorFlow's, whatever the kind
                raise self._explained(RuntimeError(_first_line(error)), arguments) from error
            # A bare Exception is of tokenizers too: what they say of texts that cannot be cut so short.
            if type(error) is not Exception and _FOREIGN.isdisjoint(one.__name__ for one in type(error).__mro__):
                raise
            raise InferenceError(f"model '{self._name}' cannot use this request: {_first_line(error)}") from error
        finally:
            job.keeps_turn = False

    def _row_results(self, job: Job, arguments: Arguments) -> Iterator[Any]:
        """One result for each row. Nothing is computed before it is asked for, but what runs beside it."""
        at_once = self._at_once.rows(arguments) if arguments.rows > 1 else 1
        for at, part in enumerate(arguments.parts(at_once)):
            if at:
                job.give_way()
            try:
                results: Iterable[Any] = self._part(job, part, at_once)
            except _Apart:
                results = self._each(job, part)
            yield from map(_unwrapped, results)

    def _together(self, job: Job, arguments: Arguments) -> Iterator[Any]:
        """The results of several rows, as many as may be computed at once. _Apart where they have to go one by one."""
        at_once = self._at_once.rows(arguments) if arguments.rows > 1 else 1
        if at_once == 1:
            raise _Apart
        for at, part in enumerate(arguments.parts(at_once)):
            if at:
                job.give_way()
            yield from self._part(job, part, at_once)

    def _part(self, job: Job, arguments: Arguments, at_once: int) -> list[Any]:
        """The results of rows that are computed at once. _Apart where they cannot be."""
        if at_once == 1:
            raise _Apart
        try:
            results = self._call(job, arguments, batch_size=at_once)
        except Stopped:
            raise
        except Exception as error:  # pictures of unlike shapes, say, or one row of many that cannot be used
            _logger.debug("model '%s': rows are computed one by one: %s", self._name, error)
            raise _Apart from error
        if not isinstance(results, list) or len(results) != arguments.rows:
            raise _Apart
        return results

    def _each(self, job: Job, arguments: Arguments) -> Iterator[Any]:
        """The results of all rows, one after the other."""
        for at, row in enumerate(arguments.each_row()):
            if at:
                job.give_way()
            yield self._call(job, row)

    def _within_bound(self, results: Iterable[Any]) -> list[Any]:
        """The results for one request. InferenceError as soon as they have too many numbers: no more are computed."""
        kept: list[Any] = []
        numbers = 0
        for one in results:
            kept.append(one)
            numbers += numbers_in(one)
            self._check_numbers(numbers)
        return kept

    def _check_maps(self, arguments: Arguments) -> None:
        """InferenceError for pictures whose maps of depths, of their own size, would be too many numbers."""
        if self._gives_maps:
            pictures = [row for row in arguments.all_rows() if isinstance(row, Image.Image)]
            self._check_numbers(sum(one.width * one.height for one in pictures))

    def _check_numbers(self, numbers: int) -> None:
        if numbers > self._most_numbers:
            raise InferenceError(
                f"the answer would have {numbers} numbers or more, some 20 bytes of JSON each; this model answers at "
                f"most {self._most_numbers} (parameters.extra.max_answer_numbers): send fewer rows, shorter texts or "
                f"smaller pictures"
            )

    def _detokenizer(self, options: dict[str, Any], prompt: list[int]) -> Detokenizer:
        """Decodes as the pipeline will, when it has all tokens."""
        default = inspect.signature(self._pipeline.postprocess).parameters["clean_up_tokenization_spaces"].default
        tokenizer = self._pipeline.tokenizer
        parsed = _NEW_TEXT_ALONE and getattr(tokenizer, "response_template", None)  # which needs the special tokens
        decode = partial(
            tokenizer.decode,
            skip_special_tokens=not parsed and options.get("skip_special_tokens", True),
            clean_up_tokenization_spaces=options.get("clean_up_tokenization_spaces", default),
        )
        return Detokenizer(decode, tokenizer.convert_ids_to_tokens, [] if _NEW_TEXT_ALONE else prompt)

    def _full(self, error: BaseException) -> MLServeError:
        where = "the device's memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        return MLServeError(f"model '{self._name}': {where} is full: {_first_line(error)}", 503)

    def _explained(self, error: Exception, arguments: Arguments) -> MLServeError:
        """Whose fault it is: a request that the pipeline cannot use, or the model."""
        if isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None:
            return self._full(error)
        told, options = _first_line(error), arguments.options
        start = f"model '{self._name}' cannot use this request"
        tokenizer = getattr(self._pipeline, "tokenizer", None)
        is_odd = isinstance(error, IndexError | RuntimeError) and _TOO_LONG.search(str(error)) is not None
        if tokenizer is not None and is_odd and self._limits.are_passed(options, arguments.all_rows()):
            longest = tokens_of(self._pipeline)
            what = "a text, with the tokens to generate," if self._generates else "a text"
            return InferenceError(
                f"{start}: {what} is longer than the model takes (it takes {longest} tokens); shorten it, or set "
                f"{'max_new_tokens or ' if self._generates else ''}truncation"
            )
        handed_on = options if self._generates else options.get("generate_kwargs")
        doubtful = unusual(handed_on) if isinstance(handed_on, dict) else []
        if doubtful and isinstance(error, AttributeError | NameError | RuntimeError):
            return InferenceError(f"{start} with these options ({', '.join(doubtful)}): {told}")
        if is_odd or isinstance(error, AttributeError | NameError | RuntimeError | OSError):
            return ModelError(f"{type(error).__name__}: {told}")
        return InferenceError(f"{start}: {told if not isinstance(error, KeyError) else f'it lacks {told}'}")


def _are_apart(arguments: Arguments) -> bool:
    """Whether each of several rows is no list, which the pipeline would take for rows."""
    return arguments.rows > 1 and not any(isinstance(row, list) for row in arguments.all_rows())


def _lists_of(features: Any) -> list[Any]:
    """Features as the pipeline gives them, lists in lists, but with arrays in the place of the inner lists."""
    return [list(one) for one in features] if isinstance(features, list) else list(features)


def _kind(arguments: Arguments) -> Any:
    """What requests must have in common to run as one; of its own where that cannot be told."""
    if not arguments.rows or not _is_plain(arguments.options):
        return object()
    return len(arguments.positional), tuple(arguments.columns), repr(arguments.options)


def _is_plain(value: Any) -> bool:
    """Whether two values of this form are the same if they are written the same."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def _unwrapped(result: Any) -> Any:
    """The only element of a list of one: text generation gives a list of one text for each prompt."""
    return result[0] if isinstance(result, list) and len(result) == 1 else result


def _first_line(error: BaseException) -> str:
    """What an error says, without the lines of a model's inner structure that may stand in it."""
    told = str(error).strip()
    if told.startswith("Exception encountered when calling"):  # a layer of Keras; what was the matter comes next
        told = told.partition("\n")[2].strip()
    lines = told.splitlines() or [type(error).__name__]
    told = f"{lines[0]}…{lines[-1].strip()}" if lines[0].endswith("(") else lines[0]
    return told[:500]
