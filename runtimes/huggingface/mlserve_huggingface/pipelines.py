"""Calls a pipeline: for one request, for a batch of them, or token by token; the errors are those of mlserve."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers

from mlserve.errors import InferenceError, MLServeError, ModelError
from mlserve_huggingface.codecs.text import json_text
from mlserve_huggingface.inputs import Arguments, Column, fresh
from mlserve_huggingface.question_answering import QuestionAnswering
from mlserve_huggingface.streaming import Detokenizer, Pieces
from mlserve_huggingface.tasks import GENERATING
from mlserve_huggingface.together import Together
from mlserve_huggingface.work import Job, Stopped

__all__ = ["Caller"]

# What cannot come in pieces: a choice among several texts is made at the end.
_UNSTREAMABLE = {"num_beams": 1, "num_return_sequences": 1, "return_full_text": False, "return_tensors": False}
_TOO_LONG = re.compile(r"size of (?:the )?tensor|index out of range")
# What pipelines raise of requests that they cannot use; ImportError where one needs a package, as for resampling sound.
_OF_PIPELINES = (
    AttributeError, ImportError, IndexError, KeyError, NameError, OSError, OverflowError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
_NEW_TEXT_ALONE = int(transformers.__version__.partition(".")[0]) >= 5  # decodes the new tokens without the prompt's


class Caller:
    """Calls the pipeline of one model."""

    def __init__(self, name: str, task: str, pipeline: Any, batch_size: int) -> None:
        self._name = name
        self._pipeline = pipeline
        self._batch_size = batch_size
        self._at_once = Together(task, pipeline, batch_size)
        self._generates = task.partition("_")[0] in GENERATING
        self.streams = task == "text-generation"

    def one(self, job: Job, arguments: Arguments) -> list[Any]:
        """What the pipeline gives for one request: its list, or its only result as a list."""
        result = self._call(job, arguments)
        return list(result) if isinstance(result, list | tuple) else [result]

    def rows(self, job: Job, requests: list[Arguments]) -> list[list[Any]]:
        """For each of several requests, one result a row of it, as if it had come alone. Those with the same options
        run as one."""
        groups: dict[Any, list[int]] = {}
        for at, one in enumerate(requests):
            groups.setdefault(_kind(one) if one.rows else at, []).append(at)
        found: list[list[Any]] = [[] for _ in requests]
        for members in groups.values():
            results = self._together(job, [requests[at] for at in members])
            for at, result in zip(members, results):
                found[at] = result
        return found

    def stream(self, job: Job, send: Callable[[Job, str], None], arguments: Arguments) -> None:
        """Generates, and sends the text as it comes."""
        options = arguments.options
        for name, only in _UNSTREAMABLE.items():
            if options.get(name) not in (None, only):
                raise InferenceError(f"a stream cannot have {name}={options[name]!r}; without it, or without a stream")
        listed = [one for one in arguments.positional if len(one.rows) != 1 and not _is_chat(one)]
        if listed or not arguments.positional:
            raise InferenceError("a stream generates from one text; send one request for each")
        if arguments.positional[0].listed and not _is_chat(arguments.positional[0]):
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
            more |= {"batch_size": self._batch_size, "between": job.give_way}
        try:
            return self._pipeline(*values, **{**named, **options, **more})
        except (MLServeError, Stopped):
            raise
        except torch.OutOfMemoryError as error:
            raise MLServeError(
                f"model '{self._name}': the device's memory is full: {_first_line(error)}", 503
            ) from error
        except _OF_PIPELINES as error:
            raise self._explained(error) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of tokenizers; it is no Exception, and cannot be imported
                raise
            raise InferenceError(f"model '{self._name}' cannot use this request: {_first_line(error)}") from error

    def _together(self, job: Job, requests: list[Arguments]) -> list[list[Any]]:
        """One call of the pipeline for requests of one kind; a list of results for each."""
        counts = [one.rows for one in requests]
        if sum(counts) <= 1 or 0 in counts:
            return [self._alone(job, one) for one in requests]
        whole = Arguments(
            [Column([row for one in requests for row in one.positional[0].rows], True)] * bool(requests[0].positional),
            {
                name: Column([row for one in requests for row in one.columns[name].rows], True)
                for name in requests[0].columns
            },
            requests[0].options,
        )
        at_once = self._at_once.rows(whole.options)
        more = {"batch_size": at_once} if at_once > 1 else {}
        results = self._call(job, whole, **more)
        if not isinstance(results, list) or len(results) != sum(counts):
            return [self._row_by_row(job, one) for one in requests]
        rows = iter(_unwrapped(one) for one in results)
        return [[next(rows) for _ in range(count)] for count in counts]

    def _alone(self, job: Job, arguments: Arguments) -> list[Any]:
        return [_unwrapped(self._call(job, arguments))] if arguments.rows == 1 else self.one(job, arguments)

    def _row_by_row(self, job: Job, arguments: Arguments) -> list[Any]:
        """For pipelines whose list of results has not one for each row."""
        return [
            _unwrapped(
                self._call(
                    job,
                    Arguments(
                        [Column([one.rows[at]]) for one in arguments.positional],
                        {name: Column([one.rows[at]]) for name, one in arguments.columns.items()},
                        arguments.options,
                    ),
                )
            )
            for at in range(arguments.rows)
        ]

    def _detokenizer(self, options: dict[str, Any], prompt: list[int]) -> Detokenizer:
        """Decodes as the pipeline will, when it has all tokens."""
        default = inspect.signature(self._pipeline.postprocess).parameters["clean_up_tokenization_spaces"].default
        decode = partial(
            self._pipeline.tokenizer.decode,
            skip_special_tokens=options.get("skip_special_tokens", True),
            clean_up_tokenization_spaces=options.get("clean_up_tokenization_spaces", default),
        )
        return Detokenizer(decode, [] if _NEW_TEXT_ALONE else prompt)

    def _explained(self, error: Exception) -> MLServeError:
        """Whose fault it is: a request that the pipeline cannot use, or the model."""
        told = _first_line(error)
        start = f"model '{self._name}' cannot use this request"
        text = str(error)
        if isinstance(error, IndexError | RuntimeError) and _TOO_LONG.search(text):
            longest = getattr(getattr(self._pipeline, "tokenizer", None), "model_max_length", None)
            limit = f" (it takes {longest} tokens)" if longest and longest < 1e9 else ""
            return InferenceError(
                f"{start}: a text is longer than the model takes{limit}; shorten it, or set truncation"
            )
        if isinstance(error, AttributeError | NameError | RuntimeError | OSError):
            return ModelError(f"{type(error).__name__}: {told}")
        return InferenceError(f"{start}: {told if not isinstance(error, KeyError) else f'it lacks {told}'}")


def _kind(arguments: Arguments) -> Any:
    """What requests must have in common to run as one."""
    try:
        options = json_text(arguments.options)
    except (TypeError, ValueError):
        options = repr(arguments.options)
    return len(arguments.positional), tuple(arguments.columns), options


def _is_chat(column: Column) -> bool:
    return column.listed and bool(column.rows) and isinstance(column.rows[0], dict)


def _unwrapped(result: Any) -> Any:
    """The only element of a list of one: text generation gives a list of one text for each prompt."""
    return result[0] if isinstance(result, list) and len(result) == 1 else result


def _first_line(error: BaseException) -> str:
    """What an error says, without the lines of a model's inner structure that may stand in it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = f"{lines[0]}…{lines[-1].strip()}" if lines[0].endswith("(") else lines[0]
    return told[:500]
