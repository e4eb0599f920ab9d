"""Every task and architecture that computes several rows at once gives each row the answer that it has alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image

from mlserve.merging import merge
from mlserve.types import InferenceRequest
from mlserve_huggingface.inputs import Arguments
from mlserve_huggingface.together import TASKS
from runtimes.huggingface.tests.asking import IS_5, ask, base64_png, load, request, rows, settings_for, tensor
from runtimes.huggingface.tests.tiny_architectures import make

pytestmark = pytest.mark.filterwarnings(  # of transformers
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Support for mismatched"
)

SAID = ["the fox", "the red dog runs over the hill", "a cat .", "the small bear runs over the old river"]
LENGTHS = [4000, 9000, 2500]
GREEDY = {"max_new_tokens": 6, "do_sample": False}
_GONE = {"summarization", "text2text-generation", "translation"} if IS_5 else set()
KNOWN = [(task, kind) for task, known in TASKS.items() if task not in _GONE for kind in sorted(known.models)]
OPTIONS: dict[str, dict[str, Any]] = {
    "object-detection": {"threshold": 0.0},
    "summarization": GREEDY,
    "text-generation": {**GREEDY, "return_full_text": False},
    "text2text-generation": GREEDY,
    "translation": GREEDY,
}
LABELS = {"zero-shot-classification": ["a hill", "my name"], "zero-shot-image-classification": ["a hill", "my name"]}


def asked(task: str, **options: Any) -> list[InferenceRequest]:
    """Requests of unlike lengths, where the task has lengths."""
    options = {**OPTIONS.get(task, {}), **options}
    more = [tensor("candidate_labels", LABELS[task])] if task in LABELS else []
    if task == "question-answering":
        columns = [[tensor("question", ["where is the fox ?"]), tensor("context", [one])] for one in SAID]
        return [request(*one, **options) for one in columns]
    if task == "audio-classification":
        sounds = [np.sin(np.arange(length) / (20 + at)).astype("float32") for at, length in enumerate(LENGTHS)]
        told = [json.dumps({"raw": one.tolist(), "sampling_rate": 16000}) for one in sounds]
        return [request(tensor("inputs", [one], "hg_json"), **options) for one in told]
    if "image" in task or task in ("depth-estimation", "object-detection"):
        pictures = [picture(seed) for seed in range(3)]
        return [request(tensor("inputs", [base64_png(one)]), *more, **options) for one in pictures]
    said = [f"{one} [MASK]" for one in SAID] if task == "fill-mask" else SAID
    return [request(tensor("args", [one]), *more, **options) for one in said]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3)).astype("uint8"))


def is_close(found: Any, wanted: Any) -> bool:
    """Alike but for the last digits of numbers."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(is_close(found[key], one) for key, one in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(is_close, found, wanted))
    return bool(found == pytest.approx(wanted, rel=1e-4, abs=1e-5)) if isinstance(wanted, float) else found == wanted


def sizes_of(model: Any) -> list[int]:
    """How many rows each call of the model's pipeline may compute at once, as they come."""
    sizes: list[int] = []
    call = model._caller._call

    def noted(job: Any, arguments: Arguments, **more: Any) -> Any:
        sizes.append(more.get("batch_size", 1))
        return call(job, arguments, **more)

    model._caller._call = noted
    return sizes


@pytest.mark.parametrize(("task", "kind"), KNOWN, ids=lambda value: str(value))
def test_rows_that_run_together_have_the_answers_that_they_have_alone(tmp_path: Path, task: str, kind: str) -> None:
    model = load(settings_for(make(tmp_path / "m", task, kind), task=task, max_batch_size=8, max_batch_time=0.05))
    requests = asked(task)
    alone = [ask(model, one)[0] for one in requests]
    sizes = sizes_of(model)
    together = rows(anyio.run(model.predict, merge(requests)))
    assert sizes == [8], "computed at once"
    assert is_close(together, alone)
    anyio.run(model.unload)


OPTIONS_OF: dict[str, list[dict[str, Any]]] = {
    "audio-classification": [{"top_k": 2, "function_to_apply": "sigmoid"}],
    "fill-mask": [{"top_k": 2}],
    "image-classification": [{"top_k": 1, "function_to_apply": "none"}],
    "image-segmentation": [{"subtask": "semantic", "threshold": 0.5}],
    "object-detection": [{"threshold": 0.3}],
    "question-answering": [{"top_k": 3, "handle_impossible_answer": True}, {"max_seq_len": 16, "doc_stride": 2}],
    "text-classification": [{"top_k": 2}, {"truncation": True, "max_length": 5}, {"function_to_apply": "sigmoid"}],
    "text-generation": [
        {"max_new_tokens": 4, "min_new_tokens": 4},
        {"max_new_tokens": 4, "do_sample": True, "top_k": 1, "num_return_sequences": 2},
        {"temperature": 0.01, "top_p": 0.001, "do_sample": True},
        {"min_p": 1.0, "typical_p": 0.9, "do_sample": True, "clean_up_tokenization_spaces": True},
    ],
    "text2text-generation": [
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 2},
        {"max_length": 9, "min_length": 5, "max_new_tokens": None},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 3.0},
        {"truncation": True},
    ],
    "token-classification": [{"aggregation_strategy": "max"}],
    "zero-shot-classification": [{"multi_label": True, "hypothesis_template": "it is {}"}],
}  # fmt: skip
_FIRST = dict(reversed(KNOWN)) | ({} if IS_5 else {"text2text-generation": "t5"})
TRIED = [(task, options) for task, each in OPTIONS_OF.items() if task not in _GONE for options in each]


@pytest.mark.parametrize(
    ("task", "options"), TRIED, ids=lambda value: value if isinstance(value, str) else ",".join(value)
)
def test_an_option_on_the_list_is_the_same_together(tmp_path: Path, task: str, options: dict[str, Any]) -> None:
    model = load(
        settings_for(make(tmp_path / "m", task, _FIRST[task]), task=task, max_batch_size=8, max_batch_time=0.05)
    )
    requests = asked(task, **options)
    alone = [ask(model, one)[0] for one in requests]
    sizes = sizes_of(model)
    assert is_close(rows(anyio.run(model.predict, merge(requests))), alone)
    assert sizes == [8], "computed at once"
