"""A request may set the options of generation that are on a list, in their ranges, and no others; the model stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
import transformers

from mlserve.errors import MLServeError
from mlserve_huggingface.options import NAMES
from runtimes.huggingface.tests.asking import GREEDY, IS_5, ask, load, request, settings_for, tensor, texts
from runtimes.huggingface.tests.test_limits import TEXT, refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

SHORT = {"max_new_tokens": 2, "do_sample": False}
TASKS = ["text-generation"] if IS_5 else ["text-generation", "text2text-generation"]
FIELDS = set(transformers.GenerationConfig().to_dict()) - {"_from_model_config", "transformers_version"}
FETCHES = IS_5 or hasattr(transformers.GenerationMixin, "_get_deprecated_gen_repo")
ODD: list[Any] = [
    None, True, "x", "never", -1, 0, 1, 10**9, -1e30, 1e-40, 0.5, 1e30, [], [1], [-1], [10**9], [1, 2.0], [2, 100.0],
    ["x"], [[1, 2]], [[]], [[10**9]], [[[1], -1.0]], [[[1, 2], 1e5]], [[[1], [2]]], {"a": 1},
]  # fmt: skip
BESIDE: dict[str, dict[str, Any]] = {
    "diversity_penalty": {"num_beams": 4, "num_beam_groups": 2},
    "early_stopping": {"num_beams": 2},
    "force_words_ids": {"num_beams": 2},
    "length_penalty": {"num_beams": 2},
    "num_beam_groups": {"num_beams": 4},
    "penalty_alpha": {"top_k": 4},
}


def answer(model: Any, options: dict[str, Any]) -> str:
    """What a request gets; a refusal says whose fault it is."""
    told = [tensor(name, [json.dumps(value)], "hg_json") for name, value in options.items()]
    try:
        return str(ask(model, request(tensor("args", [TEXT]), *told)))
    except MLServeError as error:
        assert error.http_status == 400, (options, str(error))
        assert "longer than the model takes" not in str(error), options
        return f"400 {error}"


@pytest.fixture(scope="module")
def running(models: dict[str, Path]) -> dict[str, Any]:
    return {task: load(settings_for(models[task], task=task)) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", [*sorted(NAMES), "assistant_early_exit"])
def test_no_option_changes_what_others_get(running: dict[str, Any], task: str, name: str) -> None:
    model = running[task]
    plain = answer(model, SHORT)
    assert not plain.startswith("400")
    for odd in ODD:
        answer(model, {**SHORT, **BESIDE.get(name, {"do_sample": True}), name: odd})
    assert answer(model, SHORT) == plain


@pytest.mark.parametrize("name", sorted(FIELDS - NAMES))
def test_all_others_are_for_whoever_runs_the_server(running: dict[str, Any], name: str) -> None:
    model = running["text-generation"]
    said = f"'{name}' cannot be set by a request: "
    assert said in refusal(model, tensor("args", [TEXT]), tensor(name, [1]))
    assert said in refusal(model, tensor("args", [TEXT]), **{name: 1})
    fetched = FETCHES and name in ("diversity_penalty", "force_words_ids", "num_beam_groups", "penalty_alpha")
    why = f"{transformers.__version__} generates so with foreign code" if fetched else "the model's generation_config"
    assert why in refusal(model, tensor("args", [TEXT]), **{name: 1})


def test_the_operator_sets_them_beside_the_model(tmp_path: Path, models: dict[str, Path]) -> None:
    made = transformers.pipeline("text-generation", model=str(models["text-generation"]), device="cpu")
    made.model.generation_config.update(output_scores=True, return_dict_in_generate=True, max_length=9)
    made.save_pretrained(tmp_path)
    model = load(settings_for(tmp_path, task="text-generation"))
    assert model._caller._pipeline.model.generation_config.output_scores is True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_beams": 0}, "'num_beams' is a whole number from 1 to 64 for this model, got 0"),
        ({"num_beams": 2.5}, "'num_beams' is a whole number"),
        ({"temperature": 1e-40, "do_sample": True}, "'temperature' is a number from 1e-05 to 100000, or 0"),
        ({"num_return_sequences": 0}, "'num_return_sequences' is a whole number from 1 to 128"),
        ({"exponential_decay_length_penalty": [1]}, "'exponential_decay_length_penalty' is a list of two"),
        ({"decoder_start_token_id": 10**9}, "'decoder_start_token_id' is a token, 0 to "),
        ({"suppress_tokens": [10**9]}, "'suppress_tokens' is a list of 1 to 1000, each a token, 0 to "),
        (
            {"eos_token_id": -1, "exponential_decay_length_penalty": [2, 1.5]},
            "'exponential_decay_length_penalty' makes the end of a text likelier, and 'eos_token_id': -1 leaves none",
        ),
        ({"early_stopping": "always"}, "'early_stopping' is true or false, or \"never\""),
    ],
    ids=str,
)
def test_a_value_is_refused_in_words(running: dict[str, Any], options: dict[str, Any], said: str) -> None:
    model = running["text-generation"]
    told = [tensor(name, [json.dumps(value)], "hg_json") for name, value in options.items()]
    assert said in refusal(model, tensor("args", [TEXT]), *told)


def test_what_is_handed_on_in_an_object_has_the_list_too(tmp_path: Path) -> None:
    MAKERS["image-text-to-text"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="image-text-to-text"))
    chat = tensor("text", [json.dumps({"role": "user", "content": [{"type": "text", "text": TEXT}]})], "hg_jsonlist")
    for name, value, said in (
        ("num_beam", 2, "'num_beam' in 'generate_kwargs' cannot be set by a request; did you mean 'num_beams'?"),
        ("logits_processor", [], "'logits_processor' in 'generate_kwargs' cannot be set by a request"),
        ("assistant_early_exit", 1, "'assistant_early_exit' cannot be set by a request"),
        ("num_beams", 0, "'num_beams' is a whole number from 1 to 64"),
    ):
        assert said in refusal(model, chat, tensor("generate_kwargs", [json.dumps({name: value})], "hg_json"))


def test_an_odd_index_is_not_taken_for_a_long_text(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    forward = model._caller._pipeline.model.forward

    def broken(*args: Any, **named: Any) -> Any:
        raise IndexError("index out of range in self")

    model._caller._pipeline.model.forward = broken
    with pytest.raises(MLServeError) as caught:
        anyio.run(model.predict, texts(TEXT, **GREEDY))
    assert caught.value.http_status == 500 and "index out of range" in str(caught.value)
    long = texts("xq" * 60, max_new_tokens=30, do_sample=False)  # 120 tokens of 128
    with pytest.raises(MLServeError, match=r"with the tokens to generate, is longer .*it takes 128 tokens") as caught:
        anyio.run(model.predict, long)
    assert caught.value.http_status == 400
    model._caller._pipeline.model.forward = forward
    with pytest.raises(MLServeError, match="with the tokens to generate, is longer"):
        ask(model, long)
    assert ask(model, texts("xq" * 60, **SHORT))
