"""What is not known to be apart from its company is computed row by row, and so is what fails together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import torch
import transformers
from transformers import AutoConfig

from mlserve.errors import InferenceError
from mlserve.merging import merge
from mlserve_huggingface.inputs import Arguments, Column
from mlserve_huggingface.together import Together
from runtimes.huggingface.tests.asking import (
    IS_5,
    ask,
    base64_png,
    load,
    pipeline,
    request,
    rows,
    settings_for,
    tensor,
    texts,
)
from runtimes.huggingface.tests.test_allowed import GREEDY, SAID, asked, is_close, picture, sizes_of
from runtimes.huggingface.tests.tiny_architectures import LABELS, make
from runtimes.huggingface.tests.tiny_models import byte_pairs, yolos

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers

TOGETHER = {"max_batch_size": 8, "max_batch_time": 0.05}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}


def saved(folder: Path, task: str, kind: str, **more: Any) -> Path:
    """A model of an architecture that is not on the list, beside the tokenizer of one that is."""
    make(folder, task, "gpt2" if task == "text-generation" else "bert")
    known = AutoConfig.from_pretrained(folder)
    config = AutoConfig.for_model(kind, vocab_size=known.vocab_size, pad_token_id=0, **more)
    torch.manual_seed(3)
    auto = (
        transformers.AutoModelForCausalLM
        if task == "text-generation"
        else transformers.AutoModelForSequenceClassification
    )
    model = auto.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(12)
    model.save_pretrained(folder)
    return folder


def check_one_by_one(folder: Path, task: str, **options: Any) -> None:
    model = load(settings_for(folder, task=task, **TOGETHER))
    requests = asked(task, **options)
    alone = [ask(model, one)[0] for one in requests]
    sizes = sizes_of(model)
    assert rows(anyio.run(model.predict, merge(requests))) == alone
    assert sizes == [1] * len(requests)


# transformers 4 hands FNet a mask, which it refuses.
FNET = [("text-classification", "fnet", {**SMALL, **LABELS})] if IS_5 else []


@pytest.mark.parametrize(
    ("task", "kind", "sizes"),
    [
        *FNET,
        ("text-generation", "xlm", {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 128}),
        ("text-generation", "openai-gpt", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}),
    ],
)
def test_a_model_that_sees_its_padding_is_asked_row_by_row(
    tmp_path: Path, task: str, kind: str, sizes: dict[str, Any]
) -> None:
    check_one_by_one(saved(tmp_path / "m", task, kind, **sizes), task)


def test_sound_that_is_normalized_with_its_padding_is_heard_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "audio-classification", "wav2vec2", feat_extract_norm="group", conv_bias=False)
    check_one_by_one(folder, "audio-classification")


def test_sound_whose_positions_see_the_padding_is_heard_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "audio-classification", "hubert", conv_pos_batch_norm=True)
    check_one_by_one(folder, "audio-classification")


if not IS_5:  # which has no such task

    @pytest.mark.parametrize(
        "option",
        [{"encoder_repetition_penalty": 3.0}, {"encoder_no_repeat_ngram_size": 1}],
    )
    def test_options_that_see_the_padding_of_what_is_read_leave_it_alone(
        tmp_path: Path, option: dict[str, Any]
    ) -> None:
        check_one_by_one(make(tmp_path / "m", "text2text-generation", "t5"), "text2text-generation", **option)


@pytest.mark.parametrize(
    "option",
    [{"repetition_penalty": 3.0}, {"no_repeat_ngram_size": 2}, {"stop_strings": "fox"}, {"guidance_scale": 2.0},
     {"num_beams": 2}],
)  # fmt: skip
def test_an_option_that_is_not_on_the_list_is_computed_row_by_row(tmp_path: Path, option: dict[str, Any]) -> None:
    folder = make(tmp_path / "m", "text-generation", "gpt2")
    check_one_by_one(folder, "text-generation", **option)
    several = texts(*SAID, return_full_text=False, **GREEDY, **option)
    model = load(settings_for(folder, task="text-generation", **TOGETHER))
    assert ask(model, several) == [ask(model, one)[0] for one in asked("text-generation", **option)]


def test_the_rule_wants_all_of_it_known(tmp_path: Path) -> None:
    """Padding, options of the model's own, digits, positions, quantization, and rows of one kind."""
    folder = make(tmp_path / "m", "text-generation", "llama")
    said = Arguments([Column(["the fox", "a cat"], True)], {}, GREEDY)

    def at_once(change: Any = None, arguments: Arguments = said) -> int:
        own = pipeline("text-generation", folder)
        if change is not None:
            change(own)
        return Together("text-generation", own, 8).rows(arguments)

    def with_options(**options: Any) -> Arguments:
        return Arguments(said.positional, {}, {**GREEDY, **options})

    assert at_once() == 8
    chats = [[{"role": "user", "content": one}] for one in SAID]
    assert at_once(arguments=Arguments([Column(chats, True)], {}, GREEDY)) == 8
    for rows_ in ([chats[0], "the fox"], [chats[0][0]] * 2, ["the fox", ""], [["the fox"]] * 2, [{"text": "a"}] * 2):
        assert at_once(arguments=Arguments([Column(rows_, True)], {}, GREEDY)) == 1, rows_
    for more in ({"max_new_tokens": None, "max_length": 50}, {"max_length": 50}, {"min_length": 5}, {"anything": 1}):
        assert at_once(arguments=with_options(**more)) == 1, more
    assert at_once(lambda own: setattr(own.tokenizer, "pad_token", None)) == 1
    assert at_once(lambda own: setattr(own.model.generation_config, "repetition_penalty", 1.1)) == 1
    assert at_once(lambda own: setattr(own.model.config, "quantization_config", {"bits": 8})) == 1
    for name in ("rope_parameters", "rope_scaling"):
        moving = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
        assert at_once(lambda own: setattr(own.model.config, name, moving)) == 1  # noqa: B023  # called at once
    assert at_once(lambda own: own.model.to(torch.bfloat16)) == 1
    assert at_once(lambda own: own.model.to(torch.bfloat16), with_options(do_sample=True)) == 8
    own = pipeline("text-generation", folder)
    foreign = SimpleNamespace(model=SimpleNamespace(config=own.model.config), tokenizer=own.tokenizer)
    assert Together("text-generation", foreign, 8).rows(said) == 1  # not transformers' own code, such as ONNX Runtime's


def test_texts_that_are_padded_on_the_left_are_read_row_by_row(tmp_path: Path) -> None:
    own = pipeline("text-classification", make(tmp_path / "m", "text-classification", "bert"))
    said = Arguments([Column(["the fox", "a cat"], True)])
    assert Together("text-classification", own, 8).rows(said) == 8
    pairs = Arguments([Column([{"text": "the fox", "text_pair": "a cat"}, "a cat"], True)])
    assert Together("text-classification", own, 8).rows(pairs) == 8
    for row in ({"text": "the fox", "padding": "max_length"}, [["the fox", "a cat"]], ["the fox"]):
        assert Together("text-classification", own, 8).rows(Arguments([Column([row, "a cat"], True)])) == 1
    own.tokenizer.padding_side = "left"
    assert Together("text-classification", own, 8).rows(said) == 1


# -- what fails together ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detecting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose pictures keep their proportions, so that several cannot be one array."""
    folder = tmp_path_factory.mktemp("detecting")
    torch.manual_seed(0)
    yolos(folder)
    transformers.YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("more", [TOGETHER, {"batch_size": 4}], ids=["batching", "batch_size"])
def test_pictures_of_unlike_shapes_in_one_request_are_seen_one_by_one(detecting: Path, more: dict[str, Any]) -> None:
    model = load(settings_for(detecting, task="object-detection", **more))
    files = [base64_png(picture(seed).resize((32 * (1 + seed), 32))) for seed in range(2)]
    alone = [ask(model, request(tensor("inputs", [one]), threshold=0.0)) for one in files]
    wanted = [one[0] for one in alone] if more is TOGETHER else alone
    sizes = sizes_of(model)
    assert ask(model, request(tensor("inputs", files), threshold=0.0)) == wanted
    assert sizes[0] > 1, "tried together first"


def test_a_model_without_padding_token_takes_several_rows(tmp_path: Path) -> None:
    make(tmp_path / "m", "text-generation", "gpt2")
    tokenizer = byte_pairs()
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, **LABELS)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="text-classification", **TOGETHER))
    assert ask(model, texts(*SAID)) == [ask(model, texts(one))[0] for one in SAID]


def test_one_row_that_cannot_be_used_is_told_by_its_own_error(tmp_path: Path) -> None:
    model = load(settings_for(make(tmp_path / "m", "fill-mask", "bert"), task="fill-mask", **TOGETHER))
    with pytest.raises(InferenceError, match="No mask_token"):
        ask(model, texts("the [MASK]", "the fox"))


def test_a_result_that_has_not_one_element_a_row_is_computed_row_by_row(tmp_path: Path) -> None:
    model = load(
        settings_for(make(tmp_path / "m", "text-classification", "bert"), task="text-classification", **TOGETHER)
    )
    own = model._caller._pipeline
    alone = [ask(model, texts(one))[0] for one in SAID]

    class Short:
        model, tokenizer = own.model, own.tokenizer

        def __call__(self, said: Any, **options: Any) -> Any:
            return own(said, **options)[:1] if isinstance(said, list) else own(said, **options)

    model._caller._pipeline = Short()
    assert ask(model, texts(*SAID)) == alone


# -- without batching -------------------------------------------------------------------------------------------------


def test_batch_size_computes_the_rows_of_a_request_together(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "text-classification", "bert")
    wanted = [ask(load(settings_for(folder, task="text-classification")), texts(one))[0] for one in SAID]
    model = load(settings_for(folder, task="text-classification", batch_size=4))
    sizes = sizes_of(model)
    assert is_close(ask(model, texts(*SAID)), wanted)
    assert sizes == [4]


# -- options that no model can take -----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [TOGETHER, {}], ids=["batching", "alone"])
def test_an_option_that_the_library_trips_over_is_the_clients_error(tmp_path: Path, more: dict[str, Any]) -> None:
    model = load(settings_for(make(tmp_path / "m", "text-generation", "gpt2"), task="text-generation", **more))

    def trips(*args: Any, **named: Any) -> Any:
        raise RuntimeError("it trips")

    model._caller._pipeline.model.forward = trips
    with pytest.raises(InferenceError, match=r"with these options \(renormalize_logits\): it trips") as told:
        ask(model, texts("the fox", renormalize_logits=True, **GREEDY))
    assert told.value.http_status == 400
