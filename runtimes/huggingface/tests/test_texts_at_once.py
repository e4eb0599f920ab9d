"""Texts that the model sees at once are bounded together: they are all padded to the longest, or all go on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from mlserve.errors import InferenceError
from mlserve_huggingface.generation import Generation
from mlserve_huggingface.limits import Limits
from runtimes.huggingface.tests.asking import IS_5, ask, base64_png, load, request, settings_for, tensor, texts
from runtimes.huggingface.tests.test_limits import TEXT, refusal
from runtimes.huggingface.tests.tiny_architectures import make
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers

SHORT = ["a"] * 99
SEES = SimpleNamespace(
    model=SimpleNamespace(config=SimpleNamespace(), can_generate=lambda: True, generation_config=None)
)


def test_labels_are_padded_to_the_longest_within_a_bound(tmp_path: Path) -> None:
    MAKERS["zero-shot-image-classification"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="zero-shot-image-classification"))
    picture, said = tensor("inputs", [base64_png()]), "'candidate_labels' are padded to the longest of them: 100 of"
    assert said in refusal(model, picture, tensor("candidate_labels", [*SHORT, "a " * 600]))
    assert said in refusal(model, picture, tensor("candidate_labels", [",".join([*SHORT, "a " * 600])]))
    template = "a " * 480 + "{}"
    assert "198 of" in refusal(model, picture, tensor("candidate_labels", SHORT * 2), hypothesis_template=template)
    assert len(ask(model, request(picture, tensor("candidate_labels", [*SHORT, "a fox"])))) == 100


def test_labels_are_counted_in_tokens_where_they_have_many_bytes(models: dict[str, Path]) -> None:
    tokenizer = SimpleNamespace(model_max_length=77, tokenize=str.split)
    limits = Limits("zero-shot-image-classification", SimpleNamespace(tokenizer=tokenizer))
    limits.check({"candidate_labels": ["the great white shark of Australia, a man-eater, eats this"] * 1000})
    with pytest.raises(InferenceError, match="1000 of 51 tokens each, 51000 in all; the model sees at most 50000"):
        limits.check({"candidate_labels": ["a"] * 999 + ["a " * 51]})


@pytest.mark.parametrize(
    "row",
    [
        {"text": [*SHORT, "a " * 600], "padding": True},
        {"text": [*SHORT, "a"], "text_pair": ["a " * 600, *SHORT], "padding": True},
        [[*SHORT, "a " * 600]],
    ],
    ids=["texts", "pairs", "lists"],
)
def test_the_texts_in_one_row_have_the_bound(models: dict[str, Path], row: Any) -> None:
    model = load(settings_for(models["text-classification"]))
    said = "the texts in one row are padded to the longest of them: 100 of"
    assert said in refusal(model, tensor("args", [json.dumps(row)], "hg_json"))
    assert "send them as rows of their own" in refusal(model, tensor("args", [json.dumps(row)], "hg_jsonlist"))


def test_what_is_padded_without_being_long_counts_and_what_is_cut_does_not(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-classification"]))  # takes 64 tokens
    many = ["a"] * 900
    assert "900 of 64 tokens each" in refusal(
        model, tensor("args", [json.dumps({"text": many, "padding": "max_length"})], "hg_json")
    )
    row = {"text": [*SHORT, "a " * 600], "padding": True, "truncation": True}
    assert len(ask(model, request(tensor("args", [json.dumps(row)], "hg_json")))) == 1


def test_rows_of_their_own_are_not_counted_together(models: dict[str, Path]) -> None:
    model = load(settings_for(models["feature-extraction"], task="feature-extraction"))
    mixed = [*["a"] * 20, "the fox " * 20]
    model._reader._limits.check_rows({}, ["a " * 4_000] * 20)
    assert len(ask(model, request(tensor("args", [json.dumps(mixed)], "hg_json")))) == 21


def test_how_many_rows_run_together_is_not_for_the_client(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-classification"]))
    seen, pipeline = [], model._caller._pipeline
    forward = pipeline.model.forward
    pipeline.model.forward = lambda *args, **inputs: (seen.append(len(inputs["input_ids"])), forward(*args, **inputs))[
        1
    ]
    asked = request(tensor("args", ["the fox", "a cat ."]), tensor("batch_size", [2]), tensor("padding", [True]))
    assert len(ask(model, asked)) == 2 and seen == [1, 1]


def test_questions_of_contexts_are_no_texts_at_once() -> None:
    limits = Limits("question-answering", SimpleNamespace(tokenizer=None))
    limits.check_rows({}, [{"question": ["x" * 1000] * 100, "context": ["y"] * 100}])


TABLE, QUERIES = {"repo": ["a fox"] * 200, "stars": ["12"] * 200}, ["how many"] * 25


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [{"table": TABLE, "query": QUERIES}]),
        ({}, [[{"table": TABLE, "query": "how"}, {"table": TABLE, "query": QUERIES}]]),
        ({"table": TABLE, "query": QUERIES}, []),
        ({}, [TABLE, QUERIES]),
        ({"query": QUERIES}, [TABLE]),
        ({}, [{"table": [{"repo": "a fox", "stars": "12"}] * 200, "query": QUERIES}]),
    ],
    ids=["whole", "two", "named", "listed", "mixed", "records"],
)
def test_a_table_counts_for_each_of_its_questions(options: dict[str, Any], rows: list[Any]) -> None:
    tapas = SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=512, tokenize=str.split), type="tapas")
    limits = Limits("table-question-answering", tapas)
    with pytest.raises(InferenceError, match=r"25 of 512 tokens each, 12800 in all; the model sees at most 10000"):
        limits.check_rows(options, rows)
    few = [{"table": TABLE, "query": QUERIES[:19]}]
    limits.check_rows({}, few)
    with pytest.raises(InferenceError, match="the texts in one row are padded"):
        limits.check_rows({"truncation": "do_not_truncate"}, few)


def test_a_table_is_as_long_as_a_text_where_it_is_not_cut() -> None:
    tapas = SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=512, tokenize=str.split), type="tapas")
    limits = Limits("table-question-answering", tapas)
    for long in ({"a": ["1"] * 5000}, {"a": [""] * 5000}, {str(at): [] for at in range(5000)}):
        limits.check_rows({}, [{"table": long, "query": "how"}])  # whose rows it drops
        with pytest.raises(InferenceError, match=r"500[0-9] tokens, and it sees at most 4096 at once"):
            limits.check_rows({"truncation": "do_not_truncate"}, [{"table": long, "query": "how"}])


def test_a_small_request_does_not_ask_much_of_a_table(tmp_path: Path) -> None:
    MAKERS["table-question-answering"](tmp_path / "m")
    model = load(settings_for(tmp_path / "m", task="table-question-answering"))
    table, many = {"constraints": ["how many"] * 50}, ["how many"] * 400
    said = "the texts in one row are padded to the longest of them: 400 of"
    assert said in refusal(model, tensor("table", [json.dumps(table)], "hg_json"), tensor("query", many))
    row = tensor("args", [json.dumps({"table": table, "query": many})], "hg_json")
    assert said in refusal(model, row)
    both = [json.dumps(table), json.dumps(many)]
    assert said in refusal(model, tensor("args", both, "hg_json"))
    few = [tensor("table", [json.dumps(table)], "hg_json"), tensor("query", ["how many", "stars"])]
    assert len(ask(model, request(*few))) == 2


def test_the_text_beside_a_picture_counts_for_each_sequence() -> None:
    sampled = {"num_return_sequences": 6, "do_sample": True, "max_new_tokens": 10}
    limits = Limits("image-text-to-text", SEES, sees_text=False)
    chat = [{"role": "user", "content": [{"type": "image", "image": "x" * 9000}, {"type": "text", "text": TEXT}]}]
    limits.check_rows(sampled, [chat])  # what stands for a picture is not its text
    limits.check_rows(sampled | {"text": chat}, [])
    long = "word " * 1000
    for options, row in (
        ({}, {"image": object(), "text": long}),
        ({"text": long}, object()),
        ({"text": [TEXT, long]}, object()),
        ({"text": [{"role": "user", "content": long}]}, object()),
        ({}, [*chat, {"role": "user", "content": [{"type": "text", "text": long}]}]),
        ({}, [*chat, *chat]),  # two pictures
    ):
        with pytest.raises(InferenceError, match=r"6 sequences \(beams, or answers to one text\)"):
            limits.check_rows(sampled | options, [row])


def test_a_prompt_that_is_cut_counts_as_it_is_after() -> None:
    tokenizer = SimpleNamespace(model_max_length=512, tokenize=str.split)
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True), generation_config=None)
    generation = Generation(SimpleNamespace(tokenizer=tokenizer, model=model), 1024, True, None)
    said, article = [("num_beams", 4), ("max_length", 142), ("truncation", True)], "word " * 3000
    for cut in (True, "longest_first"):
        generation.check(said, [article], {"truncation": cut})
    for uncut in ({}, {"truncation": False}, {"truncation": "do_not_truncate"}):
        with pytest.raises(InferenceError, match=r"4 sequences .* of 3142 tokens each"):
            generation.check(said, [article], uncut)


if not IS_5:  # which has no such pipelines

    def test_the_texts_in_one_row_go_on_together(tmp_path: Path) -> None:
        model = load(settings_for(make(tmp_path, "text2text-generation", "t5"), task="text2text-generation"))
        row = tensor("inputs", [json.dumps(["a"] * 2000)], "hg_jsonlist")
        said = "sequences (texts in one row, beams, or answers to one text) of"
        assert "send the texts as rows of their own" in refusal(model, row)
        assert f"2000 {said}" in refusal(model, row, max_new_tokens=20, num_beams=1)
        few = tensor("inputs", [json.dumps(["a"] * 20)], "hg_jsonlist")
        assert f"400 {said}" in refusal(model, few, max_new_tokens=50, num_beams=20)
        assert ask(model, request(few, max_new_tokens=5))
        assert len(ask(model, request(tensor("args", ["a"] * 30), max_new_tokens=5))) == 30

    def test_a_long_article_is_summarized_when_it_is_cut(tmp_path: Path) -> None:
        make(tmp_path, "summarization", "bart")
        own = transformers.GenerationConfig.from_pretrained(tmp_path)
        own.num_beams, own.max_length = 4, 20
        own.save_pretrained(tmp_path)
        model = load(settings_for(tmp_path, task="summarization"))
        article = "the red fox runs over the hill . " * 400
        assert model._caller._pipeline.tokenizer.model_max_length < 1000
        assert ask(model, texts(article, truncation=True, max_new_tokens=20))
        said = "tokens; this model keeps at most"
        assert said in refusal(model, tensor("args", [article]), max_new_tokens=20, num_beams=4)
        # Beams of the model's own are the operator's choice; the text is too long for its places.
        assert said not in refusal(model, tensor("args", [article]), max_new_tokens=20)
