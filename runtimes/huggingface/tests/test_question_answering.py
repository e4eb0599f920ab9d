"""Question answering of our own, which transformers 5 lacks: the answers of transformers 4, where that is installed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import torch
import transformers

from mlserve.errors import InferenceError
from mlserve_huggingface import loading, question_answering
from mlserve_huggingface.question_answering import QuestionAnswering
from runtimes.huggingface.tests.asking import IS_5, ask, load, request, settings_for, tensor

ASKED = "what is my name ?"
SHORT = "my name is mary and i live in oslo ."
LONG = " ".join(["the red fox runs over the old bridge ."] * 12 + [SHORT] + ["the small bear runs ."] * 9)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"max_answer_len": 3},
    {"handle_impossible_answer": True},
    {"align_to_words": False},
    {"top_k": 20, "max_answer_len": 60, "doc_stride": 4, "max_seq_len": 40},
    {"top_k": 20, "align_to_words": False, "handle_impossible_answer": True},
]


@pytest.fixture(scope="module")
def own(models: dict[str, Path]) -> Any:
    folder = str(models["question-answering"])
    return QuestionAnswering.from_pretrained(folder, folder, "cpu", {})


@pytest.fixture(scope="module")
def left(models: dict[str, Path]) -> Any:
    """With a tokenizer that pads on the left, so that the context goes first."""
    folder = str(models["question-answering"])
    made = QuestionAnswering.from_pretrained(folder, folder, "cpu", {})
    made.tokenizer.padding_side = "left"
    return made


def test_with_padding_on_the_left_the_answer_is_where_the_model_sees_it(
    left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two texts of different length together, so that one is padded."""
    oslo = left.tokenizer.convert_tokens_to_ids("oslo")

    def forward(input_ids: torch.Tensor, **_: Any) -> Any:
        logits = (input_ids == oslo).float() * 20
        return SimpleNamespace(start_logits=logits, end_logits=logits)

    monkeypatch.setattr(left.model, "forward", forward)
    found = left(question=ASKED, context=[SHORT, "in " + SHORT], batch_size=2)
    assert [(one["answer"], one["start"]) for one in found] == [
        ("oslo", SHORT.index("oslo")),
        ("oslo", SHORT.index("oslo") + 3),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_seq_len": -1}, "'max_seq_len' is 0 or more, got -1"),
        ({"max_question_len": -3}, "max_question_len is a whole number and at least 1"),
        ({"top_k": 0}, "top_k is a whole number and at least 1"),
        ({"doc_stride": -1}, "doc_stride is a whole number from 0 to max_seq_len"),
        ({"max_seq_len": 5}, "leaves room for 0 tokens"),
        ({"doc_stride": 60}, "must be more than doc_stride"),
        ({"doc_stride": 1000}, "doc_stride is a whole number from 0 to max_seq_len"),
        ({"top_k": 1001}, "'top_k' is at most 1000"),
    ],
    ids=str,
)
def test_lengths_that_make_no_sense_are_the_clients_fault(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, options: dict[str, int], words: str
) -> None:
    monkeypatch.setattr(loading, "_IS_5", True)  # transformers' own pipeline has other words
    model = load(settings_for(models["question-answering"], task="question-answering"))
    with pytest.raises(InferenceError, match=words):
        ask(model, request(tensor("question", [ASKED]), tensor("context", [LONG]), **options))


def test_a_long_question_is_asked_in_full(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    forward = own.model.forward

    def seen(*values: Any, **named: Any) -> Any:
        lengths.append(named["input_ids"].shape[1])
        return forward(*values, **named)

    monkeypatch.setattr(own.model, "forward", seen)
    own(question="fox " * 40, context="the bear", max_question_len=10)
    assert len(lengths) == 1 and lengths[0] > 42


def test_answers_that_are_never_the_best_are_dropped(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = own(question=ASKED, context=LONG, top_k=2)
    monkeypatch.setattr(question_answering, "_MOST_ANSWERS", 100)
    assert own(question=ASKED, context=LONG, top_k=2) == wanted


def test_an_answer_is_a_part_of_the_context(own: Any) -> None:
    for context in (SHORT, LONG):
        answer = own(question=ASKED, context=context)
        assert answer["answer"] == context[answer["start"] : answer["end"]] and answer["score"] > 0


def test_several_are_answered_in_order_and_alike(own: Any) -> None:
    together = own(question=[ASKED, "where ?"], context=[SHORT, LONG])
    assert together == [own(question=ASKED, context=SHORT), own({"question": "where ?", "context": LONG})]
    best = own(question=ASKED, context=SHORT, top_k=3)
    assert len(best) == 3 and best == sorted(best, key=lambda one: -one["score"])
    assert best[0] == own(question=ASKED, context=SHORT)


def test_the_model_never_sees_more_spans_than_batch_size_says(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(own, monkeypatch)
    alone = own(question=ASKED, context=LONG)
    assert len(seen) > 5 and set(seen) == {1}
    total = len(seen)
    seen.clear()
    assert own(question=ASKED, context=LONG, batch_size=4) == {**alone, "score": pytest.approx(alone["score"])}
    assert seen == [4] * (total // 4) + [total % 4] * bool(total % 4)
    seen.clear()
    assert len(own(question=[ASKED] * 6, context=SHORT, batch_size=4)) == 6
    assert seen == [4, 2]  # of different pairs


def test_a_call_ends_between_two_batches_of_spans_when_nobody_waits(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not IS_5:  # there it is transformers' own pipeline
        monkeypatch.setattr(loading, "_IS_5", True)
    model = load(settings_for(models["question-answering"], task="question-answering", batch_size=3))
    seen = watched(model._caller._pipeline, monkeypatch)

    async def leave() -> None:
        with anyio.CancelScope() as scope:
            seen.after(3, scope)
            await model.predict(request(tensor("question", [ASKED]), tensor("context", [LONG * 100])))
        assert scope.cancelled_caught

    anyio.run(leave)
    assert set(seen) == {3} and len(seen) < 100


class Seen(list[int]):
    """How many spans the model got in each of its calls."""

    def after(self, calls: int, scope: anyio.CancelScope) -> None:
        """Has the scope cancelled in that call, and the call wait until it is."""
        self.calls, self.scope, self.loop = calls, scope, asyncio.get_running_loop()

    def add(self, count: int) -> None:
        self.append(count)
        if len(self) == getattr(self, "calls", 0):
            asyncio.run_coroutine_threadsafe(self._cancel(), self.loop).result()

    async def _cancel(self) -> None:
        self.scope.cancel()
        for _ in range(10):  # until the call has heard of it
            await asyncio.sleep(0)


def watched(answering: QuestionAnswering, monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen, forward = Seen(), answering.model.forward

    def counted(*values: Any, **named: Any) -> Any:
        seen.add(len(named["input_ids"]))
        return forward(*values, **named)

    monkeypatch.setattr(answering.model, "forward", counted)
    return seen


def test_what_is_no_question_is_refused(own: Any) -> None:
    with pytest.raises(InferenceError, match="takes the inputs 'question' and 'context'"):
        own(question=ASKED)
    with pytest.raises(InferenceError, match="2 questions, but 3 contexts"):
        own(question=[ASKED] * 2, context=[SHORT] * 3)
    with pytest.raises(ValueError, match="texts that are not empty"):
        own(question="", context=SHORT)


def test_it_is_served(models: dict[str, Path]) -> None:
    model = load(settings_for(models["question-answering"], task="question-answering"))
    (answer,) = ask(model, request(tensor("question", [ASKED]), tensor("context", [SHORT])))
    assert answer["answer"] in SHORT
    several = request(tensor("question", [ASKED] * 2), tensor("context", [SHORT, LONG]), top_k=1)
    assert len(ask(model, several)) == 2


if not IS_5:

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("context", [SHORT, LONG], ids=["short", "long"])
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_it_answers_as_transformers_4(
        own: Any, left: Any, side: str, context: str, options: dict[str, Any]
    ) -> None:
        asked = own if side == "right" else left
        theirs = transformers.pipeline(
            "question-answering", model=asked.model, tokenizer=asked.tokenizer, device="cpu"
        )(question=ASKED, context=context, **options)
        ours = asked(question=ASKED, context=context, **options)
        theirs, ours = (one if isinstance(one, list) else [one] for one in (theirs, ours))
        assert [one["answer"] for one in ours] == [one["answer"] for one in theirs]
        for one, other in zip(ours, theirs):
            assert one == {**other, "score": pytest.approx(other["score"], rel=1e-4)}
