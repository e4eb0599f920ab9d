"""What keeps a pipeline from being made is told at load, with what to do about it."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForDocumentQuestionAnswering

from mlserve.errors import InferenceError, ModelLoadError
from runtimes.huggingface.tests.asking import IS_5, SOUND, ask, load, request, settings_for, tensor
from runtimes.huggingface.tests.tiny_models import word_pieces

_OTHER = "4.57.6" if IS_5 else "5.24.0"


def changed(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(settings: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(settings)
    return str(caught.value)


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path) -> Any:
    return lambda task: Path(shutil.copytree(models[task], tmp_path / task))


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these packages were not installed, whether they are or not."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in packages else find(name, *more)
    )


@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_a_folder_that_another_transformers_saved_is_told_if_it_cannot_be_read(copy: Any, task: str) -> None:
    folder = copy(task)
    changed(folder, "config.json", transformers_version=_OTHER)
    load(settings_for(folder, task=task))  # it can, mostly
    changed(folder, "tokenizer_config.json", tokenizer_class="TokenizersBackendOfTomorrow", auto_map=None)
    (folder / "tokenizer.json").unlink()
    told = refusal(settings_for(folder, task=task))
    assert f"the files in {folder} were saved by transformers {_OTHER}, and {transformers.__version__} is" in told
    assert f"'transformers>={_OTHER[0]},<{int(_OTHER[0]) + 1}' (parameters.environment_path)" in told
    changed(folder, "config.json", transformers_version=transformers.__version__)
    assert "saved by transformers" not in refusal(settings_for(folder, task=task))


def test_a_package_that_every_request_needs_is_told_at_load(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "torchvision")
    told = refusal(settings_for(models["image-classification"], task="mask-generation"))
    assert "the task 'mask-generation' needs torchvision: pip install torchvision, in the server's" in told


def test_a_package_that_transformers_misses_is_told_with_its_pip_line(tmp_path: Path) -> None:
    assert importlib.util.find_spec("timm") is None  # nothing here needs it
    config = {"model_type": "detr", "use_timm_backbone": True, "backbone": "resnet50", "use_pretrained_backbone": False}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["DetrForObjectDetection"], **config}))
    torch.save({}, tmp_path / "pytorch_model.bin")
    told = refusal(settings_for(tmp_path))
    assert "no pipeline for 'object-detection' can be made" in told
    assert "a package is missing: pip install timm, in the server's environment" in told


def test_a_package_that_one_request_needs_is_told_in_its_answer(models: dict[str, Path]) -> None:
    assert importlib.util.find_spec("torchaudio") is None
    model = load(settings_for(models["automatic-speech-recognition"]))
    with pytest.raises(InferenceError, match="cannot use this request: torchaudio is required to resample"):
        ask(model, request(tensor("args", SOUND, "np"), sampling_rate=8000))
    assert ask(model, request(tensor("args", SOUND, "np"), sampling_rate=16000))


def test_what_a_model_will_do_without_is_told_in_the_log(
    copy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "mlserve.huggingface")
    speech = copy("automatic-speech-recognition")
    load(settings_for(speech))
    assert caplog.messages == []
    changed(speech, "preprocessor_config.json", processor_class="Wav2Vec2ProcessorWithLM")
    load(settings_for(speech))
    assert "without its language model, which needs pip install pyctcdecode kenlm" in caplog.messages.pop()
    caplog.clear()
    without(monkeypatch, "pytesseract")
    load(settings_for(_layout(tmp_path / "layout"), task="document-question-answering"))
    assert "'word_boxes', for it cannot find them without Tesseract and pip install pytesseract" in caplog.messages[0]


def _layout(folder: Path) -> Path:
    tokenizer = word_pieces()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = AutoConfig.for_model("layoutlm", vocab_size=len(tokenizer), **sizes)
    AutoModelForDocumentQuestionAnswering.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
