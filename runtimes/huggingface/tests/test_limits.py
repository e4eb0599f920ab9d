"""Options that memory grows with have bounds, which a refusal names; what clients send for real stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from mlserve.errors import InferenceError, MLServeError
from mlserve_huggingface.limits import Limits
from runtimes.huggingface.tests.asking import GREEDY, ask, load, request, settings_for, tensor, texts

TEXT = "the red fox"
MANY = 10**9


def refusal(model: Any, *inputs: Any, **parameters: Any) -> str:
    with pytest.raises(MLServeError) as caught:
        anyio.run(model.predict, request(*inputs, **parameters))
    assert caught.value.http_status == 400
    return str(caught.value)


@pytest.mark.parametrize("most", ["max_length", "pad_to_multiple_of"])
def test_a_text_is_not_padded_beyond_what_the_model_takes(models: dict[str, Path], most: str) -> None:
    model = load(settings_for(models["text-classification"]))
    text, padding, length = tensor("args", [TEXT]), tensor("padding", ["max_length"]), tensor(most, [MANY])
    assert f"'{most}' is at most 64 for this model, got {MANY}" in refusal(model, text, padding, length)
    kwargs = tensor("tokenizer_kwargs", [json.dumps({most: MANY})], "hg_json")
    assert f"'{most}' is at most 64 for this model" in refusal(model, text, kwargs)
    fine = request(text, padding, tensor("max_length", [64]), tensor("truncation", [True]))
    assert len(ask(model, fine)) == 1


@pytest.mark.parametrize(
    ("name", "range_of_it"),
    [
        ("max_length", "1 to 4096"),
        ("max_new_tokens", "1 to 4096"),
        ("min_length", "0 to 4096"),
        ("num_beams", "1 to 64"),
        ("num_return_sequences", "1 to 128"),
    ],
)
def test_generation_has_bounds_too(models: dict[str, Path], name: str, range_of_it: str) -> None:
    model = load(settings_for(models["text-generation"]))
    said = f"'{name}' is a whole number from {range_of_it} for this model"
    assert said in refusal(model, tensor("args", [TEXT]), tensor(name, [MANY]))
    assert said in refusal(model, tensor("args", [TEXT]), **{name: MANY})
    assert said in refusal(model, tensor("args", [TEXT]), **{name: 1e30})


def test_what_clients_send_is_taken(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    sampled = {"max_new_tokens": 8, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "do_sample": True}
    assert ask(model, texts(TEXT, **sampled, num_return_sequences=2))
    assert ask(model, texts(TEXT, **{**GREEDY, "num_beams": 2, "min_new_tokens": 2}))


@pytest.mark.parametrize(
    "template",
    ["this is {:>100000000}", "{0.__class__.__mro__}", "{} and {}", "this", "{{}} {}", "{!r}", "x" * 2000 + "{}"],
    ids=lambda one: one[:30],
)
def test_a_template_of_hypotheses_is_words_around_a_label(models: dict[str, Path], template: str) -> None:
    model = load(settings_for(models["zero-shot-classification"], task="zero-shot-classification"))
    inputs = [tensor("args", [TEXT]), tensor("candidate_labels", ["animal", "thing"])]
    assert "'hypothesis_template' has " in refusal(model, *inputs, hypothesis_template=template)
    assert "'hypothesis_template' has " in refusal(model, *inputs, tensor("hypothesis_template", [template]))
    assert len(ask(model, request(*inputs, hypothesis_template="this is a {}."))) == 1


def test_the_spans_that_transformers_makes_at_once_overlap_by_half_at_most() -> None:
    theirs = SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=512), feature_extractor=None)
    limits = Limits("question-answering", theirs)
    limits.check({"doc_stride": 128})
    limits.check({"doc_stride": 192, "max_seq_len": 384})
    for options, most in (({"doc_stride": 370}, 192), ({"doc_stride": 60, "max_seq_len": 100}, 50)):
        with pytest.raises(InferenceError, match=f"'doc_stride' is at most {most}"):
            limits.check(options)
    with pytest.raises(InferenceError, match="'stride' is at most 256"):
        Limits("token-classification", theirs).check({"stride": 500})


def test_windows_overlap_by_half_of_the_length_that_the_request_sets(models: dict[str, Path]) -> None:
    cut = {"truncation": True, "max_length": 34, "stride": 31}
    model = load(settings_for(models["text-classification"]))
    seen = load(settings_for(models["feature-extraction"], task="feature-extraction"))
    text, said = tensor("args", [TEXT]), "'stride' is at most 17 for this model, got 31"
    assert said in refusal(model, text, *(tensor(name, [value]) for name, value in cut.items()))
    assert said in refusal(seen, text, tensor("tokenize_kwargs", [json.dumps(cut)], "hg_json"))
    assert said in refusal(model, tensor("args", [json.dumps({"text": TEXT, **cut})], "hg_json"))
    apart = tensor("tokenizer_kwargs", [json.dumps({"stride": 31})], "hg_json")
    assert said in refusal(model, text, apart, tensor("max_length", [34]))
    assert len(
        ask(model, request(text, tensor("max_length", [34]), tensor("stride", [17]), tensor("truncation", [True])))
    )


def test_the_model_never_sees_all_windows_of_a_text_at_once(models: dict[str, Path]) -> None:
    over = {"truncation": True, "return_overflowing_tokens": True}
    model = load(settings_for(models["text-classification"]))
    seen = load(settings_for(models["feature-extraction"], task="feature-extraction"))
    text, said = tensor("args", [TEXT]), "'return_overflowing_tokens' cannot be set by a request"
    assert said in refusal(model, text, *(tensor(name, [value]) for name, value in over.items()))
    assert said in refusal(seen, text, tensor("tokenize_kwargs", [json.dumps(over)], "hg_json"))
    assert said in refusal(model, tensor("args", [json.dumps({"text": TEXT, **over})], "hg_json"))
    assert len(ask(model, request(text, tensor("return_overflowing_tokens", [False])))) == 1


@pytest.mark.parametrize(
    "options",
    [{"chunk_length_s": 10, "stride_length_s": [4, 2]}, {"chunk_length_s": 30, "stride_length_s": 5},
     {"chunk_length_s": 30, "stride_length_s": 14}, {"chunk_length_s": 3}, {"chunk_length_s": 0}],
    ids=str,
)  # fmt: skip
def test_sound_may_be_heard_in_chunks(options: dict[str, Any]) -> None:
    Limits("automatic-speech-recognition", SimpleNamespace()).check(options)


@pytest.mark.parametrize(
    "options",
    [{"chunk_length_s": 30, "stride_length_s": [14, 14.5]}, {"chunk_length_s": 2.9}, {"chunk_length_s": 0.001},
     {"chunk_length_s": 1, "stride_length_s": 0}, {"chunk_length_s": float("nan"), "stride_length_s": 0}],
    ids=str,
)  # fmt: skip
def test_sound_is_not_heard_in_very_many_chunks(options: dict[str, Any]) -> None:
    with pytest.raises(InferenceError, match="is at least 2 seconds, got"):
        Limits("automatic-speech-recognition", SimpleNamespace()).check(options)


def test_a_model_that_tells_no_length_has_one_nevertheless() -> None:
    config = SimpleNamespace(max_position_embeddings=-1)  # as XLNet has it
    unknown = SimpleNamespace(
        tokenizer=SimpleNamespace(model_max_length=int(1e30)), model=SimpleNamespace(config=config)
    )
    with pytest.raises(InferenceError, match="'max_length' is at most 4096"):
        Limits("text-classification", unknown).check({"max_length": 5000})


def test_no_more_labels_than_a_model_shall_compare_at_once(models: dict[str, Path]) -> None:
    model = load(settings_for(models["zero-shot-classification"], task="zero-shot-classification"))
    text, said = tensor("args", [TEXT]), "'candidate_labels' are at most 1000, got 1001"
    assert said in refusal(model, text, tensor("candidate_labels", ["a"] * 1001))
    assert said in refusal(model, text, tensor("candidate_labels", [",".join("a" * 1001)]))
    assert len(ask(model, request(text, tensor("candidate_labels", ["a, b"])))) == 1


def test_answers_to_many_masks_are_bounded_together(models: dict[str, Path]) -> None:
    model = load(settings_for(models["fill-mask"]))
    masks, words = "[MASK] " * 60, model._caller._pipeline.model.config.vocab_size
    limits = Limits("fill-mask", model._caller._pipeline)
    with pytest.raises(InferenceError, match=f"'top_k' is at most {min(words, 100)} for this model, got 167"):
        limits.check_rows({"top_k": 167}, ["the [MASK]", "[MASK]" * 100])
    assert len(ask(model, texts("the [MASK]", top_k=words))) == words
    assert f"'top_k' is at most {words} for this model" in refusal(model, tensor("args", ["[MASK]"]), top_k=words + 1)
    assert "'top_k' is 0 or more, got -1" in refusal(model, tensor("args", ["[MASK]"]), top_k=-1)
    assert len(ask(model, texts(masks, top_k=2))) == 60


@pytest.mark.parametrize(
    ("name", "most"), [("min_pixels", 4096**2), ("image_seq_len", 4096), ("min_patches", 64), ("maxlenratio", 20)]
)
def test_options_of_processors_have_bounds(name: str, most: int) -> None:
    limits = Limits("image-text-to-text", SimpleNamespace())
    limits.check({"images_kwargs": {name: most}})
    for options in ({name: MANY}, {"images_kwargs": {name: MANY}}):
        with pytest.raises(InferenceError, match=f"'{name}' is at most {most}"):
            limits.check(options)


def test_the_windows_of_a_document_overlap_by_half_at_most() -> None:
    limits = Limits("document-question-answering", SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=512)))
    limits.check({"doc_stride": 256})
    for options, most in (({"doc_stride": 300}, 256), ({"doc_stride": 60, "max_seq_len": 100}, 50)):
        with pytest.raises(InferenceError, match=f"'doc_stride' is at most {most}"):
            limits.check(options)


@pytest.mark.parametrize("content_type", ["hg_json", "hg_jsonlist", "hg_conversation"])
def test_the_bounds_hold_for_objects_in_lists_too(models: dict[str, Path], content_type: str) -> None:
    model = load(settings_for(models["text-classification"], task="text-classification"))
    row = [{"text": "the fox", "padding": True, "pad_to_multiple_of": 4000}]
    with pytest.raises(InferenceError, match="'pad_to_multiple_of' is at most 64"):
        ask(model, request(tensor("args", [json.dumps(row)], content_type)))
