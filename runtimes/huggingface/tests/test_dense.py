"""Masks of a picture's own size: scaled one by one, they are those that transformers makes of all at once."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from mlserve_huggingface import dense, one_by_one
from mlserve_huggingface.dense import Segmentation
from mlserve_huggingface.work import Job, Stopped
from runtimes.huggingface.tests.asking import ask, base64_png, load, pipeline, plain, request, settings_for, tensor
from runtimes.huggingface.tests.media_cases import picture
from runtimes.huggingface.tests.test_limits import refusal
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers
LARGE = picture(3).resize((700, 500))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dense")
    return {"labelling": labelling(folder / "segformer"), "finding": finding(folder / "maskformer")}


def labelling(folder: Path) -> Path:
    """A SegFormer of three labels whose map of them has many borders."""
    torch.manual_seed(0)
    MAKERS["image-segmentation"](folder)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
    with torch.no_grad():
        torch.nn.init.normal_(model.decode_head.classifier.weight, std=50)
        model.decode_head.classifier.bias.zero_()
    model.save_pretrained(folder)
    return folder


def finding(folder: Path) -> Path:
    """A MaskFormer that looks for eight objects."""
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


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures are taken apart too, and there is no room for the whole."""
    monkeypatch.setattr(one_by_one, "_BLOCK", 200_000)
    monkeypatch.setattr(one_by_one, "_MOST", 0)


CASES = [
    ("labelling", {}),
    ("labelling", {"subtask": "semantic"}),
    ("finding", dict.fromkeys(("threshold", "mask_threshold", "overlap_mask_area_threshold"), 0.0)),
    ("finding", {"subtask": "semantic"}),
    ("finding", {"subtask": "instance", "threshold": 0.0}),
]


@pytest.mark.parametrize("name, options", CASES, ids=str)
@pytest.mark.parametrize("size", [(700, 500), (64, 64)], ids=["large", "small"])
def test_masks_are_those_of_transformers(
    folders: dict[str, Path], name: str, options: dict[str, Any], size: tuple[int, int], one_at_a_time: None
) -> None:
    own = pipeline("image-segmentation", folders[name])
    wanted = plain(own(LARGE.resize(size), **options))
    model = load(settings_for(folders[name], task="image-segmentation"))
    assert ask(model, request(tensor("args", [base64_png(LARGE.resize(size))]), **options)) == wanted
    assert wanted


def test_a_subtask_that_a_model_lacks_is_told(folders: dict[str, Path]) -> None:
    model = load(settings_for(folders["labelling"], task="image-segmentation"))
    assert "Subtask panoptic is not supported" in refusal(model, tensor("args", [base64_png()]), subtask="panoptic")


def test_nothing_found_is_an_empty_answer(folders: dict[str, Path], one_at_a_time: None) -> None:
    model = load(settings_for(folders["finding"], task="image-segmentation"))
    assert ask(model, request(tensor("args", [base64_png(LARGE)]), threshold=1.0)) == []


def test_masks_are_kept_as_files(folders: dict[str, Path]) -> None:
    own = pipeline("image-segmentation", folders["labelling"])
    kept = Segmentation(model=own.model, image_processor=own.image_processor)(LARGE)
    sizes = {Image.open(io.BytesIO(base64.b64decode(one["mask"]))).size for one in kept}
    assert sizes == {LARGE.size}


def test_channels_and_masks_give_way(folders: dict[str, Path], one_at_a_time: None) -> None:
    own = pipeline("image-segmentation", folders["labelling"])
    ours, calls = Segmentation(model=own.model, image_processor=own.image_processor), []
    found = ours(LARGE, between=lambda: calls.append(1))
    assert len(calls) == own.model.config.num_labels + len(found) and len(found) > 1


def test_another_call_comes_between_two_masks_and_none_is_made_when_the_client_has_left(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(settings_for(folders["labelling"], task="image-segmentation"))
    work, order, write = model._running(), [], dense.png_text
    asked = request(tensor("args", [base64_png(LARGE)]))

    def computed(mine: Job) -> Any:
        def leave(other: Job) -> None:
            order.append("other")
            mine.stop()

        def written(image: Any) -> str:
            order.append("mask")
            work.start(leave)
            while not work._turns._waiting:  # until it asks for its turn
                threading.Event().wait(0.001)
            return write(image)

        monkeypatch.setattr(dense, "png_text", written)
        return model._answer(asked, model._asked(asked), mine)

    _, future = work.start(computed)
    with pytest.raises(Stopped):
        future.result(60)
    assert order == ["mask", "other"]
