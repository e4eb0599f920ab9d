"""In a batch each answer is the one that its request has alone, whatever runs beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mlserve.merging import merge
from mlserve_huggingface.inputs import Arguments, Column
from mlserve_huggingface.together import Together
from runtimes.huggingface.tests.asking import IS_5, load, pipeline, rows, settings_for, texts
from runtimes.huggingface.tests.tiny_media_models import MAKERS
from runtimes.huggingface.tests.tiny_models import gpt2

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers

SAID = ["the fox", "the red dog runs over the hill", "a cat .", "the small bear runs over the old river"]
SHORT = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
TOGETHER = {"max_batch_size": 8, "max_batch_time": 0.05}


def alone_and_together(model: Any, **options: Any) -> tuple[list[Any], list[Any]]:
    """The answers to the texts one by one, and as the members of one batch."""
    asked = [texts(one, **options) for one in SAID]
    alone = [rows(anyio.run(model.predict, one))[0] for one in asked]
    whole = anyio.run(model.predict, merge(asked))
    return alone, rows(whole)


@pytest.fixture
def decided(tmp_path: Path) -> Path:
    """A GPT-2 whose large weights make the last token of a prompt matter, as in a trained model."""
    torch.manual_seed(1)
    gpt2(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(12)
    model.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def without_padding(folder: Path) -> None:
    """As GPT-2 is published: neither its tokenizer nor its configuration has a token for padding."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if file.is_file():
            told = json.loads(file.read_text())
            file.write_text(json.dumps({key: one for key, one in told.items() if not key.startswith("pad_token")}))


OPTIONS = {"short": SHORT, "penalty": {**SHORT, "repetition_penalty": 3.0}}
if IS_5:  # with 4 the pipeline's own max_new_tokens, 256, goes before max_length
    OPTIONS["max_length"] = {"max_length": 24, "do_sample": False, "return_full_text": False}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("padding", [True, False], ids=["padding token", "none"])
def test_a_text_goes_on_as_alone(decided: Path, padding: bool, options: dict[str, Any]) -> None:
    if not padding:
        without_padding(decided)
    alone, together = alone_and_together(load(settings_for(decided, task="text-generation", **TOGETHER)), **options)
    own = pipeline("text-generation", decided)
    assert alone == [own(one, **options)[0] for one in SAID]
    assert together == alone


def test_texts_are_generated_together_where_padding_does_not_count(models: dict[str, Path]) -> None:
    own = pipeline("text-generation", models["text-generation"])
    assert Together("text-generation", own, 8).rows(Arguments([Column(SAID)], {}, SHORT)) == 8
    assert own.tokenizer.padding_side == "left"


def test_features_have_the_shape_that_they_have_alone(models: dict[str, Path]) -> None:
    model = load(settings_for(models["feature-extraction"], task="feature-extraction", **TOGETHER))
    alone, together = alone_and_together(model)
    assert [np.shape(one) for one in together] == [np.shape(one) for one in alone]
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(alone, together))


@pytest.mark.parametrize("task", ["text-to-audio", "text-to-speech"])
def test_speech_is_as_long_as_alone(tmp_path: Path, task: str) -> None:
    torch.manual_seed(0)
    MAKERS["text-to-audio"](tmp_path / "m")
    alone, together = alone_and_together(load(settings_for(tmp_path / "m", task=task, **TOGETHER)))
    assert [np.shape(one["audio"]) for one in together] == [np.shape(one["audio"]) for one in alone]
    assert len({np.shape(one["audio"]) for one in alone}) > 1
