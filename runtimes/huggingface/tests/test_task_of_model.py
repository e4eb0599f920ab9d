"""Which task a saved model is taken for, by the class that its config.json names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlserve.errors import ModelLoadError
from mlserve_huggingface.task_of_model import _OF_ANY_MODEL, _classes_by_task, tasks_of_model
from mlserve_huggingface.tasks import resolve_task
from runtimes.huggingface.tests.asking import IS_5

TASK = {
    "AlignModel": "zero-shot-image-classification",
    "BarkModel": "text-to-audio",
    "BartForSequenceClassification": "text-classification",
    "BertForMaskedLM": "fill-mask",
    "BertForQuestionAnswering": "question-answering",
    "BertForSequenceClassification": "text-classification",
    "BertForTokenClassification": "token-classification",
    "BertLMHeadModel": "text-generation",
    "BertModel": "feature-extraction",
    "CLIPForImageClassification": "image-classification",
    "CLIPModel": "zero-shot-image-classification",
    "ClapModel": "zero-shot-audio-classification",
    "DetrForSegmentation": "image-segmentation",
    "Dinov2Model": "image-feature-extraction",
    "GLPNForDepthEstimation": "depth-estimation",
    "GPT2LMHeadModel": "text-generation",
    "Gemma3ForConditionalGeneration": "image-text-to-text",
    "LayoutLMForQuestionAnswering": "document-question-answering",
    "LayoutLMv3ForQuestionAnswering": "document-question-answering",
    "Mask2FormerForUniversalSegmentation": "image-segmentation",
    "MusicgenForConditionalGeneration": "text-to-audio",
    "OwlViTForObjectDetection": "zero-shot-object-detection",
    "SamModel": "mask-generation",
    "SegformerForSemanticSegmentation": "image-segmentation",
    "SpeechT5ForTextToSpeech": "text-to-audio",
    "SuperGlueForKeypointMatching": "keypoint-matching",
    "TapasForQuestionAnswering": "table-question-answering",
    "ViTForImageClassification": "image-classification",
    "ViTModel": "image-feature-extraction",
    "VideoMAEForVideoClassification": "video-classification",
    "VitsModel": "text-to-audio",
    "Wav2Vec2ForCTC": "automatic-speech-recognition",
    "Wav2Vec2ForSequenceClassification": "audio-classification",
    "WhisperForConditionalGeneration": "automatic-speech-recognition",
    "YolosForObjectDetection": "object-detection",
}
# Served with transformers 4 only.
GONE = {
    "BartForConditionalGeneration": "text2text-generation",
    "BlipForQuestionAnswering": "visual-question-answering",
    "MarianMTModel": "text2text-generation",
    "Swin2SRForImageSuperResolution": "image-to-image",
    "T5ForConditionalGeneration": "text2text-generation",
    "ViltForQuestionAnswering": "visual-question-answering",
}
# Classes of which even their authors' models are for one task or the other.
OPEN = {"VibeVoiceForConditionalGeneration", "XLMWithLMHeadModel"}


def folder_of(folder: Path, *classes: str) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": list(classes)}))
    return folder


@pytest.mark.parametrize("name", TASK)
def test_a_class_has_the_task_that_it_is_published_for(tmp_path: Path, name: str) -> None:
    assert resolve_task("", str(folder_of(tmp_path, name)), "m") == TASK[name]


@pytest.mark.parametrize("name", GONE)
def test_a_class_whose_task_is_gone_says_so(tmp_path: Path, name: str) -> None:
    folder = str(folder_of(tmp_path, name))
    if not IS_5:
        assert resolve_task("", folder, "m") == GONE[name]
        return
    with pytest.raises(ModelLoadError, match=f"'{GONE[name]}' is gone from transformers 5"):
        resolve_task("", folder, "m")


@pytest.mark.parametrize(
    "name", ["BlipForConditionalGeneration", "LlavaForConditionalGeneration", "VisionEncoderDecoderModel"]
)
def test_pictures_are_told_in_a_chat_where_there_is_a_template_for_it(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, name)
    assert resolve_task("", str(folder), "m") == ("image-text-to-text" if IS_5 else "image-to-text")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert resolve_task("", str(folder), "m") == "image-text-to-text"


def test_a_class_for_several_tasks_is_refused_with_their_names(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        resolve_task("", str(folder_of(tmp_path, "XLMWithLMHeadModel")), "m")
    assert "a XLMWithLMHeadModel (config.json) can serve several: fill-mask, text-generation; set one" in str(
        caught.value
    )
    with pytest.raises(ModelLoadError, match="several: feature-extraction, image-feature-extraction, zero-shot-audio"):
        resolve_task("", str(folder_of(tmp_path, "Wav2Vec2Model")), "m")
    assert resolve_task("fill-mask", str(tmp_path), "m") == "fill-mask"


def test_a_class_that_no_pipeline_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="transformers has no task for a SuperPointForKeypointDetection"):
        resolve_task("", str(folder_of(tmp_path, "SuperPointForKeypointDetection")), "m")
    with pytest.raises(ModelLoadError, match="the model does not tell it"):
        resolve_task("", str(folder_of(tmp_path)), "m")


def test_of_all_classes_that_transformers_has_only_a_few_are_left_open(tmp_path: Path) -> None:
    table = _classes_by_task()
    names = set().union(*(known for task, known in table.items() if task not in _OF_ANY_MODEL))
    found = {name: tasks_of_model(folder_of(tmp_path, name)) for name in names}
    assert len(found) > 500 and all(name == told[0] and told[1] for name, told in found.items())
    assert {name for name, (_, tasks) in found.items() if len(tasks) > 1} <= OPEN
