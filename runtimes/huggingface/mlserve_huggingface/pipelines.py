"""Calls a pipeline: for one request, for a batch of them, or token by token; the errors are those of mlserve."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers

from mlserve.errors import InferenceError, MLServeError, ModelError
from mlserve_huggingface.codecs.text import numbers_in
from mlserve_huggingface.inputs import Arguments, Column, fresh
from mlserve_huggingface.question_answering import QuestionAnswering
from mlserve_huggingface.streaming import Detokenizer, Pieces
from mlserve_huggingface.tasks import GENERATING
from mlserve_huggingface.together import Together, unusual
from mlserve_huggingface.work import Job, Stopped

__all__ = ["Caller"]

_logger = logging.getLogger("mlserve.huggingface")
# What cannot come in pieces: a choice among several texts is made at the end.
_UNSTREAMABLE = {"num_beams": 1, "num_return_sequences": 1, "return_full_text": False, "return_tensors": False}
_TOO_LONG = re.compile(r"size of (?:the )?tensor .*must match|index out of range")
# What pipelines raise of requests that they cannot use; ImportError where one needs a package, as for resampling sound.
_OF_PIPELINES = (
    AttributeError, ImportError, IndexError, KeyError, NameError, OSError, OverflowError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
# The same of classes with no base in common: of tokenizers (no Exception, and cannot be imported), of transformers, and
# of jinja2, which tells what a chat template refuses.
_FOREIGN = frozenset({"PanicException", "PipelineException", "TemplateError"})
_FEATURES = frozenset({"feature-extraction", "image-feature-extraction"})  # lists of floats, unless asked for tensors
_ARRAYS = _FEATURES | {"depth-estimation", "image-segmentation", "mask-generation"}  # large ones, or pictures, a row
_NEW_TEXT_ALONE = int(transformers.__version__.partition(".")[0]) >= 5  # decodes the new tokens without the prompt's


class Caller:
    """Calls the pipeline of one model."""

    def __init__(self, name: str, task: str, pipeline: Any, batch_size: int, most_numbers: int) -> None:
        self._name = name
        self._gives_features = task in _FEATURES and getattr(pipeline, "framework", "pt") == "pt"
        self._gives_arrays = task in _ARRAYS
        self._most_numbers = most_numbers
        self._pipeline = pipeline
        self._at_once = Together(task, pipeline, batch_size)
        self._generates = task.partition("_")[0] in GENERATING
        self.streams = task == "text-generation"

    def one(self, job: Job, arguments: Arguments) -> list[Any]:
        """What the pipeline gives for one request: its list, or its only result as a list."""
        result = self._as_one(job, arguments)
        if result is None and self._gives_arrays and _are_apart(arguments):
            result = self._each(job, arguments, self._most_numbers)
        elif result is None:
            result = self._call(job, arguments)
            self._check_numbers(numbers_in(result), self._most_numbers)
        return list(result) if isinstance(result, list | tuple) else [result]

    def rows(self, job: Job, requests: list[Arguments]) -> list[list[Any]]:
        """For each of several requests, one result a row of it, as if each had come alone. Those with the same options
        may run as one."""
        groups: dict[Any, list[int]] = {}
        for at, one in enumerate(requests):
            groups.setdefault(_kind(one), []).append(at)
        found: list[list[Any]] = [[] for _ in requests]
        for members in groups.values():
            calls = [requests[at] for at in members]
            if not calls[0].rows:
                found[members[0]] = self.one(job, calls[0])
                continue
            most = self._most_numbers * len(calls)
            results = iter(self._row_results(job, Arguments.joined(calls), most))
            for at, call in zip(members, calls):
                found[at] = [next(results) for _ in range(call.rows)]
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
        result = self._call(job, arguments, streamer=streamer)
        text = result[0]["generated_text"]
        streamer.send(text[streamer.sent :])

    # -- calls --------------------------------------------------------------------------------------------------------

    def _call(self, job: Job, arguments: Arguments, **more: Any) -> Any:
        values = [fresh(one.value) for one in arguments.positional]
        named = {name: fresh(one.value) for name, one in arguments.columns.items()}
        options = fresh(arguments.options)
        if self._generates:
            more["stopping_criteria"] = job.criteria()
            if options.get("stop_strings"):
                more["tokenizer"] = self._pipeline.tokenizer  # generate cannot find them without
        if isinstance(self._pipeline, QuestionAnswering):
            more = {"batch_size": self._at_once.rows(arguments), "between": job.give_way} | more
        as_arrays = self._gives_features and not options.get("return_tensors")
        if as_arrays:
            more["return_tensors"] = True
        try:
            result = self._pipeline(*values, **{**named, **options, **more})
            return _lists_of(result) if as_arrays else result
        except (MLServeError, Stopped):
            raise
        except torch.OutOfMemoryError as error:
            raise MLServeError(
                f"model '{self._name}': the device's memory is full: {_first_line(error)}", 503
            ) from error
        except _OF_PIPELINES as error:
            raise self._explained(error, arguments.options) from error
        except BaseException as error:
            if _FOREIGN.isdisjoint(one.__name__ for one in type(error).__mro__):
                raise
            raise InferenceError(f"model '{self._name}' cannot use this request: {_first_line(error)}") from error

    def _as_one(self, job: Job, arguments: Arguments) -> list[Any] | None:
        """One call for several rows, computed together; None where they have to be computed one by one."""
        at_once = self._at_once.rows(arguments) if arguments.rows > 1 else 1
        if at_once == 1:
            return None
        try:
            results = self._call(job, arguments, batch_size=at_once)
        except Stopped:
            raise
        except Exception as error:  # pictures of unlike shapes, say, or one row of many that cannot be used
            _logger.debug("model '%s': rows are computed one by one: %s", self._name, error)
            return None
        return results if isinstance(results, list) and len(results) == arguments.rows else None

    def _row_results(self, job: Job, arguments: Arguments, most: int) -> list[Any]:
        """One result for each row, of so many numbers together."""
        results = self._as_one(job, arguments)
        if results is None:
            results = self._each(job, arguments, most)
        else:
            self._check_numbers(numbers_in(results), most)
        return [_unwrapped(one) for one in results]

    def _each(self, job: Job, arguments: Arguments, most: int) -> list[Any]:
        """The results of all rows, one after the other. InferenceError as soon as they have too many numbers."""
        results: list[Any] = []
        numbers = 0
        for row in arguments.each_row():
            if results:
                job.give_way()
            results.append(self._call(job, row))
            numbers += numbers_in(results[-1])
            self._check_numbers(numbers, most)
        return results

    def _check_numbers(self, numbers: int, most: int) -> None:
        if numbers > most:
            raise InferenceError(
                f"the answer would have {numbers} numbers or more, some 20 bytes of JSON each; this model answers at "
                f"most {self._most_numbers} (parameters.extra.max_answer_numbers): send fewer rows, shorter texts or "
                f"smaller pictures"
            )

    def _detokenizer(self, options: dict[str, Any], prompt: list[int]) -> Detokenizer:
        """Decodes as the pipeline will, when it has all tokens."""
        default = inspect.signature(self._pipeline.postprocess).parameters["clean_up_tokenization_spaces"].default
        decode = partial(
            self._pipeline.tokenizer.decode,
            skip_special_tokens=options.get("skip_special_tokens", True),
            clean_up_tokenization_spaces=options.get("clean_up_tokenization_spaces", default),
        )
        return Detokenizer(decode, [] if _NEW_TEXT_ALONE else prompt)

    def _explained(self, error: Exception, options: dict[str, Any]) -> MLServeError:
        """Whose fault it is: a request that the pipeline cannot use, or the model."""
        told = _first_line(error)
        start = f"model '{self._name}' cannot use this request"
        tokenizer = getattr(self._pipeline, "tokenizer", None)
        if tokenizer is not None and isinstance(error, IndexError | RuntimeError) and _TOO_LONG.search(str(error)):
            longest = getattr(tokenizer, "model_max_length", None)
            limit = f" (it takes {longest} tokens)" if longest and longest < 1e9 else ""
            return InferenceError(
                f"{start}: a text is longer than the model takes{limit}; shorten it, or set truncation"
            )
        handed_on = options if self._generates else options.get("generate_kwargs")
        doubtful = unusual(handed_on) if isinstance(handed_on, dict) else []
        if doubtful and isinstance(error, AttributeError | NameError | RuntimeError):
            return InferenceError(f"{start} with these options ({', '.join(doubtful)}): {told}")
        if isinstance(error, AttributeError | NameError | RuntimeError | OSError):
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
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = f"{lines[0]}…{lines[-1].strip()}" if lines[0].endswith("(") else lines[0]
    return told[:500]
