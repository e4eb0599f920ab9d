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

__all__ = ["QuestionAnswering"]

_PARTS = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}  # of an encoding


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
                found[at].add(self._candidates(first, last, span, pairs[at][1], settings))
        answers = [one.best(settings["top_k"], settings["impossible"]) for one in found]
        return answers[0] if len(answers) == 1 else answers

    def _sanitize_parameters(
        self,
        top_k: int = 1,
        topk: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        padding: Any = None,
    ) -> dict[str, Any]:
        """The options, checked. TypeError for others, ValueError for values that make no sense."""
        top_k = topk or top_k
        if min(top_k, max_answer_len) < 1:
            raise ValueError(f"top_k and max_answer_len are at least 1, got {top_k} and {max_answer_len}")
        longest = min(self.tokenizer.model_max_length, 384)
        max_seq_len = longest if max_seq_len is None else min(max_seq_len, self.tokenizer.model_max_length)
        return {
            "top_k": top_k,
            "stride": min(max_seq_len // 2, 128) if doc_stride is None else doc_stride,
            "max_answer_len": max_answer_len,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
            "impossible": handle_impossible_answer,
            "align": align_to_words,
        }

    def _spans(self, pairs: list[tuple[Any, Any]], settings: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        """The encodings of all pairs, each with the pair's place: as many as it takes for each context."""
        for at, (question, context) in enumerate(pairs):
            if not isinstance(question, str) or not isinstance(context, str) or not question or not context:
                raise ValueError("question and context are texts that are not empty")
            for span in self._encoded(question, context, settings).encodings:
                yield at, span

    def _encoded(self, question: str, context: str, settings: dict[str, Any]) -> Any:
        """One pair: each row has the question and a part of the context."""
        asked = self.tokenizer(
            question, add_special_tokens=False, truncation=True, max_length=settings["max_question_len"]
        )
        words = (
            self.tokenizer.decode(asked["input_ids"])
            if len(asked["input_ids"]) >= settings["max_question_len"]
            else question
        )
        question_first = self.tokenizer.padding_side == "right"
        return self.tokenizer(
            words if question_first else context,
            context if question_first else words,
            truncation="only_second" if question_first else "only_first",
            max_length=settings["max_seq_len"],
            stride=settings["stride"],
            return_overflowing_tokens=True,
        )

    def _logits(self, spans: list[Any]) -> tuple[list[Any], list[Any]]:
        """For each token of each span, how well an answer starts there, and how well one ends there."""
        names = [name for name in _PARTS if name in self.tokenizer.model_input_names]
        rows = {name: [getattr(span, _PARTS[name]) for span in spans] for name in names}
        padded = self.tokenizer.pad(rows, padding="longest", return_tensors="pt").to(self.device)
        with torch.inference_mode():
            output = self.model(**padded)
        starts, ends = (one.float().cpu().numpy() for one in (output.start_logits, output.end_logits))
        right = self.tokenizer.padding_side == "right"
        used = [slice(0, len(span)) if right else slice(-len(span), None) for span in spans]
        return [one[part] for one, part in zip(starts, used)], [one[part] for one, part in zip(ends, used)]

    def _candidates(
        self, first: Any, last: Any, span: Any, context: str, settings: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The best answers in one span."""
        scores = np.tril(np.triu(np.outer(first, last)), settings["max_answer_len"] - 1)
        # Whole words make some candidates the same, so that more are needed than are wanted.
        wanted = settings["top_k"] * 2 + 10 if settings["align"] else settings["top_k"]
        order = np.argsort(-scores, axis=None, kind="stable")[:wanted]
        offsets, found = span.offsets, []
        for start, end in zip(*np.unravel_index(order, scores.shape)):
            if scores[start, end] <= 0:
                continue
            begin, stop = offsets[start][0], offsets[end][1]
            if settings["align"]:
                begin, stop = self._words(span, int(start), int(end), begin, stop)
            answer = {"score": float(scores[start, end]), "start": begin, "end": stop, "answer": context[begin:stop]}
            found.append(answer)
        return found

    def _words(self, encoding: Any, start: int, end: int, begin: int, stop: int) -> tuple[int, int]:
        """The characters of whole words, where the tokenizer knows words."""
        sequence = 1 if self.tokenizer.padding_side == "right" else 0
        try:
            head = encoding.word_to_chars(encoding.token_to_word(start), sequence)
            tail = encoding.word_to_chars(encoding.token_to_word(end), sequence)
            return int(head[0]), int(tail[1])
        except (TypeError, ValueError):  # it knows none
            return begin, stop


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


def _batches(spans: Iterable[tuple[int, Any]], size: int) -> Iterator[list[tuple[int, Any]]]:
    rest = iter(spans)
    while batch := list(islice(rest, size)):
        yield batch


def _probabilities(logits: Any, span: Any) -> Any:
    """Of each token; zero where no answer may be: outside the context. The first token means "none"."""
    ids = span.sequence_ids
    of_context = 1 if 1 in ids else 0
    mask = np.array([one == of_context for one in ids])
    mask[0] = True
    masked = np.where(mask, logits, -10000.0)
    exponents = np.exp(masked - masked.max())
    return exponents / exponents.sum()


class _Answers:
    """The answers to one question, gathered span by span."""

    def __init__(self) -> None:
        self.nothing = 1.0  # the least probability, over all spans, that there is no answer
        self._found: dict[str, dict[str, Any]] = {}

    def add(self, candidates: list[dict[str, Any]]) -> None:
        """What says the same, at another place or in another span, is one answer with all their probability."""
        for one in candidates:
            known = self._found.setdefault(one["answer"].lower(), one)
            if known is not one:
                known["score"] += one["score"]

    def best(self, count: int, impossible: bool) -> Any:
        """The best answer, or so many as a list, with the empty one if it is wanted."""
        found = list(self._found.values())
        if impossible:
            found.append({"score": self.nothing, "start": 0, "end": 0, "answer": ""})
        ordered = sorted(found, key=lambda one: one["score"], reverse=True)[:count]
        return ordered[0] if count == 1 and ordered else ordered
