"""SAM's masks of a picture: those of transformers, in fewer points at once, and within a bound before they are made.

What transformers takes from torchvision, to leave out masks whose boxes are much alike, is written here: a torchvision
for processors alone is not to be had where packages come from PyPI.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import MaskGenerationPipeline
from transformers.pipelines import mask_generation

from mlserve.errors import InferenceError
from mlserve_huggingface import dense
from mlserve_huggingface.codecs.text import numbers_in
from mlserve_huggingface.dense import MaskGeneration
from mlserve_huggingface.limits import Limits
from runtimes.huggingface.tests.asking import IS_5
from runtimes.huggingface.tests.media_cases import picture

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers
SURE = {"pred_iou_thresh": -1e9, "stability_score_thresh": 0.0, "points_per_crop": 8, "crops_nms_thresh": 1.0}
PICTURE = picture(1).resize((60, 40))
POINTS = 8 * 8


def overlap(one: Any, others: Any) -> Any:
    """Of boxes: what they share, as part of what they cover together."""
    left, top = torch.maximum(one[:2], others[:, :2]).unbind(1)
    right, bottom = torch.minimum(one[2:], others[:, 2:]).unbind(1)
    shared = (right - left).clamp(0) * (bottom - top).clamp(0)
    areas = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (one, others)]
    return shared / (areas[0] + areas[1] - shared)


def most_certain(boxes: Any, scores: Any, most: float) -> list[int]:
    """Which boxes are left, the most certain first, when none overlaps more with one before it."""
    left: list[int] = []
    order = scores.argsort(descending=True, stable=True).tolist()
    while order:
        first, *rest = order
        left.append(first)
        order = [at for at, part in zip(rest, overlap(boxes[first], boxes[rest])) if part <= most]
    return left


BASE: Any = transformers.SamImageProcessorPil if IS_5 else transformers.SamImageProcessor


class Processor(BASE):
    """transformers' own, without torchvision."""

    def post_process_for_mask_generation(
        self, all_masks: list[Any], all_scores: Any, all_boxes: Any, crops_nms_thresh: float, *more: Any
    ) -> Any:
        left = most_certain(all_boxes.float(), all_scores, crops_nms_thresh)
        masks = [all_masks[at] for at in left]
        to_mask = sys.modules[BASE.__module__]._rle_to_mask
        return [to_mask(one) for one in masks], all_scores[left], masks, all_boxes[left]


@pytest.fixture(scope="module")
def make() -> Callable[..., Any]:
    """Makes a pipeline of one class for a tiny SAM."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2}
    config = transformers.SamConfig(
        vision_config={**sizes, "num_hidden_layers": 1, "output_channels": 16, "image_size": 64, "patch_size": 8,
                       "window_size": 4, "global_attn_indexes": [0], "mlp_dim": 16, "num_pos_feats": 8},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={**sizes, "mlp_dim": 16, "num_hidden_layers": 1, "iou_head_hidden_dim": 16},
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.SamModel(config).eval()
    square = {"height": 64, "width": 64}
    processor = Processor(size={"longest_edge": 64}, pad_size=square)
    return lambda kind, **more: kind(model=model, image_processor=processor, **more)


@pytest.fixture(autouse=True)
def _without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_generation, "requires_backends", lambda *_: None)


def at_once(pipeline: Any) -> list[int]:
    """How many points each call of the model gets."""
    counts: list[int] = []
    forward = pipeline.model.forward
    pipeline.model.forward = lambda *parts, **more: (
        counts.append(more["input_points"].shape[1]) or forward(*parts, **more)
    )
    return counts


@pytest.mark.parametrize("most", [10**9, 16 * 3 * 1024**2, 1], ids=["all", "16", "one"])
@pytest.mark.parametrize("more", [{}, {"points_per_batch": 10}, {"output_rle_mask": True, "output_bboxes_mask": True}])
def test_masks_are_those_of_transformers(
    make: Callable[..., Any], most: int, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "_AT_ONCE", most)
    ours = make(MaskGeneration, most_numbers=10**6)
    counts = at_once(ours)
    found = ours(PICTURE, **SURE, **more)
    del ours.model.forward
    wanted = make(MaskGenerationPipeline)(PICTURE, **SURE, **{**more, "points_per_batch": POINTS})
    fit = {10**9: POINTS, 16 * 3 * 1024**2: 16, 1: 1}[most]
    assert set(counts) == {min(fit, 8) if "points_per_batch" in more else fit}  # 64 points in full batches
    assert found.keys() == wanted.keys()
    assert len(found["masks"]) == len(wanted["masks"]) > 1
    alike = [(one == other).mean() for one, other in zip(found["masks"], wanted["masks"])]
    assert min(alike) > 0.99  # other sums round otherwise
    assert torch.allclose(found["scores"], wanted["scores"], atol=1e-5)


def test_an_answer_of_too_many_masks_is_refused_before_they_are_made(make: Callable[..., Any]) -> None:
    found = make(MaskGeneration, most_numbers=10**6)(PICTURE, **SURE)
    numbers = len(found["masks"]) * 60 * 40 // 3
    lengths = make(MaskGeneration, most_numbers=10**6)(PICTURE, **SURE, output_rle_mask=True)["rle_mask"]
    kept = sum(len(one["counts"]) for one in lengths)
    assert kept < numbers == numbers_in(found["masks"])
    assert len(make(MaskGeneration, most_numbers=numbers)(PICTURE, **SURE)["masks"]) == len(found["masks"])
    with pytest.raises(InferenceError) as refused:
        make(MaskGeneration, most_numbers=numbers - 1)(PICTURE, **SURE)
    assert f"{len(found['masks'])} masks of 60 x 40 pixels" in str(refused.value)
    assert f"would count as {numbers} numbers" in str(refused.value)


def test_the_search_stops_at_more_masks_than_can_be_kept(make: Callable[..., Any]) -> None:
    ours = make(MaskGeneration, most_numbers=100)
    counts = at_once(ours)
    with pytest.raises(InferenceError, match="raise 'pred_iou_thresh' or 'stability_score_thresh'"):
        ours(PICTURE, **SURE, points_per_batch=1)
    del ours.model.forward
    assert len(counts) < POINTS
    with pytest.raises(InferenceError, match=r"masks of 60 x 40|were found"):
        ours(PICTURE, **SURE)
    assert ours(PICTURE, pred_iou_thresh=1e9)["masks"] == []  # nothing is left of the last time


LIMITS = Limits("mask-generation", SimpleNamespace())


@pytest.mark.parametrize(
    "options",
    [
        {"points_per_crop": 77},
        {"crops_n_layers": 1},
        {"crops_n_layers": 2, "points_per_crop": 16},
        {"crops_n_layers": 2, "crop_n_points_downscale_factor": 2},
        {"points_per_batch": 64},
    ],
    ids=str,
)
def test_points_are_bounded_over_all_crops(options: dict[str, Any]) -> None:
    LIMITS.check(options)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"points_per_crop": 78}, "at most 6000 points, got 6084"),
        ({"crops_n_layers": 2}, "at most 6000 points, got 21504"),
        ({"crops_n_layers": 2, "points_per_crop": 17}, "at most 6000 points, got 6069"),
        ({"crops_n_layers": 1, "crop_n_points_downscale_factor": 0.001}, "1 or more"),
        ({"points_per_crop": 0}, "1 or more"),
        ({"crops_n_layers": 3}, "'crops_n_layers' is at most 2"),
        ({"points_per_batch": 65}, "'points_per_batch' is at most 64"),
    ],
    ids=str,
)
def test_more_points_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InferenceError, match=told):
        LIMITS.check(options)
