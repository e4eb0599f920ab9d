"""Extractive question answering, whose pipeline transformers 5 dropped: finds the answer to a question in a text.

Each pair of question and context is cut into overlapping spans that the model can take, and the model computes
`batch_size` of them at once, of whichever pairs. Of each span, every start and end within `max_answer_len` tokens is a
candidate, worth the product of both probabilities (Devlin et al. 2019, 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from mlserve.errors import InferenceError
from mlserve_huggingface.limits import tokens_of
from mlserve_huggingface.spans import Span, spans_of

__all__ = ["QuestionAnswering"]

_PARTS = {"input_ids": "ids", "token_type_ids": "type_ids"}  # of a span
_MOST_ANSWERS = 20_000  # kept of one question; beyond twice as many, the worst are dropped


class QuestionAnswering:
    """A model and its tokenizer, called as the pipeline of transformers 4 is, with answers in the same form."""

    task = "question-answering"

    def __init__(self, model: Any, tokenizer: Any, device: Any) -> None:
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.device = device

    @classmethod
    def from_pretrained(cls, model: str, tokenizer: str, device: Any, model_kwargs: dict[str, Any]) -> Any:
        """Loads both from folders or from the hub."""
        made = AutoModelForQuestionAnswering.from_pretrained(model, **model_kwargs)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(made, AutoTokenizer.from_pretrained(tokenizer, use_fast=True), device)

    def __call__(
        self,
        inputs: Any = None,
        question: Any = None,
        context: Any = None,
        batch_size: int = 1,
        between: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> Any:
        """`{"score", "start", "end", "answer"}` of one pair; a list of them for lists, and for top_k > 1.

        `between` is called before each `batch_size` of spans, and may raise to end it all.
        """
        settings = self._sanitize_parameters(**options)
        pairs = _pairs(inputs, question, context)
        found = [_Answers() for _ in pairs]
        for batch in _batches(self._spans(pairs, settings), batch_size):
            between()
            for (at, span), starts, ends in zip(batch, *self._logits([span for _, span in batch])):
                first, last = _probabilities(starts, span), _probabilities(ends, span)
                found[at].nothing = min(found[at].nothing, float(first[0] * last[0]))
                first[0] = last[0] = 0.0
                found[at].add(_candidates(first, last, span, pairs[at][1], settings))
        answers = [one.best(settings["top_k"], settings["impossible"]) for one in found]
        return answers[0] if len(answers) == 1 else answers

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        topk: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        padding: Any = None,
    ) -> dict[str, Any]:
        """The options, checked. TypeError for others, ValueError for values that make no sense.

        `padding` and `max_question_len` change nothing, as with the fast tokenizers of transformers 4.
        """
        top_k = top_k if top_k is not None else topk if topk is not None else 1
        most = tokens_of(self)
        max_seq_len = min(most, 384) if max_seq_len is None else max_seq_len
        given = {"top_k": top_k, "max_answer_len": max_answer_len, "max_question_len": max_question_len}
        for name, value in {**given, "max_seq_len": max_seq_len}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is a whole number and at least 1, got {value!r}")
        stride = min(max_seq_len // 2, 128) if doc_stride is None else doc_stride
        if not isinstance(stride, int) or not 0 <= stride <= max_seq_len:
            raise ValueError(f"doc_stride is a whole number from 0 to max_seq_len ({max_seq_len}), got {doc_stride!r}")
        return {
            "top_k": top_k,
            "stride": stride,
            "max_answer_len": max_answer_len,
            "max_seq_len": min(max_seq_len, most),
            "impossible": handle_impossible_answer,
            "align": align_to_words,
        }

    def _spans(self, pairs: list[tuple[Any, Any]], settings: dict[str, Any]) -> Iterator[tuple[int, Span]]:
        """The spans of all pairs, each with the pair's place: as many as it takes for each context."""
        for at, (question, context) in enumerate(pairs):
            if not isinstance(question, str) or not isinstance(context, str) or not question or not context:
                raise ValueError("question and context are texts that are not empty")
            for span in spans_of(self.tokenizer, question, context, settings["max_seq_len"], settings["stride"]):
                yield at, span

    def _logits(self, spans: list[Span]) -> tuple[list[Any], list[Any]]:
        """For each token of each span, how well an answer starts there, and how well one ends there."""
        names = self.tokenizer.model_input_names
        rows = {
            name: [getattr(span, part).tolist() for span in spans] for name, part in _PARTS.items() if name in names
        }
        rows["attention_mask"] = [[1] * len(span) for span in spans]
        padded = self.tokenizer.pad(rows, padding="longest", return_tensors="pt").to(self.device)
        if "attention_mask" not in names:
            del padded["attention_mask"]
        with torch.inference_mode():
            output = self.model(**padded)
        starts, ends = (one.float().cpu().numpy() for one in (output.start_logits, output.end_logits))
        right = self.tokenizer.padding_side == "right"
        used = [slice(0, len(span)) if right else slice(-len(span), None) for span in spans]
        return [one[part] for one, part in zip(starts, used)], [one[part] for one, part in zip(ends, used)]


def _pairs(inputs: Any, question: Any, context: Any) -> list[tuple[Any, Any]]:
    if inputs is not None:
        listed = inputs if isinstance(inputs, list) else [inputs]
        if not all(isinstance(one, dict) and {"question", "context"} <= set(one) for one in listed):
            raise InferenceError('question-answering takes {"question": "…", "context": "…"} as hg_json')
        return [(one["question"], one["context"]) for one in listed]
    if question is None or context is None:
        raise InferenceError("question-answering takes the inputs 'question' and 'context'")
    asked = question if isinstance(question, list) else [question]
    texts = context if isinstance(context, list) else [context]
    if len(asked) != len(texts):
        if 1 not in (len(asked), len(texts)):
            raise InferenceError(f"there are {len(asked)} questions, but {len(texts)} contexts")
        asked, texts = asked * max(1, len(texts) // len(asked)), texts * max(1, len(asked) // len(texts))
    return list(zip(asked, texts))


def _batches(spans: Iterable[tuple[int, Span]], size: int) -> Iterator[list[tuple[int, Span]]]:
    rest = iter(spans)
    while batch := list(islice(rest, size)):
        yield batch


def _probabilities(logits: Any, span: Span) -> Any:
    """Of each token; zero where no answer may be."""
    masked = np.where(span.answers, logits, -10000.0)
    exponents = np.exp(masked - masked.max())
    return exponents / exponents.sum()


def _candidates(
    first: Any, last: Any, span: Span, context: str, settings: dict[str, Any]
) -> Iterator[tuple[float, int, int, str]]:
    """The best answers in one span: score, start, end and text. Chosen as transformers 4 does also among equals."""
    scores = np.tril(np.triu(np.outer(first, last)), settings["max_answer_len"] - 1)
    flat = scores.ravel()
    # Whole words make some candidates the same, so that more are needed than are wanted.
    wanted = settings["top_k"] * 2 + 10 if settings["align"] else settings["top_k"]
    if wanted == 1:
        order = np.array([flat.argmax()])
    elif len(flat) <= wanted:
        order = np.argsort(-flat)
    else:
        order = np.argpartition(-flat, wanted)[:wanted]
        order = order[np.argsort(-flat[order])]
    for start, end in zip(*np.unravel_index(order, scores.shape)):
        if span.answers[start] and span.answers[end]:
            begin, stop = span.characters(int(start), int(end), settings["align"])
            yield float(scores[start, end]), begin, stop, context[begin:stop]


class _Answers:
    """The answers to one question, gathered span by span."""

    def __init__(self) -> None:
        self.nothing = 1.0  # the least probability, over all spans, that there is no answer
        self._found: dict[str, list[Any]] = {}

    def add(self, candidates: Iterable[tuple[float, int, int, str]]) -> None:
        """What says the same, at another place or in another span, is one answer with all their probability."""
        for score, start, end, text in candidates:
            known = self._found.setdefault(text.lower(), [0.0, start, end, text])
            known[0] += score
        if len(self._found) > 2 * _MOST_ANSWERS:
            best = sorted(self._found.items(), key=lambda one: one[1][0], reverse=True)[:_MOST_ANSWERS]
            self._found = dict(best)

    def best(self, count: int, impossible: bool) -> Any:
        """The best answer, or so many as a list, with the empty one if it is wanted."""
        found = [dict(zip(("score", "start", "end", "answer"), one)) for one in self._found.values()]
        if impossible:
            found.append({"score": self.nothing, "start": 0, "end": 0, "answer": ""})
        ordered = sorted(found, key=lambda one: one["score"], reverse=True)[:count]
        return ordered[0] if len(ordered) == 1 else ordered
