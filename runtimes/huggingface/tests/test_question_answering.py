"""Question answering of our own, which transformers 5 lacks: the answers of transformers 4, where that is installed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlserve.errors import InferenceError
from mlserve_huggingface import loading
from mlserve_huggingface.question_answering import QuestionAnswering
from runtimes.huggingface.tests.asking import IS_5, ask, load, pipeline, request, settings_for, tensor

ASKED = "what is my name ?"
SHORT = "my name is mary and i live in oslo ."
LONG = " ".join(["the red fox runs over the old bridge ."] * 12 + [SHORT] + ["the small bear runs ."] * 9)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"max_answer_len": 3},
    {"handle_impossible_answer": True},
    {"align_to_words": False},
]


@pytest.fixture(scope="module")
def own(models: dict[str, Path]) -> Any:
    folder = str(models["question-answering"])
    return QuestionAnswering.from_pretrained(folder, folder, "cpu", {})


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

    @pytest.mark.parametrize("context", [SHORT, LONG], ids=["short", "long"])
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_it_answers_as_transformers_4(
        models: dict[str, Path], own: Any, context: str, options: dict[str, Any]
    ) -> None:
        theirs = pipeline("question-answering", models["question-answering"])(
            question=ASKED, context=context, **options
        )
        ours = own(question=ASKED, context=context, **options)
        theirs, ours = (one if isinstance(one, list) else [one] for one in (theirs, ours))
        assert [one["answer"] for one in ours] == [one["answer"] for one in theirs]
        for one, other in zip(ours, theirs):
            assert one == {**other, "score": pytest.approx(other["score"], rel=1e-4)}
