"""What reaches a model is looked at whatever form a request had it in: no foreign code, no uncounted text."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from mlserve.errors import InferenceError, MLServeError
from mlserve_huggingface.guard import guard
from mlserve_huggingface.limits import Limits
from runtimes.huggingface.tests.asking import (
    GREEDY,
    IS_5,
    SOUND,
    ask,
    base64_png,
    load,
    request,
    settings_for,
    streamed,
    tensor,
    texts,
)
from runtimes.huggingface.tests.media_cases import media_cases
from runtimes.huggingface.tests.test_limits import TEXT, refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

HEARD = tensor("inputs", SOUND.tolist())
NO_OBJECT = "is an object of options by name (content type hg_json), got list"
CHAT = (
    "{% for one in documents or [] %}{{ one.text }}{% endfor %}{% for one in tools or [] %}{{ one | tojson }}"
    "{% endfor %}{% for one in messages %}{{ one.content }}{% endfor %}"
)


def as_json(name: str, value: Any) -> dict[str, Any]:
    return tensor(name, [json.dumps(value)], "hg_json")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper with random weights, which hears one second."""
    folder = tmp_path_factory.mktemp("whisper")
    letters = sorted(ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: at for at, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=end, bos_token=end, eos_token=end
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [end, "<|startoftranscript|>", "<|notimestamps|>"]})
    ends, begins = tokenizer.convert_tokens_to_ids([end, "<|startoftranscript|>"])
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80, max_source_positions=50,
        max_target_positions=64, pad_token_id=ends, bos_token_id=ends, eos_token_id=ends, decoder_start_token_id=begins,
        suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.update(
        max_length=12, is_multilingual=False, no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>")
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hearing(whisper: Path) -> Any:
    return load(settings_for(whisper, task="automatic-speech-recognition"))


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[str, Path]:
    """A folder of code that `generate` can be told to run, and the file that this leaves."""
    (tmp_path / "custom_generate").mkdir()
    trace = tmp_path / "trace"
    code = f"def generate(model, **more):\n    open({str(trace)!r}, 'w').close()\n    raise ValueError('ran')\n"
    (tmp_path / "custom_generate" / "generate.py").write_text(code)
    return str(tmp_path), trace


def test_no_request_runs_foreign_code(hearing: Any, foreign: tuple[str, Path]) -> None:
    folder, trace = foreign
    pairs = [["custom_generate", folder], ["trust_remote_code", True]]
    for form in (pairs, [dict(pairs)], [pairs]):
        assert NO_OBJECT in refusal(hearing, HEARD, as_json("generate_kwargs", form))
    assert "'custom_generate' cannot be set" in refusal(hearing, HEARD, as_json("generate_kwargs", dict(pairs)))
    assert not trace.exists()
    assert len(ask(hearing, request(HEARD, as_json("generate_kwargs", {"max_new_tokens": 3})))) == 1


def test_lists_of_tokens_that_are_suppressed_may_be_empty(hearing: Any) -> None:
    options = {"max_new_tokens": 3, "suppress_tokens": [], "begin_suppress_tokens": []}
    assert len(ask(hearing, request(HEARD, as_json("generate_kwargs", options)))) == 1


if IS_5:  # transformers 4 cannot stop such a model

    @pytest.mark.parametrize(
        "told", [{"stop_sequence": "fox", "max_new_tokens": 4}, {"generate_kwargs": {"stop_strings": ["fox"]}}]
    )
    def test_a_model_that_sees_is_told_where_to_stop(tmp_path: Path, told: dict[str, Any]) -> None:
        MAKERS["image-text-to-text"](tmp_path)
        chat = media_cases()["image-text-to-text"][0].inputs
        assert ask(load(settings_for(tmp_path, task="image-text-to-text")), request(*chat, **told))


@pytest.mark.parametrize("told", [{"generation_mode": "audio"}, {"use_audio_in_video": True}])
def test_what_pipelines_put_into_objects_by_themselves_is_let_in(hearing: Any, told: dict[str, Any]) -> None:
    hearing._caller._limits.check_generation({"generate_kwargs": told}, 1)


@pytest.mark.parametrize("given", [[0.5, 1.0], [[0.5, 1.0]]])
def test_the_voice_of_a_speaker_is_made_a_tensor(given: Any) -> None:
    guarded = SimpleNamespace(_forward=lambda _, **options: options, _forward_params={}, device="cpu")
    guard(guarded, SimpleNamespace(generates=True, check_generation=lambda *_: None))
    found = guarded._forward({}, forward_params={"speaker_embeddings": given})
    assert torch.equal(found["forward_params"]["speaker_embeddings"], torch.tensor([[0.5, 1.0]]))
    with pytest.raises(InferenceError, match="'speaker_embeddings' is a list of numbers, or of such lists"):
        guarded._forward({}, forward_params={"speaker_embeddings": [[0.5], [1.0, 2.0]]})


@pytest.mark.parametrize("form", ["pairs", "array", "object", "named"])
def test_the_model_is_guarded_behind_all_that_pipelines_merge(
    hearing: Any, foreign: tuple[str, Path], form: str
) -> None:
    folder, trace = foreign
    pairs = [["custom_generate", folder], ["trust_remote_code", True]]
    told = {"pairs": pairs, "array": np.asarray(pairs, dtype=object), "object": dict(pairs)}
    options = dict(pairs) if form == "named" else {"generate_kwargs": told[form]}
    with pytest.raises(InferenceError, match="'custom_generate' cannot be set by a request"):
        hearing._caller._pipeline(SOUND.copy(), **options)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["forward_params", "generate_kwargs"])
def test_objects_that_pipelines_merge_behind_the_guard_are_looked_into(name: str) -> None:
    class Speaking:  # as text-to-audio has it
        model = SimpleNamespace(can_generate=lambda: True, config=SimpleNamespace(vocab_size=9))
        _forward_params: ClassVar[dict[str, Any]] = {"forward_params": {}, "generate_kwargs": {}}

        def _forward(self, model_inputs: Any, **kwargs: Any) -> Any:
            return kwargs

    pipeline: Any = Speaking()
    guard(pipeline, Limits("text-to-audio", pipeline))
    fine = {**Speaking._forward_params, name: {"max_new_tokens": 3}}
    assert pipeline._forward({}, **fine) == fine
    with pytest.raises(InferenceError, match=f"'custom_generate' in '{name}' cannot be set by a request"):
        pipeline._forward({}, **{name: {"custom_generate": "x"}})
    with pytest.raises(InferenceError, match=f"'{name}' is an object of options by name"):
        pipeline._forward({}, **{name: [["custom_generate", "x"]]})


@pytest.mark.parametrize(
    "name", ["num_segment_frames", "return_segments", "prompt_ids", "logits_processor", "stranger"]
)
def test_what_would_reach_generate_by_its_own_name_is_on_the_list_too(hearing: Any, name: str) -> None:
    assert f"'{name}' cannot be set by a request" in refusal(hearing, HEARD, as_json(name, [30000]))
    assert len(ask(hearing, request(HEARD, tensor("max_new_tokens", [3]), tensor("num_beams", [2])))) == 1


@pytest.mark.parametrize("name", ["tokenizer_encode_kwargs", "images_kwargs", "preprocess_params"])
def test_an_object_of_options_is_no_list_of_pairs(models: dict[str, Path], name: str) -> None:
    model = load(settings_for(models["text-classification"]))
    pairs = [["padding", "max_length"], ["max_length", 3_000_000]]
    assert NO_OBJECT in refusal(model, tensor("args", [TEXT]), as_json(name, pairs))
    assert NO_OBJECT in refusal(model, tensor("args", [TEXT]), as_json("tokenizer_kwargs", {name: pairs}))
    row = {"text": TEXT, name: pairs}
    assert NO_OBJECT in refusal(model, as_json("args", row))


def test_the_options_of_a_prompts_tokens_are_no_pairs(models: dict[str, Path], tmp_path: Path) -> None:
    pairs = [["padding", "max_length"], ["max_length", 30_000]]
    model = load(settings_for(models["text-generation"]))
    assert NO_OBJECT in refusal(model, tensor("args", [TEXT]), as_json("tokenizer_encode_kwargs", pairs))
    assert NO_OBJECT in refusal(model, tensor("args", [TEXT]), tokenizer_encode_kwargs=pairs)
    MAKERS["zero-shot-image-classification"](tmp_path / "m")
    seeing = load(settings_for(tmp_path / "m", task="zero-shot-image-classification"))
    labelled = [tensor("inputs", [base64_png()]), tensor("candidate_labels", ["a", "b"])]
    assert NO_OBJECT in refusal(seeing, *labelled, as_json("tokenizer_kwargs", pairs))


def test_a_prefix_is_part_of_the_prompt(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"], max_generation_tokens=60))
    text, prefix = tensor("args", ["xq"]), tensor("prefix", ["xq" * 40])
    said = "82 tokens, and it reads at most 60 (parameters.extra.max_generation_tokens)"
    assert said in refusal(model, text, prefix, max_new_tokens=2)
    with pytest.raises(InferenceError, match="reads at most 60"):
        anyio.run(streamed, model, request(text, prefix, max_new_tokens=2))
    beams = {"num_beams": 3, "max_new_tokens": 2}
    said = "3 sequences (beams, or answers to one text) of 24 tokens each, with the prompt, are 72 tokens"
    assert said in refusal(model, text, tensor("prefix", ["xq" * 10]), **beams)
    assert ask(model, request(text, tensor("prefix", ["xq" * 5]), **beams))


if IS_5:

    @pytest.mark.parametrize(
        "brought", [{"documents": [{"text": "xq" * 40}]}, {"tools": [{"xq" * 40: 1}]}, {"tools": [{"a": [1] * 40}]}]
    )
    def test_so_is_whatever_a_chat_template_writes(models: dict[str, Path], brought: dict[str, Any]) -> None:
        model = load(settings_for(models["text-generation"], max_generation_tokens=60))
        model._caller._pipeline.tokenizer.chat_template = CHAT
        chat = tensor("args", [json.dumps({"role": "user", "content": "xq"})], "hg_jsonlist")
        more = [as_json(name, value) for name, value in brought.items()]
        assert "tokens, and it reads at most 60" in refusal(model, chat, *more, max_new_tokens=2)
        assert ask(model, request(chat, as_json("tools", [{"a": 1}]), max_new_tokens=2))


@pytest.mark.parametrize("failure", [MemoryError("no room"), RuntimeError("DefaultCPUAllocator: not enough memory")])
def test_full_memory_is_told_as_such_and_the_model_goes_on(models: dict[str, Path], failure: Exception) -> None:
    model = load(settings_for(models["text-generation"]))
    of_model = model._caller._pipeline.model
    forward = of_model.forward

    def full(*args: Any, **named: Any) -> Any:
        raise failure

    of_model.forward = full
    with pytest.raises(MLServeError, match="model 'm': memory is full: ") as caught:
        anyio.run(model.predict, texts(TEXT, **GREEDY))
    assert caught.value.http_status == 503
    of_model.forward = forward
    assert ask(model, texts(TEXT, **GREEDY))


def test_arrays_among_the_options_are_numbers(models: dict[str, Path]) -> None:
    model = load(settings_for(models["image-classification"]))
    picture = tensor("inputs", [base64_png()])
    said = "'size' is at most 1024 for this model, got 4000"
    assert said in refusal(model, picture, as_json("size", [4000, 4000]))
    assert said in refusal(model, picture, tensor("size", [4000, 4000], "nplist"))


def test_values_are_not_nested_so_deep_that_python_gives_up(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    deep: Any = json.loads("[" * 400 + "]" * 400)
    said = "lists and objects stand in one another 100 times at most"
    assert f"'bad_words_ids': data[0]: {said}" in refusal(model, tensor("args", [TEXT]), as_json("bad_words_ids", deep))
    assert said in refusal(model, as_json("args", deep))
    assert f"parameter 'bad_words_ids': {said}" in refusal(model, tensor("args", [TEXT]), bad_words_ids=deep)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": ["1 " * 251]}, "a cell or question has at most 500 characters, got 502"),
        ({"1 " * 251: ["1"]}, "a cell or question has at most 500 characters, got 502"),
        ([{"a": "1"}, {"1 " * 251: "1"}], "a cell or question has at most 500 characters, got 502"),
        ({"a": ["1"] * 8001}, "a table has at most 8000 cells, all rows as long as the longest, got 8001"),
        ([{str(at): "1"} for at in range(100)], "a table has at most 8000 cells, all rows as long as the longest, got"),
        ({str(at): {f"x{at}": "1"} for at in range(100)}, "a table has at most 8000 cells"),
        ([{"query": "a", "table": "1 " * 251}], "a cell or question has at most 500 characters, got 502"),
        ([["1"] * 100, *[[]] * 99], "a table has at most 8000 cells"),
        ({"a": ["1"] * 100, "b": "1"}, "a table is an object of columns, each a list of cells, or a list of records"),
        ({"a": ["1 " * 250] * 170}, "the tables of a request have at most 80000 characters"),
        ({"a": ["1", 2]}, 'the cells of a table are texts, such as "3" for 3, got 2'),
    ],
    ids=["cell", "head", "later head", "cells", "records", "columns", "named", "rows", "spread", "all", "number"],
)  # fmt: skip
def test_a_table_is_short_enough_to_be_read(tmp_path: Path, table: Any, said: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of transformers' modules use what torch deprecates
        MAKERS["table-question-answering"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="table-question-answering"))
    assert said in refusal(model, as_json("table", table), tensor("query", ["how many"]))
    assert said in refusal(model, as_json("args", {"table": table, "query": "how many"}))
    assert said in refusal(model, tensor("args", [json.dumps(table), json.dumps("how many")], "hg_json"))
    assert said in refusal(model, as_json("args", table), tensor("query", ["how many"]))
    assert said in refusal(model, as_json("args", [{"table": table, "query": "how many"}]))
    long = tensor("query", ["1 " * 251])
    assert "a cell or question has at most 500" in refusal(model, as_json("table", {"a": ["1"]}), long)
    assert len(ask(model, request(as_json("table", {"a": ["1"] * 5}), tensor("query", ["how many"])))) == 1
