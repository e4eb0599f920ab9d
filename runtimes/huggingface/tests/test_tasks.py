"""Every kind of pipeline passes the conformance suite, and answers as the pipeline itself does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.testing import check_runtime
from mlserve.types import InferenceRequest
from runtimes.huggingface.tests.asking import (
    GREEDY,
    IS_5,
    PICTURE,
    SOUND,
    ask,
    base64_png,
    load,
    pipeline,
    plain,
    request,
    rows,
    settings_for,
    tensor,
    texts,
)

TEXT = "the red fox runs"
# task: the request, and what the pipeline itself is given
CASES: dict[str, tuple[InferenceRequest, tuple[Any, ...], dict[str, Any]]] = {
    "text-generation": (texts(TEXT, **GREEDY), (TEXT,), GREEDY),
    "text-classification": (texts(TEXT), (TEXT,), {}),
    "zero-shot-classification": (
        request(tensor("sequences", [TEXT]), tensor("candidate_labels", ["animal", "thing"])),
        (TEXT,),
        {"candidate_labels": ["animal", "thing"]},
    ),
    "token-classification": (texts(TEXT), (TEXT,), {}),
    "fill-mask": (texts("the [MASK] fox", name="inputs"), ("the [MASK] fox",), {}),
    "feature-extraction": (texts("fox"), ("fox",), {}),
    "image-classification": (request(tensor("inputs", [base64_png()], "pillow_image")), (PICTURE,), {}),
    "object-detection": (
        request(tensor("images", [base64_png()]), tensor("threshold", [0.0])),
        (PICTURE,),
        {"threshold": 0.0},
    ),
    "audio-classification": (request(tensor("inputs", SOUND)), (SOUND,), {}),
    "automatic-speech-recognition": (request(tensor("args", SOUND, "np")), (SOUND,), {}),
}
if not IS_5:
    CASES["question-answering"] = (
        request(tensor("question", ["what is my name ?"]), tensor("context", ["my name is mary"])),
        (),
        {"question": "what is my name ?", "context": "my name is mary"},
    )
    CASES["text2text-generation"] = (texts(TEXT, max_new_tokens=5), (TEXT,), {"max_new_tokens": 5})
    CASES["summarization"] = (texts(TEXT, max_new_tokens=5), (TEXT,), {"max_new_tokens": 5})
    CASES["translation_en_to_de"] = (texts(TEXT, max_new_tokens=5), (TEXT,), {"max_new_tokens": 5})
FOLDERS = {"summarization": "text2text-generation", "translation_en_to_de": "text2text-generation"}


@pytest.mark.parametrize("task", CASES)
def test_it_answers_as_the_pipeline_does(models: dict[str, Path], task: str) -> None:
    asked, values, named = CASES[task]
    folder = models[FOLDERS.get(task, task)]
    (answer,) = check_runtime(settings_for(folder, task=task), asked)
    wanted = plain(pipeline(task, folder)(*values, **named))
    assert rows(answer) == (wanted if isinstance(wanted, list) else [wanted])


@pytest.mark.parametrize("task", CASES)
def test_with_batching_each_row_has_one_result(models: dict[str, Path], task: str) -> None:
    asked, values, named = CASES[task]
    folder = models[FOLDERS.get(task, task)]
    settings = settings_for(folder, task=task, max_batch_size=8, max_batch_time=0.01)
    (answer,) = check_runtime(settings, asked)
    wanted = plain(pipeline(task, folder)(*values, **named))
    assert rows(answer) == [wanted[0] if isinstance(wanted, list) and len(wanted) == 1 else wanted]


def test_several_texts_have_one_result_each(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-classification"]))
    own = pipeline("text-classification", models["text-classification"])
    several = [TEXT, "my name is mary .", "the old cat"]
    for name in ("args", "array_inputs", "inputs"):
        assert ask(model, texts(*several, name=name)) == plain(own(several))


def test_array_inputs_are_a_list_even_alone(models: dict[str, Path]) -> None:
    model = load(settings_for(models["text-generation"]))
    (listed,) = ask(model, texts(TEXT, name="array_inputs", **GREEDY))
    (alone,) = ask(model, texts(TEXT, **GREEDY))
    assert listed == [alone]  # as MLServer has it


def test_batch_size_is_handed_to_the_pipeline(models: dict[str, Path]) -> None:
    folder = models["text-classification"]
    model = load(settings_for(folder, batch_size=2))
    several = [TEXT, "my name", "the old cat runs over the river ."]
    found = ask(model, texts(*several))
    wanted = plain(pipeline("text-classification", folder)(several))
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    assert np.allclose([one["score"] for one in found], [one["score"] for one in wanted], atol=1e-6)
