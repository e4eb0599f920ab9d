"""Whatever a processor makes of masks that are scaled one by one, is what it makes of them all at once, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import ImageSegmentationPipeline
from transformers.utils import ModelOutput

from mlserve.errors import InferenceError
from mlserve_huggingface import one_by_one
from mlserve_huggingface.codecs.text import png_text
from mlserve_huggingface.dense import Segmentation
from mlserve_huggingface.one_by_one import OneByOne
from runtimes.huggingface.tests.asking import IS_5

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers
LABELS, OBJECTS = 7, 9
SIZE = (501, 397)
FIRST = OBJECTS * 384**2  # Mask2Former scales all its masks to this size first
LENIENT = {"threshold": 0.01, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.1}
GENERATOR = torch.Generator().manual_seed(1)


def random(*shape: int, scale: float = 3.0) -> Any:
    return torch.randn(*shape, generator=GENERATOR) * scale


def of_labels() -> dict[str, Any]:
    return {"logits": random(1, LABELS, 24, 31)}


def of_objects() -> dict[str, Any]:
    return {
        "class_queries_logits": random(1, OBJECTS, LABELS + 1),
        "masks_queries_logits": random(1, OBJECTS, 24, 31),
    }


def of_detr() -> dict[str, Any]:
    return {"logits": random(1, OBJECTS, LABELS + 1), "pred_masks": random(1, OBJECTS, 24, 31)}


def oneformer(folder: Path) -> Any:
    things = {str(label): {"name": f"thing {label}", "isthing": label % 2} for label in range(LABELS)}
    (folder / "things.json").write_text(json.dumps(things))
    return transformers.OneFormerImageProcessor(class_info_file="things.json", repo_path=str(folder))


FAMILIES: dict[str, tuple[Callable[[Path], Any], Callable[[], dict[str, Any]]]] = {
    "beit": (lambda folder: transformers.BeitImageProcessor(), of_labels),
    "detr": (lambda folder: transformers.DetrImageProcessor(), of_detr),
    "dpt": (lambda folder: transformers.DPTImageProcessor(), of_labels),
    "mask2former": (lambda folder: transformers.Mask2FormerImageProcessor(), of_objects),
    "maskformer": (lambda folder: transformers.MaskFormerImageProcessor(), of_objects),
    "mobilenet_v2": (lambda folder: transformers.MobileNetV2ImageProcessor(), of_labels),
    "mobilevit": (lambda folder: transformers.MobileViTImageProcessor(), of_labels),
    "oneformer": (oneformer, of_objects),
    "segformer": (lambda folder: transformers.SegformerImageProcessor(), of_labels),
}


def pipe(kind: Any, processor: Any) -> Any:
    made = kind.__new__(kind)
    made.image_processor = processor
    made.model = SimpleNamespace(config=SimpleNamespace(id2label={label: f"label {label}" for label in range(LABELS)}))
    return made


def altered(outputs: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "half":
        return {name: one.to(torch.bfloat16) for name, one in outputs.items()}
    if how == "ties":
        return {name: one.round() for name, one in outputs.items()}
    for one in outputs.values():
        if how in ("nan", "inf") and one.ndim == 4:
            one[0, 2, 3:9, 3:9] = float(how)
            one[0, 4, 5:12, 5:12] = float(how)
            one[0, :, 20:, :] = -float("inf")
    return outputs


@pytest.mark.parametrize("how", ["plain", "half", "ties", "nan", "inf"])
@pytest.mark.parametrize("subtask", ["semantic", "instance", "panoptic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_transformers(
    family: str, subtask: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, outputs_of = FAMILIES[family]
    processor = make(tmp_path)
    if not hasattr(processor, f"post_process_{subtask}_segmentation"):
        assert outputs_of is of_labels or family == "detr"
        return
    if family == "oneformer" and subtask != "semantic" and IS_5:
        return  # which needs torchvision for it
    GENERATOR.manual_seed(1)
    outputs = altered(outputs_of(), how)

    def found(kind: Any) -> Any:
        made = ModelOutput({name: one.clone() for name, one in outputs.items()})
        made["target_size"] = [SIZE]
        return pipe(kind, processor).postprocess(made, subtask=subtask, **LENIENT)

    wanted = [{**one, "mask": png_text(one["mask"])} for one in found(ImageSegmentationPipeline)]
    monkeypatch.setattr(one_by_one, "_BLOCK", 3 * SIZE[0] * SIZE[1])
    monkeypatch.setattr(one_by_one, "_MOST", FIRST)
    assert LABELS * SIZE[0] * SIZE[1] > FIRST  # no room for the whole
    assert found(Segmentation) == wanted
    assert wanted or how != "plain"


def test_what_cannot_be_taken_apart_is_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = torch.nn.functional.interpolate
    values, how = random(1, LABELS, 8, 8), {"size": SIZE, "mode": "bilinear", "align_corners": False}
    layers_last = values.to(memory_format=torch.channels_last)
    weights = random(LABELS, 1, 1)
    monkeypatch.setattr(one_by_one, "_BLOCK", 1)
    with OneByOne():
        scaled, picture = scale(values, **how), scale(values, **how)[0]
        assert torch.equal(scaled.argmax(1), scale(values, **how)._whole().argmax(1))
        assert scaled.shape == (1, LABELS, *SIZE)
        picture *= weights
        assert torch.equal(picture.sigmoid()[2], torch.sigmoid(picture)[2])
        assert torch.equal(torch.stack([scale(values, **how)[0]])[0], scaled[0:1][0])
        last = scale(layers_last, **how)[0].argmax(0)
    assert torch.equal(picture[2], (scale(values, **how)[0] * weights)[2])
    assert torch.equal(last, scale(layers_last, **how)[0].argmax(0))


def test_a_whole_that_there_is_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_by_one, "_BLOCK", 1)
    monkeypatch.setattr(one_by_one, "_MOST", 1_000_000)
    with OneByOne(), pytest.raises(InferenceError) as refused:
        torch.nn.functional.interpolate(random(1, LABELS, 8, 8), size=(1000, 2000), mode="bilinear").sigmoid()
    assert "7 masks of 2000 x 1000 pixels all at once" in str(refused.value)
    assert "smaller, 534 x 267 at most" in str(refused.value)
