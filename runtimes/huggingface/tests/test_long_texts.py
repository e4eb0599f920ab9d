"""A text is no longer than the model takes, or than 4096 tokens, also for models whose positions have no end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlserve.errors import InferenceError
from mlserve_huggingface.limits import Limits
from runtimes.huggingface.tests.asking import GREEDY, ask, load, request, settings_for, tensor
from runtimes.huggingface.tests.test_limits import refusal

LONG = "fox " * 5000


def limits(task: str, longest: int | None = None, positions: int | None = None, **config: Any) -> Limits:
    """Those of a model whose tokens are words."""
    tokenizer = SimpleNamespace(model_max_length=longest, tokenize=str.split, mask_token="[MASK]")
    generates = config.pop("generates", False)
    model = SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=positions, vocab_size=100, **config),
        can_generate=lambda: generates,
    )
    return Limits(task, SimpleNamespace(tokenizer=tokenizer, model=model))


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "fill-mask", "text-to-audio"])
@pytest.mark.parametrize(
    "row", [LONG, [LONG], {"text": LONG[:8000], "text_pair": LONG[:12000]}], ids=["text", "list", "pair"]
)
def test_a_long_text_is_refused(task: str, row: Any) -> None:
    with pytest.raises(InferenceError, match="5000 tokens, and it sees at most 4096 at once"):
        limits(task, 512).check_rows({}, [row])


def test_what_is_short_enough_is_seen() -> None:
    said = "fox " * 4096
    limits("text-classification", 512).check_rows({}, [said])
    limits("text-classification", 512).check_rows({"truncation": True}, [LONG])
    limits("text-classification", 8192).check_rows({}, [LONG])
    with pytest.raises(InferenceError, match="sees at most 4096"):  # truncation to what, where nothing is known
        limits("text-classification").check_rows({"truncation": True}, [LONG])


@pytest.mark.parametrize("task", ["token-classification", "ner", "zero-shot-classification"])
def test_where_the_pipeline_cuts_a_text_it_may_be_long(task: str) -> None:
    limits(task, 512).check_rows({}, [LONG])
    with pytest.raises(InferenceError, match="sees at most 4096"):
        limits(task).check_rows({}, [LONG])


def test_what_is_read_in_parts_may_be_long() -> None:
    limits("question-answering", 512).check_rows({}, [{"question": "who", "context": LONG}])


def test_a_prompt_counts_where_one_text_is_generated_too() -> None:
    words = "fox " * 10_000
    limits("text-generation", 2048, generates=True).check_rows({}, [words])
    for row in (words + "fox", [{"role": "user", "content": words + "fox"}]):
        with pytest.raises(InferenceError, match=r"1000[12] tokens, and it reads at most 10000"):
            limits("text-generation", 2048, generates=True).check_rows({}, [row])
    limits("text-generation", 32768, generates=True).check_rows({}, [words + "fox"])


def test_an_encoder_reads_no_more_than_it_sees_at_once() -> None:
    options: dict[str, Any] = {"generates": True, "is_encoder_decoder": True}
    limits("summarization", 512, **options).check_rows({}, ["fox " * 4096])
    with pytest.raises(InferenceError, match="5000 tokens, and it reads at most 4096"):
        limits("summarization", 512, **options).check_rows({}, [LONG])
    limits("summarization", 512, **options).check_rows({"truncation": True}, [LONG])


def test_a_model_is_not_asked_about_a_text_that_is_too_long(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-classification"]))
    assert "sees at most 4096" in refusal(model, tensor("args", [LONG]))
    assert ask(model, request(tensor("args", [LONG]), tensor("truncation", [True])))
    writer = load(settings_for(models["text-generation"], max_generation_tokens=20))
    assert "reads at most 20 (parameters.extra.max_generation_tokens)" in refusal(writer, tensor("args", ["fox " * 21]))
    assert ask(writer, request(tensor("args", ["the fox"]), **{**GREEDY, "max_new_tokens": 4}))


def test_a_picture_among_texts_is_not_read_as_one() -> None:
    task = SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=512, tokenize=str.split))
    task.model = SimpleNamespace(config=SimpleNamespace(), can_generate=lambda: True)
    sees = Limits("image-text-to-text", task, sees_text=False)
    sees.check_rows({}, ["a" * 100_000, {"role": "user", "content": [{"type": "image", "image": "a" * 100_000}]}])
    for told in ({"text": "fox " * 10_001}, {}):
        chat = {"role": "user", "content": "fox " * 10_001}
        with pytest.raises(InferenceError, match="10001 tokens, and it reads"):
            sees.check_rows(told, [chat] if not told else ["a" * 100_000])
