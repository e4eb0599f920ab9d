"""Models of TensorFlow, with transformers 4: the answers are those of transformers' own pipelines on TensorFlow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
import tensorflow
import transformers

from mlserve.errors import InferenceError, ModelLoadError
from mlserve.types import InferenceRequest
from mlserve_huggingface import HuggingFaceRuntime
from mlserve_huggingface.work import Job, Stopped
from runtimes.huggingface.tests.asking import (
    GREEDY,
    PICTURE,
    ask,
    base64_png,
    load,
    plain,
    request,
    settings_for,
    streamed,
    tensor,
    texts,
)

CLASSES = {
    "feature-extraction": transformers.TFAutoModel,
    "fill-mask": transformers.TFAutoModelForMaskedLM,
    "image-classification": transformers.TFAutoModelForImageClassification,
    "question-answering": transformers.TFAutoModelForQuestionAnswering,
    "text-classification": transformers.TFAutoModelForSequenceClassification,
    "text-generation": transformers.TFAutoModelForCausalLM,
    "text2text-generation": transformers.TFAutoModelForSeq2SeqLM,
    "token-classification": transformers.TFAutoModelForTokenClassification,
    "zero-shot-classification": transformers.TFAutoModelForSequenceClassification,
}
TEXT, OTHER = "the red fox runs", "my name is mary and"


@pytest.fixture(scope="module")
def folders(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models as TensorFlow's `save_pretrained` writes them."""
    made = tmp_path_factory.mktemp("tensorflow")
    for task, auto in CLASSES.items():
        auto.from_pretrained(models[task], from_pt=True).save_pretrained(made / task)
        kind = transformers.AutoImageProcessor if task == "image-classification" else transformers.AutoTokenizer
        kind.from_pretrained(models[task]).save_pretrained(made / task)
        assert (made / task / "tf_model.h5").is_file() and not (made / task / "model.safetensors").exists()
    return {task: made / task for task in CLASSES}


def served(folder: Path, **extra: Any) -> HuggingFaceRuntime:
    return load(settings_for(folder, **{"task": folder.name, "framework": "tf", **extra}))


def own(folder: Path) -> Any:
    return transformers.pipeline(folder.name, model=str(folder), framework="tf", device=-1, dtype=None)


def case(asked: InferenceRequest, *arguments: Any, **options: Any) -> Any:
    return asked, arguments, options


CASES = {
    "feature-extraction": case(texts(TEXT), TEXT),
    "fill-mask": case(texts("the [MASK] fox", top_k=3), "the [MASK] fox", top_k=3),
    "image-classification": case(request(tensor("images", [base64_png()])), PICTURE),
    "question-answering": case(
        request(tensor("question", ["who runs ?"]), tensor("context", [TEXT])), question="who runs ?", context=TEXT
    ),
    "text-classification": case(texts(TEXT, top_k=2), TEXT, top_k=2),
    "text-generation": case(texts(TEXT, **GREEDY), TEXT, **GREEDY),
    "text2text-generation": case(texts(TEXT, num_beams=2, max_new_tokens=8), TEXT, num_beams=2, max_new_tokens=8),
    "token-classification": case(texts(TEXT), TEXT),
    "zero-shot-classification": case(
        request(tensor("sequences", [TEXT]), tensor("candidate_labels", ["a fox", "a dog"])), TEXT, ["a fox", "a dog"]
    ),
}


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_answers_are_those_of_the_pipeline(folders: dict[str, Path], task: str) -> None:
    asked, arguments, options = CASES[task]
    wanted = plain(own(folders[task])(*arguments, **options))
    model = served(folders[task])
    assert isinstance(model._caller._pipeline.model, transformers.TFPreTrainedModel)
    assert ask(model, asked) == (wanted if isinstance(wanted, list) else [wanted])


@pytest.mark.parametrize(
    ("task", "options"), [("feature-extraction", {}), ("text-classification", {}), ("text-generation", GREEDY)]
)
def test_several_rows_are_those_of_each_alone(folders: dict[str, Path], task: str, options: dict[str, Any]) -> None:
    alone = own(folders[task])
    model = served(folders[task], max_batch_size=4, max_batch_time=1.0)
    (first,), (second,) = alone(TEXT, **options), alone(OTHER, **options)
    assert ask(model, texts(TEXT, OTHER, **options)) == [plain(first), plain(second)]


def test_features_are_bounded_and_may_be_asked_for_as_tensors(folders: dict[str, Path]) -> None:
    wanted = plain(own(folders["feature-extraction"])(TEXT))
    assert ask(served(folders["feature-extraction"]), texts(TEXT, return_tensors=True)) == [wanted]
    with pytest.raises(InferenceError, match="max_answer_numbers"):
        ask(served(folders["feature-extraction"], max_answer_numbers=50), texts(TEXT))


def test_a_stream_is_one_piece(folders: dict[str, Path]) -> None:
    (wanted,) = own(folders["text-generation"])(TEXT, return_full_text=False, **GREEDY)
    found = anyio.run(streamed, served(folders["text-generation"]), texts(TEXT, **GREEDY))
    assert found == [wanted["generated_text"]]


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_it_gives_way_after_each_token(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, task: str, options: dict[str, Any]
) -> None:
    model = served(folders[task])
    ways: list[Job] = []
    monkeypatch.setattr(Job, "give_way", lambda job: ways.append(job))
    ask(model, texts(TEXT, max_new_tokens=5, eos_token_id=-1, **options))
    assert len(ways) == 5


def test_a_generation_ends_when_its_caller_leaves(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = served(folders["text-generation"])
    checked: list[int] = []

    def left(job: Job) -> None:
        checked.append(len(checked))
        job.stopped = len(checked) > 3
        check(job)

    check = Job.check
    monkeypatch.setattr(Job, "check", left)
    with pytest.raises(Stopped):
        ask(model, texts(TEXT, max_new_tokens=50, eos_token_id=-1))
    assert checked == [0, 1, 2, 3]  # at its begin, and after each of three tokens


def test_texts_generated_at_once_are_as_alone(folders: dict[str, Path]) -> None:
    alone = own(folders["text-generation"])
    model = served(folders["text-generation"])
    prompts = [TEXT, OTHER, "the small dog", "what is"]
    found: dict[str, Any] = {}

    async def one(prompt: str) -> None:
        (found[prompt],) = (json.loads((await model.predict(texts(prompt, **GREEDY))).outputs[0].data[0]),)

    async def all_at_once() -> None:
        async with anyio.create_task_group() as group:
            for prompt in prompts:
                group.start_soon(one, prompt)

    anyio.run(all_at_once)
    assert found == {prompt: alone(prompt, **GREEDY)[0] for prompt in prompts}


@pytest.mark.parametrize(
    ("task", "text", "options", "words"),
    [
        (
            "text-generation",
            TEXT,
            {"min_p": 0.1},
            "'min_p' cannot be set by a request, for TensorFlow generates without",
        ),
        ("text-generation", TEXT, {"stop_strings": "x"}, "'stop_strings' cannot be set by a request, for TensorFlow"),
        ("text-generation", "fox " * 60, {"max_new_tokens": 20}, "longer than the model takes"),
        ("text-generation", "fox " * 200, {"max_new_tokens": 2}, "longer than the model takes"),
        ("text-classification", "fox " * 200, {}, "a text is longer than the model takes .it takes 64 tokens."),
        ("text-generation", TEXT, {"output_scores": True}, "'output_scores' cannot be set by a request"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told(
    folders: dict[str, Path], task: str, text: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InferenceError, match=words):
        ask(served(folders[task]), texts(text, **options))


def test_devices_are_numbers(folders: dict[str, Path]) -> None:
    folder = folders["text-classification"]
    for device in (-1, "-1", "cpu", None):
        assert served(folder, device=device)._caller._pipeline.device == -1
    assert not tensorflow.config.list_physical_devices("GPU")
    for device in (0, "0", "cuda:0"):
        with pytest.raises(ModelLoadError, match="-1 is the processor, and sees 0 accelerators"):
            served(folder, device=device)


def test_threads_are_bounded_as_far_as_they_can_be(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    served(folders["text-classification"])  # computes, and with that has its threads
    now = tensorflow.config.threading.get_intra_op_parallelism_threads()
    assert "threads have no effect" not in caplog.text
    served(folders["text-classification"], threads=now + 1)
    assert "threads have no effect: TensorFlow computes already" in caplog.text


@pytest.mark.parametrize("kind", ["safetensors", "bin", "TensorFlow's safetensors", "both"])
def test_weights_are_found(models: dict[str, Path], folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """transformers' own pipeline finds only the third kind."""
    tensorflows, pytorchs = folders["text-classification"], models["text-classification"]
    shutil.copytree(pytorchs, tmp_path, dirs_exist_ok=True)
    wanted = {"model.safetensors"}
    if kind == "both":
        shutil.copy(tensorflows / "tf_model.h5", tmp_path)
        wanted.add("tf_model.h5")
    elif kind != "safetensors":
        (tmp_path / "model.safetensors").unlink()
        is_bin = kind == "bin"
        auto = CLASSES["text-classification"] if not is_bin else transformers.AutoModelForSequenceClassification
        auto.from_pretrained(pytorchs if is_bin else tensorflows).save_pretrained(
            tmp_path, safe_serialization=not is_bin
        )
        wanted = {"pytorch_model.bin" if is_bin else "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir() if path.suffix in (".h5", ".bin", ".safetensors")} == wanted
    found = ask(served(tmp_path, task="text-classification"), texts(TEXT))
    assert found == ask(served(folders["text-classification"]), texts(TEXT))


def test_without_tensorflow_it_says_what_to_install(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "is_tf_available", lambda: False)
    with pytest.raises(ModelLoadError, match="framework 'tf' needs pip install tensorflow tf-keras"):
        served(folders["text-classification"])
