"""What a request has a model generate is bounded as a whole: few bytes must not cost gigabytes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from mlserve.errors import InferenceError, MLServeError
from mlserve_huggingface.generation import Generation
from mlserve_huggingface.limits import Limits
from runtimes.huggingface.tests.asking import GREEDY, IS_5, ask, load, request, settings_for, streamed, tensor, texts
from runtimes.huggingface.tests.test_limits import TEXT, refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS

WHOLE = ["output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate"]
OF_WHISPER = SimpleNamespace(
    model=SimpleNamespace(
        can_generate=lambda: True,
        config=SimpleNamespace(max_source_positions=1500, is_encoder_decoder=True),
        generation_config=SimpleNamespace(max_length=448),
    )
)


@pytest.mark.parametrize("name", WHOLE)
def test_numbers_for_whole_vocabularies_are_refused(models: dict[str, Path], name: str) -> None:
    model = load(settings_for(models["text-generation"]))
    said = f"'{name}' cannot be set by a request"
    assert said in refusal(model, tensor("args", [TEXT]), **{name: True})
    assert said in refusal(model, tensor("args", [TEXT]), tensor(name, [True]))


def test_they_are_refused_within_objects_too(tmp_path: Path) -> None:
    MAKERS["image-text-to-text"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="image-text-to-text"))
    chat = tensor("text", [json.dumps({"role": "user", "content": [{"type": "text", "text": TEXT}]})], "hg_jsonlist")
    kwargs = tensor("generate_kwargs", [json.dumps({"output_scores": True})], "hg_json")
    assert "'output_scores' cannot be set by a request" in refusal(model, chat, kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {"num_return_sequences": 128, "do_sample": True, "max_new_tokens": 100},
        {"num_beams": 64, "max_new_tokens": 200},
        {"num_beams": 3, "max_new_tokens": 4096},
        {"num_beams": 64, "max_length": 4096},
    ],
    ids=str,
)
def test_sequences_and_their_tokens_are_bounded_together(models: dict[str, Path], options: dict[str, Any]) -> None:
    model = load(settings_for(models["text-generation"]))
    said = "this model keeps at most 10000 for one text (parameters.extra.max_generation_tokens)"
    assert said in refusal(model, tensor("args", [TEXT]), **options)
    assert said in refusal(model, *[tensor(name, [value]) for name, value in options.items()], tensor("args", [TEXT]))


def test_the_prompt_counts_for_each_sequence_and_the_bound_is_a_setting(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"], max_generation_tokens=60))
    pipeline = model._caller._pipeline
    prompt = "xq" * 10
    tokens = len(pipeline.tokenizer(prompt)["input_ids"])
    assert tokens == 20
    sampled = {"do_sample": True, "num_return_sequences": 2}
    assert len(ask(model, texts(prompt, **sampled, max_new_tokens=10))[0]) >= 1
    said = "2 sequences (beams, or answers to one text) of 31 tokens each, with the prompt, are 62 tokens"
    assert said in refusal(model, tensor("args", [prompt]), **sampled, max_new_tokens=11)
    assert said in refusal(model, tensor("args", ["a", prompt]), **sampled, max_new_tokens=11)
    # Words have fewer tokens than characters.
    words = "the red fox runs over the hill"
    assert len(pipeline.tokenizer(words)["input_ids"]) < 20 < len(words)
    assert ask(model, texts(words, **sampled, max_new_tokens=10))
    # One sequence has its prompt from the client, who has sent it.
    assert ask(model, texts(prompt, max_new_tokens=43))
    assert "of 61 tokens each" in refusal(model, tensor("args", [prompt]), max_new_tokens=61)


def test_a_chat_counts_too_and_so_does_a_stream(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"], max_generation_tokens=60))
    message = json.dumps({"role": "user", "content": "xq" * 15})
    said = "this model keeps at most 60 for one text"
    assert said in refusal(model, tensor("args", [message], "hg_jsonlist"), num_beams=2, max_new_tokens=10)
    with pytest.raises(InferenceError, match="this model keeps at most 60"):
        anyio.run(streamed, model, texts(TEXT, max_new_tokens=61))


def test_what_the_model_does_by_itself_is_not_refused() -> None:
    small = Generation(OF_WHISPER, 1024, True, 20)
    small.check([("temperature", 0.7)], [TEXT])  # with the 448 tokens of its own configuration
    with pytest.raises(InferenceError, match="at most 20 for one text"):
        small.check([("max_new_tokens", 448)], [TEXT])


def test_beams_of_the_model_do_not_count_against_the_client() -> None:
    config = SimpleNamespace(is_encoder_decoder=True)
    own = SimpleNamespace(num_beams=4, max_length=300, penalty_alpha=None)
    generation = Generation(
        SimpleNamespace(model=SimpleNamespace(config=config, generation_config=own)), 512, True, None
    )
    generation.check([("max_new_tokens", 2500)], ["word " * 400])
    with pytest.raises(InferenceError, match="4 sequences"):
        generation.check([("max_new_tokens", 2500), ("num_beams", 4)], ["word " * 400])


def test_the_sound_of_a_beam_counts() -> None:
    limits = Limits("automatic-speech-recognition", OF_WHISPER, sees_text=False)
    limits.check_rows({"generate_kwargs": {"num_beams": 5}}, [b""])
    with pytest.raises(InferenceError, match=r"6 sequences .* of 1948 tokens each"):
        limits.check_rows({"generate_kwargs": {"num_beams": 6}}, [b""])
    with pytest.raises(InferenceError, match="6 sequences"):
        limits.check_rows({"num_beams": 2, "generate_kwargs": {"num_beams": 6}}, [b""])


def test_each_that_a_contrastive_search_tries_counts() -> None:
    search = Generation(OF_WHISPER, 1024, True, None)  # of text
    search.check([("penalty_alpha", 0.6), ("top_k", 4), ("max_new_tokens", 100)], ["the fox"])
    with pytest.raises(InferenceError, match="1000 sequences"):
        search.check([("penalty_alpha", 0.6), ("top_k", 1000), ("max_new_tokens", 100)], ["the fox"])


@pytest.mark.parametrize("stops", ["x" * 129, ["x"] * 129, ["x" * 64, "y", "z"]], ids=["long", "many", "both"])
def test_stop_strings_are_few_and_short(models: dict[str, Path], stops: Any) -> None:
    model = load(settings_for(models["text-generation"]))
    said = "'stop_strings' or 'stop_sequence': their number times the characters of the longest is at most 128"
    for name in ("stop_strings", "stop_sequence") if IS_5 else ("stop_strings",):  # 4 makes one token of the latter
        one = tensor(name, [json.dumps(stops)], "hg_json")
        assert said in refusal(model, tensor("args", [TEXT]), one)
    fine = tensor("stop_strings", [json.dumps(["fox", "<|start_header_id|>assistant<|end_header_id|>"])], "hg_json")
    assert ask(model, request(tensor("args", [TEXT]), fine, **GREEDY))


def test_watermarks_are_for_whoever_runs_the_server(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    mark = json.dumps({"ngram_len": 5, "keys": [1, 2, 3], "sampling_table_size": 10**9})
    said = "'watermarking_config' cannot be set by a request"
    assert said in refusal(model, tensor("args", [TEXT]), tensor("watermarking_config", [mark], "hg_json"))


if not IS_5:  # which has no such pipeline

    def test_text_to_text_has_the_bound_too(models: dict[str, Path]) -> None:
        model = load(settings_for(models["text2text-generation"], task="text2text-generation"))
        with pytest.raises(MLServeError, match="keeps at most 10000 for one text"):
            ask(model, texts(TEXT, num_beams=64, max_new_tokens=1000))
