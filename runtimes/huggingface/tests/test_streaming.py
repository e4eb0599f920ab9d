"""Streams: the same text as without, piece by piece, fairly shared, and no thread left behind whoever leaves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlserve.errors import InferenceError, MLServeError
from mlserve_huggingface import HuggingFaceRuntime
from runtimes.huggingface.tests.asking import (
    GREEDY,
    IS_5,
    ask,
    load,
    only,
    piece_of,
    request,
    settings_for,
    streamed,
    tensor,
    texts,
)
from runtimes.huggingface.tests.tiny_models import llama

PROMPT = "the red fox"
ENDLESS = {"max_new_tokens": 100, "do_sample": True, "eos_token_id": -1}


@pytest.fixture
def model(models: dict[str, Path]) -> Any:
    made = load(settings_for(models["text-generation"], name="streaming"))
    yield made
    anyio.run(made.unload)
    assert not busy(made)


def busy(model: HuggingFaceRuntime) -> list[str]:
    """The threads of a model that still exist."""
    return [one.name for one in threading.enumerate() if one.name.startswith(f"huggingface-{model.name}")]


@pytest.mark.parametrize("prompt", [PROMPT, "où est", "the", "? !"])
def test_the_pieces_are_the_text_that_comes_without_a_stream(model: HuggingFaceRuntime, prompt: str) -> None:
    options = {"max_new_tokens": 40, "do_sample": False}
    (whole,) = ask(model, texts(prompt, return_full_text=False, **options))
    pieces = anyio.run(streamed, model, texts(prompt, **options))
    assert "".join(pieces) == whole["generated_text"]
    assert len(pieces) > 5 and all(pieces)


def test_options_come_as_inputs_and_as_parameters(model: HuggingFaceRuntime) -> None:
    (whole,) = ask(model, texts(PROMPT, return_full_text=False, **GREEDY))
    as_inputs = request(tensor("text_inputs", [PROMPT]), *(tensor(name, [value]) for name, value in GREEDY.items()))
    assert "".join(anyio.run(streamed, model, as_inputs)) == whole["generated_text"]


def test_a_stop_sequence_ends_the_stream(model: HuggingFaceRuntime) -> None:
    (whole,) = ask(model, texts(PROMPT, return_full_text=False, stop_sequence="xxx", **GREEDY))
    pieces = anyio.run(streamed, model, texts(PROMPT, stop_sequence="xxx", **GREEDY))
    assert "".join(pieces) == whole["generated_text"] and len(pieces) < 5


def test_each_request_of_a_stream_is_answered_in_turn(model: HuggingFaceRuntime) -> None:
    async def ids() -> list[str | None]:
        first, second = texts(PROMPT, **GREEDY), texts("the dog", **GREEDY)
        first.id, second.id = "one", "two"
        return [answer.id async for answer in model.predict_stream(only(first, second))]

    found = anyio.run(ids)
    assert found == sorted(found) and set(found) == {"one", "two"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (texts(PROMPT, "the dog"), "a stream generates from one text"),
        (texts(PROMPT, num_beams=3), "a stream cannot have num_beams=3"),
        (texts(PROMPT, num_return_sequences=2), "cannot have num_return_sequences=2"),
        (texts(PROMPT, return_full_text=True), "cannot have return_full_text=True"),
        (texts(PROMPT, max_new_tokens=-1), "max_new_tokens"),
        (request(tensor("args", [PROMPT]), tensor("temprature", [0.5])), "temprature"),
        (texts(PROMPT, temprature=0.5), "did you mean 'temperature'?"),
        (request(tensor("max_new_tokens", [3])), "a stream generates from one text"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_cannot_be_streamed_is_the_clients_fault(model: HuggingFaceRuntime, asked: Any, words: str) -> None:
    with pytest.raises(MLServeError) as caught:
        anyio.run(streamed, model, asked)
    assert caught.value.http_status == 400 and words in str(caught.value)


def test_an_error_in_the_middle_comes_after_the_pieces_before_it(model: HuggingFaceRuntime) -> None:
    """The prompt and 128 positions: the model has no place for the last tokens."""

    async def run() -> list[str]:
        pieces: list[str] = []
        with pytest.raises(InferenceError, match="longer than the model takes"):
            async for answer in model.predict_stream(only(texts("the red fox", max_new_tokens=400, eos_token_id=-1))):
                pieces.append(piece_of(answer))
        return pieces

    assert len(anyio.run(run)) > 20


def test_a_client_that_leaves_stops_the_generation(model: HuggingFaceRuntime) -> None:
    async def run() -> None:
        answers = model.predict_stream(only(texts(PROMPT, **ENDLESS)))
        piece_of(await anext(answers))
        await answers.aclose()
        idle(model)

    anyio.run(run)


def test_a_client_that_does_not_read_holds_generation_up_and_can_leave(model: HuggingFaceRuntime) -> None:
    tokens = Counting(model)

    async def run() -> None:
        answers = model.predict_stream(only(texts(PROMPT, **ENDLESS)))
        await anext(answers)
        await tokens.reach(16)  # as many as may wait for a client
        assert (await model.predict(texts(PROMPT, **GREEDY))).outputs  # the model is free for others meanwhile
        assert tokens.seen < 60
        await answers.aclose()
        idle(model)

    anyio.run(run)


def test_a_cancelled_stream_and_a_cancelled_call_leave_no_work_behind(model: HuggingFaceRuntime) -> None:
    async def read() -> None:
        async for _ in model.predict_stream(only(texts(PROMPT, **ENDLESS))):
            pass

    async def call() -> None:
        await model.predict(texts(PROMPT, **ENDLESS))

    async def run() -> None:
        for work in (read, call):
            begun_at = tokens.seen
            tokens.limit = begun_at + 2
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                await tokens.reach(tokens.limit)
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()  # it has been told to stop
                tokens.let_go()
            idle(model)
            assert tokens.seen < begun_at + 50  # to its end it takes 100

    tokens = Counting(model)
    anyio.run(run)


def test_streams_share_the_model_and_none_waits_for_the_end_of_another(model: HuggingFaceRuntime) -> None:
    order: list[int] = []

    async def read(number: int) -> None:
        async for _ in model.predict_stream(only(texts(PROMPT, max_new_tokens=60, do_sample=False, eos_token_id=-1))):
            order.append(number)

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(read, number)

    anyio.run(run)
    ends = [len(order) - 1 - order[::-1].index(number) for number in range(4)]
    begins = [order.index(number) for number in range(4)]
    assert max(begins) < min(ends)


def test_other_tasks_stream_their_one_answer(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-classification"]))

    async def run() -> list[Any]:
        return [answer async for answer in model.predict_stream(only(texts(PROMPT), texts("the dog")))]

    assert [answer.outputs[0].shape for answer in anyio.run(run)] == [[1, 1], [1, 1]]


def test_a_chat_is_streamed(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    model._caller._pipeline.tokenizer.chat_template = "{% for one in messages %}{{ one.content }}{% endfor %}"
    chat = tensor("args", ['{"role": "user", "content": "the red fox"}'], "hg_jsonlist")
    pieces = anyio.run(streamed, model, request(chat, **GREEDY))
    assert "".join(pieces) == "".join(anyio.run(streamed, model, texts(PROMPT, **GREEDY)))
    (answer,) = ask(model, request(chat, **GREEDY))
    assert answer["generated_text"][1] == {"role": "assistant", "content": "".join(pieces)}


SAID = ["hi 😀😁 ok", "日本語", "a 😀 b 👩‍👩‍👧‍👦 c ' ' n't .", "😀😁😂🤣😃😄"]


@pytest.mark.parametrize("prompt", ["say", "é"])
@pytest.mark.parametrize("said", SAID)
def test_bytes_are_streamed_as_the_text_they_are_without(speaker: Any, said: str, prompt: str) -> None:
    """Also where generation ends amid a character: by its length, and by a stop string."""
    for ends in ({"max_new_tokens": 200}, {"max_new_tokens": 14}, {"max_new_tokens": 200, "stop_strings": ["b", "😁"]}):
        (whole,) = ask(speaker(said), texts(prompt, return_full_text=False, do_sample=False, **ends))
        pieces = anyio.run(streamed, speaker(said), texts(prompt, do_sample=False, **ends))
        assert "".join(pieces) == whole["generated_text"] != ""


@pytest.mark.parametrize("template", [None, {"fields": {}}])
def test_special_tokens_are_streamed_where_the_text_has_them(
    speaker: Any, template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers 5 keeps them for a tokenizer that parses its model's answers."""
    said = "a<s>b c"
    monkeypatch.setattr(speaker(said)._caller._pipeline.tokenizer, "response_template", template, raising=False)
    (whole,) = ask(speaker(said), texts("say", return_full_text=False, **GREEDY))
    assert "".join(anyio.run(streamed, speaker(said), texts("say", **GREEDY))) == whole["generated_text"]
    assert ("<s>" in whole["generated_text"]) == (IS_5 and template is not None)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Llama that says what it is told; what is not in its vocabulary in bytes."""
    folder = tmp_path_factory.mktemp("speaker")
    llama(folder)
    model = load(settings_for(folder, name="speaker", task="text-generation"))
    own = model._caller._pipeline
    inner, left = own.model.forward, list[int]()

    def forward(*args: Any, **named: Any) -> Any:
        found = inner(*args, **named)
        found.logits[:] = -100.0
        found.logits[:, -1, left.pop(0)] = 100.0
        return found

    def saying(text: str) -> HuggingFaceRuntime:
        left[:] = [*own.tokenizer(text, add_special_tokens=False)["input_ids"], own.tokenizer.eos_token_id]
        return model

    own.model.forward = forward
    yield saying
    anyio.run(model.unload)


def idle(model: HuggingFaceRuntime) -> None:
    """Nothing of a model computes: its turn is free."""
    assert not model._running()._turns._taken
    assert not model._running()._turns._waiting


class Counting:
    """Counts a model's steps, and holds it up in the one that is its limit."""

    def __init__(self, model: HuggingFaceRuntime) -> None:
        self.seen = 0
        self.limit = 1 << 30
        self._step = threading.Condition()
        network = model._caller._pipeline.model
        inner = network.forward

        def forward(*args: Any, **named: Any) -> Any:
            with self._step:
                self.seen += 1
                self._step.notify_all()
                assert self._step.wait_for(lambda: self.seen < self.limit, 60)
            return inner(*args, **named)

        network.forward = forward

    async def reach(self, steps: int) -> None:
        """Waits for so many steps since the start."""

        def wait() -> None:
            with self._step:
                assert self._step.wait_for(lambda: self.seen >= steps, 60)

        await anyio.to_thread.run_sync(wait)

    def let_go(self) -> None:
        with self._step:
            self.limit = 1 << 30
            self._step.notify_all()
