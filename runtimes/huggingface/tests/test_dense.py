"""Masks of a picture's own size: labels are computed one by one, and more pixels than there is room for are refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import ImageSegmentationPipeline

from mlserve_huggingface import dense
from mlserve_huggingface.dense import Segmentation
from runtimes.huggingface.tests.asking import ask, base64_png, load, pipeline, plain, request, settings_for, tensor
from runtimes.huggingface.tests.media_cases import picture
from runtimes.huggingface.tests.test_limits import refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers
LARGE = picture(3).resize((700, 500))


@pytest.fixture(scope="module")
def labelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer of three labels whose map of them has many borders."""
    folder = tmp_path_factory.mktemp("dense") / "segformer"
    MAKERS["image-segmentation"](folder)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        torch.nn.init.normal_(model.decode_head.classifier.weight, std=50)
        model.decode_head.classifier.bias.zero_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MaskFormer that looks for eight objects."""
    folder = tmp_path_factory.mktemp("dense") / "maskformer"
    swin = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    detr = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=8,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=swin, decoder_config=detr, fpn_feature_size=32, mask_feature_size=32, num_labels=3
    )
    torch.manual_seed(0)
    transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    transformers.MaskFormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_labels_one_by_one_give_the_same_masks(labelling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = pipeline("image-segmentation", labelling)
    wanted = plain(own(LARGE))
    assert len(wanted) > 1
    monkeypatch.setattr(dense, "_BLOCK", 1)
    model = load(settings_for(labelling, task="image-segmentation"))
    monkeypatch.setattr(ImageSegmentationPipeline, "postprocess", None)  # it would scale all labels at once
    assert ask(model, request(tensor("args", [base64_png(LARGE)]))) == wanted


def test_a_small_picture_is_transformers_own_matter(labelling: Path) -> None:
    model = load(settings_for(labelling, task="image-segmentation"))
    wanted = plain(pipeline("image-segmentation", labelling)(picture(2)))
    assert ask(model, request(tensor("args", [base64_png(picture(2))]))) == wanted


def test_labels_scaled_one_by_one_are_those_of_all_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.randn(1, 19, 24, 31, generator=generator).to(dtype)
        for size in ((301, 257), (20, 400)):
            scaled = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            assert torch.equal(dense._label_map(logits, size).long(), scaled[0].argmax(0))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"threshold": 0.0}, "8 masks of 700 x 500 pixels each are 2800000 pixels"),
        ({"subtask": "instance"}, "8 masks of 700 x 500"),
        ({"subtask": "semantic"}, "3 masks of 700 x 500"),
    ],
)
def test_more_masks_than_there_is_room_for_are_refused(finding: Path, options: dict[str, Any], told: str) -> None:
    model = load(settings_for(finding, task="image-segmentation", max_mask_pixels=1_000_000))
    asked = tensor("args", [base64_png(LARGE)])
    words = refusal(model, asked, **options)
    assert told in words and "at most 1000000 for one picture (parameters.extra.max_mask_pixels)" in words
    assert ("raise 'threshold'" in words) == ("threshold" in options)
    small = tensor("args", [base64_png(LARGE.resize((350, 250)))])
    wanted = plain(pipeline("image-segmentation", finding)(LARGE.resize((350, 250)), **options))
    assert ask(model, request(small, **options)) == wanted


def test_what_was_not_found_takes_no_room(finding: Path) -> None:
    model = load(settings_for(finding, task="image-segmentation", max_mask_pixels=1))
    assert ask(model, request(tensor("args", [base64_png(LARGE)]), threshold=1.0)) == []


def test_masks_are_kept_as_files(labelling: Path) -> None:
    own = pipeline("image-segmentation", labelling)
    kept = Segmentation(model=own.model, image_processor=own.image_processor, max_mask_pixels=10**9)(LARGE)
    sizes = {Image.open(io.BytesIO(base64.b64decode(one["mask"]))).size for one in kept}
    assert sizes == {LARGE.size}
